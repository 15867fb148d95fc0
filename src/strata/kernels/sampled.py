"""1x1 convolutions that skip pixels, of few channels: the same convolution, past a fault in what torch calls on a CPU.

oneDNN writes beyond its memory where it makes the filters' gradient of a 1x1 convolution with a stride, channels last,
from fewer channels than its vectors hold (issue 6035 of uxlfoundation/oneDNN): with one thread it corrupts the heap,
with more the gradient is wrong. To take the pixels first and to convolve them with stride 1 is the same convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from strata.kernels import exchange

WIDEST = 16
"""Channels of a block of oneDNN's, with AVX-512; 8 with AVX2."""


def takes_part(layer: nn.Module) -> bool:
    """Say whether a layer is a convolution that the fault may meet."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, SampledConv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in ((0, 0), "valid")
        and layer.in_channels // layer.groups < WIDEST
    )


def use_in(model: nn.Module) -> nn.Module:
    """Make every layer of a model that can take part do so, in place; return the model."""
    return exchange(model, takes_part, SampledConv2d)


class SampledConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride, (B, K, H, W) to (B, N, H', W'), of the pixels that the stride meets."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias, groups=self.groups)
