"""What every registered architecture promises, checked without being asked.

A new architecture needs nothing here: its module offers ``TINY``, its smallest config that still has all its parts, and
what it reads and gives is found from its config's fields (`example`, `expected_shape`).
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

from strata import models
from strata.config import from_json, to_json
from strata.device import decide

FAMILIES = list(models.MODELS)
BATCH = 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Relative and absolute, for equal sums taken in another order."""


def module_of(family: str) -> Any:
    return importlib.import_module(models.MODELS.target(family).split(":")[0])


def tiny(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = models.build(module_of(family).TINY)
    assert isinstance(model, nn.Module)
    return model


def example(config: Any, batch: int = BATCH, seed: int = 1, device: str = "cpu") -> tuple[Tensor, ...]:
    """Return input for a model of this config, its meaning told by the config's fields."""
    return tuple(part.to(device) for part in _example(config, batch, torch.Generator().manual_seed(seed)))


def _example(config: Any, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    if hasattr(config, "vocab_size"):
        length = min(getattr(config, "context", 16), 16)
        source_BS = torch.randint(config.vocab_size, (batch, length), generator=generator)
        if not is_encoder_decoder(config):
            return (source_BS,)
        return source_BS, torch.randint(config.vocab_size, (batch, length - 3), generator=generator)
    if hasattr(config, "latent_size"):
        return (torch.randn(batch, config.latent_size, generator=generator),)
    if hasattr(config, "image_size"):
        return (_image_example(config, batch, generator),)
    return (torch.randn(batch, config.in_features, generator=generator),)


def image_example(config: Any, batch: int = BATCH, seed: int = 1) -> Tensor:
    return _image_example(config, batch, torch.Generator().manual_seed(seed))


def _image_example(config: Any, batch: int, generator: torch.Generator) -> Tensor:
    shape = (batch, config.in_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=generator).clamp(-1, 1)


def is_encoder_decoder(config: Any) -> bool:
    return getattr(models.model_class(str(models.family_of(config))), "is_encoder_decoder", False)


def expected_shape(config: Any, *inputs: Tensor) -> tuple[int, ...]:
    input = inputs[-1]
    if hasattr(config, "vocab_size"):
        of_head = {
            "none": (*input.shape, width_given(config)),
            "token": (*input.shape, config.vocab_size),
            "class": (len(input), getattr(config, "num_classes", 0)),
            "token_class": (*input.shape, getattr(config, "num_classes", 0)),
            "span": (*input.shape, 2),
            "embedding": (len(input), width_given(config)),
        }
        return of_head[getattr(config, "head", "token")]
    if hasattr(config, "latent_size"):
        return (len(input), config.in_channels, config.image_size, config.image_size)
    if hasattr(config, "out_channels"):
        return (len(input), config.out_channels, *input.shape[2:])
    return (len(input), config.num_classes)


def width_given(config: Any) -> int:
    """Return the width of a text model's hidden states: both directions' where it reads in two."""
    return getattr(config, "width", 0) * (2 if getattr(config, "bidirectional", False) else 1)


def classes_last(output: Tensor) -> Tensor:
    """Return logits with the classes on the last axis, which pictures have on their second."""
    return output.movedim(1, -1) if output.ndim == 4 else output


def outputs(model: Any, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return what each network of a model makes of its example input."""

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    found = [model(*map(cast, example(model.config)))]
    if hasattr(model, "discriminator"):
        found.append(model.discriminator(cast(image_example(model.config))))
    return found


def is_convolutional(family: str) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in tiny(family).modules())


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_presets_are_those_that_the_registry_lists(family: str) -> None:
    module = module_of(family)
    assert sorted(module.PRESETS) == sorted(models.presets_of(family))
    for config in [*module.PRESETS.values(), module.TINY]:
        assert type(config) is models.config_class(family)
        assert models.family_of(config) == family


@pytest.mark.parametrize("name", models.names())
def test_a_preset_of_full_size_gives_the_shape_that_its_config_says(name: str) -> None:
    config = models.preset(name)
    with torch.device("meta"):  # shapes without memory or arithmetic
        model = models.build(config).eval()
    inputs = example(config, batch=2, device="meta")
    assert tuple(model(*inputs).shape) == expected_shape(config, *inputs)


@pytest.mark.parametrize("name", models.names())
def test_a_config_survives_json(name: str) -> None:
    config = models.preset(name)
    text = json.dumps(to_json(config, models.family_of))
    assert json.loads(text)["kind"] == models.family_of(config)
    assert from_json(type(config), json.loads(text)) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_the_docstring_names_paper_and_shapes(family: str) -> None:
    doc, module_doc = inspect.getdoc(models.model_class(family)) or "", inspect.getdoc(module_of(family)) or ""
    assert "Paper:" in module_doc
    assert "(B, " in doc
    assert re.search(r"\b(19|20)\d\d\b", doc), "the year of the paper"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_built_from_one_frozen_config(family: str) -> None:
    cls = models.model_class(family)
    model = tiny(family)
    assert issubclass(cls, nn.Module)
    assert isinstance(model.config, cls.config_class)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(model.config, dataclasses.fields(cls.config_class)[0].name, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_called_head(family: str) -> None:
    model = tiny(family)
    networks = [model.generator, model.discriminator] if hasattr(model, "generator") else [model]
    for network in networks:
        assert isinstance(network.head, nn.Module)


def classifies_pictures(family: str) -> bool:
    return {"image_size", "num_classes"} <= {field.name for field in dataclasses.fields(models.config_class(family))}


@pytest.mark.parametrize("family", [family for family in FAMILIES if classifies_pictures(family)])
def test_features_are_what_the_head_reads(family: str) -> None:
    model: Any = tiny(family).eval()
    image = image_example(model.config)
    features_BF = model.features(image)
    assert features_BF.ndim == 2
    torch.testing.assert_close(model.head(features_BF), model(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if getattr(models.model_class(name), "takes_any_size", False)]
)
def test_a_model_that_says_so_takes_pictures_of_any_size(family: str) -> None:
    model: Any = tiny(family).eval()
    bigger = dataclasses.replace(model.config, image_size=2 * model.config.image_size)
    image = image_example(bigger)
    assert tuple(model(image).shape) == expected_shape(model.config, image)


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_gives_the_shape_that_the_config_says(family: str) -> None:
    model: Any = tiny(family)
    inputs = example(model.config)
    assert tuple(model(*inputs).shape) == expected_shape(model.config, *inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_every_parameter(family: str) -> None:
    model = tiny(family)
    torch.manual_seed(2)
    sum((x * torch.randn_like(x)).sum() for x in outputs(model)).backward()  # type: ignore[union-attr]
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not untouched


@pytest.mark.parametrize("family", FAMILIES)
def test_it_overfits_one_batch(family: str) -> None:
    model: Any = without_dropout(tiny(family))
    config, generator = model.config, torch.Generator().manual_seed(3)
    is_critic = hasattr(model, "discriminator")  # a generator alone has nothing to fit: its critic has to
    if is_critic:
        model, inputs = model.discriminator, (image_example(config),)
        target = torch.randint(2, (BATCH,), generator=generator)
    else:
        inputs = example(config)
        *shape, classes = classes_last(model(*inputs)).shape
        target = torch.randint(classes, shape, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        logits = classes_last(model(*inputs))
        if is_critic:
            loss = F.binary_cross_entropy_with_logits(logits, target.float())
        else:
            loss = F.cross_entropy(logits.flatten(0, -2), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_weights_are_bit_equal(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    outputs(model)  # moves running statistics away from their start
    save_model(model, str(tmp_path / "model.safetensors"))
    torch.manual_seed(99)
    other = models.build(model.config)
    load_model(other, tmp_path / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    for ours, theirs in zip(outputs(model.eval()), outputs(other.eval()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_eval_a_sample_does_not_depend_on_its_batch(family: str) -> None:
    model: Any = tiny(family).double().eval()
    networks = [(model, example(model.config))]
    if hasattr(model, "discriminator"):
        networks.append((model.discriminator, (image_example(model.config),)))
    for network, inputs in networks:
        inputs = tuple(input.double() if input.is_floating_point() else input for input in inputs)
        second = tuple(input[1:2] for input in inputs)
        tolerance = TOLERANCE[torch.float64]
        torch.testing.assert_close(network(*inputs)[1:2], network(*second), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast_gives_finite_outputs_and_gradients(family: str) -> None:
    model = tiny(family)
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs(model)
    sum(x.float().square().mean() for x in found).backward()  # type: ignore[union-attr]
    assert all(x.isfinite().all() for x in found)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_initialisation_depends_on_the_seed_and_nothing_else(family: str) -> None:
    first, second = tiny(family), tiny(family)
    torch.manual_seed(1)
    third = models.build(first.config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("family", [family for family in FAMILIES if is_convolutional(family)])
def test_channels_last_changes_the_speed_and_not_the_answer(family: str) -> None:
    model = tiny(family).double()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tolerance = TOLERANCE[torch.float64]
    plain, faster = outputs(model, torch.float64), outputs(other, torch.float64)
    for ours, theirs in zip(plain, faster, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def shallowest(family: str) -> nn.Module:
    """Return a family's shallowest preset, for pictures of 32 pixels and three classes, without kinks.

    Where a ReLU's input is next to 0, or two pixels are almost equally great, rounding decides who has the gradient.
    """

    def size(config: Any) -> tuple[int, int]:
        model = models.build(config)
        return sum(1 for _ in model.modules()), sum(p.numel() for p in model.parameters())

    configs = [models.preset(name) for name in models.presets_of(family)] or [module_of(family).TINY]
    with torch.device("meta"):
        config = min(configs, key=size)
    sizes = {"image_size": 32, "num_classes": 3}
    torch.manual_seed(0)
    model = models.build(
        dataclasses.replace(config, **{key: value for key, value in sizes.items() if hasattr(config, key)})
    )
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(module, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
                setattr(module, name, pool)
    return model.eval()


@pytest.mark.parametrize("family", [family for family in FAMILIES if is_convolutional(family)])
def test_placed_on_this_processor_its_gradients_are_those_of_float64(family: str) -> None:
    """Whatever kernels and layouts were chosen, at the widths that people use: torch's own were wrong for some."""
    placed: Any = shallowest(family)
    right: Any = copy.deepcopy(placed).double()
    setup = decide(device="cpu", precision="fp32", model=placed)
    setup.place(placed)
    inputs = example(placed.config)
    for model, dtype in ((right, torch.float64), (placed, torch.float32)):
        answer = model(*(setup.arrange(x.to(dtype)) for x in inputs))
        weight = torch.randn(answer.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        (answer * weight.to(dtype)).sum().backward()
    expected = {name: p.grad for name, p in right.named_parameters() if p.grad is not None}
    greatest = max(gradient.norm() for gradient in expected.values())
    found = {name: p.grad.double() for name, p in placed.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / max(gradient.norm(), greatest / 100)
        assert error < TOLERANCE[torch.float32], name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.parametrize("family", FAMILIES)
def test_it_compiles_whole_and_gives_the_same_answer(family: str) -> None:
    model: Any = tiny(family).eval()
    inputs = example(model.config)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    tolerance = TOLERANCE[torch.float32]
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=tolerance, atol=tolerance)
    compiled(*inputs).float().square().mean().backward()
    assert all(p.grad is not None for p in (getattr(model, "generator", model)).parameters())
