"""Winograd's 3x3 convolutions: torch's answers and gradients up to rounding, and torch itself where they do not pay."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.device import decide
from strata.kernels import winograd
from strata.kernels.winograd import WinogradConv2d, use_in

ROUNDING = 3e-5
"""Of the largest element: several times what is seen, and far less than any mistake would make."""
SHAPES = [
    (9, 16, 16, 11, 12),
    (2, 48, 80, 28, 28),
    (60, 32, 112, 4, 3),
    (1, 160, 16, 40, 21),
    (30, 16, 144, 8, 7),
    (5, 64, 32, 2, 2),
]
CASES = [(*shape, padding) for shape in SHAPES for padding in (0, 1, 2, "same") if shape[-1] > 2 or padding != 0]
needs_kernel = pytest.mark.skipif(isinstance(winograd.kernel(), str), reason=str(winograd.kernel()))


def far(found: Tensor, right: Tensor) -> float:
    """Return the largest error as a share of the largest element."""
    return ((found - right).abs().max() / right.abs().max()).item()


def layer_of(*args: Any, **settings: Any) -> nn.Conv2d:
    layer: nn.Conv2d = use_in(nn.Conv2d(*args, **settings))  # type: ignore[assignment]
    return layer


@needs_kernel
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels last", "contiguous"])
@pytest.mark.parametrize(("batch", "inputs", "outputs", "height", "width", "padding"), CASES)
def test_answers_and_gradients_are_torchs_in_float64_up_to_rounding(
    channels_last: bool,
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    padding: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    monkeypatch.setattr(winograd, "LEAST_FULL", 0.0)
    torch.manual_seed(0)
    layer = layer_of(inputs, outputs, 3, padding=padding, bias=batch != 2)
    x = torch.randn(batch, inputs, height, width)
    if channels_last:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer).double()
    x64 = x.double().requires_grad_()
    x.requires_grad_()
    y, y64 = layer(x), exact(x64)
    assert type(y.grad_fn).__name__ == "_ConvolutionBackward" and type(y64.grad_fn).__name__ == "ConvolutionBackward0"
    grad = torch.randn_like(y)
    y.backward(grad)
    y64.backward(grad.double())
    assert y.shape == y64.shape and far(y, y64) < ROUNDING
    for found, right in ((x, x64), *zip(layer.parameters(), exact.parameters(), strict=True)):
        assert far(found.grad, right.grad) < ROUNDING
    with torch.no_grad():
        assert torch.equal(layer(x), y)


@needs_kernel
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-march=x86-64",)], ids=["AVX2", "plain"])
def test_it_is_as_right_as_other_processors_compile_it(flags: tuple[str, ...], recompile: Callable[..., None]) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("flags for x86-64")
    recompile(winograd.kernel, *flags)
    torch.manual_seed(0)
    layer = layer_of(48, 80, 3, padding=1)
    x = torch.randn(8, 48, 15, 10, requires_grad=True)
    y, exact = layer(x), copy.deepcopy(layer).double()
    y64 = exact(x.double())
    assert type(y.grad_fn).__name__ == "_ConvolutionBackward" and far(y, y64) < ROUNDING
    found = torch.autograd.grad(y.square().sum(), (x, layer.weight))
    right = torch.autograd.grad(y64.square().sum(), (x, exact.weight))
    assert all(far(*pair) < ROUNDING for pair in zip(found, right, strict=True))


@needs_kernel
def test_a_sample_has_the_same_bits_in_any_batch_and_with_any_threads() -> None:
    layer = layer_of(64, 64, 3, padding=1)
    x = torch.randn(37, 64, 14, 14)
    threads, gradients = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            whole = layer(x)
            assert torch.equal(layer(x[5:17]), whole[5:17])
            gradients.append(winograd.filters_gradient(x, whole.detach(), layer.weight, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@needs_kernel
def test_gradients_of_gradients_are_torchs() -> None:
    torch.manual_seed(0)
    layer = layer_of(16, 32, 3, padding=1)
    x = torch.randn(4, 16, 16, 16, requires_grad=True)
    penalties = []
    for y in (layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1)):
        (slope,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.norm(), (x, layer.weight)))
    for found, right in zip(*penalties, strict=True):
        assert far(found, right) < 1e-4


@needs_kernel
def test_only_what_is_asked_for_is_calculated() -> None:
    layer = layer_of(16, 16, 3, padding=1).requires_grad_(False)
    x = torch.randn(4, 16, 16, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None
    layer.requires_grad_(True)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": 1, "padding": 0},
        {"stride": 2},
        {"padding": 3},
        {"dilation": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"padding": (1, 0)},
        {"in_channels": 24},
        {"out_channels": 3},
    ],
    ids=str,
)
def test_other_convolutions_are_left_as_they_are(change: dict[str, Any]) -> None:
    settings = {"in_channels": 16, "out_channels": 32, "kernel_size": 3, "padding": 1} | change
    assert type(layer_of(**settings)) is nn.Conv2d


@needs_kernel
def test_a_layer_keeps_its_parameters_and_their_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    use_in(model)
    assert [type(layer) for layer in model] == [nn.Conv2d, WinogradConv2d, nn.Flatten]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(copy.deepcopy(model)[1]) is WinogradConv2d


@needs_kernel
def test_where_it_does_not_pay_or_is_not_meant_torch_calculates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> Tensor:
        raise AssertionError("this is not for the kernel")

    monkeypatch.setattr(winograd, "convolve", refuse)
    layer = layer_of(16, 16, 3, padding=1)
    x = torch.randn(4, 16, 16, 16)
    with pytest.raises(AssertionError, match="not for the kernel"):
        layer(x)
    layer(x[:1])  # few tiles
    layer(torch.randn(99, 16, 1, 5))  # two tiles of 16 pixels for five
    layer(x[:0])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.func.vmap(layer)(x[None]).shape == (1, 4, 16, 16, 16)
    copy.deepcopy(layer).double()(x.double())
    copy.deepcopy(layer).to("meta")(x.to("meta"))
    torch.export.export(layer, (x,))
    with pytest.raises(RuntimeError, match=r"too small|greater than actual input size"):
        layer_of(16, 16, 3)(torch.randn(4, 16, 1, 1))


@needs_kernel
def test_the_choice_is_told_and_made_where_a_model_is_placed() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3))
    setup = decide(device="cpu", precision="fp32", model=model)
    assert winograd in setup.kernels and type(setup.place(model)[0]) is WinogradConv2d
    again = decide(device="cpu", precision="fp32", model=model)  # of a model that was placed before
    assert winograd in again.kernels
    assert all(decision.name != "convolutions" for decision in decide(device="cpu", model=nn.Linear(2, 2)).decisions)
    told = {decision.name: decision.value for decision in setup.decisions}
    assert told["convolutions"] == "Winograd"
    for changed in (
        {"precision": "bf16", "model": model},
        {"precision": "fp32", "compile": True, "model": model},
        {"precision": "fp32", "model": nn.Conv2d(16, 16, 1)},
        {"precision": "fp32", "model": nn.Conv2d(16, 16, 3).double()},
    ):
        assert winograd not in decide(device="cpu", **changed).kernels


def test_without_a_kernel_torch_calculates_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "kernel", lambda: "no C compiler was found")
    setup = decide(device="cpu", precision="fp32", model=nn.Conv2d(16, 16, 3))
    assert winograd not in setup.kernels
    assert any(decision.reason == "no C compiler was found" for decision in setup.decisions)
