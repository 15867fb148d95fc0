"""Residual networks whose blocks normalise first, so that the shortcuts form one clean path; and the wide ones of them.

Paper: He, Zhang, Ren and Sun 2016, "Identity mappings in deep residual networks", Figure 4(e) and appendix; Zagoruyko
and Komodakis 2016, "Wide residual networks", Table 1, which trades their depth for width.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.layers.activations import Activation, activation
from strata.layers.stem import Stem, stem
from strata.models.resnet import ZeroPad


@dataclass(frozen=True, kw_only=True)
class PreResNetConfig:
    """Sizes of a pre-activation residual network; the defaults are those of ResNet-18's shape."""

    depths: tuple[Positive, ...] = (2, 2, 2, 2)
    """Blocks per stage. Each stage after the first halves height and width and doubles the channels."""
    block: Literal["basic", "bottleneck"] = "basic"
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times as many channels going out."""
    width: Positive = 64
    """Channels of the stem, and of the first stage before it is widened."""
    widening: Positive = 1
    """How many times more channels the stages have: the k of WRN-n-k."""
    shortcut: Literal["projection", "zero_pad"] = "projection"
    """Where a block changes shape: a 1x1 convolution, or zeros for the new channels."""
    stem: Stem = "auto"
    """7x7 stride 2 and max pooling; 3x3 stride 1; 3x3 stride 2. "auto" takes the second up to 64 pixels."""
    activation: Activation = "relu"
    dropout: Probability = 0.0
    """Inside each block, before its last convolution; Zagoruyko and Komodakis take 0.3 on CIFAR in Table 6."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


def _cifar(layers: int, block: Literal["basic", "bottleneck"] = "basic", **changes: Any) -> PreResNetConfig:
    per_stage = (layers - 2) // (6 if block == "basic" else 9)
    shape: dict[str, Any] = {"width": 16, "stem": "cifar", "image_size": 32, "num_classes": 10}
    return PreResNetConfig(depths=(per_stage,) * 3, block=block, **shape | changes)


PRESETS = {
    "preresnet18": PreResNetConfig(),
    "preresnet34": PreResNetConfig(depths=(3, 4, 6, 3)),
    "preresnet50": PreResNetConfig(depths=(3, 4, 6, 3), block="bottleneck"),
    "preresnet101": PreResNetConfig(depths=(3, 4, 23, 3), block="bottleneck"),
    "preresnet152": PreResNetConfig(depths=(3, 8, 36, 3), block="bottleneck"),
    "preresnet200": PreResNetConfig(depths=(3, 24, 36, 3), block="bottleneck"),
    "preresnet110": _cifar(110, shortcut="zero_pad"),
    "preresnet164": _cifar(164, "bottleneck"),
    "wrn_16_4": _cifar(16, widening=4),
    "wrn_28_10": _cifar(28, widening=10),
    "wrn_40_4": _cifar(40, widening=4),
}
TINY = PreResNetConfig(depths=(1, 2), block="bottleneck", width=4, widening=2, image_size=8, num_classes=3)


class PreResNet(nn.Module):
    """A pre-activation residual network (He et al. 2016, appendix): pictures (B, C, H, W) to logits (B, K).

    Differs from the papers: a bottleneck block halves height and width in its 3x3 convolution and not in its first
    1x1. The head has a bias and PyTorch's initial weights.
    """

    config_class = PreResNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: PreResNetConfig) -> None:
        super().__init__()
        self.config = config
        # The stem's norm and activation are the first block's: the appendix has them before its paths part.
        self.stem = stem(config.stem, config.image_size, config.in_channels, config.width, config.activation)
        block = PreBasicBlock if config.block == "basic" else PreBottleneckBlock
        self.stages = nn.Sequential()
        channels = config.width
        for number, depth in enumerate(config.depths):
            width = config.width * config.widening * 2**number
            stage = nn.Sequential()
            for i in range(depth):
                stride = 2 if number > 0 and i == 0 else 1
                stage.append(block(config, channels, width, stride, is_first=number == i == 0))
                channels = width * block.expansion
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels)
        self.act = activation(config.activation)
        self.head = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W), normalised and activated."""
        return self.act(self.norm(self.stages(self.stem(image_BCHW))))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the mean over all places of the last stage's map."""
        return self.feature_map(image_BCHW).mean(dim=(2, 3))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class PreBasicBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice: (B, C, H, W) to (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, config: PreResNetConfig, channels: int, width: int, stride: int, *, is_first: bool) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if is_first else nn.BatchNorm2d(channels)
        self.act1 = nn.Identity() if is_first else activation(config.activation)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = activation(config.activation)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = _shortcut(config, channels, width, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.act1(self.norm1(x_BCHW))
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(y)
        y = self.act2(self.norm2(self.conv1(y)))
        return self.conv2(self.dropout(y)) + shortcut


class PreBottleneckBlock(nn.Module):
    """Norm, activation and convolution, 1x1, 3x3 and 1x1: (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, config: PreResNetConfig, channels: int, width: int, stride: int, *, is_first: bool) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if is_first else nn.BatchNorm2d(channels)
        self.act1 = nn.Identity() if is_first else activation(config.activation)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = activation(config.activation)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.act3 = activation(config.activation)
        self.dropout = nn.Dropout(config.dropout)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.shortcut = _shortcut(config, channels, width * self.expansion, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.act1(self.norm1(x_BCHW))
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(y)
        y = self.act2(self.norm2(self.conv1(y)))
        y = self.act3(self.norm3(self.conv2(y)))
        return self.conv3(self.dropout(y)) + shortcut


def _shortcut(config: PreResNetConfig, channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Return what changes the shape of a block's activated input, or None where the input itself is the shortcut."""
    if stride == 1 and channels == out_channels:
        return None
    if config.shortcut == "zero_pad":
        return ZeroPad(out_channels - channels, stride)
    return nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
