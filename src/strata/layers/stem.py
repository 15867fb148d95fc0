"""The first layers of a convolution network, by the size of the pictures it is for.

Those for ImageNet leave of a picture of 32 pixels a single one, so small pictures get others by themselves.

B samples, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from strata.layers.activations import activation

Stem = Literal["auto", "imagenet", "cifar", "patch"]
"""7x7 stride 2 and max pooling (a quarter of the side is left), 3x3 stride 1 (all of it), 3x3 stride 2 (half of it: a
quarter of the cost of "cifar"). "auto" is "cifar" up to 64 pixels and "imagenet" above."""
SMALL = 64
"""Pixels a side of the greatest picture that "auto" treats as small: Tiny ImageNet's."""


def resolve(kind: Stem, image_size: int) -> Stem:
    """Return what "auto" is for pictures of that size, and any other kind as it is."""
    if kind != "auto":
        return kind
    return "cifar" if image_size <= SMALL else "imagenet"


def stem(kind: Stem, image_size: int, in_channels: int, width: int, act: str) -> nn.Sequential:
    """Return convolution, norm, activation and, for "imagenet", pooling: (B, in_channels, H, W) to (B, width, ., .)."""
    kind = resolve(kind, image_size)
    side, stride = {"imagenet": (7, 2), "cifar": (3, 1), "patch": (3, 2)}[kind]
    layers = nn.Sequential(
        nn.Conv2d(in_channels, width, side, stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(width),
        activation(act),
    )
    if kind == "imagenet":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return layers
