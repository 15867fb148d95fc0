"""Residual networks: every block adds to its input what it learned, so that a hundred layers train as well as ten.

Paper: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", Table 1 (ImageNet) and section 4.2
(CIFAR). ResNeXt is the same with 3x3 convolutions in groups: Xie, Girshick, Dollar, Tu and He 2017, "Aggregated
residual transformations for deep neural networks", Table 1. Unusual here: small pictures get the CIFAR stem by
themselves, for the ImageNet stem would leave of a 32 x 32 picture a single pixel. Blocks that normalise first are in
preresnet.py.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.stem import Stem, stem


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a residual network; the defaults are ResNet-18's."""

    depths: tuple[Positive, ...] = (2, 2, 2, 2)
    """Blocks per stage; Table 1. Each stage after the first halves height and width and doubles the channels."""
    block: Literal["basic", "bottleneck"] = "basic"
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times as many channels going out."""
    width: Positive = 64
    """Channels of the first stage."""
    inner_width: Positive = 1
    """How many times wider the blocks are inside, and not where they end (Zagoruyko and Komodakis 2016, Table 8)."""
    groups: Positive = 1
    """Of the 3x3 convolution of a bottleneck block: paths that do not see each other (Xie et al. 2017, section 3.3)."""
    shortcut: Literal["projection", "zero_pad"] = "projection"
    """Where a block changes shape: a 1x1 convolution (option B), or zeros for the new channels (option A)."""
    stem: Stem = "auto"
    """7x7 stride 2 and max pooling; 3x3 stride 1; 3x3 stride 2. "auto" takes the second up to 64 pixels."""
    activation: Activation = "relu"
    zero_init: bool = False
    """Each block starts as the identity: the scale of its last norm is zero (Goyal et al. 2017, section 5.1)."""
    dropout: Probability = 0.0
    """Before the head."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


def _cifar(blocks: int) -> ResNetConfig:
    return ResNetConfig(
        depths=(blocks,) * 3, width=16, shortcut="zero_pad", stem="cifar", image_size=32, num_classes=10
    )


PRESETS = {
    "resnet18": ResNetConfig(),
    "resnet34": ResNetConfig(depths=(3, 4, 6, 3)),
    "resnet50": ResNetConfig(depths=(3, 4, 6, 3), block="bottleneck"),
    "resnet101": ResNetConfig(depths=(3, 4, 23, 3), block="bottleneck"),
    "resnet152": ResNetConfig(depths=(3, 8, 36, 3), block="bottleneck"),
    "wide_resnet50_2": ResNetConfig(depths=(3, 4, 6, 3), block="bottleneck", inner_width=2),
    "wide_resnet101_2": ResNetConfig(depths=(3, 4, 23, 3), block="bottleneck", inner_width=2),
    "resnext50_32x4d": ResNetConfig(depths=(3, 4, 6, 3), block="bottleneck", inner_width=2, groups=32),
    "resnext101_32x8d": ResNetConfig(depths=(3, 4, 23, 3), block="bottleneck", inner_width=4, groups=32),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
}
TINY = ResNetConfig(depths=(1, 1), block="bottleneck", width=4, image_size=8, num_classes=3)


class ResNet(nn.Module):
    """A residual network (He et al. 2016, Table 1 and section 4.2): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: a bottleneck block halves height and width in its 3x3 convolution and not in its first 1x1,
    which costs a little more and errs a little less ("v1.5", as in torchvision). The head has a bias and PyTorch's
    initial weights.
    """

    config_class = ResNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        if config.groups > 1 and config.block == "basic":
            raise ConfigError(f"model.groups={config.groups} is of bottleneck blocks; these are basic ones.")
        self.stem = stem(config.stem, config.image_size, config.in_channels, config.width, config.activation)
        block = BasicBlock if config.block == "basic" else BottleneckBlock
        self.stages = nn.Sequential()
        channels = config.width
        for number, depth in enumerate(config.depths):
            width = config.width * 2**number
            stage = nn.Sequential()
            for i in range(depth):
                stride = 2 if number > 0 and i == 0 else 1
                stage.append(block(config, channels, width, stride))
                channels = width * block.expansion
            self.stages.append(stage)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.zero_init:
            for module in self.modules():
                if isinstance(module, BasicBlock | BottleneckBlock):
                    nn.init.zeros_(module.last_norm.weight)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W)."""
        return self.stages(self.stem(image_BCHW))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the mean over all places of the last stage's map."""
        return self.dropout(self.feature_map(image_BCHW).mean(dim=(2, 3)))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, config: ResNetConfig, channels: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width * config.inner_width
        self.conv1 = nn.Conv2d(channels, inner, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.act1 = activation(config.activation)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(config, channels, width, stride)
        self.act2 = activation(config.activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        x = self.act1(self.norm1(self.conv1(x_BCHW)))
        x = self.last_norm(self.conv2(x))
        return self.act2(x + self.shortcut(x_BCHW))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, config: ResNetConfig, channels: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width * config.inner_width
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.act1 = activation(config.activation)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=config.groups, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.act2 = activation(config.activation)
        self.conv3 = nn.Conv2d(inner, width * self.expansion, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(width * self.expansion)
        self.shortcut = _shortcut(config, channels, width * self.expansion, stride)
        self.act3 = activation(config.activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        x = self.act1(self.norm1(self.conv1(x_BCHW)))
        x = self.act2(self.norm2(self.conv2(x)))
        x = self.last_norm(self.conv3(x))
        return self.act3(x + self.shortcut(x_BCHW))


def _shortcut(config: ResNetConfig, channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out_channels:
        return nn.Identity()
    if config.shortcut == "zero_pad":
        return ZeroPad(out_channels - channels, stride)
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels))


class ZeroPad(nn.Module):
    """The shortcut without parameters (option A): every stride-th pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C + new_channels, H / stride, W / stride)."""
        x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        return F.pad(x_BCHW, (0, 0, 0, 0, 0, self.new_channels))
