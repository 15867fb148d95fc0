"""1x1 convolutions with a stride: the same answers and gradients where torch's own are wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import strata
from strata.device import decide
from strata.kernels.sampled import SampledConv2d, use_in
from strata.models.resnet import ResNet


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "stride", "groups"), [((4, 8), 2, 1), ((3, 16), (2, 3), 1), ((8, 4), 3, 2)])
def test_answers_and_gradients_are_those_of_float64(
    channels: tuple[int, int], stride: int | tuple[int, int], groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, 1, stride=stride, groups=groups, bias=bias).to(memory_format=torch.channels_last)
    right = nn.Conv2d(*channels, 1, stride=stride, groups=groups, bias=bias).double()
    right.load_state_dict(layer.state_dict())
    use_in(layer)
    assert type(layer) is SampledConv2d
    x = torch.randn(32, channels[0], 32, 31).contiguous(memory_format=torch.channels_last).requires_grad_()
    x_right = x.detach().double().requires_grad_()
    y, y_right = layer(x), right(x_right)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    y_right.backward(gradient.double())
    torch.testing.assert_close(y.double(), y_right, atol=1e-5, rtol=1e-5)
    assert x.grad is not None and x_right.grad is not None
    torch.testing.assert_close(x.grad.double(), x_right.grad, atol=1e-5, rtol=1e-5)
    for p, p_right in zip(layer.parameters(), right.parameters(), strict=True):
        assert p.grad is not None and p_right.grad is not None
        error = (p.grad.double() - p_right.grad).abs().max() / p_right.grad.abs().max()
        assert error < 1e-5


def test_a_narrow_network_trains_by_them_and_a_wide_one_keeps_torchs() -> None:
    for width, expected in ((4, {4, 8}), (64, set())):
        model = strata.create("resnet18", num_classes=3, width=width)
        assert isinstance(model, ResNet)
        setup = decide(device="cpu", model=model)
        assert any(decision.name == "strided 1x1" for decision in setup.decisions) == bool(expected)
        placed = setup.place(model)
        assert {m.in_channels for m in placed.modules() if isinstance(m, SampledConv2d)} == expected


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Conv2d(4, 8, 1, stride=2, padding=1),
        nn.Conv2d(16, 8, 1, stride=2),
    ],
    ids=["stride 1", "3x3", "padded", "16 channels"],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Conv2d) -> None:
    assert type(use_in(layer)) is nn.Conv2d
