"""Swin Transformer: attention inside small windows, shifted by half a window in every second block.

Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin and Guo 2021, "Swin Transformer: hierarchical vision transformer using shifted
windows", section 3. Unusual here: small pictures get smaller patches and the window that fits them by themselves, and
where a map is smaller than a window, the part of the learned relative positions that occurs in it is used, so that the
same weights take pictures of any size.

B samples, C channels, H and W pixels or places, D numbers in a place, G windows in a picture, N places in a window,
X the three of query, key and value, A heads of K numbers, K classes (where logits are).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation
from strata.layers.attention import attention
from strata.layers.feed_forward import FeedForward
from strata.layers.patches import patch_size_for
from strata.layers.stochastic_depth import StochasticDepth, linear_rates


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Sizes of a Swin Transformer; the defaults are Swin-T's."""

    depths: tuple[Positive, ...] = (2, 2, 6, 2)
    """Blocks per stage. Each stage after the first halves height and width and doubles the width."""
    width: Positive = 96
    """Numbers in a place of the first stage."""
    num_heads: tuple[Positive, ...] = (3, 6, 12, 24)
    """Heads per stage."""
    window: Positive | Literal["auto"] = "auto"
    """Places along a window's side; "auto": 7 or 8, whichever needs less padding in the first stage."""
    patch_size: Positive | Literal["auto"] = "auto"
    """Side of a patch in pixels; "auto": 4, or less, to leave 14 x 14 patches (2 at 28 and 32)."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden units of each block's perceptron, as a multiple of the width."""
    qkv_bias: bool = True
    activation: Activation = "gelu"
    dropout: Probability = 0.0
    """After the patches and after each linear layer but query, key and value."""
    attention_dropout: Probability = 0.0
    """Of the attention's weights."""
    stochastic_depth: Probability = 0.2
    """Of the last block, rising linearly from 0 at the first; appendix A2.1."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


_SMALL = SwinConfig(depths=(2, 2, 18, 2), stochastic_depth=0.3)
PRESETS = {
    "swin_tiny": SwinConfig(),
    "swin_small": _SMALL,
    "swin_base": replace(_SMALL, width=128, num_heads=(4, 8, 16, 32), stochastic_depth=0.5),
}
TINY = SwinConfig(
    depths=(2, 1), width=8, num_heads=(1, 2), window=2, patch_size=2, stochastic_depth=0.0, image_size=8, num_classes=3
)


class Swin(nn.Module):
    """A Swin Transformer (Liu et al. 2021, section 3 and Figure 3): pictures (B, C, H, W) to logits (B, K).

    Edges that fill no whole patch, window, or pair of places are filled up with zeros, as in the authors' code.
    """

    config_class = SwinConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        if len(config.depths) != len(config.num_heads):
            raise ConfigError(
                f"depths has {len(config.depths)} stages and num_heads {len(config.num_heads)}. "
                "Give one number for each."
            )
        self.patch = patch_size_of(config)
        grid, window = grid_of(config), window_of(config)
        self.patches = nn.Conv2d(config.in_channels, config.width, self.patch, stride=self.patch)
        self.patch_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.stages = nn.Sequential()
        rates = iter(linear_rates(config.stochastic_depth, sum(config.depths)))
        width = config.width
        for number, (depth, num_heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
            stage = nn.Sequential()
            if number > 0:
                stage.append(Merge(width))
                width, grid = 2 * width, (grid + 1) // 2
            if width % num_heads:
                raise ConfigError(
                    f"Stage {number + 1} has width {width}, which num_heads={num_heads} does not divide. "
                    "Take a width that each stage's num_heads divides."
                )
            for i in range(depth):
                stage.append(Block(config, width, num_heads, window, window // 2 if i % 2 else 0, grid, next(rates)))
            self.stages.append(stage)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, D), the mean over all places of the last stage."""
        height, width = image_BCHW.shape[-2:]
        if height % self.patch or width % self.patch:
            image_BCHW = F.pad(image_BCHW, (0, -width % self.patch, 0, -height % self.patch))
        x_BHWD = self.dropout(self.patch_norm(self.patches(image_BCHW).permute(0, 2, 3, 1)))
        return self.norm(self.stages(x_BHWD)).mean(dim=(1, 2))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class Merge(nn.Module):
    """Makes of every 2 x 2 places one: (B, H, W, D) to (B, H / 2, W / 2, 2 D), rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the smaller map."""
        _, H, W, _ = x_BHWD.shape
        if H % 2 or W % 2:
            x_BHWD = F.pad(x_BHWD, (0, 0, 0, W % 2, 0, H % 2))
        x_BHRWSD = x_BHWD.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # Columns before rows: the order of the authors' weights
        return self.reduction(self.norm(x_BHRWSD.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class Block(nn.Module):
    """Attention in windows, then a perceptron, each on normed input and added to it (eq. 3): (B, H, W, D)."""

    def __init__(
        self, config: SwinConfig, width: int, num_heads: int, window: int, shift: int, grid: int, rate: float
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(config, width, num_heads, window, shift, grid)
        self.depth1 = StochasticDepth(rate)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(config.mlp_ratio * width), kind=config.activation, dropout=config.dropout)
        self.depth2 = StochasticDepth(rate)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the residual stream after this block."""
        x_BHWD = x_BHWD + self.depth1(self._attend(self.norm1(x_BHWD)))
        return x_BHWD + self.depth2(self.mlp(self.norm2(x_BHWD)))

    def _attend(self, x_BHWD: Tensor) -> Tensor:
        """Cut the map into windows, let each place read its own, and put the map together again."""
        B, height, width, D = x_BHWD.shape
        side, shift = fit(self.window, self.shift, height, width)
        right, below = -width % side, -height % side
        if right or below:
            x_BHWD = F.pad(x_BHWD, (0, 0, 0, right, 0, below))
        H, W = height + below, width + right
        if shift:
            x_BHWD = x_BHWD.roll((-shift, -shift), dims=(1, 2))
        windows = x_BHWD.view(B, H // side, side, W // side, side, D).transpose(2, 3)
        y = self.attention(windows.reshape(-1, side * side, D), H, W, side, shift)
        y_BHWD = y.view(B, H // side, W // side, side, side, D).transpose(2, 3).reshape(B, H, W, D)
        if shift:
            y_BHWD = y_BHWD.roll((shift, shift), dims=(1, 2))
        return y_BHWD[:, :height, :width] if right or below else y_BHWD


class WindowAttention(nn.Module):
    """Each place looks at those of its window, with a learned bias by relative position (eq. 4): (B G, N, D)."""

    def __init__(self, config: SwinConfig, width: int, num_heads: int, window: int, shift: int, grid: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.weight_dropout = config.attention_dropout
        self.bias_RA = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.trunc_normal_(self.bias_RA, std=0.02)
        side, shift = fit(window, shift, grid, grid)
        padded = grid + -grid % side
        self.kept_for = (padded, padded, side, shift)
        self.index_NN: Tensor
        self.register_buffer("index_NN", relative_index(side, window), persistent=False)
        self.mask_G1NN: Tensor | None
        self.register_buffer("mask_G1NN", shift_mask(padded, padded, side, shift) if shift else None, persistent=False)

    def forward(self, x_BND: Tensor, height: int, width: int, side: int, shift: int) -> Tensor:
        """Return what each place read.

        Args:
            x_BND: a picture's windows follow each other, row by row.
            height, width: of the map that was cut into windows.
            side: of a window.
            shift: by which the map was rolled.
        """
        index_NN, mask_G1NN = self.index_NN, self.mask_G1NN
        if (height, width, side, shift) != self.kept_for:
            index_NN = relative_index(side, self.window, x_BND.device)
            mask_G1NN = shift_mask(height, width, side, shift, x_BND.device) if shift else None
        B, N, D = x_BND.shape
        bias_1ANN = self.bias_RA[index_NN].view(1, N, N, self.num_heads).permute(0, 3, 1, 2)
        if mask_G1NN is not None:
            bias_GANN = bias_1ANN + mask_G1NN.to(bias_1ANN.dtype)
            bias_1ANN = bias_GANN.expand(B // len(bias_GANN), -1, -1, -1, -1).flatten(0, 1)
        qkv_BNXAK = self.qkv(x_BND).view(B, N, 3, self.num_heads, D // self.num_heads)
        q_BANK, k_BANK, v_BANK = (part.transpose(1, 2) for part in qkv_BNXAK.unbind(2))
        dropout = self.weight_dropout if self.training else 0.0
        y_BANK = attention(q_BANK, k_BANK, v_BANK, mask=bias_1ANN, dropout=dropout)
        return self.dropout(self.out(y_BANK.transpose(1, 2).flatten(2)))


def fit(window: int, shift: int, height: int, width: int) -> tuple[int, int]:
    """Return side and shift of the windows of a map; one that is no larger than a window is one, and is not shifted."""
    least = min(height, width)
    return (least, 0) if least <= window else (window, shift)


def relative_index(side: int, window: int, device: torch.device | None = None) -> Tensor:
    """Return the row of the bias table for each pair of places in a window: int64 (N * N).

    Args:
        side: of the window.
        window: largest side that the table holds relative positions for.
    """
    place_N2 = torch.cartesian_prod(*[torch.arange(side, device=device)] * 2).view(-1, 2)
    apart_NN2 = place_N2[:, None] - place_N2[None, :] + window - 1
    return (apart_NN2[..., 0] * (2 * window - 1) + apart_NN2[..., 1]).flatten()


def shift_mask(height: int, width: int, side: int, shift: int, device: torch.device | None = None) -> Tensor:
    """Return (G, 1, N, N), -inf between places that only the roll brought into one window, else 0 (Figure 4)."""

    def region(length: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - side).long() + (place >= length - shift).long()

    region_HW = 3 * region(height)[:, None] + region(width)
    region_GN = region_HW.view(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side * side)
    apart_GNN = region_GN[:, :, None] != region_GN[:, None, :]
    return torch.zeros(apart_GNN.shape, device=device).masked_fill(apart_GNN, float("-inf")).unsqueeze(1)


def patch_size_of(config: SwinConfig) -> int:
    """Return the side of a patch, "auto" decided by the pictures' size."""
    if config.patch_size == "auto":
        return patch_size_for(config.image_size, greatest=4, fewest=14)
    return config.patch_size


def grid_of(config: SwinConfig) -> int:
    """Return the number of patches along a side, the last one filled up."""
    return -(-config.image_size // patch_size_of(config))


def window_of(config: SwinConfig) -> int:
    """Return the side of a window, "auto" decided by the first stage's size."""
    if config.window == "auto":
        return min((7, 8), key=lambda window: -grid_of(config) % window)
    return config.window
