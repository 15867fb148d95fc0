"""Policies: Pillow's operations on a whole batch, each sample's a function of its own numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from strata.data import DataConfig, open_data
from strata.data.augment import AugmentConfig, augment, without_effect
from strata.data.policies import OPERATIONS, RANDAUGMENT, TRIVIAL_WIDE, Reach, erase, operate, randaugment

N = 32
SAMPLES = torch.arange(100, 100 + N)


def photos(n: int = N, channels: int = 3, side: int = 24) -> torch.Tensor:
    """Return pictures with smooth parts and few dark or bright levels, so that every operation has something to do."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(20, 220, (n, channels, side // 4, side // 4), generator=generator, dtype=torch.uint8)
    fine = torch.randint(0, 12, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) + fine


def affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix)


STRENGTH = 0.6
FACTORS = {1: 1 + STRENGTH * 0.9, -1: 1 - STRENGTH * 0.9}
SHIFT = STRENGTH * 24 * 150 / 331
PILLOWS: dict[str, Callable[[int], Callable[[Image.Image], Image.Image]]] = {
    "identity": lambda sign: lambda image: image,
    "shear_x": lambda sign: affine(1, sign * STRENGTH * 0.3, 0, 0, 1, 0),
    "shear_y": lambda sign: affine(1, 0, 0, sign * STRENGTH * 0.3, 1, 0),
    "translate_x": lambda sign: affine(1, 0, sign * SHIFT, 0, 1, 0),
    "translate_y": lambda sign: affine(1, 0, 0, 0, 1, sign * SHIFT),
    "rotate": lambda sign: lambda image: image.rotate(sign * STRENGTH * 30),
    "brightness": lambda sign: lambda image: ImageEnhance.Brightness(image).enhance(FACTORS[sign]),
    "saturation": lambda sign: lambda image: ImageEnhance.Color(image).enhance(FACTORS[sign]),
    "contrast": lambda sign: lambda image: ImageEnhance.Contrast(image).enhance(FACTORS[sign]),
    "sharpness": lambda sign: lambda image: ImageEnhance.Sharpness(image).enhance(FACTORS[sign]),
    "posterize": lambda sign: lambda image: ImageOps.posterize(image, 8 - round(STRENGTH * 4)),
    "solarize": lambda sign: lambda image: ImageOps.solarize(image, int(256 * (1 - STRENGTH))),
    "autocontrast": lambda sign: ImageOps.autocontrast,
    "equalize": lambda sign: ImageOps.equalize,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_is_pillows(name: str, sign: int, channels: int) -> None:
    image_BCHW = photos(4, channels)
    strength = torch.full((4,), STRENGTH, dtype=torch.float64)
    found = OPERATIONS[name](image_BCHW, strength, sign * strength, RANDAUGMENT).to(torch.uint8)
    pillows = PILLOWS[name](sign)
    for k in range(4):
        pixels = image_BCHW[k].permute(1, 2, 0).numpy()
        expected = np.asarray(pillows(Image.fromarray(pixels[..., 0] if channels == 1 else pixels)))
        apart = np.abs(found[k].permute(1, 2, 0).numpy().astype(int) - expected.reshape(pixels.shape).astype(int))
        # Where a pixel lies just between two, Pillow's fixed-point rotation may take the other.
        assert (apart > 1).mean() <= (0.02 if name == "rotate" else 0.0)


@pytest.mark.parametrize("reach", [RANDAUGMENT, TRIVIAL_WIDE])
def test_every_operation_at_no_strength_leaves_the_picture_but_for_two(reach: Reach) -> None:
    image_BCHW, zero = photos(4), torch.zeros(4, dtype=torch.float64)
    changed = [name for name, f in OPERATIONS.items() if not torch.equal(f(image_BCHW, zero, zero, reach), image_BCHW)]
    assert changed == ["autocontrast", "equalize"]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 2)])
def test_tiny_and_flat_pictures_go_through_every_operation(size: tuple[int, int]) -> None:
    image_BCHW = torch.full((2, 3, *size), 7, dtype=torch.uint8)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    for operation in OPERATIONS.values():
        assert operation(image_BCHW, half, half, TRIVIAL_WIDE).shape == image_BCHW.shape


POLICIES = [
    AugmentConfig(policy="randaugment"),
    AugmentConfig(policy="randaugment", policy_ops=3, policy_magnitude=4, flip=0.5, crop=2),
    AugmentConfig(policy="trivial", rotate=10, brightness=0.2),
    AugmentConfig(erase=0.7),
    AugmentConfig(flip_alternate=True, crop=2),
    AugmentConfig(flip_alternate=True, rotate=10),
]


@pytest.mark.parametrize("config", POLICIES)
def test_a_sample_is_changed_alike_in_any_batch(config: AugmentConfig) -> None:
    image_BCHW, epoch_B = photos(), torch.arange(N) % 3
    whole = augment(image_BCHW, config, 3, 17, SAMPLES, epoch_B=epoch_B)
    assert whole.dtype == torch.uint8 and not torch.equal(whole, image_BCHW)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    shuffled = augment(image_BCHW[order], config, 3, 17, SAMPLES[order], epoch_B=epoch_B[order])
    assert torch.equal(shuffled, whole[order])
    for rows in (slice(0, 1), slice(5, 12)):
        part = augment(image_BCHW[rows], config, 3, 17, SAMPLES[rows], epoch_B=epoch_B[rows])
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("config", POLICIES[:4])
def test_steps_and_seeds_change_pictures_differently(config: AugmentConfig) -> None:
    image_BCHW = photos()
    now = augment(image_BCHW, config, 3, 17, SAMPLES)
    assert not torch.equal(augment(image_BCHW, config, 3, 18, SAMPLES), now)
    assert not torch.equal(augment(image_BCHW, config, 4, 17, SAMPLES), now)


def test_a_policy_leaves_the_draws_of_everything_else_alone() -> None:
    image_BCHW = photos()
    moved = augment(image_BCHW, AugmentConfig(flip=0.5, crop=2), 3, 17, SAMPLES)
    with_policy = augment(image_BCHW, AugmentConfig(flip=0.5, crop=2, policy="randaugment"), 3, 17, SAMPLES)
    assert torch.equal(randaugment(moved, 2, 9.0, 3, 17, SAMPLES, "augment"), with_policy)


def test_every_operation_is_drawn_equally_often_and_alone() -> None:
    n = 14 * 300
    choice_B = torch.rand(n, generator=torch.Generator().manual_seed(0))
    image_BCHW = photos(1).expand(n, -1, -1, -1).contiguous()
    found = operate(image_BCHW, choice_B, torch.zeros(n), torch.full((n,), 0.5), RANDAUGMENT)
    one = torch.full((1,), 0.5, dtype=torch.float64)
    shares = []
    for operation in OPERATIONS.values():
        expected = operation(image_BCHW[:1], one, -one, RANDAUGMENT).to(torch.uint8)
        shares.append(float((found == expected).flatten(1).all(1).float().mean()))
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0.05 and max(shares) < 0.1


def test_erasing_fills_one_box_at_random_with_the_share_asked_for() -> None:
    image_BCHW = torch.zeros(2000, 1, 20, 30, dtype=torch.uint8)
    found_BHW = erase(image_BCHW, 0.25, 0, 1, torch.arange(2000), "augment")[:, 0] > 0
    erased_B = found_BHW.flatten(1).any(1)
    assert abs(float(erased_B.float().mean()) - 0.25) < 0.03
    touched_BHW = found_BHW[erased_B]
    rows, columns = touched_BHW.any(2).sum(1), touched_BHW.any(1).sum(1)
    box = (rows * columns).float()
    assert float(box.max()) <= 0.45 * 600 and float(box.min()) >= 1
    # One pixel in 256 is drawn black, as the picture is.
    assert float(touched_BHW.sum()) / float(box.sum()) == pytest.approx(255 / 256, abs=0.01)
    assert float(found_BHW[:, 0].any(1).float().mean()) > 0.01 and bool(found_BHW[:, -1, -1].any())


def test_erasing_works_on_fractions_too() -> None:
    found = erase(torch.full((50, 1, 9, 9), 2.0), 1.0, 0, 1, torch.arange(50), "augment")
    assert found.dtype == torch.float32 and bool((found[found != 2.0] <= 1).all()) and bool((found != 2.0).any())


def test_an_alternating_flip_shows_both_sides_of_each_sample_in_two_epochs() -> None:
    image_BCHW = photos()
    config = AugmentConfig(flip_alternate=True)
    epochs = [
        augment(image_BCHW, config, 0, step, SAMPLES, epoch_B=torch.full((N,), epoch))
        for step, epoch in ((5, 0), (9, 1), (11, 2))
    ]
    first_B = (epochs[0] != image_BCHW).flatten(1).any(1)
    assert 0.2 < float(first_B.float().mean()) < 0.8
    assert torch.equal(epochs[1], epochs[0].flip(3)) and torch.equal(epochs[2], epochs[0])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"flip_alternate": True, "flip": 0.5}, "flip"),
        ({"policy_ops": 3}, "policy_ops"),
        ({"policy": "trivial", "policy_magnitude": 5.0}, "policy_magnitude"),
    ],
)
def test_a_setting_without_effect_is_said(settings: dict[str, Any], name: str) -> None:
    assert without_effect(AugmentConfig(policy="randaugment", policy_ops=3)) == []
    said = without_effect(dataclasses.replace(AugmentConfig(), **settings))
    assert len(said) == 1 and said[0].startswith(f"data.augment.{name} has no effect")


def test_a_setting_without_effect_is_said_of_pairs_too() -> None:
    dataset = open_data(DataConfig(source="digits", kind="pairs", augment=AugmentConfig(flip_alternate=True, flip=0.5)))
    assert "data.augment.flip has no effect with data.augment.flip_alternate=true" in dataset.notes
