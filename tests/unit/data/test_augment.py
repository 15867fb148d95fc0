"""Augmentation: repeatable sample by sample, and right in what it does."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from strata.config import override
from strata.data import augment as module
from strata.data.augment import AugmentConfig, augment, mix, partners
from strata.errors import ConfigError

B, H, W = 24, 12, 10
SAMPLES = torch.arange(100, 100 + B)

EVERYTHING = AugmentConfig(
    flip=0.5, vertical_flip=0.5, rotate=30, crop=2, resized_crop=0.4, scale=0.2, translate=0.1, noise=0.1,
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, cutout=0.3,
)  # fmt: skip
CONFIGS = {
    "flip": AugmentConfig(flip=0.5),
    "vertical_flip": AugmentConfig(vertical_flip=0.5),
    "rotate": AugmentConfig(rotate=20),
    "crop": AugmentConfig(crop=3),
    "crop_reflect": AugmentConfig(crop=3, padding="reflect"),
    "resized_crop": AugmentConfig(resized_crop=0.3),
    "scale": AugmentConfig(scale=0.2),
    "translate": AugmentConfig(translate=0.2),
    "elastic": AugmentConfig(elastic=0.05),
    "noise": AugmentConfig(noise=0.1),
    "brightness": AugmentConfig(brightness=0.5),
    "contrast": AugmentConfig(contrast=0.5),
    "saturation": AugmentConfig(saturation=0.9),
    "hue": AugmentConfig(hue=0.3),
    "cutout": AugmentConfig(cutout=0.5),
    "gather": AugmentConfig(flip=0.5, vertical_flip=0.5, crop=2, cutout=0.3),
    "everything": EVERYTHING,
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dtype = pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)


def _pictures(dtype: torch.dtype = torch.uint8, channels: int = 3) -> Tensor:
    pixels = torch.randint(0, 256, (B, channels, H, W), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


@every_config
@every_dtype
def test_a_sample_is_changed_alike_in_any_batch(config: AugmentConfig, dtype: torch.dtype) -> None:
    image = _pictures(dtype)
    whole = augment(image, config, 3, 17, SAMPLES)
    assert whole.shape == image.shape and whole.dtype == dtype
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(image[order], config, 3, 17, SAMPLES[order]), whole[order])
    for rows in (slice(5, 6), slice(0, 7)):
        assert torch.equal(augment(image[rows], config, 3, 17, SAMPLES[rows]), whole[rows])
    assert torch.equal(augment(image, config, 3, torch.full((B,), 17), SAMPLES), whole)


@every_config
def test_steps_and_seeds_change_pictures_differently(config: AugmentConfig) -> None:
    image = _pictures()
    now = augment(image, config, 3, 17, SAMPLES)
    assert not torch.equal(now, image)
    assert not torch.equal(augment(image, config, 3, 18, SAMPLES), now)
    assert not torch.equal(augment(image, config, 4, 17, SAMPLES), now)


@every_config
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(config: AugmentConfig) -> None:
    image = _pictures()
    found = augment(image.cuda(), config, 3, 17, SAMPLES).cpu()
    apart = (found.int() - augment(image, config, 3, 17, SAMPLES).int()).abs()
    assert int(apart.max()) <= 1 and float((apart > 0).float().mean()) < 0.01


def test_augmentation_is_off_by_default() -> None:
    image = _pictures()
    assert augment(image, AugmentConfig(), 0, 0, SAMPLES) is image


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("vertical_flip", 2)])
def test_a_flip_mirrors_about_the_share_asked_for(name: str, axis: int) -> None:
    image = torch.arange(2000 * 6).view(2000, 1, 2, 3).remainder(251).to(torch.uint8)
    found = augment(image, AugmentConfig(**{name: 0.25}), 0, 1, torch.arange(2000))
    is_flipped = (found == image.flip(axis)).flatten(1).all(1)
    assert bool((is_flipped | (found == image).flatten(1).all(1)).all())
    assert 0.2 < float(is_flipped.float().mean()) < 0.3
    assert torch.equal(augment(image, AugmentConfig(**{name: 1.0}), 0, 1, torch.arange(2000)), image.flip(axis))


def test_a_crop_is_a_window_of_the_padded_picture_and_every_window_occurs() -> None:
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4).repeat(600, 1, 1, 1)
    found = augment(image, AugmentConfig(crop=1), 0, 1, torch.arange(600))
    padded = torch.nn.functional.pad(image[0, 0], (1, 1, 1, 1))
    windows = {tuple(padded[y : y + 3, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    assert {tuple(picture.flatten().tolist()) for picture in found} == windows


def test_padding_by_reflection_repeats_the_edge() -> None:
    image = torch.arange(1, 5, dtype=torch.uint8).view(1, 1, 1, 4).repeat(300, 1, 1, 1)
    found = augment(image, AugmentConfig(crop=2, padding="reflect"), 0, 1, torch.arange(300))
    assert {tuple(picture.flatten().tolist()) for picture in found} == {
        (2, 1, 1, 2), (1, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 4), (3, 4, 4, 3),
    }  # fmt: skip


def test_a_crop_may_be_larger_than_the_picture() -> None:
    image = torch.full((B, 1, 2, 2), 9, dtype=torch.uint8)
    assert bool((augment(image, AugmentConfig(crop=7, padding="reflect"), 0, 1, SAMPLES) == 9).all())


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@every_dtype
def test_the_gather_and_the_interpolation_move_pixels_alike(padding: str, dtype: torch.dtype) -> None:
    image = _pictures(dtype)
    config = AugmentConfig(flip=0.5, vertical_flip=0.5, crop=3, cutout=0.3, padding=padding)  # type: ignore[arg-type]
    gathered = augment(image, config, 3, 17, SAMPLES)
    nearly = override(config, "rotate", 1e-6)
    torch.testing.assert_close(augment(image, nearly, 3, 17, SAMPLES), gathered, rtol=0, atol=1e-4)


def test_cutout_blackens_one_square_of_the_size_asked_for() -> None:
    image = torch.full((200, 3, 12, 12), 200, dtype=torch.uint8)
    black = augment(image, AugmentConfig(cutout=0.5), 0, 1, torch.arange(200)) == 0
    assert bool((black == black[:, :1]).all())
    sides = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(black[:, 0].sum((1, 2)), sides[0] * sides[1])
    assert int(sides[0].max()) == 6 and int(sides[0].min()) >= 3


def test_a_rotation_turns_about_the_centre_and_keeps_it() -> None:
    image = torch.zeros(B, 1, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    image[:, :, 4, 8] = 255
    found = augment(image, AugmentConfig(rotate=180), 0, 1, SAMPLES).float()
    assert float(found[:, 0, 4, 4].min()) >= 254
    y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
    far = found[:, 0] * (y**2 + x**2 > 4)
    radius = (far * (y**2 + x**2).sqrt()).sum((1, 2)) / far.sum((1, 2)).clamp(min=1)
    assert float((radius - 4).abs().max()) < 0.5


def test_zoom_and_shift_stay_within_their_bounds() -> None:
    ramp = torch.linspace(0, 1, 101).expand(B, 1, 101, 101).contiguous()
    zoomed = augment(ramp, AugmentConfig(scale=0.1), 0, 1, SAMPLES)[:, 0, 50]
    slope = (zoomed[:, 60] - zoomed[:, 40]) / 0.2
    assert 1 / 1.1 - 1e-3 < float(slope.min()) < 0.95 and 1.05 < float(slope.max()) < 1 / 0.9 + 1e-3
    shifted = augment(ramp, AugmentConfig(translate=0.2), 0, 1, SAMPLES)[:, 0, 50, 50] - 0.5
    assert 0.1 < float(shifted.abs().max()) <= 0.2 * 1.01 + 1e-3


def test_elastic_deformation_moves_pixels_smoothly_by_the_deviation_asked_for() -> None:
    side, count = 65, 300
    ramp = torch.arange(side, dtype=torch.float32) / side
    image = ramp.expand(count, 1, side, side)
    moved = augment(image, AugmentConfig(elastic=0.02, padding="reflect"), 0, 1, torch.arange(count))
    shift_BHW = (moved - image)[:, 0]  # along x, in sides
    for row in (0, 32, 64):  # on the grid's own places
        assert 0.017 < shift_BHW[:, row, 32].std() < 0.023 and abs(shift_BHW[:, row, 32].mean()) < 0.004
    assert (shift_BHW[:, 1:, 10:-10] - shift_BHW[:, :-1, 10:-10]).abs().max() < 0.006
    assert (shift_BHW[:, 0, 32] * shift_BHW[:, 64, 32]).mean().abs() < 0.0001  # each place for itself


def test_a_resized_crop_shows_a_part_of_the_picture_and_nothing_from_outside() -> None:
    ramp = (torch.linspace(0.5, 1, 101)).expand(200, 1, 101, 101).contiguous()
    found = augment(ramp, AugmentConfig(resized_crop=0.25, padding="zero"), 0, 1, torch.arange(200))
    inside = found[:, 0, 1:-1, 1:-1]
    assert float(inside.min()) > 0.49
    width = (found[:, 0, 50, 90] - found[:, 0, 50, 10]) / (0.5 * 0.8)
    assert 0.25 < float(width.min()) < 0.55 and 0.85 < float(width.max()) <= 1.01


def test_noise_has_the_deviation_asked_for_and_no_mean() -> None:
    image = torch.full((64, 3, 32, 32), 0.5)
    noise = (augment(image, AugmentConfig(noise=0.05), 0, 1, torch.arange(64)) - 0.5).double()
    assert abs(float(noise.mean())) < 1e-3 and float(noise.std()) == pytest.approx(0.05, rel=0.01)
    flat = noise.flatten(1)
    assert abs(float((flat[:, :-1] * flat[:, 1:]).mean())) < 0.01 * 0.05**2 * 2
    assert abs(float((flat[:-1] * flat[1:]).mean())) < 0.01 * 0.05**2 * 2


def test_brightness_multiplies_and_contrast_keeps_the_mean_grey() -> None:
    image = 0.4 + 0.1 * _pictures(torch.float32)
    ratio = augment(image, AugmentConfig(brightness=0.3), 0, 1, SAMPLES) / image
    spread = ratio.flatten(1).amax(1) - ratio.flatten(1).amin(1)
    assert float(spread.max()) < 1e-5 and float(ratio.min()) > 0.7 - 1e-5 and float(ratio.max()) < 1.3 + 1e-5
    grey = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    found = augment(image, AugmentConfig(contrast=0.5), 0, 1, SAMPLES)
    torch.testing.assert_close((found * grey).sum(1).mean((1, 2)), (image * grey).sum(1).mean((1, 2)))


def test_saturation_and_hue_keep_the_grey_of_every_pixel() -> None:
    image = 0.4 + 0.1 * _pictures(torch.float32)
    grey = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    for config in (AugmentConfig(saturation=0.5), AugmentConfig(hue=0.5)):
        found = augment(image, config, 0, 1, SAMPLES)
        assert not torch.allclose(found, image, atol=1e-3)
        torch.testing.assert_close((found * grey).sum(1), (image * grey).sum(1), rtol=1e-4, atol=1e-4)


def test_a_grey_pixel_stays_grey_under_hue_and_saturation() -> None:
    image = _pictures()[:, :1].repeat(1, 3, 1, 1)
    found = augment(image, AugmentConfig(saturation=0.9, hue=0.5), 0, 1, SAMPLES)
    assert int((found.int() - image.int()).abs().max()) <= 1


def test_colour_settings_on_grey_pictures_say_once_that_they_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    module._warn_of_grey.cache_clear()
    image = _pictures(channels=1)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            assert torch.equal(augment(image, AugmentConfig(saturation=0.5, hue=0.1), 0, step, SAMPLES), image)
    assert [record.message.count("no effect") for record in caplog.records] == [1]


def test_turning_one_operation_on_leaves_the_others_draws_alone() -> None:
    image = _pictures()
    flipped = augment(image, AugmentConfig(flip=0.5), 3, 17, SAMPLES)
    brighter = augment(flipped, AugmentConfig(brightness=0.4), 3, 17, SAMPLES)
    assert torch.equal(augment(image, AugmentConfig(flip=0.5, brightness=0.4), 3, 17, SAMPLES), brighter)


def test_partners_form_one_ring_that_depends_on_the_samples_and_not_on_their_order() -> None:
    partner = partners(0, 5, SAMPLES)
    at, seen = 0, set()
    for _ in range(B):
        seen.add(at)
        at = int(partner[at])
    assert at == 0 and len(seen) == B
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    shuffled = SAMPLES[order]
    assert torch.equal(shuffled[partners(0, 5, shuffled)], SAMPLES[partner][order])
    assert not torch.equal(partners(0, 6, SAMPLES), partner)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
@every_dtype
def test_mixing_weighs_targets_as_it_weighs_pictures(settings: dict[str, float], dtype: torch.dtype) -> None:
    target = torch.arange(B)
    level = (10 * target + 10).view(B, 1, 1, 1)
    scale = 1 if dtype == torch.uint8 else 255
    image = (level.expand(B, 3, H, W) / scale).to(dtype)
    batch = mix({"input": image, "target": target}, AugmentConfig(**settings), 0, 5, SAMPLES)
    assert batch["input"].dtype == dtype and batch["weight"].shape == (B,)
    weight = batch["weight"]
    assert 0 <= float(weight.min()) < 0.5 < float(weight.max()) <= 1
    mean = batch["input"].double().mean((1, 2, 3)) * scale
    expected = weight * (10 * target + 10) + (1 - weight) * (10 * batch["target_b"] + 10)
    torch.testing.assert_close(mean, expected.double(), rtol=0, atol=0.51 if dtype == torch.uint8 else 1e-3)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_mixing_does_not_depend_on_the_order_of_the_batch(settings: dict[str, float]) -> None:
    batch = {"input": _pictures(), "target": torch.arange(B)}
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    whole = mix(batch, AugmentConfig(**settings), 0, 5, SAMPLES)
    shuffled = mix({k: v[order] for k, v in batch.items()}, AugmentConfig(**settings), 0, 5, SAMPLES[order])
    assert all(torch.equal(shuffled[name], whole[name][order]) for name in whole)


def test_without_mixing_a_batch_stays_as_it_is() -> None:
    batch = {"input": _pictures(), "target": torch.arange(B)}
    assert mix(batch, AugmentConfig(flip=0.5), 0, 5, SAMPLES) == batch


def test_mixup_also_mixes_rows_of_a_table() -> None:
    rows = torch.randn(B, 4, generator=torch.Generator().manual_seed(0))
    batch = mix({"input": rows, "target": rows[:, 0]}, AugmentConfig(mixup=1.0), 0, 5, SAMPLES)
    mixed = batch["weight"] * batch["target"] + (1 - batch["weight"]) * batch["target_b"]
    torch.testing.assert_close(batch["input"][:, 0], mixed)


def test_mixing_weights_follow_the_beta_distribution() -> None:
    samples = torch.arange(20_000)
    batch = {"input": torch.zeros(20_000, 1), "target": samples}
    weight = mix(batch, AugmentConfig(mixup=0.2), 0, 5, samples)["weight"].double()
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight.var()) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.005)


@pytest.mark.parametrize(("key", "value"), [("flip", "1.5"), ("hue", "0.6"), ("resized_crop", "0"), ("scale", "1")])
def test_values_that_make_no_sense_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value} is not allowed"):
        override(AugmentConfig(), key, value)
