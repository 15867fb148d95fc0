"""U-Net: a picture in, a picture out; what is lost going down is handed across to the way up.

Paper: Ronneberger, Fischer and Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", section 2
and Figure 1. Unusual here: the output is always as large as the input, whatever that is. Convolutions pad by default,
and a size that does not halve evenly is filled up and cut back; with the paper's unpadded ones the picture is first
continued by its mirror image (the paper's Figure 2).

B samples, C channels, H and W pixels, K output channels, F channels of the first level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, Probability
from strata.layers.activations import Activation, activation


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a U-Net; the defaults are the paper's."""

    widths: tuple[Positive, ...] = (64, 128, 256, 512, 1024)
    """Channels at each level; every level after the first halves height and width."""
    padding: Literal["same", "valid"] = "same"
    """Zeros around what each convolution reads, or none, as in the paper: more context and more computation."""
    norm: Literal["none", "batch"] = "none"
    """Batch norm after each convolution; the paper has none."""
    activation: Activation = "relu"
    dropout: Probability = 0.5
    """At the end of the way down; the paper has it there without a rate."""
    zero_init: bool = False
    """The head starts at zero: where the target less the input is learned, the first answer is the input itself."""
    in_channels: Positive = 1
    out_channels: Positive = 2
    image_size: Positive = 512
    """Of the pictures it is trained on; it takes any other as well."""


PRESETS = {
    "unet_valid": UNetConfig(padding="valid"),
    "unet_small": UNetConfig(widths=(24, 48, 96, 192), norm="batch", dropout=0.0, zero_init=True),
}
TINY = UNetConfig(widths=(8, 12, 16), norm="batch", dropout=0.0, in_channels=2, out_channels=3, image_size=9)


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015, Figure 1): pictures (B, C, H, W) to K numbers a pixel (B, K, H, W).

    Differs from the paper: convolutions pad, so that a picture comes out as large as it went in; the preset unet_valid
    has the paper's unpadded ones, and mirrors as much around the picture as they eat up.
    """

    config_class = UNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(
            Block(config, below, width) for below, width in zip((config.in_channels, *widths), widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.ModuleList(
            Up(config, below, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], config.out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Section 3's deviation of sqrt(2 / N); a pixel of the up-convolution reads one pixel below it.
                fan_in = module.in_channels * (module.kernel_size[0] ** 2 if isinstance(module, nn.Conv2d) else 1)
                nn.init.normal_(module.weight, std=(2.0 / fan_in) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.zero_init:
            nn.init.zeros_(self.head.weight)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, F, H, W)."""
        height, width = image_BCHW.shape[2:]
        x = self._surrounded(image_BCHW)
        across = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            across.append(x)
        x = self.dropout(across.pop())
        for block in self.up:
            x = block(x, across.pop())
        return x[:, :, :height, :width]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return K numbers a pixel (B, K, H, W)."""
        return self.head(self.features(image_BCHW))

    def _surrounded(self, image_BCHW: Tensor) -> Tensor:
        """Return the picture with what must be around it for the way up to end at its own size or just above."""
        if self.config.padding == "same":
            step = 2 ** (len(self.down) - 1)
            height, width = image_BCHW.shape[2:]
            return F.pad(image_BCHW, (0, -width % step, 0, -height % step), mode="replicate")
        for axis in (2, 3):
            size = image_BCHW.shape[axis]
            before, whole = self._context(size)
            place = torch.arange(-before, whole - before, device=image_BCHW.device).abs()
            period = max(1, 2 * (size - 1))
            place = place.remainder(period)
            image_BCHW = image_BCHW.index_select(axis, torch.minimum(place, period - place).clamp(max=size - 1))
        return image_BCHW

    def _context(self, size: int) -> tuple[int, int]:
        """Return how much unpadded convolutions eat up on one side, and what has to go in for `size` to come out."""
        levels = len(self.down) - 1
        bottom = 5
        while (found := _way_up(bottom - 4, levels)) < size:
            bottom += 1
        whole = bottom
        for _ in range(levels):
            whole = 2 * whole + 4
        return (whole - found) // 2, whole


def _way_up(size: int, levels: int) -> int:
    for _ in range(levels):
        size = 2 * size - 4
    return size


class Block(nn.Module):
    """Two 3x3 convolutions: (B, C, H, W) to (B, width, H, W), or four pixels less a side where they do not pad."""

    def __init__(self, config: UNetConfig, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for below in (channels, width):
            padding = 1 if config.padding == "same" else 0
            self.layers.append(nn.Conv2d(below, width, 3, padding=padding, bias=config.norm == "none"))
            if config.norm == "batch":
                self.layers.append(nn.BatchNorm2d(width))
            self.layers.append(activation(config.activation))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's map."""
        return self.layers(x_BCHW)


class Up(nn.Module):
    """Twice the height and width by a 2x2 up-convolution, then a block that also reads what was handed across."""

    def __init__(self, config: UNetConfig, channels: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, width, 2, stride=2)
        self.block = Block(config, 2 * width, width)

    def forward(self, x_BCHW: Tensor, across_BCHW: Tensor) -> Tensor:
        """Return (B, width, 2 H, 2 W), or four pixels less; of the map handed across, the middle is taken."""
        x_BCHW = self.up(x_BCHW)
        height, width = x_BCHW.shape[2:]
        top, left = (across_BCHW.shape[2] - height) // 2, (across_BCHW.shape[3] - width) // 2
        middle_BCHW = across_BCHW[:, :, top : top + height, left : left + width]
        return self.block(torch.cat((middle_BCHW, x_BCHW), dim=1))
