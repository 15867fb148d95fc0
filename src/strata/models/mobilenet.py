"""MobileNetV2: blocks that are wide inside and narrow at their ends, where the shortcuts are.

Paper: Sandler, Howard, Zhu, Zhmoginov and Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks", Table 2.
Unusual here: pictures up to 64 pixels are halved three times instead of five, for otherwise a single place would be
left of 32 pixels.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, PositiveFloat, Probability
from strata.layers.stem import resolve

Padding = Literal["symmetric", "tensorflow"]


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """Sizes of a MobileNetV2; the defaults are those of Table 2."""

    stages: tuple[tuple[Positive, Positive, Positive, Positive], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    """Each stage's t, c, n, s of Table 2: how much wider its blocks are inside, channels, blocks, first stride."""
    width_multiplier: PositiveFloat = 1.0
    """Of the channels of all layers; the last convolution's are never fewer than ``last_width`` (section 6.1)."""
    stem_width: Positive = 32
    last_width: Positive = 1280
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """"cifar" leaves out the strides of the first convolution and of the first stage that has one; "auto" does so up
    to 64 pixels."""
    padding: Padding = "tensorflow"
    """Of strided convolutions: as the authors' code has it, which may add nothing at top and left; or one pixel on all
    sides."""
    norm_epsilon: PositiveFloat = 1e-3
    """Of the authors' code."""
    dropout: Probability = 0.2
    """Before the head."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


PRESETS = {
    "mobilenet_v2": MobileNetConfig(),
    "mobilenet_v2_035": MobileNetConfig(width_multiplier=0.35),
    "mobilenet_v2_050": MobileNetConfig(width_multiplier=0.5),
    "mobilenet_v2_075": MobileNetConfig(width_multiplier=0.75),
    "mobilenet_v2_140": MobileNetConfig(width_multiplier=1.4),
}
TINY = MobileNetConfig(
    stages=((1, 8, 1, 1), (3, 8, 2, 2), (3, 16, 1, 2)),
    stem_width=8,
    last_width=24,
    dropout=0.0,
    image_size=8,
    num_classes=3,
)


class MobileNet(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, Table 2): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: initial weights are torchvision's (the paper names none), and running statistics follow a
    batch by a tenth.
    """

    config_class = MobileNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.config = config
        epsilon, padding = config.norm_epsilon, config.padding
        is_small = resolve(config.stem, config.image_size) == "cifar"
        strides = strides_for([s for *_, s in config.stages], is_small=is_small)
        channels = round_channels(config.stem_width * config.width_multiplier)
        self.stem = ConvNorm(
            config.in_channels, channels, 3, 1 if is_small else 2, act="relu6", epsilon=epsilon, padding=padding
        )
        self.blocks = nn.Sequential()
        for (expansion, c, depth, _), first_stride in zip(config.stages, strides, strict=True):
            width = round_channels(c * config.width_multiplier)
            for i in range(depth):
                stride = first_stride if i == 0 else 1
                self.blocks.append(InvertedResidual(config, channels, width, expansion, stride))
                channels = width
        last_width = round_channels(config.last_width * max(1.0, config.width_multiplier))
        self.last = ConvNorm(channels, last_width, 1, act="relu6", epsilon=epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(last_width, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last convolution's map (B, C, H, W)."""
        return self.last(self.blocks(self.stem(image_BCHW)))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the mean over all places of the last convolution's map."""
        return self.dropout(self.feature_map(image_BCHW).mean(dim=(2, 3)))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3, linear projection (Figure 4d): (B, C, H, W) to (B, width, H / stride, W / stride)."""

    def __init__(self, config: MobileNetConfig, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner, epsilon = channels * expansion, config.norm_epsilon
        self.expand = nn.Identity() if expansion == 1 else ConvNorm(channels, inner, 1, act="relu6", epsilon=epsilon)
        self.depthwise = ConvNorm(
            inner, inner, 3, stride, groups=inner, act="relu6", epsilon=epsilon, padding=config.padding
        )
        self.project = ConvNorm(inner, width, 1, epsilon=epsilon)
        self.is_residual = stride == 1 and channels == width

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.project(self.depthwise(self.expand(x_BCHW)))
        return x_BCHW + y if self.is_residual else y


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation: (B, C, H, W) to (B, width, H / stride, W / stride), rounded up.

    Args:
        act: what follows the norm; None is nothing.
        padding: "tensorflow" adds, where the stride is not one, no more than the last window needs, and of an odd
            number of pixels the greater part at bottom and right.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: Literal["relu6", "silu"] | None = None,
        epsilon: float = 1e-5,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__()
        self.by_need = padding == "tensorflow" and stride > 1
        self.conv = nn.Conv2d(
            channels, width, kernel, stride, 0 if self.by_need else kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(width, eps=epsilon)
        self.act = nn.Identity() if act is None else {"relu6": nn.ReLU6, "silu": nn.SiLU}[act]()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the layer's map."""
        if self.by_need:
            top, bottom = self._needed(x_BCHW.shape[2])
            left, right = self._needed(x_BCHW.shape[3])
            x_BCHW = F.pad(x_BCHW, (left, right, top, bottom))
        return self.act(self.norm(self.conv(x_BCHW)))

    def _needed(self, side: int) -> tuple[int, int]:
        """Return the pixels to add before and after a side so that the windows cover it."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        total = max(0, kernel - (side % stride or stride))
        return total // 2, total - total // 2


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, and not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def strides_for(strides: Sequence[int], *, is_small: bool) -> list[int]:
    """Return the stages' strides; for small pictures the first that is not one is left out."""
    found = list(strides)
    first = next((i for i, stride in enumerate(found) if stride > 1), None)
    if is_small and first is not None:
        found[first] = 1
    return found
