"""Recipes that make pictures."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.dcgan import DCGANConfig
from strata.models.gan import GANConfig
from strata.tasks.adversarial import Adversarial
from strata.train.recipe import Recipe, TrainConfig


def dcgan() -> Recipe:
    """DCGAN on Fashion-MNIST, as in Radford et al. 2016, section 4, but for batches of 64 and averaged weights."""
    return Recipe(
        recipe="dcgan",
        summary="Pictures of clothing from noise",
        model=DCGANConfig(),
        data=DataConfig(source="fashion-mnist", pixels="tanh"),
        task=Adversarial(),
        train=TrainConfig(
            epochs=6,
            batch_size=64,
            optimizer="adam",
            learning_rate=2e-4,
            betas=(0.5, 0.999),
            schedule="constant",
            ema=0.995,
        ),
    )


def gan() -> Recipe:
    """Two perceptrons against each other, on MNIST (Goodfellow et al. 2014, section 5)."""
    return Recipe(
        recipe="gan",
        summary="Handwritten digits from noise",
        model=GANConfig(),
        data=DataConfig(source="mnist", pixels="tanh"),
        task=Adversarial(),
        train=TrainConfig(
            epochs=20,
            batch_size=128,
            optimizer="adam",
            learning_rate=2e-4,
            betas=(0.5, 0.999),
            schedule="constant",
            ema=0.999,
        ),
    )
