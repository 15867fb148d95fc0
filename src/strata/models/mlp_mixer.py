"""MLP-Mixer: neither convolutions nor attention, but perceptrons that mix places and perceptrons that mix channels.

Paper: Tolstikhin et al. 2021, "MLP-Mixer: an all-MLP architecture for vision", section 2 and Table 1. Unusual here:
small pictures get smaller patches by themselves.

B samples, C channels, H and W pixels, N patches, D numbers in each, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation
from strata.layers.feed_forward import FeedForward
from strata.layers.patches import patch_size_for
from strata.layers.stochastic_depth import StochasticDepth, linear_rates


@dataclass(frozen=True, kw_only=True)
class MLPMixerConfig:
    """Sizes of an MLP-Mixer; the defaults are Mixer-B/16's."""

    depth: Positive = 12
    width: Positive = 768
    """Numbers that each patch is described by."""
    token_hidden: Positive = 384
    """Hidden units of the perceptron that mixes places."""
    channel_hidden: Positive = 3072
    """Hidden units of the perceptron that mixes channels."""
    patch_size: Positive | Literal["auto"] = "auto"
    """Side of a patch in pixels; "auto": 16, or the power of two below that leaves 7 x 7 patches (4 at 28 and 32)."""
    activation: Activation = "gelu"
    dropout: Probability = 0.0
    """After each linear layer of both perceptrons."""
    stochastic_depth: Probability = 0.0
    """Of the last block, rising linearly from 0 at the first."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


_SMALL = MLPMixerConfig(depth=8, width=512, token_hidden=256, channel_hidden=2048)
_BASE = MLPMixerConfig()
_LARGE = MLPMixerConfig(depth=24, width=1024, token_hidden=512, channel_hidden=4096)
PRESETS = {
    "mixer_small": _SMALL,
    "mixer_base": _BASE,
    "mixer_large": _LARGE,
    "mixer_small_16": replace(_SMALL, patch_size=16),
    "mixer_small_32": replace(_SMALL, patch_size=32),
    "mixer_base_16": replace(_BASE, patch_size=16),
    "mixer_base_32": replace(_BASE, patch_size=32),
    "mixer_large_16": replace(_LARGE, patch_size=16),
    "mixer_large_32": replace(_LARGE, patch_size=32),
}
TINY = MLPMixerConfig(depth=2, width=8, token_hidden=6, channel_hidden=16, patch_size=4, image_size=8, num_classes=3)


class MLPMixer(nn.Module):
    """An MLP-Mixer (Tolstikhin et al. 2021, equation 1): pictures (B, C, H, W) to logits (B, K).

    Pixels at the right and lower edges that fill no whole patch are not seen.

    Differs from the paper: the head starts from small random numbers, not from zeros, so that the first step already
    moves every layer.
    """

    config_class = MLPMixerConfig

    def __init__(self, config: MLPMixerConfig) -> None:
        super().__init__()
        self.config = config
        patch = patch_size_of(config)
        num_patches = (config.image_size // patch) ** 2
        if num_patches == 0:
            raise ConfigError(
                f"patch_size={patch} is larger than image_size={config.image_size}. Take patch_size=auto or a smaller."
            )
        self.patches = nn.Conv2d(config.in_channels, config.width, patch, stride=patch)
        rates = linear_rates(config.stochastic_depth, config.depth)
        self.blocks = nn.Sequential(*(Block(config, num_patches, rate) for rate in rates))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # LeCun's: as the paper's code leaves them
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, D), the mean over all places."""
        size = self.config.image_size
        if image_BCHW.shape[-2:] != (size, size):
            raise ConfigError(
                f"A picture of {image_BCHW.shape[-2]} x {image_BCHW.shape[-1]} does not fit this model's image_size="
                f"{size}, for it has weights for each place. Resize it."
            )
        x_BND = self.patches(image_BCHW).flatten(2).transpose(1, 2).contiguous()
        return self.norm(self.blocks(x_BND)).mean(dim=1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))


class Block(nn.Module):
    """Mixes places, then channels, each on normed input and added to it (eq. 1): (B, N, D) to (B, N, D)."""

    def __init__(self, config: MLPMixerConfig, num_patches: int, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.tokens = FeedForward(num_patches, config.token_hidden, kind=config.activation, dropout=config.dropout)
        self.depth1 = StochasticDepth(rate)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.channels = FeedForward(config.width, config.channel_hidden, kind=config.activation, dropout=config.dropout)
        self.depth2 = StochasticDepth(rate)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the table of places and channels after this block."""
        x_BND = x_BND + self.depth1(self.tokens(self.norm1(x_BND).transpose(1, 2)).transpose(1, 2))
        return x_BND + self.depth2(self.channels(self.norm2(x_BND)))


def patch_size_of(config: MLPMixerConfig) -> int:
    """Return the side of a patch, "auto" decided by the pictures' size."""
    if config.patch_size == "auto":
        return patch_size_for(config.image_size, greatest=16, fewest=7)
    return config.patch_size
