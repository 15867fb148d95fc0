"""3x3 convolutions with a quarter of the multiplications, where a CPU trains or answers in fp32.

Paper: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks". cuDNN does the same on GPUs by itself;
what torch calls on a CPU does not. Layers keep their parameters, their names and their answers, up to rounding: errors
are 2e-6 to 8e-6 of the largest output, where those of torch's convolution are up to 1e-6.

B samples, K channels going in, N coming out, H and W pixels.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor, nn

from strata.kernels import compiled, cpu_flags

GRAIN = 16
"""Channels have to be a whole multiple of this."""
LEAST_TILES = 48
"""Of 4 x 4 outputs in a batch: with fewer, transforming the filters costs more than is gained."""
LEAST_GAIN = 2.0
"""In multiplications, over all outputs: 4, but for pictures whose sides are no multiples of 4."""
FEATURES = ("avx512f", "avx2")
"""Of processors on which this is known to be faster; any of them."""


@functools.cache
def kernel() -> Any:
    """Return the compiled kernel, or in words why there is none."""
    if cpu_flags().isdisjoint(FEATURES):
        return f"the processor has none of {', '.join(FEATURES)}"
    found = compiled("winograd", ("-ffp-contract=fast",))
    if isinstance(found, str):
        return found
    from ctypes import c_int, c_long, c_void_p

    found.transform_filters.argtypes = [c_void_p] + [c_long] * 6 + [c_void_p, c_int]
    found.convolve.argtypes = [c_void_p] * 4 + [c_long] * 6 + [c_void_p, c_int]
    found.convolve_work.argtypes = [c_long] * 5 + [c_int]
    found.filters_gradient.argtypes = [c_void_p] * 3 + [c_long] * 6 + [c_void_p, c_int]
    found.filters_gradient_work.argtypes = [c_long] * 2
    for name in ("transform_filters", "convolve", "filters_gradient"):
        getattr(found, name).restype = None
    for name in ("convolve_work", "filters_gradient_work"):
        getattr(found, name).restype = c_long
    return found


def takes_part(layer: nn.Module) -> bool:
    """Say whether a layer is a 3x3 convolution of stride 1, with zeros around, and channels in multiples of 16."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.padding in ("same", "valid", (0, 0), (1, 1), (2, 2))
        and layer.in_channels % GRAIN == layer.out_channels % GRAIN == 0
    )


def use_in(model: nn.Module) -> nn.Module:
    """Make every layer of a model that can take part do so, in place; return the model."""
    for layer in model.modules():
        if takes_part(layer):
            layer.__class__ = WinogradConv2d
    return model


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution (B, K, H, W) to (B, N, H', W') that takes the fast way where it pays, and else torch's.

    The fast way is for fp32 tensors on the CPU; what comes out lies in memory with channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        padding = self.padding[0] if isinstance(self.padding, tuple) else {"same": 1, "valid": 0}[self.padding]
        assert isinstance(padding, int)
        if not _pays(x, self.weight, padding):
            return super().forward(x)
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            y: Tensor = _Convolution.apply(x, self.weight, self.bias, padding)
            return y
        return convolve(x, self.weight, self.bias, padding)


def _pays(x: Tensor, weight: Tensor, padding: int) -> bool:
    plain = type(x) is Tensor and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 4
    if not plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():  # such as vmap, which kernels know nothing of
        return False
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    if height < 1 or width < 1:
        return False  # torch says what is wrong
    tiles = -(-height // 4) * -(-width // 4)
    return x.shape[0] * tiles >= LEAST_TILES and 4 * height * width >= LEAST_GAIN * 16 * tiles


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.has_bias = padding, bias is not None
        return convolve(x, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, wanted = grads[0], ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted too, which torch's operation has
            pair, mask = (ctx.padding,) * 2, [*wanted[:2], ctx.has_bias and wanted[2]]
            sizes = [weight.shape[0]] if ctx.has_bias else None
            found = torch.ops.aten.convolution_backward(
                grad, x, weight, sizes, (1, 1), pair, (1, 1), False, (0, 0), 1, mask
            )
            return (*found, None)
        of_x = convolve(grad, weight, None, 2 - ctx.padding, turned=True) if wanted[0] else None
        of_weight = filters_gradient(x, grad, ctx.padding) if wanted[1] else None
        return of_x, of_weight, grad.sum((0, 2, 3)) if ctx.has_bias and wanted[2] else None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, *, turned: bool = False) -> Tensor:
    """Return the convolution of x (B, K, H, W) by weight (N, K, 3, 3), (B, N, H + 2 padding - 2, W + 2 padding - 2).

    Args:
        turned: the filters are turned by 180 degrees and go from their outputs to their inputs, as a gradient does.
    """
    x, threads, fast = x.contiguous(memory_format=torch.channels_last), torch.get_num_threads(), kernel()
    begin, (of_out, of_in, of_row, of_column) = weight.data_ptr(), weight.stride()
    channels_out, channels_in = weight.shape[:2]
    if turned:
        begin += 2 * (of_row + of_column) * weight.element_size()
        of_out, of_in, of_row, of_column = of_in, of_out, -of_row, -of_column
        channels_out, channels_in = channels_in, channels_out
    batch, _, height, width = x.shape
    size = (batch, channels_out, height + 2 * padding - 2, width + 2 * padding - 2)
    y = torch.empty(size, memory_format=torch.channels_last)
    filters = _scratch("filters", 36 * channels_in * channels_out)
    work = _scratch("work", fast.convolve_work(batch, *size[2:], channels_in, channels_out, threads))
    sizes = (channels_in, channels_out)
    fast.transform_filters(begin, of_out, of_in, of_row, of_column, *sizes, filters.data_ptr(), threads)
    ends = (None if bias is None else bias.data_ptr(), y.data_ptr(), batch, height, width, *sizes, padding)
    fast.convolve(x.data_ptr(), filters.data_ptr(), *ends, work.data_ptr(), threads)
    return y


def filters_gradient(x: Tensor, grad: Tensor, padding: int) -> Tensor:
    """Return the gradient (N, K, 3, 3) of a convolution's filters, from its input and the gradient of its output."""
    x, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, grad))
    sizes = (*x.shape[:1], *x.shape[2:], x.shape[1], grad.shape[1], padding)
    of_weight, fast = torch.empty(3, 3, x.shape[1], grad.shape[1]), kernel()
    work = _scratch("work", fast.filters_gradient_work(x.shape[1], grad.shape[1]))
    pointers = (x.data_ptr(), grad.data_ptr(), of_weight.data_ptr())
    fast.filters_gradient(*pointers, *sizes, work.data_ptr(), torch.get_num_threads())
    return of_weight.permute(3, 2, 0, 1)


_kept = threading.local()


def _scratch(name: str, floats: int) -> Tensor:
    """Return memory of this thread, kept from call to call: to ask for it anew costs as much as its use."""
    held: Tensor | None = getattr(_kept, name, None)
    if held is None or len(held) < floats:
        held = torch.empty(floats)
        setattr(_kept, name, held)
    return held
