"""Convolutions of bytes: exactly what whole numbers give, in any company, and fp32's answers up to the steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata import models
from strata.device import decide
from strata.kernels import int8, winograd
from strata.kernels.int8 import Int8Conv2d, Int8Linear, in_int8
from strata.predict.ready import in_bytes

NETWORKS = ("resnet18", "vgg11_bn", "densenet_bc_100_12", "wrn_16_4", "efficientnet_b0", "vit_tiny", "convnext_tiny")
needs_kernel = pytest.mark.skipif(isinstance(int8.kernel(), str), reason=str(int8.kernel()))
CASES = [  # batch, channels, outputs, height, width, kernel, stride, padding, dilation
    (2, 64, 64, 56, 56, 1, 1, 0, 1),
    (3, 17, 33, 11, 9, 3, 1, 1, 1),
    (1, 64, 128, 28, 28, 3, 2, 1, 1),
    (5, 20, 50, 7, 7, 3, 1, 0, 2),
    (2, 32, 32, 9, 30, 5, 3, 2, 1),
    (1, 128, 40, 8, 8, 1, 2, 0, 1),
    (4, 16, 1, 3, 3, 3, 1, 0, 1),
]


@pytest.fixture(params=["as here", "narrow"])
def width(request: pytest.FixtureRequest, recompile: Callable[..., None]) -> None:
    """Let a test run with the kernel as it is made here, and as for processors whose vectors are of 256 bits."""
    if request.param == "narrow":
        recompile(int8.kernel, "-DNARROW")


def whole_numbers(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return in float64 what rounding to steps and exact sums make of a convolution."""
    scale_N = layer.weight.abs().amax((1, 2, 3)) / 127
    weight = (layer.weight / scale_N[:, None, None, None]).round().double()
    low, high = x.amin((1, 2, 3)), x.amax((1, 2, 3))
    factor_B = (torch.where(low < 0, 127.0, 255.0) / torch.maximum(high, -low)).view(-1, 1, 1, 1)
    y = F.conv2d((x * factor_B).round().double(), weight, None, layer.stride, layer.padding, layer.dilation)
    y = y / factor_B.double() * scale_N.double()[:, None, None]
    return y if layer.bias is None else y + layer.bias.double()[:, None, None]


@needs_kernel
@torch.no_grad()
@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rectified", [True, False], ids=["from zero", "of both signs"])
def test_answers_are_those_of_whole_numbers(case: tuple[int, ...], rectified: bool) -> None:
    torch.manual_seed(0)
    batch, channels, outputs, height, width, size, stride, padding, dilation = case
    layer = nn.Conv2d(channels, outputs, size, stride, padding, dilation, bias=batch != 3)
    x = torch.randn(batch, channels, height, width)
    x = x.relu() if rectified else x
    y, right, exact = Int8Conv2d(layer)(x), layer(x), whole_numbers(layer, x)
    assert y.shape == right.shape
    assert (y - exact).abs().max() < 1e-6 * right.abs().max()
    assert (y - right).abs().max() < 0.02 * right.abs().max()


@needs_kernel
@torch.no_grad()
@pytest.mark.usefixtures("width")
@pytest.mark.parametrize(("rows", "channels", "outputs"), [(1, 16, 4), (13, 50, 33), (1000, 64, 96), (300, 3001, 40)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_linear_layers_answers_are_those_of_whole_numbers_row_by_row(
    rows: int, channels: int, outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(channels, outputs, bias=bias)
    x = torch.randn(rows, channels) * torch.rand(rows, 1)
    scale_N, factor = layer.weight.abs().amax(1) / 127, torch.tensor(127.0) / x.abs().amax(1, keepdim=True)
    exact = (x * factor).round().double() @ (layer.weight / scale_N[:, None]).round().double().T
    exact = exact / factor * scale_N + (layer.bias if bias else 0)
    narrow = Int8Linear(layer)
    y = narrow(x)
    assert (y - exact).abs().max() < 1e-6 * exact.abs().max()
    assert torch.equal(narrow(x[-1]), y[-1])
    assert torch.equal(narrow(x[:, None]), y[:, None])
    assert torch.equal(narrow(x.T.contiguous().T), y)
    assert narrow(x.bfloat16()).dtype == torch.bfloat16


@needs_kernel
@torch.no_grad()
@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()], ids=str)
@pytest.mark.parametrize("is_linear", [True, False], ids=["linear", "convolution"])
def test_activations_are_torchs_up_to_rounding(act: nn.Module, is_linear: bool) -> None:
    torch.manual_seed(0)
    layer: Any = Int8Linear(nn.Linear(64, 48)) if is_linear else Int8Conv2d(nn.Conv2d(64, 48, 3))
    layer.scale_N *= 20  # far into both tails
    x = torch.randn(200, 64) if is_linear else torch.randn(2, 64, 9, 9)
    right = act(layer(x))
    layer.activation = int8.activation_of(act)
    assert (layer(x) - right).abs().max() < 1e-6 * right.abs().max()
    assert int8.activation_of(nn.Tanh()) == ""


@needs_kernel
@torch.no_grad()
def test_answers_depend_neither_on_company_nor_on_threads() -> None:
    torch.manual_seed(0)
    layer = Int8Conv2d(nn.Conv2d(24, 40, 3, padding=1))
    x = torch.randn(7, 24, 13, 10) * torch.rand(7, 1, 1, 1)
    alone, threads = torch.cat([layer(picture[None]) for picture in x]), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert torch.equal(layer(x), alone)
            assert torch.equal(layer(x[:2]), alone[:2])
            assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), alone)
    finally:
        torch.set_num_threads(threads)


@needs_kernel
@torch.no_grad()
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_in_its_picture_and_is_not_hidden(value: float) -> None:
    for layer, x in (
        (Int8Conv2d(nn.Conv2d(16, 16, 3, padding=1)), torch.randn(3, 16, 6, 6)),
        (Int8Linear(nn.Linear(16, 16)), torch.randn(3, 16)),
    ):
        right = layer(x)
        x[1, 5] = value
        for name in int8.ACTIVATIONS:
            layer.activation = name
            y = layer(x)
            assert y[1].isnan().any()
            assert layer(x * 0).isnan()[1].any()
        layer.activation = ""
        y = layer(x)
        assert torch.equal(y[0], right[0])
        assert torch.equal(y[2], right[2])
        assert layer(torch.zeros_like(x)).isfinite().all()


@needs_kernel
def test_a_picture_smaller_than_the_kernel_and_a_gradient_are_refused() -> None:
    layer = Int8Conv2d(nn.Conv2d(16, 16, 5))
    with pytest.raises(ValueError, match="too small"), torch.no_grad():
        layer(torch.zeros(1, 16, 4, 4))
    with pytest.raises(AssertionError, match="no gradient"):
        layer(torch.zeros(1, 16, 8, 8, requires_grad=True))
    with pytest.raises(ValueError, match="reads 16 channels, not 8"), torch.no_grad():
        layer(torch.zeros(1, 8, 8, 8))
    with pytest.raises(ValueError, match="reads 16 features, not 8"), torch.no_grad():
        Int8Linear(nn.Linear(16, 4))(torch.zeros(1, 8))


@needs_kernel
def test_only_layers_that_the_kernel_can_do_take_part() -> None:
    for layer, kind in (
        (nn.Conv2d(16, 4, 3, stride=2, padding=1), Int8Conv2d),
        (nn.Conv2d(16, 4, (3, 1)), Int8Conv2d),
        (winograd.use_in(nn.Conv2d(16, 16, 3, padding=1)), Int8Conv2d),
        (nn.Linear(3, 4), Int8Linear),
    ):
        assert type(in_int8(layer)) is kind
    for layer in (
        nn.Conv2d(3, 64, 7),  # a network's first
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 32, 3, padding="same"),
        nn.Conv2d(32, 32, 3, stride=(2, 1)),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 32, 3).double(),
        nn.ConvTranspose2d(32, 32, 3),
        nn.Linear(16, 4).bfloat16(),
        nn.Linear(int8.MOST_TERMS + 1, 1),
        nn.ReLU(),
    ):
        assert in_int8(layer) is None, layer


@needs_kernel
@torch.no_grad()
def test_the_longest_sum_does_not_overflow() -> None:
    layer = nn.Linear(int8.MOST_TERMS, 1, bias=False)
    layer.weight.fill_(1)
    for sign in (1, -1):
        assert Int8Linear(layer)(torch.full((1, int8.MOST_TERMS), sign)).item() == pytest.approx(sign * int8.MOST_TERMS)


def small(name: str) -> Any:
    return dataclasses.replace(models.preset(name), num_classes=10, image_size=32)


def trained(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose batch norms have seen something, and pictures."""
    torch.manual_seed(0)
    model = models.build(small(name))
    x = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(30):
            model.train()(x)
    return model.eval(), x


@needs_kernel
@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_as_in_fp32_up_to_the_steps(name: str) -> None:
    model, x = trained(name)
    setup = decide(device="cpu", precision="fp32", model=model)
    fast, decision = in_bytes(setup.place(model), setup, x[:1])
    unfused, _ = in_bytes(model, setup)  # which rounds other weights
    right = model(x)
    for found in (fast(x), unfused(x)):
        assert (found - right).abs().max() < 0.1 * right.abs().max()
    assert any(f"{share}% of the weights" in decision.reason for share in range(90, 101))
    if name == "resnet18":
        layers = [layer for layer in fast.modules() if isinstance(layer, Int8Conv2d)]
        assert len(layers) == 19
        assert sum(layer.activation == "relu" for layer in layers) == 8
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(16, 16, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return self.act(y) - y


@needs_kernel
@torch.no_grad()
def test_a_relu_stays_where_somebody_else_reads_the_convolution() -> None:
    model, x = ReadTwice(), torch.randn(2, 16, 5, 5)
    fast, _ = in_bytes(model, decide(device="cpu", precision="fp32", model=model), x)
    assert isinstance(fast.act, nn.ReLU)
    assert not fast.conv.activation
    assert (fast(x) - model(x)).abs().max() < 0.05


def test_without_a_kernel_convolutions_stay_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernel", lambda: "none here")
    model = models.build(small("resnet18")).eval()
    fast, decision = in_bytes(model, decide(device="cpu", precision="fp32", model=model), torch.rand(1, 3, 32, 32))
    assert not any(isinstance(layer, Int8Conv2d | Int8Linear) for layer in fast.modules())
    assert decision.reason == "asked for, and gains nothing: none here"
