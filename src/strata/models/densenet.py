"""Densely connected networks: every layer reads what all layers before it in its stage gave.

Paper: Huang, Liu, van der Maaten and Weinberger 2017, "Densely connected convolutional networks", Table 1; the shapes
with bottlenecks and compression, "DenseNet-BC". Unusual here: small pictures get a stem that keeps their size, as the
paper's own CIFAR networks have it, but with a norm after its convolution (48 numbers more in DenseNet-BC-100-12).

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from strata.config import Fraction, Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.stem import Stem, resolve, stem


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig:
    """Sizes of a DenseNet; the defaults are DenseNet-121's."""

    depths: tuple[Positive, ...] = (6, 12, 24, 16)
    """Layers per stage; Table 1."""
    growth: Positive = 32
    """Channels that each layer adds: the paper's k."""
    width: Positive = 64
    """Channels of the stem: twice the growth."""
    bottleneck: Positive = 4
    """Channels between a layer's two convolutions, in multiples of the growth."""
    compression: Fraction = 0.5
    """Share of its channels that a transition keeps: the paper's theta."""
    stem: Stem = "auto"
    """7x7 stride 2 and max pooling; 3x3 stride 1; 3x3 stride 2. "auto" takes the second up to 64 pixels."""
    activation: Activation = "relu"
    dropout: Probability = 0.0
    """After each layer; section 4.2 takes 0.2 where the data are not augmented."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


PRESETS = {
    "densenet121": DenseNetConfig(),
    "densenet161": DenseNetConfig(depths=(6, 12, 36, 24), growth=48, width=96),
    "densenet169": DenseNetConfig(depths=(6, 12, 32, 32)),
    "densenet201": DenseNetConfig(depths=(6, 12, 48, 32)),
    "densenet_bc_100_12": DenseNetConfig(
        depths=(16, 16, 16), growth=12, width=24, stem="cifar", image_size=32, num_classes=10
    ),
}
TINY = DenseNetConfig(depths=(2, 2), growth=4, width=8, bottleneck=2, image_size=8, num_classes=3)


class DenseNet(nn.Module):
    """A densely connected network (Huang et al. 2017, Table 1): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: the head has a bias, which starts at zero, and PyTorch's initial weights.
    """

    config_class = DenseNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        self.config = config
        stride = {"cifar": 1, "patch": 2, "imagenet": 4}[resolve(config.stem, config.image_size)]
        least = (2 ** (len(config.depths) - 1) - 1) * stride + 1
        if config.image_size < least:
            raise ConfigError(
                f"image_size={config.image_size} is too small for {len(config.depths)} stages after the stem; at least "
                f"{least} pixels a side are needed. Take larger pictures, fewer stages or model.stem=cifar."
            )
        self.stem = stem(config.stem, config.image_size, config.in_channels, config.width, config.activation)
        self.stages = nn.Sequential()
        channels = config.width
        for number, depth in enumerate(config.depths):
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(DenseLayer(config, channels))
                channels += config.growth
            if number < len(config.depths) - 1:
                kept = max(1, int(channels * config.compression))
                stage.append(Transition(config, channels, kept))
                channels = kept
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels)
        self.act = activation(config.activation)
        self.head = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.head.bias)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W), normalised and activated."""
        return self.act(self.norm(self.stages(self.stem(image_BCHW))))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the mean over all places of the last stage's map."""
        return self.feature_map(image_BCHW).mean(dim=(2, 3))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class DenseLayer(nn.Module):
    """Adds ``growth`` channels, made by a 1x1 and a 3x3 convolution: (B, C, H, W) to (B, C + growth, H, W)."""

    def __init__(self, config: DenseNetConfig, channels: int) -> None:
        super().__init__()
        inner = config.bottleneck * config.growth
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = activation(config.activation)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.act2 = activation(config.activation)
        self.conv2 = nn.Conv2d(inner, config.growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what came in, and after it the new channels."""
        y = self.conv1(self.act1(self.norm1(x_BCHW)))
        y = self.conv2(self.act2(self.norm2(y)))
        return torch.cat([x_BCHW, self.dropout(y)], dim=1)


class Transition(nn.Module):
    """Fewer channels and half the side, between two stages: (B, C, H, W) to (B, kept, H / 2, W / 2)."""

    def __init__(self, config: DenseNetConfig, channels: int, kept: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = activation(config.activation)
        self.conv = nn.Conv2d(channels, kept, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the smaller map."""
        return self.pool(self.conv(self.act(self.norm(x_BCHW))))
