"""EfficientNet: one small network, found by search, made deeper, wider and finer-grained at once by fixed ratios.

Paper: Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", Table 1 (B0) and
section 3.3 (the scaling). Its blocks are MobileNetV2's with squeeze-and-excitation (Hu, Shen and Sun 2018). Unusual
here: pictures up to 64 pixels are halved three times instead of five.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from strata.config import Fraction, Positive, PositiveFloat, Probability
from strata.layers.stem import resolve
from strata.layers.stochastic_depth import StochasticDepth, linear_rates
from strata.models.mobilenet import ConvNorm, Padding, round_channels, strides_for


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Sizes of an EfficientNet; the defaults are B0's."""

    stages: tuple[tuple[Positive, Positive, Positive, Positive, Positive], ...] = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    """Each stage's row of Table 1: expansion, side of the kernel, first stride, channels, blocks; before scaling."""
    width_multiplier: PositiveFloat = 1.0
    depth_multiplier: PositiveFloat = 1.0
    squeeze: Fraction = 0.25
    """Channels of the squeeze, as a share of those that enter the block."""
    stem_width: Positive = 32
    last_width: Positive = 1280
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """"cifar" leaves out the strides of the first convolution and of the first stage that has one; "auto" does so up
    to 64 pixels."""
    padding: Padding = "tensorflow"
    """Of strided convolutions: as the authors' code has it, which may add less at top and left; or the same on all
    sides."""
    norm_epsilon: PositiveFloat = 1e-3
    dropout: Probability = 0.2
    """Before the head; section 5.2."""
    stochastic_depth: Probability = 0.2
    """Probability that the last block's branch is left out; the earlier, the less."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


def _scaled(width: float, depth: float, image_size: int, dropout: float) -> EfficientNetConfig:
    return EfficientNetConfig(width_multiplier=width, depth_multiplier=depth, image_size=image_size, dropout=dropout)


PRESETS = {
    "efficientnet_b0": EfficientNetConfig(),
    "efficientnet_b1": _scaled(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": _scaled(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": _scaled(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": _scaled(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": _scaled(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": _scaled(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": _scaled(2.0, 3.1, 600, 0.5),
}
TINY = EfficientNetConfig(
    stages=((1, 3, 1, 8, 1), (2, 5, 2, 8, 2), (2, 3, 2, 16, 1)),
    stem_width=8,
    last_width=24,
    dropout=0.0,
    stochastic_depth=0.0,
    image_size=8,
    num_classes=3,
)


class EfficientNet(nn.Module):
    """EfficientNet (Tan and Le 2019; squeeze by Hu et al. 2018): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: running statistics follow a batch by a tenth, not a hundredth; the head's weights begin as
    PyTorch's do, which is as the authors' with 1000 classes: theirs grow as classes get fewer; stochastic depth
    reaches its rate in the last block, and theirs would one block after it.
    """

    config_class = EfficientNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        epsilon, padding = config.norm_epsilon, config.padding
        is_small = resolve(config.stem, config.image_size) == "cifar"
        strides = strides_for([stride for _, _, stride, _, _ in config.stages], is_small=is_small)
        channels = round_channels(config.stem_width * config.width_multiplier)
        self.stem = ConvNorm(
            config.in_channels, channels, 3, 1 if is_small else 2, act="silu", epsilon=epsilon, padding=padding
        )
        self.blocks = nn.Sequential()
        depths = [math.ceil(config.depth_multiplier * depth) for *_, depth in config.stages]
        rates = linear_rates(config.stochastic_depth, sum(depths))
        for (expansion, kernel, _, c, _), depth, first_stride in zip(config.stages, depths, strides, strict=True):
            width = round_channels(c * config.width_multiplier)
            for i in range(depth):
                stride, rate = first_stride if i == 0 else 1, rates[len(self.blocks)]
                self.blocks.append(MBConv(config, channels, width, expansion, kernel, stride, rate))
                channels = width
        last_width = round_channels(config.last_width * config.width_multiplier)
        self.last = ConvNorm(channels, last_width, 1, act="silu", epsilon=epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(last_width, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight.shape[0] // module.groups * module.weight[0, 0].numel()
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
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


class MBConv(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, projection: (B, C, H, W) to (B, width, H', W')."""

    def __init__(
        self,
        config: EfficientNetConfig,
        channels: int,
        width: int,
        expansion: int,
        kernel: int,
        stride: int,
        rate: float,
    ) -> None:
        super().__init__()
        inner, epsilon = channels * expansion, config.norm_epsilon
        self.expand = nn.Identity() if expansion == 1 else ConvNorm(channels, inner, 1, act="silu", epsilon=epsilon)
        self.depthwise = ConvNorm(
            inner, inner, kernel, stride, groups=inner, act="silu", epsilon=epsilon, padding=config.padding
        )
        self.excite = SqueezeExcitation(inner, max(1, int(channels * config.squeeze)))
        self.project = ConvNorm(inner, width, 1, epsilon=epsilon)
        self.is_residual = stride == 1 and channels == width
        self.stochastic_depth = StochasticDepth(rate)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.project(self.excite(self.depthwise(self.expand(x_BCHW))))
        return x_BCHW + self.stochastic_depth(y) if self.is_residual else y


class SqueezeExcitation(nn.Module):
    """Scales each channel by what all channels' means say of it (Hu et al. 2018, eq. 3): (B, C, H, W) to the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the map, its channels scaled by numbers from 0 to 1."""
        mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
        return x_BCHW * self.gate(self.expand(self.act(self.reduce(mean_BC11))))
