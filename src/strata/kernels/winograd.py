"""3x3 convolutions with a quarter of the multiplications, for fp32 on a CPU.

Paper: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks". cuDNN does the same on GPUs by itself;
what torch calls on a CPU does not. Layers keep their parameters, their names and their answers, up to rounding: errors
are 2e-6 to 8e-6 of the largest output, where those of torch's convolution are up to 1e-6.

B samples, K channels going in, N coming out, H and W pixels.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strata.kernels import WIDE_VECTORS, compiled, exchange

GRAIN = 16
"""Channels have to be a whole multiple of this."""
LEAST_TILES = 32
"""Of outputs in a batch, 4 x 4 or 2 x 2 in each: with fewer, transforming the filters costs more than is gained."""
LEAST_FULL = 0.25
"""Share of its tiles that an output has to fill: 1 where its sides are multiples of 4, or 2."""


@functools.cache
def kernel() -> Any:
    """Return the compiled kernel, or in words why there is none."""
    found = compiled("winograd", ("-ffp-contract=fast",), needs=WIDE_VECTORS)
    if isinstance(found, str):
        return found
    whole, long, at = ctypes.c_int, ctypes.c_long, ctypes.c_void_p
    sizes = (long,) * 8
    found.convolve.argtypes = (long, *(at,) * 5, *sizes, at, whole)
    found.convolve_work.argtypes = (*(long,) * 6, whole)
    found.filters_gradient.argtypes = (long, *(at,) * 4, *sizes, at, whole)
    found.filters_gradient_work.argtypes = (long,) * 3
    found.convolve.restype = found.filters_gradient.restype = None
    for name in ("convolve_work", "filters_gradient_work"):
        getattr(found, name).restype = long
    return found


def takes_part(layer: nn.Module) -> bool:
    """Say whether a layer is a 3x3 convolution with zeros around and channels in multiples of 16, of stride 1."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, WinogradConv2d)
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and _padding(layer) in (0, 1, 2)
        and layer.in_channels % GRAIN == layer.out_channels % GRAIN == 0
    )


def _padding(layer: nn.Conv2d) -> int | None:
    """Return the pixels added on all sides; None where they differ."""
    if isinstance(layer.padding, str):
        return {"same": 1, "valid": 0}[layer.padding]
    top, left = layer.padding
    return top if top == left else None


def use_in(model: nn.Module) -> nn.Module:
    """Make every layer of a model that can take part do so, in place; return the model."""
    return exchange(model, takes_part, WinogradConv2d)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution (B, K, H, W) to (B, N, H', W') that takes the fast way where it pays, and else torch's.

    The fast way is for fp32 tensors on the CPU; what comes out lies in memory with channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        padding = _padding(self)
        assert padding is not None
        if not _pays(x, self.weight, padding):
            return super().forward(x)
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            y: Tensor = _Convolution.apply(x, self.weight, self.bias, padding)
            return y
        return convolve(x, self.weight, self.bias, padding)


def _size(x: Tensor, padding: int) -> tuple[int, int]:
    """Return height and width of what comes out."""
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    return height, width


def _tile(size: Sequence[int]) -> int:
    """Return the side of the tiles that what comes out, of a height and width, is cut into."""
    return 2 if max(size) <= 2 else 4


def _pays(x: Tensor, weight: Tensor, padding: int) -> bool:
    plain = type(x) is Tensor and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 4
    if not plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():  # such as vmap, which kernels know nothing of
        return False
    height, width = _size(x, padding)
    if height < 1 or width < 1:
        return False  # torch says what is wrong
    side = _tile((height, width))
    tiles = -(-height // side) * -(-width // side)
    return x.shape[0] * tiles >= LEAST_TILES and height * width >= LEAST_FULL * side**2 * tiles


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.has_bias = padding, bias is not None
        return convolve(x, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, padding, wanted = grads[0], ctx.padding, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted too: torch's operation has it
            bias_sizes = [len(weight)] if ctx.has_bias else None
            settings = ((1, 1), (padding, padding), (1, 1), False, (0, 0), 1)
            return (*torch.ops.aten.convolution_backward(grad, x, weight, bias_sizes, *settings, wanted), None)
        of_x = input_gradient(grad, weight, padding) if wanted[0] else None
        of_weight = filters_gradient(x, grad, weight, padding) if wanted[1] else None
        return of_x, of_weight, grad.sum((0, 2, 3)) if wanted[2] else None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Return the convolution of x (B, K, H, W) by weight (N, K, 3, 3): (B, N, H', W')."""
    return _run(x, weight.data_ptr(), weight.stride(), (weight.shape[1], weight.shape[0]), bias, padding)


def input_gradient(grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of a convolution's input from that of its output.

    It is a convolution by the filters turned by 180 degrees, from their outputs to their inputs.
    """
    of_out, of_in, of_row, of_column = weight.stride()
    last = weight.data_ptr() + 2 * (of_row + of_column) * weight.element_size()
    turned = (of_in, of_out, -of_row, -of_column)
    return _run(grad, last, turned, (weight.shape[0], weight.shape[1]), None, 2 - padding)


def _run(
    x: Tensor, filters_at: int, strides: tuple[int, ...], channels: tuple[int, int], bias: Tensor | None, padding: int
) -> Tensor:
    x, threads, fast = x.contiguous(memory_format=torch.channels_last), torch.get_num_threads(), kernel()
    size = _size(x, padding)
    tile = _tile(size)
    y = torch.empty((len(x), channels[1], *size), memory_format=torch.channels_last)
    work = _scratch(fast.convolve_work(tile, len(x), *size, *channels, threads))
    pointers = (x.data_ptr(), filters_at, _longs(strides), None if bias is None else bias.data_ptr(), y.data_ptr())
    fast.convolve(tile, *pointers, len(x), *x.shape[2:], *size, *channels, padding, work.data_ptr(), threads)
    return y


def filters_gradient(x: Tensor, grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of a convolution's filters (N, K, 3, 3), from its input and the gradient of its output."""
    x, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, grad))
    channels, fast = (x.shape[1], grad.shape[1]), kernel()
    of_weight, tile = torch.empty_like(weight), _tile(grad.shape[2:])
    work = _scratch(fast.filters_gradient_work(tile, *channels))
    sizes = (len(x), *x.shape[2:], *grad.shape[2:], *channels, padding)
    pointers = (x.data_ptr(), grad.data_ptr(), of_weight.data_ptr(), _longs(of_weight.stride()))
    fast.filters_gradient(tile, *pointers, *sizes, work.data_ptr(), torch.get_num_threads())
    return of_weight


def _longs(numbers: tuple[int, ...]) -> Any:
    return (ctypes.c_long * len(numbers))(*numbers)


_kept = threading.local()


def _scratch(floats: int) -> Tensor:
    """Return memory of this thread, kept from call to call: to ask for it anew costs as much as its use."""
    held: Tensor | None = getattr(_kept, "work", None)
    if held is None or len(held) < floats:
        held = _kept.work = torch.empty(floats)
    return held
