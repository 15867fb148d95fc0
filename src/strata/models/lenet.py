"""LeNet-5: two convolutions, each followed by subsampling, then three fully connected layers.

Paper: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", section II.B.
Unusual here: it takes any picture size. Pictures of 32 pixels run through the paper's shapes, and so do those of 28,
padded to 32 as the paper pads MNIST; smaller ones are padded so that something is left to look at, and larger ones are
averaged down by whole factors, to at most the 5 x 5 map that the paper's layer C5 reads.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.layers.activations import Activation, activation, gain


@dataclass(frozen=True, kw_only=True)
class LeNetConfig:
    """Sizes of a LeNet; the defaults are LeNet-5's."""

    widths: tuple[Positive, Positive] = (6, 16)
    """Feature maps of the two convolutions, C1 and C3."""
    hidden: tuple[Positive, Positive] = (120, 84)
    """Units of C5 and F6."""
    activation: Activation = "tanh"
    pool: Literal["trainable", "average", "max"] = "trainable"
    """"trainable" is the paper's: an average times a coefficient, plus a bias, through the activation."""
    batch_norm: bool = False
    """Before the activation of each convolution."""
    dropout: Probability = 0.0
    """Before each fully connected layer."""
    in_channels: Positive = 1
    image_size: Positive = 28
    num_classes: Positive = 10


PRESETS = {
    "lenet5": LeNetConfig(),
    "lenet5_modern": LeNetConfig(
        widths=(32, 64), hidden=(256, 128), activation="relu", pool="max", batch_norm=True, dropout=0.4
    ),
}
TINY = LeNetConfig(widths=(3, 4), hidden=(10, 8), image_size=8, num_classes=3)


class Subsample(nn.Module):
    """Halves height and width by an average, scaled and shifted by one coefficient and one bias per map (S2, S4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coefficient_C = nn.Parameter(torch.ones(width))
        self.bias_C = nn.Parameter(torch.zeros(width))
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C, H / 2, W / 2), rounded up."""
        return self.pool(x_BCHW) * self.coefficient_C[:, None, None] + self.bias_C[:, None, None]


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998, section II.B): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: every map of C3 sees all six maps of S2, where the paper's Table I leaves some out to break
    symmetry and save work; the output is a linear layer for the cross-entropy, where the paper has radial basis
    functions; tanh is not scaled by 1.7159. The preset lenet5_modern is wider, with ReLU, max pooling, batch norm and
    dropout.
    """

    config_class = LeNetConfig

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__()
        self.config = config
        size = config.image_size
        padding1 = 0 if size >= 32 else 2
        size = (size + 2 * padding1 - 4 + 1) // 2
        padding2 = 0 if size >= 10 else 2
        size = (size + 2 * padding2 - 4 + 1) // 2
        shrink = math.ceil(size / 5)
        size = math.ceil(size / shrink)

        self.conv1 = nn.Conv2d(config.in_channels, config.widths[0], 5, padding=padding1)
        self.norm1 = nn.BatchNorm2d(config.widths[0]) if config.batch_norm else nn.Identity()
        self.act1 = activation(config.activation)
        self.pool1 = self._pool(config.widths[0])
        self.conv2 = nn.Conv2d(config.widths[0], config.widths[1], 5, padding=padding2)
        self.norm2 = nn.BatchNorm2d(config.widths[1]) if config.batch_norm else nn.Identity()
        self.act2 = activation(config.activation)
        self.pool2 = self._pool(config.widths[1])
        self.shrink = nn.AvgPool2d(shrink, ceil_mode=True) if shrink > 1 else nn.Identity()
        self.dropout1 = nn.Dropout(config.dropout)
        self.linear1 = nn.Linear(config.widths[1] * size * size, config.hidden[0])
        self.act3 = activation(config.activation)
        self.dropout2 = nn.Dropout(config.dropout)
        self.linear2 = nn.Linear(*config.hidden)
        self.act4 = activation(config.activation)
        self.dropout3 = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden[1], config.num_classes)
        for layer in (self.conv1, self.conv2, self.linear1, self.linear2, self.head):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(1.0 if layer is self.head else gain(config.activation)) / fan_in**0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def _pool(self, width: int) -> nn.Module:
        if self.config.pool == "trainable":
            return nn.Sequential(Subsample(width), activation(self.config.activation))
        return (nn.MaxPool2d if self.config.pool == "max" else nn.AvgPool2d)(2, ceil_mode=True)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, hidden[1])."""
        x = self.pool1(self.act1(self.norm1(self.conv1(image_BCHW))))
        x = self.pool2(self.act2(self.norm2(self.conv2(x))))
        x = self.dropout1(self.shrink(x).flatten(1))
        x = self.dropout2(self.act3(self.linear1(x)))
        return self.dropout3(self.act4(self.linear2(x)))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))
