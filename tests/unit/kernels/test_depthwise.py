"""Depthwise convolutions: torch's answers, and gradients that are float64's up to rounding in every shape."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from itertools import cycle, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.device import decide
from strata.kernels import depthwise
from strata.kernels.depthwise import DepthwiseConv2d, use_in

needs_kernel = pytest.mark.skipif(isinstance(depthwise.kernel(), str), reason=str(depthwise.kernel()))
SUM = 1e-5
"""Of the largest element: fp32 sums of the products here; those of bf16 numbers are exact in fp32."""
BOUNDS = {torch.float32: SUM, torch.bfloat16: 2**-8 + SUM}
"""The same, of what is written in a dtype: bf16 has 8 bits, so the nearest is up to 2^-8 of a number away."""
KERNELS = [(2, 2), (3, 3), (5, 5), (7, 7), (3, 5), (7, 2), (1, 11), (11, 3)]
STRIDES = [(1, 1), (2, 2), (3, 1)]
SIZES = [(1, 3, 13, 11), (5, 16, 11, 14), (2, 24, 12, 12), (3, 40, 19, 13), (4, 33, 15, 21), (1, 16, 90, 70)]
CASES = [
    (kernel, stride, padding, size)
    for (kernel, stride, padding), size in zip(product(KERNELS, STRIDES, (0, 1, 2, 3)), cycle(SIZES), strict=False)
]


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype, memory_format=torch.channels_last)


def far(found: Tensor | None, right: Tensor | None) -> float:
    """Return the largest error as a share of the largest element."""
    assert found is not None and right is not None and found.shape == right.shape
    return ((found.double() - right).abs().max() / right.abs().max()).item()


def layer_of(channels: int, *args: Any, **settings: Any) -> nn.Conv2d:
    layer: nn.Conv2d = use_in(nn.Conv2d(channels, channels, *args, groups=channels, **settings))  # type: ignore[assignment]
    return layer.to(memory_format=torch.channels_last)


def exact_gradients(x: Tensor, weight: Tensor, grad: Tensor, stride: Any, padding: Any) -> tuple[Tensor, ...]:
    """Return the gradients of a convolution's input and filters in float64."""
    x, weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    y = F.conv2d(x, weight, None, stride, padding, groups=len(weight))
    return torch.autograd.grad(y, (x, weight), grad.double())


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), CASES, ids=str)
def test_gradients_are_those_of_float64_up_to_rounding(
    kernel: tuple[int, int], stride: tuple[int, int], padding: int, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = layer_of(size[1], kernel, stride=stride, padding=padding, bias=size[0] != 2)
    exact = copy.deepcopy(layer).to(dtype).double()
    torchs = nn.Conv2d(size[1], size[1], kernel, stride, padding, groups=size[1], bias=size[0] != 2)
    torchs.to(memory_format=torch.channels_last).load_state_dict(layer.state_dict())
    x = picture(*size, dtype=dtype).requires_grad_()
    of_torch = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y, by_torch = layer(x), torchs(of_torch)
    assert y.dtype == dtype and all(parameter.dtype == torch.float32 for parameter in layer.parameters())
    x64 = x.detach().double().requires_grad_()
    y64 = exact(x64)
    assert far(y, y64) <= max(BOUNDS[dtype], far(by_torch, y64))
    grad = picture(*y.shape, dtype=dtype)
    y.backward(grad)
    y64.backward(grad.double())
    by_torch.backward(grad)
    assert x.grad is not None and x.grad.dtype == dtype
    for found, right, theirs in zip(
        (x, *layer.parameters()), (x64, *exact.parameters()), (of_torch, *torchs.parameters()), strict=True
    ):
        assert found.grad is not None and found.grad.dtype == found.dtype
        # Some gradients are torch's: where the processor has no bf16 products, twice as far away as the nearest.
        assert far(found.grad, right.grad) <= max(BOUNDS[dtype], far(theirs.grad, right.grad))
    of_x = depthwise.input_by_kernel(x.detach(), grad, layer.weight, layer.stride, layer.padding)
    of_weight = depthwise.filters_by_kernel(x.detach(), grad, layer.weight.shape, layer.stride, layer.padding)
    assert of_x.dtype == dtype and far(of_x, x64.grad) < BOUNDS[dtype]
    assert of_weight.dtype == torch.float32 and far(of_weight, exact.weight.grad) < SUM


@needs_kernel
@pytest.mark.parametrize("size", [(2, 16, 1, 1), (3, 24, 1, 5), (2, 16, 2, 2), (1, 20, 3, 40), (40, 16, 4, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_pictures_smaller_than_the_filter_have_right_gradients_too(size: tuple[int, ...], stride: int) -> None:
    torch.manual_seed(0)
    layer, x = layer_of(size[1], 5, padding=4, stride=stride), picture(*size).requires_grad_()
    y = layer(x)
    grad = picture(*y.shape)
    right = exact_gradients(x, layer.weight, grad, stride, 4)
    found = torch.autograd.grad(y, (x, layer.weight), grad)
    own = depthwise.input_by_kernel(x.detach(), grad, layer.weight, (stride, stride), (4, 4))
    assert far(found[0], right[0]) < SUM and far(found[1], right[1]) < SUM and far(own, right[0]) < SUM


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-march=x86-64",)], ids=["AVX2", "plain"])
def test_it_is_as_right_as_other_processors_compile_it(
    flags: tuple[str, ...], dtype: torch.dtype, recompile: Callable[..., None]
) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("flags for x86-64")
    recompile(depthwise.kernel, *flags)
    torch.manual_seed(0)
    for kernel, stride in ((5, 2), (11, 1)):
        weight, x = torch.randn(22, 1, kernel, kernel, dtype=dtype), picture(3, 22, 17, 14, dtype=dtype)
        grad = torch.randn_like(F.conv2d(x, weight, None, stride, 2, groups=22))
        right = exact_gradients(x, weight, grad, stride, 2)
        settings = ((stride, stride), (2, 2))
        assert far(depthwise.input_by_kernel(x, grad, weight, *settings), right[0]) < BOUNDS[dtype]
        assert far(depthwise.filters_by_kernel(x, grad, weight.shape, *settings), right[1]) < SUM


@needs_kernel
@pytest.mark.parametrize("size", [(37, 40, 14, 14), (64, 200, 2, 2), (1, 24, 61, 33)], ids=str)
def test_gradients_have_the_same_bits_with_any_threads(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, grad, weight, threads = picture(*size), picture(*size), torch.randn(size[1], 1, 5, 5), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            of_x = depthwise.input_by_kernel(x, grad, weight, (1, 1), (2, 2))
            found.append((of_x, depthwise.filters_by_kernel(x, grad, weight.shape, (1, 1), (2, 2))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@needs_kernel
def test_bf16_is_rounded_as_torch_rounds_it() -> None:
    grad, weight = picture(2, 24, 16, 16, dtype=torch.bfloat16), torch.randn(24, 1, 2, 2, dtype=torch.bfloat16)
    x = picture(2, 24, 32, 32, dtype=torch.bfloat16)
    product = F.interpolate(grad.float(), scale_factor=2) * weight[:, 0].float().repeat(1, 16, 16)  # one for each pixel
    assert torch.equal(depthwise.input_by_kernel(x, grad, weight, (2, 2), (0, 0)), product.bfloat16())


@needs_kernel
def test_long_sums_do_not_lose_what_is_small() -> None:
    x = picture(64, 16, 56, 56).abs()
    found = depthwise.filters_by_kernel(x, torch.ones_like(x), torch.Size((16, 1, 5, 5)), (1, 1), (2, 2))
    _, right = exact_gradients(x, torch.zeros(16, 1, 5, 5), torch.ones_like(x), 1, 2)
    assert far(found, right) < 1e-6  # a sum of 200,704 one after another is off by 1e-5 and more


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_channel_and_picture(stride: int, dtype: torch.dtype, value: float) -> None:
    torch.manual_seed(0)
    x, weight = picture(4, 21, 9, 9, dtype=dtype), torch.randn(21, 1, 5, 5, dtype=dtype)
    grad = torch.randn_like(F.conv2d(x, weight, None, stride, 2, groups=21))
    settings = ((stride, stride), (2, 2))
    of_x = depthwise.input_by_kernel(x, grad, weight, *settings)
    of_weight = depthwise.filters_by_kernel(x, grad, weight.shape, *settings)
    grad[2, 19, 2, 2] = value
    spoiled_x = depthwise.input_by_kernel(x, grad, weight, *settings)
    spoiled_weight = depthwise.filters_by_kernel(x, grad, weight.shape, *settings)
    assert not spoiled_x[2, 19].isfinite().all() and not spoiled_weight[19].isfinite().any()
    spoiled_x[2, 19], spoiled_weight[19] = of_x[2, 19], of_weight[19]
    assert torch.equal(spoiled_x, of_x) and torch.equal(spoiled_weight, of_weight)


@needs_kernel
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_gradients_are_torchs(autocast: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = layer_of(16, 5, padding=2), picture(4, 16, 8, 8, dtype=dtype).requires_grad_()
    layer = layer if autocast else layer.to(dtype)
    penalties = []
    for call in (layer, lambda x: F.conv2d(x, layer.weight, layer.bias, padding=2, groups=16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = call(x)
        slopes = torch.autograd.grad(y.float().pow(2).sum(), (x, layer.weight, layer.bias), create_graph=True)
        assert [slope.dtype for slope in slopes] == [x.dtype, layer.weight.dtype, layer.weight.dtype]
        total = sum(slope.float().norm() for slope in slopes)
        assert isinstance(total, Tensor)
        penalties.append(torch.autograd.grad(total, (x, layer.weight)))
    for found, right in zip(*penalties, strict=True):
        assert found.dtype == right.dtype and far(found, right.double()) < 4 * BOUNDS[y.dtype]


@needs_kernel
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
def test_a_network_trains_with_it_as_with_torchs(autocast: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.Conv2d(24, 24, 5, padding=2, groups=24, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24),
        nn.Flatten(),
        nn.Linear(24 * 36, 5),
    ).to(memory_format=torch.channels_last)
    x, target_B = picture(8, 3, 12, 12), torch.arange(8) % 5
    losses = []
    for network in (model, use_in(copy.deepcopy(model))):
        optimizer, seen = torch.optim.SGD(network.parameters(), lr=0.1), []
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(network(x), target_B)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.item())
        losses.append(seen)
    assert losses[1][0] == losses[0][0] and losses[1][-1] < losses[1][0] / 2
    assert losses[1] == pytest.approx(losses[0], rel=0.05 if autocast else 1e-3)


@needs_kernel
def test_only_what_is_asked_for_is_calculated() -> None:
    layer, x = layer_of(16, 5, padding=2).requires_grad_(False), picture(4, 16, 8, 8).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias is not None and layer.bias.grad is None
    layer.requires_grad_(True)
    x.grad = None
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None and x.grad is None
    with torch.no_grad():
        assert layer(x).grad_fn is None


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": 1},
        {"kernel_size": 13},
        {"dilation": 2},
        {"groups": 8},
        {"out_channels": 32},
        {"padding_mode": "reflect"},
        {"padding": "same"},
    ],
    ids=str,
)
def test_other_convolutions_are_left_as_they_are(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"in_channels": 16, "out_channels": 16, "kernel_size": 5, "padding": 2, "groups": 16}
    assert type(use_in(nn.Conv2d(**settings | change))) is nn.Conv2d


@needs_kernel
def test_a_layer_keeps_its_parameters_and_their_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    use_in(model)
    assert [type(layer) for layer in model] == [nn.Conv2d, DepthwiseConv2d, nn.Flatten]
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(copy.deepcopy(model)[1]) is DepthwiseConv2d


@needs_kernel
def test_where_it_does_not_pay_or_is_not_meant_torch_calculates() -> None:
    def is_torchs(layer: nn.Module, x: Tensor) -> bool:
        return type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"

    layer, x = layer_of(16, 5, padding=2), picture(4, 16, 8, 8)
    assert not is_torchs(layer, x)
    assert is_torchs(layer, x.contiguous())
    assert is_torchs(layer, x[:0])
    assert is_torchs(copy.deepcopy(layer).double(), x.double())
    assert is_torchs(copy.deepcopy(layer).to("meta"), x.to("meta"))
    assert not is_torchs(copy.deepcopy(layer).bfloat16(), x.bfloat16())
    assert torch.func.vmap(layer)(x[None]).shape == (1, 4, 16, 8, 8)
    torch.export.export(layer, (x,))
    strided = layer_of(16, 3, padding=1, stride=2)
    assert is_torchs(strided, x) and is_torchs(layer_of(16, 3), x)  # torch's are both fast
    assert not is_torchs(strided, picture(4, 16, 2, 2))
    assert not is_torchs(copy.deepcopy(strided).bfloat16(), x.bfloat16())
    with pytest.raises(RuntimeError, match=r"too small|greater than actual input size"):
        layer_of(16, 5)(picture(1, 16, 4, 4))
    with pytest.raises(RuntimeError, match="expected input"):
        layer(picture(1, 8, 8, 8))
    with torch.autocast("cpu", torch.float16):
        assert layer(x).dtype == torch.float16


@needs_kernel
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_choice_is_told_and_made_where_a_model_is_placed(precision: str) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 5, groups=16))
    setup = decide(device="cpu", precision=precision, model=model)
    assert type(setup.place(model)[0]) is DepthwiseConv2d
    told = {decision.name: decision.value for decision in decide(device="cpu", model=model).decisions}
    assert told["depthwise"] == "own gradients"
    others = decide(device="cpu", precision=precision, model=nn.Conv2d(16, 16, 5))
    assert depthwise not in others.kernels and all(decision.name != "depthwise" for decision in others.decisions)
    assert depthwise not in decide(device="cpu", precision=precision, compile=True, model=model).kernels


def test_without_a_kernel_torch_calculates_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "kernel", lambda: "no C compiler was found")
    setup = decide(device="cpu", model=nn.Conv2d(16, 16, 5, groups=16))
    assert depthwise not in setup.kernels
    assert any(decision.reason == "no C compiler was found" for decision in setup.decisions)
