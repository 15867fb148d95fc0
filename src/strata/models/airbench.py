"""The network of CIFAR-10 speed runs: a first layer that whitens, then three pairs of plain convolutions.

Paper: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3; the design goes back to Page 2019,
"How to train your ResNet". Unusual here: the first layer's filters are not learned. They are computed from the training
pictures (`Airbench.initialize`) so that its outputs are uncorrelated and of equal variance, and stay.

B samples, C channels, H and W pixels, K classes, N patches of P numbers, F filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, PositiveFloat
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation

PATCH = 2
"""Side of the first layer's filters."""


@dataclass(frozen=True, kw_only=True)
class AirbenchConfig:
    """Sizes of the network; the defaults are airbench94's."""

    widths: tuple[Positive, ...] = (64, 256, 256)
    """Channels of each pair of convolutions."""
    activation: Activation = "gelu"
    output_scale: PositiveFloat = 1 / 9
    """Of the features; small logits at the start let the learning rate be high."""
    norm_memory: PositiveFloat = 0.6
    """How much of a batch norm's running statistics stays at each step: short, for runs of a few hundred steps."""
    whitening_floor: PositiveFloat = 5e-4
    """Added to the variances that whitening divides by."""
    in_channels: Positive = 3
    image_size: Positive = 32
    num_classes: Positive = 10


PRESETS = {"airbench94": AirbenchConfig()}
TINY = AirbenchConfig(widths=(4, 6), output_scale=1.0, image_size=9, num_classes=3)


class Airbench(nn.Module):
    """The speed-run network (Jordan 2024, section 3; after Page 2019): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: norms have PyTorch's epsilon and learn their gains; the whitening's bias is learned to the
    end; the last pooling takes all that is left of the picture, so that larger sizes are taken too.
    """

    config_class = AirbenchConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: AirbenchConfig) -> None:
        super().__init__()
        self.config = config
        least = 2 ** len(config.widths) + 1
        if config.image_size < least:
            raise ConfigError(
                f"image_size={config.image_size} is too small for {len(config.widths)} poolings; at least {least} "
                f"pixels a side are needed. Take larger pictures: data.image_size={least}"
            )
        numbers = config.in_channels * PATCH**2
        self.whitening = Whitening(config.in_channels, 2 * numbers, config.whitening_floor)
        self.act = activation(config.activation)
        self.blocks = nn.Sequential()
        channels = 2 * numbers
        for width in config.widths:
            self.blocks.append(Block(config, channels, width))
            channels = width
        self.head = nn.Linear(channels, config.num_classes, bias=False)

    def initialize(self, image_BCHW: Tensor) -> None:
        """Compute the first layer from pictures as the model will see them, (B, C, H, W)."""
        self.whitening.initialize(image_BCHW)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, F), the greatest value of each map, scaled down."""
        x_BCHW = self.blocks(self.act(self.whitening(image_BCHW)))
        return x_BCHW.amax(dim=(2, 3)) * self.config.output_scale

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class Whitening(nn.Module):
    """A convolution whose filters are the patches' principal directions at variance 1, and their negatives.

    (B, C, H, W) to (B, 2 P, H - 1, W - 1). The bias is learned. Before `initialize` the filters are random.
    """

    weight: Tensor

    def __init__(self, channels: int, filters: int, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("weight", torch.randn(filters, channels, PATCH, PATCH) / (channels * PATCH**2) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(filters))

    @torch.no_grad()
    def initialize(self, image_BCHW: Tensor) -> None:
        """Compute the filters, in float64."""
        patch_NP = F.unfold(image_BCHW.double(), PATCH).transpose(1, 2).flatten(0, 1)
        variance_P, direction_PP = torch.linalg.eigh(patch_NP.T @ patch_NP / len(patch_NP))
        # The sign of an eigenvector is anybody's choice; the largest number is made positive, to be the same anywhere.
        largest_1P = direction_PP.gather(0, direction_PP.abs().argmax(0, keepdim=True))
        filter_FP = (direction_PP * largest_1P.sign() / torch.sqrt(variance_P + self.floor)).T
        self.weight.copy_(torch.cat([filter_FP, -filter_FP]).view_as(self.weight))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return the whitened maps."""
        return F.conv2d(image_BCHW, self.weight, self.bias)


class Block(nn.Module):
    """Two 3x3 convolutions, the first with max pooling: (B, C, H, W) to (B, width, H / 2, W / 2), rounded down."""

    def __init__(self, config: AirbenchConfig, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(width, momentum=1 - config.norm_memory)
        self.act1 = activation(config.activation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, momentum=1 - config.norm_memory)
        self.act2 = activation(config.activation)
        for conv in (self.conv1, self.conv2):  # as many filters as there are inputs begin as the identity
            nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        x = self.act1(self.norm1(self.pool(self.conv1(x_BCHW))))
        return self.act2(self.norm2(self.conv2(x)))
