"""Folders of pictures whose targets are pictures: what belongs together is found, and moved together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strata.data import open_data, recognize
from strata.data.augment import AugmentConfig, augment_pair
from strata.data.dataset import DataConfig
from strata.data.pairs import UNMEASURED, match, unmeasured
from strata.errors import ConfigError, DataError


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pairs(root: Path, n: int = 6, size: tuple[int, int] = (12, 10), values: tuple[int, ...] = (0, 255)) -> Path:
    """Write n pictures whose mask says where they are bright."""
    for k in range(n):
        picture = noise(k, *size)
        level = np.minimum(picture.astype(int) * len(values) // 256, len(values) - 1)
        write(root / "images" / f"{k}.png", picture)
        write(root / "masks" / f"{k}.png", np.array(values)[level])
    return root


def opened(root: Path, **settings: Any) -> Any:
    return open_data(DataConfig(source=str(root), **settings))


def first(dataset: Any, part: str = "train", count: int = 2) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = dataset.splits[part].gather(torch.arange(count), torch.zeros(count))
    return found


def test_two_folders_of_equal_names_are_pairs_with_a_class_for_each_pixel(tmp_path: Path) -> None:
    root = pairs(tmp_path)
    assert recognize(root) == "pairs"
    found = opened(root)
    assert (found.kind, found.target_kind, found.labels) == ("pairs", "pixel_class", ("0", "255"))
    batch = first(found)
    assert batch["input"].shape == (2, 1, 12, 10)
    assert torch.equal(batch["target"] == 2, batch["input"][:, 0] >= 128)


def test_class_folders_are_no_pairs(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "cat" / f"{k}.png", noise(k, 8, 8))
        write(tmp_path / "dog" / f"{k}.png", noise(k, 8, 8))
    assert recognize(tmp_path) == "image"


@pytest.mark.parametrize("values", [(0, 1), (0, 1, 2), (10, 200)])
def test_the_values_of_a_mask_are_its_classes(values: tuple[int, ...], tmp_path: Path) -> None:
    found = opened(pairs(tmp_path, values=values))
    assert found.labels == tuple(map(str, values))
    assert first(found)["target"].unique().tolist() == list(range(1, len(values) + 1))


@pytest.mark.parametrize("values", [(0, 1), (0, 300), (0, 1000, 1100)])
def test_deep_masks_keep_the_values_of_their_file(values: tuple[int, ...], tmp_path: Path) -> None:
    root = pairs(tmp_path, values=tuple(range(len(values))))
    for file in (root / "masks").iterdir():
        with Image.open(file) as image:
            level = np.asarray(image)
        Image.fromarray(np.array(values, dtype=np.uint16)[level]).save(file)
    found = opened(root)
    assert found.labels == tuple(map(str, values))
    number = first(found)["input"][:, 0].long() * len(values) // 256 + 1
    assert torch.equal(first(found)["target"], number.to(torch.uint8))
    assert first(opened(root, image_size=8))["target"].unique().tolist() == list(range(1, len(values) + 1))


def test_a_value_of_one_training_mask_of_many_is_a_class(tmp_path: Path) -> None:
    root = pairs(tmp_path, n=130, size=(4, 4))
    write(root / "masks" / "1.png", np.full((4, 4), 7))
    assert opened(root).labels == ("0", "7", "255")


def test_what_is_transparent_in_a_mask_keeps_its_value(tmp_path: Path) -> None:
    root = pairs(tmp_path)
    for file in (root / "masks").iterdir():
        with Image.open(file) as image:
            level = np.asarray(image)
        write(file, np.stack([level, level, level, level], -1))
    assert opened(root).labels == ("#000000", "#ffffff")
    for file in (root / "masks").iterdir():
        with Image.open(file) as image:
            write(file, np.asarray(image) | np.array([255, 255, 255, 0], dtype=np.uint8))
    with pytest.raises(DataError, match=r"Every target pixel is #ffffff. .* Transparency does not count"):
        opened(root)


def test_deep_pictures_that_are_nearly_black_are_told_of(tmp_path: Path) -> None:
    root = pairs(tmp_path)
    for file in (root / "images").iterdir():
        with Image.open(file) as image:
            Image.fromarray(np.asarray(image).astype(np.uint16)).save(file)
    assert any("nearly black" in note for note in opened(root).notes)


def test_pixels_of_the_value_to_ignore_are_no_class_and_do_not_count(tmp_path: Path) -> None:
    pairs(tmp_path / "train", values=(0, 1, 255))
    pairs(tmp_path / "test", values=(0, 1, 255))
    found = opened(tmp_path, ignore=255)
    assert found.labels == ("0", "1")
    for part in ("train", "test"):
        batch = first(found, part)
        assert torch.equal(batch["target"], (batch["input"][:, 0].long() * 3 // 256 + 1) % 3)
    write(tmp_path / "test" / "masks" / "0.png", np.full((12, 10), 7))
    with pytest.raises(DataError, match=r"value 7, which no training mask has. .* masks that have it; data.ignore=7"):
        opened(tmp_path, ignore=255)


def test_the_colours_of_a_mask_are_its_classes(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "input" / f"{k}.png", noise(k, 8, 8, 3))
        mask = np.zeros((8, 8, 3))
        mask[k % 4 :, :, 0] = 255
        write(tmp_path / "label" / f"{k}.png", mask)
    assert opened(tmp_path).labels == ("#000000", "#ff0000")


def test_a_black_and_white_mask_saved_as_jpeg_still_has_two_classes(tmp_path: Path) -> None:
    for k in range(4):
        mask = np.zeros((64, 64))
        mask[:, 20 + k :] = 255
        write(tmp_path / "images" / f"{k}.jpg", noise(k, 64, 64))
        write(tmp_path / "masks" / f"{k}.jpg", mask, quality=60)
    found = opened(tmp_path)
    assert found.labels == ("0", "255")
    assert first(found, count=1)["target"][0, :, 40:].unique().tolist() == [2]


def test_labels_that_were_blurred_as_jpeg_are_told_of(tmp_path: Path) -> None:
    for k in range(4):
        mask = np.zeros((64, 64))
        mask[np.add.outer(range(64), range(64)) > 50 + k], mask[40:] = 200, 100
        write(tmp_path / "images" / f"{k}.png", noise(k, 64, 64, 3))
        write(tmp_path / "masks" / f"{k}.jpg", mask, quality=30)
    told = next(note for note in opened(tmp_path).notes if note.startswith("targets are pictures"))
    assert "data.target_kind=class makes masks" in told and "JPEG has blurred the labels" in told


def test_targets_that_are_pictures_are_resized_as_those_are(tmp_path: Path) -> None:
    for k in range(4):
        for name in ("noisy", "clean"):
            write(tmp_path / name / f"{k}.png", noise(k, 16, 16))
    batch = first(opened(tmp_path, image_size=8))
    assert torch.equal(batch["input"], batch["target"])


def test_targets_of_many_values_are_pictures_and_a_setting_makes_masks_of_them(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "noisy" / f"{k}.png", noise(k, 16, 16))
        write(tmp_path / "clean" / f"{k}.png", noise(9 + k, 16, 16))
    found = opened(tmp_path)
    assert found.target_kind == "pixel_number"
    assert any("data.kind=image if they are classes" in note for note in found.notes)
    assert first(found)["target"].shape == (2, 1, 16, 16)
    assert opened(tmp_path, target_kind="class").labels == ("0", "255")
    assert opened(pairs(tmp_path / "b"), target_kind="number").target_kind == "pixel_number"


@pytest.mark.parametrize("classes", [100, 200])
def test_masks_of_many_classes_are_told_from_pictures_by_their_patches(tmp_path: Path, classes: int) -> None:
    for k in range(classes // 10):
        write(tmp_path / "images" / f"{k:02}.png", noise(k, 40, 50, 3))
        write(tmp_path / "masks" / f"{k:02}.png", np.kron(10 * k + np.arange(10).reshape(2, 5), np.ones((20, 10))))
        region = np.zeros((40, 50))
        region[:10] = 255
        write(tmp_path / "fov" / f"{k:02}.png", region)
    found = opened(tmp_path, validation=0, test=0, crop_size=40)
    assert found.labels == tuple(map(str, range(classes)))
    assert opened(tmp_path, target_kind="class").labels == found.labels
    target = first(found, count=classes // 10)["target"]
    assert target.dtype == (torch.uint8 if classes == 100 else torch.int16)
    outside = unmeasured(target.element_size())
    assert torch.equal((target < outside)[0], torch.arange(40)[:, None].expand(40, 50) < 10)
    number = torch.kron(torch.arange(classes).view(-1, 2, 5), torch.ones((1, 20, 10), dtype=torch.int64))
    assert torch.equal(target.long() % outside, number + 1)
    moved = augment_pair(
        {"input": target.new_zeros((1, 1, 40, 50), dtype=torch.uint8), "target": target[-1:]}
        | {"sample": torch.zeros(1).long(), "epoch": torch.zeros(1).long()},
        AugmentConfig(flip=0.5, rotate=30, elastic=0.02),
        seed=0,
        step=0,
    )["target"]
    assert moved.dtype == target.dtype and set(moved.unique().tolist()) <= {0, *target[-1].unique().tolist()}


def test_many_classes_on_a_wide_ground_are_no_black_and_white(tmp_path: Path) -> None:
    for k in range(15):
        write(tmp_path / "images" / f"{k:02}.png", noise(k, 40, 50, 3))
        mask = np.full((40, 50), 255)
        mask[20, :10] = 10 * k + np.arange(10)
        write(tmp_path / "masks" / f"{k:02}.png", mask)
    assert len(opened(tmp_path, ignore=255).labels) == 150
    for file in (tmp_path / "masks").iterdir():
        with Image.open(file) as image:
            write(file, np.where(np.asarray(image) == 255, 0, np.asarray(image)))
    assert len(opened(tmp_path).labels) == 150


def test_a_soft_edge_makes_no_classes_of_a_black_and_white_mask(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / "images" / f"{k}.png", noise(k, 10, 8000))
        mask = np.zeros((10, 8000))
        mask[:, 4000:], mask[:, 3920:4000] = 255, np.arange(80) * 3 + k
        write(tmp_path / "masks" / f"{k}.png", mask)
    assert opened(tmp_path).labels == ("0", "255")


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (["a.jpg", "b.jpg"], ["a.png", "b.png"]),
        (["21_training.tif", "22_training.tif"], ["21_manual1.gif", "22_manual1.gif"]),
        (["cat.jpg", "my_dog.jpg"], ["cat_mask.png", "my_dog_mask.png"]),
        (["img_001.png", "img_010.png"], ["gt_1.png", "gt_10.png"]),
    ],
)
def test_partners_are_found_by_name_by_all_but_the_last_word_or_by_number(
    inputs: list[str], targets: list[str]
) -> None:
    assert match([Path(name) for name in inputs], [Path(name) for name in targets[::-1]]) == [Path(t) for t in targets]


def test_partners_are_found_in_folders_of_equal_names(tmp_path: Path) -> None:
    for place in "ab":
        pairs(tmp_path / place, n=3, values=(0, 1) if place == "a" else (2, 3))
        for name in ("images", "masks"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / place / name).rename(tmp_path / "data" / name / place)
    found = opened(tmp_path / "data", validation=0, test=0)
    assert found.labels == ("0", "1", "2", "3")
    assert first(found, count=6)["target"].amax((1, 2)).tolist() == [2] * 3 + [4] * 3


@pytest.mark.parametrize(("settings", "extension"), [({}, "png"), ({"image_size": 8, "fit": "stretch"}, "tif")])
def test_a_picture_that_exif_turns_and_its_mask_not_are_refused(settings: Any, extension: str, tmp_path: Path) -> None:
    root = pairs(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (root / "images").iterdir():
        with Image.open(file) as image:
            image.save(file.with_suffix(f".{extension}"), exif=exif)
        if extension != "png":
            file.unlink()
    words = rf"images/0.{extension} is turned by the orientation in its EXIF, and .*masks/0.png is not: .* \(exiftool"
    with pytest.raises(DataError, match=words):
        opened(root, **settings)
    for file in (root / "masks").iterdir():  # drawn on what is seen
        with Image.open(file) as image:
            image.transpose(Image.Transpose.ROTATE_270).save(file)
    assert opened(root, **settings).labels == ("0", "255")


def test_given_splits_are_used_and_a_region_says_what_is_measured(tmp_path: Path) -> None:
    for part, n in (("training", 3), ("testing", 2)):
        pairs(tmp_path / part, n)
        for k in range(n):
            region = np.zeros((12, 10))
            region[3:] = 255
            write(tmp_path / part / "fov" / f"{k}.png", region)
    found = opened(tmp_path, validation=0)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 3, "test": 2}
    target = first(found)["target"]
    assert bool((target[:, :3] > UNMEASURED).all()) and bool((target[:, 3:] < UNMEASURED).all())


def test_splits_may_lie_within_the_folders_of_inputs_and_targets(tmp_path: Path) -> None:
    write(tmp_path / "training" / "logo.png", noise(0, 8, 8))
    for part, n in (("training", 5), ("validation", 3), ("test", 2)):
        pairs(tmp_path / part, n)
        for name, as_name in (("images", "images"), ("masks", "annotations")):
            (tmp_path / "data" / as_name).mkdir(parents=True, exist_ok=True)
            if (part, name) != ("test", "masks"):
                (tmp_path / part / name).rename(tmp_path / "data" / as_name / part)
    (tmp_path / "data" / "docs").mkdir()
    (tmp_path / "data" / "docs" / "logo.png").write_bytes((tmp_path / "training" / "logo.png").read_bytes())
    found = opened(tmp_path / "data", target="annotations")
    sizes = {name: len(split) for name, split in found.splits.items()}
    assert sizes == {"train": 4, "validation": 3, "test": 1}, "what has no targets is no split"
    files = [found.splits["validation"].describe(k)["file"] for k in range(3)]
    assert all("/images/validation/" in file for file in files)
    batch = first(found, "validation")
    assert torch.equal(batch["target"] == 2, batch["input"][:, 0] >= 128)
    shutil.rmtree(tmp_path / "data" / "annotations")
    (tmp_path / "data" / "more" / "train").mkdir(parents=True)
    (tmp_path / "data" / "images" / "validation" / "0.png").rename(tmp_path / "data" / "more" / "train" / "0.png")
    alone = opened(tmp_path / "data", kind="pairs", validation=0, test=0)
    assert len(alone.splits["train"]) == 6


def test_pictures_of_any_size_are_measured_whole_and_trained_in_parts(tmp_path: Path) -> None:
    for k, size in enumerate([(40, 30), (20, 60), (33, 35), (50, 50)]):
        write(tmp_path / "images" / f"{k}.png", noise(k, *size))
        write(tmp_path / "masks" / f"{k}.png", (noise(k, *size) > 128) * 255)
    found = opened(tmp_path, validation=0, test=0, crop_size=24)
    batch = first(found, count=4)
    assert batch["size"].tolist() == [[40, 30], [20, 60], [33, 35], [50, 50]]
    assert batch["input"].shape == (4, 1, 50, 60)
    assert not batch["target"][0, 40:].any(), "what was filled up does not count"
    parts = found.splits["train"].cropped()
    assert len(parts) > 4
    index = torch.arange(len(parts))
    cut = parts.gather(index, torch.zeros_like(index))
    assert cut["input"].shape[1:] == (1, 24, 24)
    counted = cut["target"] > 0
    assert torch.equal((cut["target"] == 2)[counted], (cut["input"][:, 0] > 128)[counted])
    again, later = (parts.gather(index, torch.full_like(index, epoch)) for epoch in (0, 1))
    assert torch.equal(again["input"], cut["input"]) and not torch.equal(later["input"], cut["input"])


def test_pictures_that_are_read_when_wanted_are_those_that_would_lie_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path)
    kept = opened(root)
    monkeypatch.setattr("strata.data.pairs.available_memory_bytes", lambda: 0)
    read = opened(root)
    assert kept.splits["train"].in_memory and not read.splits["train"].in_memory
    assert all(torch.equal(first(kept)[name], first(read)[name]) for name in ("input", "target"))


def test_pictures_alone_are_their_own_target(tmp_path: Path) -> None:
    for k in range(5):
        write(tmp_path / f"{k}.png", noise(k, 20, 20, 3))
    found = opened(tmp_path, kind="pairs")
    assert found.target_kind is None and found.sizes["in_channels"] == 3
    assert set(first(found)) == {"input"}


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(flip=0.5, vertical_flip=0.5, crop=2),
        AugmentConfig(flip=0.5, rotate=40, scale=0.2, translate=0.1),
        AugmentConfig(flip=0.5, rotate=5, elastic=0.03),
        AugmentConfig(flip_alternate=True, rotate=20, padding="reflect", brightness=0.0, cutout=0.3),
    ],
)
def test_a_target_is_moved_exactly_as_its_picture(config: AugmentConfig) -> None:
    place = torch.arange(16 * 16, dtype=torch.uint8).view(1, 1, 16, 16).expand(8, 1, 16, 16)
    batch = {"input": place, "target": place[:, 0], "sample": torch.arange(8), "epoch": torch.zeros(8).long()}
    moved = augment_pair(batch, config, seed=1, step=3)
    assert not torch.equal(moved["target"], batch["target"])
    as_pictures = augment_pair(batch | {"target": place}, config, seed=1, step=3)
    if config.cutout == 0:
        assert torch.equal(as_pictures["target"], moved["input"])
    if config.rotate == 0:
        assert torch.equal(as_pictures["target"][:, 0], moved["target"])
    else:  # the nearest pixel and the mixture of four agree where the mask is one plane
        masks = batch | {"target": (place[:, 0] >= 128).to(torch.uint8), "input": (place >= 128).to(torch.uint8) * 255}
        both = augment_pair(masks, config, seed=1, step=3)
        assert set(both["target"].unique().tolist()) <= {0, 1}
        sure = (both["input"][:, 0] == 255) | (both["target"] == 0)
        assert (both["target"].bool() == (both["input"][:, 0] > 127))[sure].float().mean() > 0.97


def test_colours_and_noise_change_a_picture_and_not_its_target() -> None:
    image = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    batch = {"input": image, "target": image, "sample": torch.arange(4), "epoch": torch.zeros(4).long()}
    found = augment_pair(batch, AugmentConfig(brightness=0.5, noise=0.1), seed=0, step=0)
    assert not torch.equal(found["input"], image)
    assert torch.equal(found["target"], image)


def no_partner(root: Path) -> None:
    (root / "masks" / "3.png").rename(root / "masks" / "other.png")


def two_of_a_name(root: Path) -> None:
    write(root / "images" / "3.jpg", np.zeros((12, 10)))


def other_size(root: Path) -> None:
    write(root / "masks" / "2.png", np.zeros((9, 9)))


def three_folders(root: Path) -> None:
    pairs(root / "second")
    (root / "second" / "masks").rename(root / "second_grader")


def two_kinds_of_targets(root: Path) -> None:
    write(root / "labels" / "1.png", np.zeros((9, 9)))


def bad_file(root: Path) -> None:
    (root / "masks" / "1.png").write_bytes(b"no picture")


def one_value(root: Path) -> None:
    for file in (root / "masks").iterdir():
        write(file, np.zeros((12, 10)))


@pytest.mark.parametrize(
    ("mistake", "settings", "words"),
    [
        (no_partner, {}, r"6 pictures in .*images and 6 in .*masks do not pair up by name: images/3.png, masks/other"),
        (two_of_a_name, {}, r"do not pair up by name: images/3.jpg, images/3.png have one name but for the extension"),
        (other_size, {}, r"images/2.png is 10 x 12 pixels and .*masks/2.png is 9 x 9: .* data.image_size=N"),
        (
            three_folders,
            {},
            r"1 more folder of pictures than images and masks: second_grader. Say which .* data.target",
        ),
        (
            two_kinds_of_targets,
            {},
            r"2 folders that may hold the target pictures: labels, masks. .* data.target=labels",
        ),
        (bad_file, {}, r"masks/1.png cannot be read: not a picture, or a damaged one. Repair it"),
        (one_value, {}, r"Every target pixel is 0. There is nothing to learn."),
        (None, {"target": "mask"}, r"data.target=mask: .* has no such folder of pictures. Did you mean 'masks'"),
        (None, {"augment": AugmentConfig(cutmix=1.0)}, r"cutmix mix classes; a picture whose target is a picture has"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(mistake: Any, settings: Any, words: str, tmp_path: Path) -> None:
    root = pairs(tmp_path / "data")
    if mistake is not None:
        mistake(root)
    if mistake is three_folders:
        (root / "second" / "images").rename(tmp_path / "away")
        (root / "second").rmdir()
    with pytest.raises((DataError, ConfigError), match=words):
        opened(root, **settings)
