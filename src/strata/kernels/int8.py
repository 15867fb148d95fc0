"""Convolutions and linear layers that multiply bytes, for answering on a CPU: four products in the place of one.

Weights are rounded to 127 steps of each output's largest (symmetric, one scale for each output), activations to 255
steps of each picture's largest, or to 127 each way where some are below zero (Krishnamoorthi 2018, "Quantizing deep
convolutional networks for efficient inference", section 3; here the scale is the picture's own and not one that was
measured before, so that no data are needed, and an answer does not depend on the batch it comes in). In a linear layer
each row has its own scale, and 127 steps each way.

B samples, C channels going in, N coming out, H and W pixels.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.kernels import compiled, cpu_flags
from strata.kernels.sized import declare, run, structure
from strata.kernels.winograd import WinogradConv2d

LEAST_CHANNELS = 16
"""A layer that reads fewer, such as a network's first, stays in fp32: it gains nothing and would lose most."""
MOST_TERMS = 2**31 // (255 * 127)
"""Of an output's sum, which is a whole number of 32 bits."""
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "swiglu", "")
"""What a layer's answers may go through before they are written, by the kernels' numbers; "" is nothing."""
GROUP = 4
"""Channels that an instruction sums."""


_Sizes = structure(
    *("pictures", "height", "width", "channels", "out_height", "out_width", "outputs"),
    *("kernel_height", "kernel_width", "stride", "padding", "dilation", "activation"),
)


@functools.cache
def kernel() -> Any:
    """Return the compiled kernel, or in words why there is none."""
    if cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni")):
        return "the processor has no instruction for products of bytes (VNNI)"
    found = compiled("int8")
    if isinstance(found, str):
        return found
    declare(found, ("convolve_bytes", "multiply_bytes"), tensors=6)
    found.outputs_of_block.restype = ctypes.c_long
    return found


def in_int8(layer: nn.Module) -> Int8Linear | Int8Conv2d | None:
    """Return what does a layer's work in int8; None where the kernel cannot.

    It can do linear layers, and convolutions of one group that are alike in both directions.
    """
    if type(layer) not in (nn.Linear, nn.Conv2d, WinogradConv2d):  # a subclass may do something else with its weights
        return None
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if layer.weight.dtype != torch.float32 or layer.weight[0].numel() > MOST_TERMS:
        return None
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer)
    can = (
        layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(len(set(pair)) == 1 for pair in (layer.stride, layer.padding, layer.dilation))
        and layer.in_channels >= LEAST_CHANNELS
    )
    return Int8Conv2d(layer) if can else None


class _Int8(nn.Module):
    """What a layer of bytes keeps: packed weights, of each output a scale, a bias and the sum of its weights.

    Args:
        weight: (N, C) or (N, C, kernel's height, width), fp32.
    """

    scale_N: Tensor
    sum_N: Tensor
    bias_N: Tensor | None
    packed: Tensor

    def __init__(self, weight: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach()
        self.weights, self.activation = weight.numel(), ""
        flat_N = weight.flatten(1)
        scale_N = (flat_N.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        flat_N = (flat_N / scale_N[:, None]).round().to(torch.int8)
        self.register_buffer("scale_N", scale_N)
        self.register_buffer("sum_N", flat_N.sum(1, dtype=torch.int32))
        self.register_buffer("bias_N", None if bias_N is None else bias_N.detach().clone())
        sizes = weight.shape if weight.ndim == 4 else (*weight.shape, 1, 1)
        self.register_buffer("packed", _packed(flat_N.view(sizes)))

    def _run(self, name: str, x: Tensor, y: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Let the kernel of that name read x and write y; both lie in memory as it takes them."""
        described = _Sizes(*sizes, ACTIVATIONS.index(self.activation))
        tensors = (x, self.packed, self.scale_N, self.bias_N, self.sum_N, y)
        run(kernel(), name, described, tensors, of_work=torch.uint8)
        return y


class Int8Linear(_Int8):
    """A linear layer (..., C) to (..., N) in int8, without a gradient; each row has a scale of its own.

    ``activation`` may be set to one of `ACTIVATIONS`, which the answers go through.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight, layer.bias)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.in_features}, {self.out_features}, int8 {self.activation}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, in the input's type."""
        assert not (torch.is_grad_enabled() and x.requires_grad), "a layer in bytes has no gradient"
        if x.shape[-1] != self.in_features:
            raise ValueError(f"The layer reads {self.in_features} features, not {x.shape[-1]}.")
        y, rows = torch.empty(*x.shape[:-1], self.out_features), x.numel() // self.in_features
        sizes = (1, 1, rows, self.in_features, 1, rows, self.out_features, 1, 1, 1, 0, 1)
        return self._run("multiply_bytes", x.float().contiguous(), y, sizes).to(x.dtype)


class Int8Conv2d(_Int8):
    """A convolution (B, C, H, W) to (B, N, H', W') in int8, without a gradient; what comes out is fp32.

    Args:
        layer: the convolution that it does the work of; `in_int8` says whether it can.

    ``activation`` may be set to one of `ACTIVATIONS`, which the answers go through.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight, layer.bias)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        assert not isinstance(layer.padding, str)
        self.kernel_size, self.padding = layer.kernel_size, layer.padding[0]
        self.stride, self.dilation = layer.stride[0], layer.dilation[0]

    def extra_repr(self) -> str:
        """Return the sizes."""
        sizes = f"{self.in_channels}, {self.out_channels}, {self.kernel_size}, stride={self.stride}"
        return f"{sizes}, int8 {self.activation}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, with channels last in memory."""
        assert not (torch.is_grad_enabled() and x.requires_grad), "a layer in bytes has no gradient"
        if x.shape[1] != self.in_channels:
            raise ValueError(f"The layer reads {self.in_channels} channels, not {x.shape[1]}.")
        out = [
            (side + 2 * self.padding - self.dilation * (size - 1) - 1) // self.stride + 1
            for side, size in zip(x.shape[2:], self.kernel_size, strict=True)
        ]
        if min(out) < 1:
            raise ValueError(
                f"A picture of {x.shape[2]} x {x.shape[3]} is too small for a kernel of {self.kernel_size}."
            )
        y = torch.empty((len(x), self.out_channels, *out), memory_format=torch.channels_last)
        sizes = (len(x), *x.shape[2:], self.in_channels, *out, self.out_channels, *self.kernel_size)
        x = x.float().contiguous(memory_format=torch.channels_last)
        return self._run("convolve_bytes", x, y, (*sizes, self.stride, self.padding, self.dilation))


def activation_of(module: nn.Module) -> str:
    """Return which of `ACTIVATIONS` a module is; empty where it is none of them."""
    if type(module) is nn.GELU and module.approximate == "tanh":
        return "gelu_tanh"
    return {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}.get(type(module), "")


def _packed(weight: Tensor) -> Tensor:
    """Return weights (N, C, kernel's height, width) as the kernel reads them, with zeros for what is not there.

    (blocks of outputs, height, width, groups of channels, outputs of a block, channels of a group)
    """
    (outputs, channels, height, width), of_block = weight.shape, kernel().outputs_of_block()
    weight = F.pad(weight, (0, 0, 0, 0, 0, -channels % GROUP, 0, -outputs % of_block))
    weight = weight.view(-1, of_block, weight.shape[1] // GROUP, GROUP, height, width)
    return weight.permute(0, 4, 5, 2, 1, 3).contiguous()
