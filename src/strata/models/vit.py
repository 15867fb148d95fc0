"""Vision Transformer: a picture is cut into patches, and these are read as a sentence's words are.

Paper: Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1 and Table 1; the sizes tiny and small are
Steiner et al. 2022's, "How to train your ViT?", Table 2. Unusual here: small pictures get smaller patches by
themselves, and the last block computes only what the head reads.

B samples, C channels, H and W pixels, T tokens (N patches, and the class token if there is one), D numbers in each,
X the three of query, key and value, H heads of K numbers (where tokens are), K classes (where logits are).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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
class ViTConfig:
    """Sizes of a Vision Transformer; the defaults are ViT-Base's."""

    depth: Positive = 12
    width: Positive = 768
    num_heads: Positive = 12
    mlp_ratio: PositiveFloat = 4.0
    """Hidden units of each block's perceptron, as a multiple of the width."""
    patch_size: Positive | Literal["auto"] = "auto"
    """Side of a patch in pixels; "auto": 16, or the power of two below that leaves 7 x 7 patches (4 at 28 and 32)."""
    pool: Literal["class", "mean"] = "class"
    """The head reads the class token, or, with no such token, the mean of all."""
    qkv_bias: bool = True
    activation: Activation = "gelu"
    norm_eps: PositiveFloat = 1e-6
    dropout: Probability = 0.0
    """After the positions and after each linear layer but query, key and value; appendix B.1."""
    attention_dropout: Probability = 0.0
    """Of the attention's weights."""
    stochastic_depth: Probability = 0.0
    """Of the last block, rising linearly from 0 at the first; Steiner et al. 2022, section 3.3."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


_TINY = ViTConfig(width=192, num_heads=3)
_SMALL = ViTConfig(width=384, num_heads=6)
_BASE = ViTConfig()
_LARGE = ViTConfig(depth=24, width=1024, num_heads=16)
PRESETS = {
    "vit_tiny": _TINY,
    "vit_small": _SMALL,
    "vit_base": _BASE,
    "vit_large": _LARGE,
    "vit_tiny_16": replace(_TINY, patch_size=16),
    "vit_small_16": replace(_SMALL, patch_size=16),
    "vit_small_32": replace(_SMALL, patch_size=32),
    "vit_base_16": replace(_BASE, patch_size=16),
    "vit_base_32": replace(_BASE, patch_size=32),
    "vit_large_16": replace(_LARGE, patch_size=16),
    "vit_large_32": replace(_LARGE, patch_size=32),
}
TINY = ViTConfig(depth=2, width=12, num_heads=2, patch_size=4, image_size=8, num_classes=3)


class ViT(nn.Module):
    """A Vision Transformer (Dosovitskiy et al. 2021, equations 1 to 4): pictures (B, C, H, W) to logits (B, K).

    Pixels at the right and lower edges that fill no whole patch are not seen. Raises ConfigError for pictures of
    another size than the config's, for the positions are learned.

    Differs from the paper: the head starts from small random numbers, not from zeros, so that the first step already
    moves every layer; the hidden layer that the paper's head has in pre-training is left out, as in fine-tuning.
    """

    config_class = ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        if config.width % config.num_heads:
            nearest = max(1, round(config.width / config.num_heads)) * config.num_heads
            raise ConfigError(
                f"width={config.width} cannot be split among num_heads={config.num_heads}. "
                f"Take a multiple of {config.num_heads}, such as width={nearest}."
            )
        patch, side = patch_size_of(config), grid_of(config)
        if side == 0:
            raise ConfigError(
                f"patch_size={patch} is larger than image_size={config.image_size}. Take patch_size=auto or a smaller."
            )
        num_prefix_tokens = 1 if config.pool == "class" else 0
        if config.pool == "class":
            self.class_token_11D = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions_1TD = nn.Parameter(torch.empty(1, num_prefix_tokens + side**2, config.width))
        self.patches = nn.Conv2d(config.in_channels, config.width, patch, stride=patch)
        self.dropout = nn.Dropout(config.dropout)
        rates = linear_rates(config.stochastic_depth, config.depth)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Set weights as the paper's code does: Glorot's in the blocks, LeCun's for patches, 0.02 for positions."""
        nn.init.normal_(self.positions_1TD, std=0.02)
        nn.init.trunc_normal_(self.patches.weight, std=self.patches.weight[0].numel() ** -0.5)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        for layer in (self.patches, self.head):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            for weight_DD in block.attention.qkv.weight.chunk(3):  # each its own layer in the paper
                nn.init.xavier_uniform_(weight_DD)
            for layer in (block.attention.out, block.mlp.up, block.mlp.down):
                nn.init.xavier_uniform_(layer.weight)
            for layer in (block.attention.qkv, block.attention.out):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            for layer in (block.mlp.up, block.mlp.down):
                nn.init.normal_(layer.bias, std=1e-6)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, D), the class token's last state or the mean of all tokens'."""
        size = self.config.image_size
        if image_BCHW.shape[-2:] != (size, size):
            raise ConfigError(
                f"A picture of {image_BCHW.shape[-2]} x {image_BCHW.shape[-1]} does not fit this model's image_size="
                f"{size}. Resize it, or build the model for that size and bring its positions to it."
            )
        x_BTD = self.patches(image_BCHW).flatten(2).transpose(1, 2)
        if self.config.pool == "class":
            x_BTD = torch.cat([self.class_token_11D.expand(len(x_BTD), -1, -1), x_BTD], dim=1)
        x_BTD = self.dropout(x_BTD + self.positions_1TD)
        *first_blocks, last_block = self.blocks
        for block in first_blocks:
            x_BTD = block(x_BTD)
        if self.config.pool == "mean":
            return self.norm(last_block(x_BTD)).mean(dim=1)
        # Of the last block only the class token is read: a sixteenth of a 12-block model's work is saved
        return self.norm(last_block(x_BTD, num_read=1)[:, 0])

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class Block(nn.Module):
    """Attention, then a perceptron, each on normed input and added to it (eq. 2 and 3): (B, T, D) to (B, T, D)."""

    def __init__(self, config: ViTConfig, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = SelfAttention(config)
        self.depth1 = StochasticDepth(rate)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = FeedForward(
            config.width, round(config.mlp_ratio * config.width), kind=config.activation, dropout=config.dropout
        )
        self.depth2 = StochasticDepth(rate)

    def forward(self, x_BTD: Tensor, num_read: int | None = None) -> Tensor:
        """Return the residual stream after this block, of the first ``num_read`` tokens or (None) of all."""
        x_BTD = x_BTD[:, :num_read] + self.depth1(self.attention(self.norm1(x_BTD), num_read))
        return x_BTD + self.depth2(self.mlp(self.norm2(x_BTD)))


class SelfAttention(nn.Module):
    """Every token looks at all (Vaswani et al. 2017, eq. 1): (B, T, D) to (B, T, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, num_read: int | None = None) -> Tensor:
        """Return what the first ``num_read`` tokens, or (None) all, read from all."""
        B, T, D = x_BTD.shape
        qkv_BTXHK = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads)
        q_BHTK, k_BHSK, v_BHSK = (part.transpose(1, 2) for part in qkv_BTXHK.unbind(2))
        dropout = self.weight_dropout if self.training else 0.0
        y_BHTK = attention(q_BHTK[:, :, :num_read], k_BHSK, v_BHSK, dropout=dropout)
        return self.dropout(self.out(y_BHTK.transpose(1, 2).flatten(2)))


def patch_size_of(config: ViTConfig) -> int:
    """Return the side of a patch, "auto" decided by the pictures' size."""
    if config.patch_size == "auto":
        return patch_size_for(config.image_size, greatest=16, fewest=7)
    return config.patch_size


def grid_of(config: ViTConfig) -> int:
    """Return the number of patches along a side."""
    return config.image_size // patch_size_of(config)


def resize_positions(
    position_1TD: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Return learned positions for another grid of patches, by bicubic interpolation in float32 (section 3.2).

    Args:
        old_grid: rows and columns of patches that the positions are of.
        new_grid: rows and columns wanted.
        num_prefix_tokens: tokens before the patches, such as the class token, whose positions stay as they are.
    """
    if old_grid == new_grid:
        return position_1TD
    prefix_1PD, grid_1ND = position_1TD.split([num_prefix_tokens, old_grid[0] * old_grid[1]], dim=1)
    grid_1DHW = grid_1ND.float().unflatten(1, old_grid).permute(0, 3, 1, 2)
    grid_1DHW = F.interpolate(grid_1DHW, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([prefix_1PD, grid_1DHW.flatten(2).transpose(1, 2).to(position_1TD.dtype)], dim=1)
