"""Gradients of depthwise convolutions, each of whose outputs reads one channel, for fp32 and bf16 on a CPU.

torch's convolution is good, and so is one of its gradients here and there; each goes the fastest way that was measured.
Layers keep their parameters, their names and their answers to the bit; gradients are the same up to rounding.

B samples, C channels, H and W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.kernels import WIDE_VECTORS, compiled, exchange
from strata.kernels.sized import declare, run, structure

WIDEST = 11
"""Of a filter's sides, in pixels."""
DTYPES = (torch.float32, torch.bfloat16)

Pair = tuple[int, int]


_Sizes = structure(
    *("batch", "height", "width", "out_height", "out_width", "channels", "kernel_height", "kernel_width"),
    *("stride_down", "stride_across", "pad_top", "pad_left", "is_bf16"),
)


@functools.cache
def kernel() -> Any:
    """Return the compiled kernel, or in words why there is none."""
    found = compiled("depthwise", ("-ffp-contract=fast",), needs=WIDE_VECTORS)
    if not isinstance(found, str):
        declare(found, ("filters_gradient", "input_gradient"), tensors=3)
    return found


def takes_part(layer: nn.Module) -> bool:
    """Say whether a layer is a depthwise convolution with zeros around, of filters up to 11 pixels wide and high."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, DepthwiseConv2d)
        and layer.groups == layer.in_channels == layer.out_channels > 1
        and 1 < max(layer.kernel_size) <= WIDEST
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def use_in(model: nn.Module) -> nn.Module:
    """Make every layer of a model that can take part do so, in place; return the model."""
    return exchange(model, takes_part, DepthwiseConv2d)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution (B, C, H, W) to (B, C, H', W'): torch's, and gradients that take the fastest way.

    For fp32 and bf16 tensors on the CPU that lie in memory with channels last, and for bf16 autocasting.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        if not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad) and _applies(self, x)):
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.bfloat16)
        y: Tensor = _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding)
        return y


def _applies(layer: nn.Conv2d, x: Tensor) -> bool:
    """Say whether a gradient of this call is known to be faster another way than torch's.

    For 3x3 none is in fp32, nor with stride 1 in bf16, but where outputs are one or two pixels high.
    """
    weight, bias = layer.weight, layer.bias
    plain = type(x) is Tensor and x.device.type == weight.device.type == "cpu" and x.ndim == 4 and x.numel() > 0
    if not plain or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():  # such as vmap, which kernels know nothing of
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if x.dtype not in DTYPES or weight.dtype not in DTYPES or (bias is not None and bias.dtype != weight.dtype):
        return False
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        if dtype != torch.bfloat16:
            return False
    elif (dtype := x.dtype) != weight.dtype:
        return False
    padding: Any = layer.padding
    size = [
        (side + 2 * pad - of_kernel) // step + 1
        for side, pad, of_kernel, step in zip(x.shape[2:], padding, layer.kernel_size, layer.stride, strict=True)
    ]
    strided = dtype == torch.bfloat16 and layer.stride != (1, 1)
    return strided or filters_pay(layer.kernel_size, padding, size)


def filters_pay(kernel_size: Sequence[int], padding: Sequence[int], size: Sequence[int]) -> bool:
    """Say whether the filters' gradient is faster by the kernel, for an output's height and width.

    oneDNN has fast code for filters up to 3 wide, padded by up to half their sides, where outputs are as high as they:
    for 3x3 it takes half to nine tenths of the kernel's time. Elsewhere it takes 7 to 45 times the kernel's, and 15 to
    130 in bf16 (one core with AVX-512, torch 2.13).
    """
    wide_padding = any(pad > side // 2 for pad, side in zip(padding, kernel_size, strict=True))
    return kernel_size[1] > 3 or wide_padding or size[0] < kernel_size[0]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        bias = None if bias is None else bias.to(x.dtype)  # as autocast would
        return F.conv2d(x, weight.to(x.dtype), bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, stride, padding, wanted = grads[0], ctx.stride, ctx.padding, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted too: torch's operation has it
            return (*_torchs(grad, x, weight, stride, padding, wanted), None, None)
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if wanted[0]:
            of_x = input_gradient(x, grad, weight, stride, padding)
        if wanted[1]:
            of_weight = filters_gradient(x, grad, weight, stride, padding)
        if wanted[2]:
            of_bias = grad.sum((0, 2, 3)).to(weight.dtype)
        return of_x, of_weight, of_bias, None, None


def _torchs(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias that torch gives, the latter two in the weight's dtype."""
    bias_sizes = [len(weight)] if wanted[2] else None
    settings = (bias_sizes, stride, padding, (1, 1), False, (0, 0), len(weight), wanted)
    of_x, *others = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), *settings)
    return of_x, *(None if other is None else other.to(weight.dtype) for other in others)


def input_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of a convolution's input (B, C, H, W) from that of its output, in their dtype.

    With stride 1 it is a convolution by the filters turned by 180 degrees, which takes half to all of the time of
    torch's gradient. With others oneDNN has none in bf16: it takes 25 to 220 times the kernel's. In fp32 it takes half
    to nine tenths of the kernel's for 3x3 and 5x5 with stride 2.
    """
    back = [side - 1 - pad for side, pad in zip(weight.shape[2:], padding, strict=True)]
    if stride == (1, 1) and min(back) >= 0:
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(grad, weight.to(grad.dtype).flip(2, 3), None, stride, back, groups=len(weight))
    if grad.dtype == torch.bfloat16:
        return input_by_kernel(x, grad, weight, stride, padding)
    of_x = _torchs(grad, x, weight, stride, padding, (True, False, False))[0]
    assert of_x is not None
    return of_x


def filters_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of a convolution's filters (C, 1, kernel's height, width), in their dtype."""
    if filters_pay(weight.shape[2:], padding, grad.shape[2:]):
        return filters_by_kernel(x, grad, weight.shape, stride, padding).to(weight.dtype)
    of_weight = _torchs(grad, x, weight, stride, padding, (False, True, False))[1]
    assert of_weight is not None
    return of_weight


def input_by_kernel(x: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of a convolution's input, of any stride, in the dtype of its output's."""
    of_x = torch.empty(x.shape, dtype=grad.dtype, memory_format=torch.channels_last)
    filters = weight.to(grad.dtype).contiguous()
    _run("input_gradient", (grad, filters, of_x), x.shape, grad, weight.shape, stride, padding)
    return of_x


def filters_by_kernel(x: Tensor, grad: Tensor, filters: torch.Size, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of a convolution's filters, in fp32, from its input and the gradient of its output.

    Sums are in fp32 too, over some hundred pixels, and then of such sums.
    """
    of_weight = torch.empty(filters)
    x = x.contiguous(memory_format=torch.channels_last)
    _run("filters_gradient", (x, grad, of_weight), x.shape, grad, filters, stride, padding)
    return of_weight


def _run(
    name: str,
    tensors: tuple[Tensor, ...],
    x_shape: torch.Size,
    grad: Tensor,
    filters: torch.Size,
    stride: Pair,
    padding: Pair,
) -> None:
    sides = (x_shape[0], *x_shape[2:], *grad.shape[2:], x_shape[1], *filters[2:])
    sizes = _Sizes(*sides, *stride, *padding, grad.dtype == torch.bfloat16)
    run(kernel(), name, sizes, tensors, of_work=torch.float32)
