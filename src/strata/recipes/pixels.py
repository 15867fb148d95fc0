"""Recipes that turn pictures into pictures."""

from __future__ import annotations

from strata.data.augment import AugmentConfig
from strata.data.dataset import DataConfig
from strata.models.unet import PRESETS
from strata.tasks.image_to_image import ImageToImage
from strata.train.recipe import Recipe, TrainConfig


def unet() -> Recipe:
    """A small U-Net on pairs of pictures; of pictures alone it learns to remove noise."""
    return Recipe(
        recipe="unet",
        summary="A U-Net on pictures and masks, on pictures and pictures, or on noise to remove",
        model=PRESETS["unet_small"],
        data=DataConfig(source="digits", kind="pairs", augment=AugmentConfig(flip=0.5)),
        task=ImageToImage(),
        train=TrainConfig(
            epochs=20, batch_size=16, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01, schedule="one_cycle"
        ),
    )


def drive() -> Recipe:
    """Vessels in pictures of the retina (Staal et al. 2004): 20 pictures to learn from, 20 to test on.

    Pixels outside the field of view, which the data's ``mask`` folders mark, do not count; the first of the two
    graders is the truth.
    """
    augment = AugmentConfig(
        flip=0.5, vertical_flip=0.5, rotate=45, scale=0.15, padding="reflect", brightness=0.2, contrast=0.2
    )
    return Recipe(
        recipe="drive",
        summary="Vessels of the retina, by a small U-Net",
        model=PRESETS["unet_small"],
        data=DataConfig(source="drive", kind="pairs", target="1st_manual", region="mask", augment=augment),
        task=ImageToImage(),
        train=TrainConfig(
            epochs=60, batch_size=16, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01, schedule="one_cycle"
        ),
    )
