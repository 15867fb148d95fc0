"""DCGAN: a generator of transposed convolutions and a discriminator of strided ones, playing against each other.

Paper: Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep convolutional generative
adversarial networks", section 3 and Figure 1. Unusual here: any picture size from 4 pixels up. A size is halved until
at most 7 pixels are left; the generator starts there and doubles (28 from 7 twice, 32 from 4 thrice, 64 from 4 four
times), and cuts off the margin where the size does not halve evenly.

B samples, Z latent size, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from strata.config import NotNegativeFloat, Positive
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation


@dataclass(frozen=True, kw_only=True)
class DCGANConfig:
    """Sizes of a DCGAN's two networks."""

    latent_size: Positive = 100
    width: Positive = 64
    """Channels beside the picture, in both networks; they double each time the picture halves."""
    noise: Literal["uniform", "normal"] = "uniform"
    """What the generator makes of its standard normal input: the paper's uniform numbers from -1 to 1, or nothing."""
    generator_activation: Activation = "relu"
    discriminator_activation: Activation = "leaky_relu"
    leak: NotNegativeFloat = 0.2
    """Slope of leaky_relu below zero."""
    in_channels: Positive = 1
    image_size: Positive = 28


PRESETS = {"dcgan_lsun": DCGANConfig(width=128, in_channels=3, image_size=64)}
TINY = DCGANConfig(latent_size=5, width=4, image_size=8)


class DCGAN(nn.Module):
    """A DCGAN (Radford et al. 2016, section 3): `generator` maps noise (B, Z) to pictures (B, C, H, W) from -1 to 1,
    `discriminator` maps pictures to one logit each (B,), positive for "real".

    Differs from the paper: 4x4 kernels, which a stride of 2 divides, so that no checkerboard is built in; at its
    default half the width of Figure 1 and 28 pixels (the preset dcgan_lsun has the figure's sizes).

    Raises ConfigError for pictures under 4 pixels.
    """

    config_class = DCGANConfig

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        self.config = config
        if config.image_size < 4:
            raise ConfigError(f"image_size={config.image_size} is too small for a dcgan: it has to be 4 or more.")
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """Return pictures (B, C, H, W) from -1 to 1 for standard normal noise (B, Z)."""
        return self.generator(noise_BZ)


def _halvings(image_size: int) -> int:
    """Return how often a picture is halved until at most 7 pixels are left; at least once."""
    return max(1, math.ceil(math.log2(image_size / 7)))


class Generator(nn.Module):
    """Standard normal noise (B, Z) to pictures (B, C, H, W) from -1 to 1."""

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        self.config = config
        halvings = _halvings(config.image_size)
        self.start = math.ceil(config.image_size / 2**halvings)
        channels = config.width * 2 ** (halvings - 1)
        self.project = nn.Linear(config.latent_size, channels * self.start**2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = activation(config.generator_activation, config.leak)
        self.layers = nn.Sequential()
        for _ in range(halvings - 1):
            self.layers.append(nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False))
            channels //= 2
            self.layers.append(nn.BatchNorm2d(channels))
            self.layers.append(activation(config.generator_activation, config.leak))
        self.head = nn.ConvTranspose2d(channels, config.in_channels, 4, stride=2, padding=1)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """Return pictures."""
        if self.config.noise == "uniform":
            noise_BZ = (noise_BZ / math.sqrt(2)).erf()  # 2 Phi(z) - 1 is uniform for normal z
        x = self.project(noise_BZ).unflatten(1, (-1, self.start, self.start))
        x = self.layers(self.act(self.norm(x)))
        size = self.config.image_size
        margin = (self.start * 2 ** _halvings(size) - size) // 2
        return self.head(x)[:, :, margin : margin + size, margin : margin + size].tanh()


class Discriminator(nn.Module):
    """Pictures (B, C, H, W) from -1 to 1 to logits (B,)."""

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        halvings = _halvings(config.image_size)
        channels = config.width
        self.layers = nn.Sequential(
            nn.Conv2d(config.in_channels, channels, 4, stride=2, padding=1),
            activation(config.discriminator_activation, config.leak),
        )
        for _ in range(halvings - 1):
            self.layers.append(nn.Conv2d(channels, channels * 2, 4, stride=2, padding=1, bias=False))
            channels *= 2
            self.layers.append(nn.BatchNorm2d(channels))
            self.layers.append(activation(config.discriminator_activation, config.leak))
        size = config.image_size // 2**halvings
        self.head = nn.Linear(channels * size * size, 1)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: the last map, flattened."""
        return self.layers(image_BCHW).flatten(1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B,), positive for "real"."""
        return self.head(self.features(image_BCHW)).squeeze(1)
