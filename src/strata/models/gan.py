"""The first GAN: two perceptrons, one that makes pictures from noise and one that tells them from real ones.

Paper: Goodfellow et al. 2014, "Generative adversarial nets", section 5, which leaves the sizes to the authors' code;
the maxout unit: Goodfellow et al. 2013, "Maxout networks", eq. 1. Same interface as `dcgan`.

B samples, Z latent size, C channels, H and W pixels, F features, P pieces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from strata.config import NotNegativeFloat, Positive, Probability
from strata.layers.activations import Activation, activation, gain


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """Sizes of the first GAN's two networks; the defaults are those of its experiment on MNIST."""

    latent_size: Positive = 100
    generator_hidden: tuple[Positive, ...] = (1200, 1200)
    discriminator_hidden: tuple[Positive, ...] = (240, 240)
    noise: Literal["uniform", "normal"] = "uniform"
    """What the generator makes of its standard normal input: uniform numbers of the same variance, or nothing."""
    generator_activation: Activation = "relu"
    discriminator_activation: Activation | Literal["maxout"] = "maxout"
    pieces: Positive = 5
    """Linear functions among which each maxout unit takes the greatest."""
    leak: NotNegativeFloat = 0.2
    """Slope of leaky_relu below zero."""
    dropout: Probability = 0.5
    """After each hidden layer of the discriminator."""
    in_channels: Positive = 1
    image_size: Positive = 28


PRESETS: dict[str, GANConfig] = {}
TINY = GANConfig(latent_size=5, generator_hidden=(16, 16), discriminator_hidden=(8, 8), pieces=2, image_size=8)


class GAN(nn.Module):
    """The first GAN (Goodfellow et al. 2014, section 5): `generator` maps noise (B, Z) to pictures (B, C, H, W) from -1
    to 1, `discriminator` maps pictures to one logit each (B,), positive for "real".

    Differs from the paper: tanh where it has a sigmoid, so that pixels lie between -1 and 1; weights start from a
    normal distribution scaled by the fan-in.
    """

    config_class = GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """Return pictures (B, C, H, W) from -1 to 1 for standard normal noise (B, Z)."""
        return self.generator(noise_BZ)


class Generator(nn.Module):
    """Standard normal noise (B, Z) to pictures (B, C, H, W) from -1 to 1."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential()
        width = config.latent_size
        for next_width in config.generator_hidden:
            self.layers.append(_linear(width, next_width, gain(config.generator_activation)))
            self.layers.append(activation(config.generator_activation, config.leak))
            width = next_width
        self.head = _linear(width, config.in_channels * config.image_size**2, 1.0)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """Return pictures."""
        if self.config.noise == "uniform":
            noise_BZ = math.sqrt(3) * (noise_BZ / math.sqrt(2)).erf()  # 2 Phi(z) - 1 is uniform for normal z
        size = self.config.image_size
        return self.head(self.layers(noise_BZ)).tanh().unflatten(1, (self.config.in_channels, size, size))


class Discriminator(nn.Module):
    """Pictures (B, C, H, W) from -1 to 1 to logits (B,)."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        width = config.in_channels * config.image_size**2
        name = config.discriminator_activation
        for next_width in config.discriminator_hidden:
            if name == "maxout":
                self.layers.append(_linear(width, next_width * config.pieces, 1.0))
                self.layers.append(Maxout(config.pieces))
            else:
                self.layers.append(_linear(width, next_width, gain(name)))
                self.layers.append(activation(name, config.leak))
            self.layers.append(nn.Dropout(config.dropout))
            width = next_width
        self.head = _linear(width, 1, 1.0)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, last hidden width)."""
        return self.layers(image_BCHW.flatten(1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B,), positive for "real"."""
        return self.head(self.features(image_BCHW)).squeeze(1)


class Maxout(nn.Module):
    """The greatest of every P numbers: (B, F P) to (B, F)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, F)."""
        return x.unflatten(1, (-1, self.pieces)).amax(2)


def _linear(in_features: int, out_features: int, gain: float) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=gain / math.sqrt(in_features))
    nn.init.zeros_(linear.bias)
    return linear
