"""VGG: nothing but 3x3 convolutions, in five stages between which pooling halves the map, and three dense layers.

Paper: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", Table 1.
Unusual here: the presets whose names end in _bn normalise after each convolution, which came after the paper (Ioffe and
Szegedy 2015) and makes the deep ones easy to train; for small pictures the last pools are left out.

B samples, C channels, H and W pixels, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation

GRID = 7
"""Side of the map that the fully connected layers read, of pictures of 224 pixels."""
SMALLEST_POOLED = 4
"""Pixels; a narrower map is not halved any more."""


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """Sizes of a VGG network; the defaults are VGG-16's, the paper's configuration D."""

    depths: tuple[Positive, ...] = (2, 2, 3, 3, 3)
    """Convolutions per stage; Table 1."""
    widths: tuple[Positive, ...] = (64, 128, 256, 512, 512)
    """Channels of each stage."""
    hidden: tuple[Positive, Positive] = (4096, 4096)
    """Units of the fully connected layers before the head."""
    batch_norm: bool = False
    """After each convolution."""
    activation: Activation = "relu"
    dropout: Probability = 0.5
    """After each fully connected layer but the head; section 3.1."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


_PLAIN = {
    "vgg11": VGGConfig(depths=(1, 1, 2, 2, 2)),
    "vgg13": VGGConfig(depths=(2, 2, 2, 2, 2)),
    "vgg16": VGGConfig(),
    "vgg19": VGGConfig(depths=(2, 2, 4, 4, 4)),
}
PRESETS = _PLAIN | {f"{name}_bn": replace(config, batch_norm=True) for name, config in _PLAIN.items()}
TINY = VGGConfig(
    depths=(1, 2), widths=(4, 8), hidden=(16, 12), batch_norm=True, dropout=0.0, image_size=8, num_classes=3
)


class VGG(nn.Module):
    """A VGG network (Simonyan and Zisserman 2015, Table 1): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: initial weights follow He et al. 2015 in the convolutions, as in torchvision, so that the
    deep ones need not start from a shallow one's weights. A map narrower than 4 pixels is not pooled: of a picture of
    32 pixels, 2 x 2 are left.

    A picture of another size than the config's is averaged to the map that the fully connected layers read.
    """

    config_class = VGGConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        if len(config.depths) != len(config.widths):
            raise ConfigError(
                f"model.depths has {len(config.depths)} entries, model.widths {len(config.widths)}: one a stage."
            )
        self.config = config
        side, channels = config.image_size, config.in_channels
        self.stages = nn.Sequential()
        for depth, width in zip(config.depths, config.widths, strict=True):
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(nn.Conv2d(channels, width, 3, padding=1))
                if config.batch_norm:
                    stage.append(nn.BatchNorm2d(width))
                stage.append(activation(config.activation))
                channels = width
            if side >= SMALLEST_POOLED:
                stage.append(nn.MaxPool2d(2))
                side //= 2
            self.stages.append(stage)
        grid = min(side, GRID)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.hidden = nn.Sequential(
            nn.Linear(channels * grid * grid, config.hidden[0]),
            activation(config.activation),
            nn.Dropout(config.dropout),
            nn.Linear(*config.hidden),
            activation(config.activation),
            nn.Dropout(config.dropout),
        )
        self.head = nn.Linear(config.hidden[1], config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W), pooled."""
        return self.stages(image_BCHW)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, F), the second hidden layer."""
        return self.hidden(self.pool(self.feature_map(image_BCHW)).flatten(1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))
