"""ConvNeXt: a convolution net that took over, step by step, what had made Transformers of pictures good.

Paper: Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022, "A ConvNet for the 2020s", sections 2 and 3.1, Figure 4.
Unusual here: small pictures get a smaller first stride by themselves.

B samples, C channels, H and W pixels or places, K classes. The two orders of axes, BCHW and BHWC, are two views of one
memory in which a place's channels lie together: convolutions read the first, norms and linear layers the second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from strata.config import NotNegativeFloat, Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.patches import patch_size_for
from strata.layers.stochastic_depth import StochasticDepth, linear_rates


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Sizes of a ConvNeXt; the defaults are ConvNeXt-T's."""

    depths: tuple[Positive, ...] = (3, 3, 9, 3)
    """Blocks per stage. Each stage after the first halves height and width."""
    widths: tuple[Positive, ...] = (96, 192, 384, 768)
    """Channels per stage."""
    patch_size: Positive | Literal["auto"] = "auto"
    """Side and stride of the first convolution; "auto": 4, or less, to leave 14 x 14 places (2 at 28 and 32)."""
    activation: Activation = "gelu"
    layer_scale: NotNegativeFloat = 1e-6
    """Where each block's learned scale per channel starts (Touvron et al. 2021, CaiT); 0: no such scale."""
    stochastic_depth: Probability = 0.1
    """Of the last block, rising linearly from 0 at the first; Table 5."""
    head_norm_eps: PositiveFloat = 1e-6
    """Of the norm before the head; the others have 1e-6."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


_SMALL = ConvNeXtConfig(depths=(3, 3, 27, 3), stochastic_depth=0.4)
PRESETS = {
    "convnext_tiny": ConvNeXtConfig(),
    "convnext_small": _SMALL,
    "convnext_base": replace(_SMALL, widths=(128, 256, 512, 1024), stochastic_depth=0.5),
    "convnext_large": replace(_SMALL, widths=(192, 384, 768, 1536), stochastic_depth=0.5),
}
TINY = ConvNeXtConfig(depths=(1, 1), widths=(4, 8), patch_size=2, stochastic_depth=0.0, image_size=8, num_classes=3)


class ConvNeXt(nn.Module):
    """A ConvNeXt (Liu et al. 2022, section 2 and Figure 4): pictures (B, C, H, W) to logits (B, K)."""

    config_class = ConvNeXtConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        if len(config.depths) != len(config.widths):
            raise ConfigError(
                f"depths has {len(config.depths)} stages and widths {len(config.widths)}. Give one number for each."
            )
        patch = patch_size_of(config)
        least = patch * 2 ** (len(config.depths) - 1)
        if config.image_size < least:
            raise ConfigError(
                f"image_size={config.image_size} is too small for patch_size={patch} and {len(config.depths)} stages; "
                f"at least {least} pixels a side are needed. Take patch_size=auto, larger pictures or fewer stages."
            )
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, config.widths[0], patch, stride=patch))
        self.stem.append(PlaceNorm(config.widths[0]))
        self.stages = nn.Sequential()
        rates = iter(linear_rates(config.stochastic_depth, sum(config.depths)))
        channels = config.widths[0]
        for number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            stage = nn.Sequential()
            if number > 0:
                stage.append(nn.Sequential(PlaceNorm(channels), nn.Conv2d(channels, width, 2, stride=2)))
            for _ in range(depth):
                stage.append(Block(config, width, next(rates)))
            self.stages.append(stage)
            channels = width
        self.norm = nn.LayerNorm(channels, eps=config.head_norm_eps)
        self.head = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # appendix A.1
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W)."""
        return self.stages(self.stem(image_BCHW))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the normed mean over all places of the last stage's map."""
        return self.norm(self.feature_map(image_BCHW).mean(dim=(2, 3)))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class PlaceNorm(nn.LayerNorm):
    """Layer norm over each place's channels, which are then together in memory: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normed map."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A 7x7 convolution per channel, then a perceptron per place, added to what came in (Figure 4): (B, C, H, W)."""

    def __init__(self, config: ConvNeXtConfig, width: int, rate: float) -> None:
        super().__init__()
        if config.layer_scale > 0:
            self.scale_C = nn.Parameter(torch.full((width,), config.layer_scale))
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.act = activation(config.activation)
        self.down = nn.Linear(4 * width, width)
        self.depth = StochasticDepth(rate)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        y_BHWC = self.norm(self.conv(x_BCHW).permute(0, 2, 3, 1))
        y_BHWC = self.depth(self.down(self.act(self.up(y_BHWC))))
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        if hasattr(self, "scale_C"):
            x_BHWC = torch.addcmul(x_BHWC, y_BHWC, self.scale_C)  # scale and sum in one pass over memory
        else:
            x_BHWC = x_BHWC + y_BHWC
        return x_BHWC.permute(0, 3, 1, 2)


def patch_size_of(config: ConvNeXtConfig) -> int:
    """Return the first convolution's stride, "auto" decided by the pictures' size."""
    if config.patch_size == "auto":
        return patch_size_for(config.image_size, greatest=4, fewest=14)
    return config.patch_size
