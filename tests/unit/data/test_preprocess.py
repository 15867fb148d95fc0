"""Preprocessing that travels with the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strata.data import DataConfig, images, load_preprocess, open_data, save_preprocess
from strata.data.preprocess import ImagePreprocess
from strata.errors import ConfigError, DataError


@pytest.mark.parametrize("source", ["digits", "breast-cancer", "diabetes", "pycode"])
def test_what_is_saved_is_loaded_equal(source: str, tmp_path: Path) -> None:
    preprocess = open_data(DataConfig(source=source)).preprocess
    save_preprocess(preprocess, tmp_path)
    beside = ["tokenizer.json"] if source == "pycode" else []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["preprocess.json", *beside]
    assert load_preprocess(tmp_path) == preprocess


def test_a_table_with_every_kind_of_column_survives_the_file(tmp_path: Path) -> None:
    rows = [
        f"{k},{['a', 'é'][k % 2]},{k % 3 == 0},2024-01-{1 + k % 28:02d},{'' if k % 4 else k},{k % 2}" for k in range(90)
    ]
    (tmp_path / "t.csv").write_text("n,c,f,d,m,y\n" + "\n".join(rows), encoding="utf-8")
    data = open_data(DataConfig(source=str(tmp_path / "t.csv")))
    assert {column.kind for column in data.preprocess.columns} == {"number", "category", "flag", "date"}  # type: ignore[attr-defined]
    save_preprocess(data.preprocess, tmp_path)
    loaded = load_preprocess(tmp_path)
    assert loaded == data.preprocess
    row = {"n": 3, "c": "é", "f": "True", "d": "2024-01-05"}
    assert torch.equal(loaded.read(row), data.preprocess.read(row))


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"preprocess.json is missing"):
        load_preprocess(tmp_path)
    (tmp_path / "preprocess.json").write_text('{"kind": "image"')
    with pytest.raises(DataError, match=r"preprocess.json is damaged"):
        load_preprocess(tmp_path)
    (tmp_path / "preprocess.json").write_text('{"kind": "sound"}')
    with pytest.raises(DataError, match=r"preprocess.json is damaged"):
        load_preprocess(tmp_path)


GREY = ImagePreprocess(image_size=4, channels=1, mean=(0.5,), std=(0.25,))
COLOUR = ImagePreprocess(image_size=4, channels=3, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))


def test_pictures_are_normalised_by_channel() -> None:
    image = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(COLOUR.mean).view(3, 1, 1), torch.tensor(COLOUR.std).view(3, 1, 1)
    found = COLOUR.normalize(image)
    assert found.dtype == torch.float32
    assert torch.allclose(found, (image / 255 - mean) / std, atol=1e-5)
    assert torch.allclose(COLOUR.normalize(image.float()), found)
    assert torch.equal(COLOUR.denormalize(found), image)


def test_training_pictures_have_mean_zero_and_deviation_one() -> None:
    data = open_data(DataConfig(source="digits"))
    index = torch.arange(len(data.splits["train"]))
    seen = data.preprocess.normalize(data.splits["train"].gather(index, index)["input"])
    assert abs(float(seen.mean())) < 1e-5 and abs(float(seen.std()) - 1) < 1e-4


def test_tanh_pixels_lie_between_minus_one_and_one() -> None:
    preprocess = open_data(DataConfig(source="digits", pixels="tanh")).preprocess
    found = preprocess.normalize(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert found.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)


PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10


@pytest.mark.parametrize(
    "raw",
    [
        PIXELS,
        PIXELS[..., None],
        PIXELS[None],
        PIXELS.astype(np.int64),
        PIXELS / 255.0,
        torch.from_numpy(PIXELS),
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGB"),
    ],
)
def test_a_picture_may_come_in_many_forms(raw: Any) -> None:
    found = GREY.read(raw)
    assert found.dtype == torch.uint8 and found[0].tolist() == PIXELS.tolist()


def test_a_picture_may_come_as_a_path_of_any_size(tmp_path: Path) -> None:
    Image.new("RGB", (70, 33), (9, 8, 7)).save(tmp_path / "a.png")
    assert COLOUR.read(tmp_path / "a.png")[:, 0, 0].tolist() == [9, 8, 7]
    assert COLOUR.read(str(tmp_path / "a.png")).shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("no/such.png", r"no/such.png is not there"),
        (np.full((4, 4), 3.0), "have to be 0 to 1, not 3 to 3"),
        (np.full((4, 4), np.nan), "have to be 0 to 1"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(2, 4, 4, 3\) is no picture"),
        (object(), "holds no pixels"),
    ],
)
def test_what_is_no_picture_is_refused(raw: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        GREY.read(raw)


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"a.png cannot be read: not a picture, or a damaged one"):
        GREY.read(tmp_path / "a.png")


def test_a_file_from_before_framing_was_a_choice_still_loads(tmp_path: Path) -> None:
    save_preprocess(COLOUR, tmp_path)
    file = tmp_path / "preprocess.json"
    values = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("fit", "crop_share", "interpolation")}
    file.write_text(json.dumps(values))
    assert load_preprocess(tmp_path) == COLOUR


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_a_share_cut_out_is_the_middle_of_the_resized_picture(name: Any) -> None:
    preprocess = dataclasses.replace(COLOUR, image_size=28, crop_share=0.875, interpolation=name)
    image = Image.fromarray(noise(80, 160, 3))
    resized = np.asarray(image.resize((64, 32), Image.Resampling[name.upper()]))
    expected = resized[2:30, 18:46].transpose(2, 0, 1)
    assert np.array_equal(preprocess.read(image).numpy(), expected)


def test_a_share_that_is_just_the_size_touches_no_pixel() -> None:
    pixels = noise(32, 32)
    preprocess = dataclasses.replace(GREY, image_size=28, crop_share=0.875, interpolation="bicubic")
    assert np.array_equal(preprocess.read(pixels)[0].numpy(), pixels[2:30, 2:30])


def test_a_stretched_picture_keeps_its_edges() -> None:
    image = Image.fromarray(noise(20, 50, 3))
    preprocess = dataclasses.replace(COLOUR, image_size=10, fit="stretch")
    expected = np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(preprocess.read(image).numpy(), expected)


FRAMED = {"image_size": 14, "fit": "stretch", "crop_share": 0.875, "interpolation": "bicubic"}


@pytest.mark.parametrize("where", ["memory", "files", "array"])
def test_training_pictures_are_framed_as_new_ones_will_be(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(8, 20, 30)
    if where == "array":
        np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(8) % 2)
        source = tmp_path / "data.npz"
    else:
        source = tmp_path / "pictures"
        for k in range(8):
            (source / f"{k % 2}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[k]).save(source / f"{k % 2}" / f"{k}.png")
    if where == "files":
        monkeypatch.setattr(images, "MEMORY_SHARE", 0.0)
    data = open_data(DataConfig(source=str(source), validation=0.0, test=0.0, **FRAMED))  # type: ignore[arg-type]
    assert isinstance(data.splits["train"], images.FileSplit) == (where == "files")
    index = torch.arange(8)
    found = data.splits["train"].gather(index, torch.zeros_like(index))["input"]
    expected = torch.stack([data.preprocess.read(picture) for picture in pixels])
    order = torch.arange(8) if where == "array" else torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    assert torch.equal(found, expected[order])


def test_pixel_constants_that_are_given_replace_the_datas_own() -> None:
    own = open_data(DataConfig(source="digits")).preprocess
    given = open_data(DataConfig(source="digits", mean=(0.25,))).preprocess
    assert isinstance(own, ImagePreprocess) and isinstance(given, ImagePreprocess)
    assert given.mean == (0.25,) and given.std == own.std
    both = open_data(DataConfig(source="digits", mean=(0.25,), std=(0.5,))).preprocess
    assert isinstance(both, ImagePreprocess) and (both.mean, both.std) == ((0.25,), (0.5,))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "data.mean has 3 values and the pictures 1 channels"),
        ({"std": (0.5,), "pixels": "tanh"}, "data.std and data.pixels=tanh contradict each other"),
    ],
)
def test_pixel_constants_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_data(DataConfig(source="digits", **settings))
