"""A network made ready to answer fast gives the answers that it gave."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from strata import models
from strata.device import decide
from strata.predict.ready import ready

FAMILIES = ["resnet", "preresnet", "densenet", "mobilenet", "efficientnet", "vgg", "inception", "airbench", "vit"]


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    model = models.build(importlib.import_module(models.MODELS.target(family).split(":")[0]).TINY).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_stay_as_they_were(family: str) -> None:
    model = tiny(family)
    image = torch.randn(3, model.config.in_channels, model.config.image_size, model.config.image_size)
    fast = ready(model, decide(device="cpu", precision="fp32", model=model), image[:1])
    torch.testing.assert_close(fast(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["convnext", "resnet", "vit"])
def test_weights_cast_once_answer_as_those_that_autocast_casts(family: str) -> None:
    model = tiny(family)
    image = torch.randn(3, model.config.in_channels, model.config.image_size, model.config.image_size)
    setup = decide(device="cpu", precision="bf16", model=model)
    with torch.inference_mode(), setup.autocast():
        expected, found = model(image).float(), ready(model, setup, image[:1])(image).float()
    exact = model(image)
    # both round each product's numbers to 8 bits, and not always the same ones: a folded norm's weights are others
    assert (found - exact).norm() <= max(2 * (expected - exact).norm(), 0.01 * exact.norm())


def test_a_network_made_ready_while_answering_has_weights_like_any_other() -> None:
    model = tiny("resnet")
    with torch.inference_mode():
        fast = ready(model, decide(device="cpu", precision="fp32", model=model), torch.randn(1, 3, 8, 8))
    assert not any(tensor.is_inference() for tensor in (*fast.parameters(), *fast.buffers()))


def test_every_norm_after_a_convolution_is_folded_and_the_model_itself_is_left_alone() -> None:
    model = tiny("resnet")
    before = norms(model)
    fast = ready(model, decide(device="cpu", precision="fp32", model=model), torch.randn(1, 3, 8, 8))
    assert norms(fast) == 0
    assert norms(model) == before > 0


class ReadTwice(nn.Module):
    """Reads a convolution's output beside the norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.conv(image_BCHW)
        return x + self.norm(x)


def test_a_convolution_that_someone_else_reads_is_not_folded() -> None:
    torch.manual_seed(0)
    model = ReadTwice().eval()
    nn.init.uniform_(model.norm.running_var, 3.0, 4.0)
    image = torch.randn(1, 3, 8, 8)
    fast = ready(model, decide(device="cpu", precision="fp32", model=model), image)
    assert norms(fast) == 1
    torch.testing.assert_close(fast(image), model(image))


class ActsOnItsInput(nn.Module):
    """Its activation reads what the residual sum reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        acted: torch.Tensor = self.act(image_BCHW)
        return image_BCHW + acted


def test_activations_write_in_place_where_nobody_else_reads() -> None:
    for model, in_place in ((tiny("resnet"), True), (ActsOnItsInput(), False)):
        example = torch.randn(1, 3, 8, 8)
        kept = example.clone()
        fast = ready(model, decide(device="cpu", precision="fp32", model=model), example)
        acts = [module for module in fast.modules() if isinstance(module, nn.ReLU)]
        assert acts
        assert all(act.inplace == in_place for act in acts)
        assert not any(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
        assert torch.equal(example, kept)
