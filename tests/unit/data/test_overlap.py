"""Samples that are held out and trained on all the same are counted and said; the training data is no test data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strata.data import DataConfig, images, open_data, overlap
from strata.errors import ConfigError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes of 20 pictures each."""
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for k in range(20):
            picture = random.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / label / f"{k:02}.png")
    return tmp_path / "photos"


def said(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "the training data" in note]


@given(seed=st.integers(0, 50), width=st.integers(1, 200), copies=st.integers(0, 7))
def test_as_many_are_counted_as_a_comparison_of_all_with_all_finds(seed: int, width: int, copies: int) -> None:
    random = torch.Generator().manual_seed(seed)
    train = torch.randint(0, 2, (30, 1, 1, width), generator=random, dtype=torch.uint8)
    test = torch.randint(0, 2, (20, 1, 1, width), generator=random, dtype=torch.uint8)
    test[:copies] = train[:copies]
    equal = sum(bool((train == one).flatten(1).all(1).any()) for one in test)
    assert overlap.of_pixels({"train": train, "test": test}) == {"test": equal}


def test_a_picture_that_differs_in_one_pixel_is_another(photos: Path) -> None:
    train = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    test = torch.zeros(784, 1, 28, 28, dtype=torch.uint8)
    test.view(784, 784).fill_diagonal_(1)
    assert overlap.of_pixels({"train": train, "test": test}) == {"test": 0}


@pytest.mark.parametrize("at_once", [True, False])
def test_pictures_that_lie_in_a_folder_several_times_are_counted_where_they_are_split_apart(
    photos: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_data(DataConfig(source=str(photos)))
    assert dataset.repeated == {"validation": 0, "test": 0} and said(dataset.notes) == []
    for file in list(photos.glob("*/*.png")):
        shutil.copy(file, file.with_name(f"{file.stem}_again.png"))
    monkeypatch.setattr(images, "PICTURES_AT_ONCE", 10_000 if at_once else 1)
    dataset = open_data(DataConfig(source=str(photos)))
    count = dataset.repeated["test"]
    assert 0 < count <= len(dataset.splits["test"]) == 12
    assert said(dataset.notes)[1].startswith(f"{count} of 12 test pictures are also in the training data: figures on")
    assert "data.group" in said(dataset.notes)[1]
    together = open_data(DataConfig(source=str(photos), group=r"(\w+/\d+)"))
    assert together.repeated == {"validation": 0, "test": 0} and said(together.notes) == []


def test_files_too_many_to_be_read_are_not_compared(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(photos.glob("*/*.png"))
    assert overlap.of_files({"train": files, "test": files[:3]}) == {"test": 3}
    for bound in ("FILES_AT_MOST", "FILES_OPENED_AT_MOST", "BYTES_AT_MOST"):
        with monkeypatch.context() as lowered:
            lowered.setattr(overlap, bound, 5)
            assert overlap.of_files({"train": files, "test": files[:3]}) == {}
    gone = photos / "cat" / "gone.png"
    assert overlap.of_files({"train": [gone], "test": [gone]}) == {"test": 0}


def test_few_equals_are_a_share_and_no_verdict() -> None:
    keys = {"train": ["one", "two"], "test": ["two", *map(str, range(999))]}
    assert overlap.told(overlap.of_keys(keys), keys, "texts") == [
        "1 of 1,000 test texts is also in the training data (0.1 %)"
    ]


def test_rows_are_equal_with_their_target(tmp_path: Path) -> None:
    rows = [(k, k * k % 7, "yn"[k % 2]) for k in range(40)]
    train, test = tmp_path / "train.csv", tmp_path / "other.csv"
    train.write_text("a,b,target\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    swapped = {"y": "n", "n": "y"}
    others = [*rows[:2], (rows[2][0], rows[2][1], swapped[rows[2][2]]), (100, 3, "y")]
    test.write_text("a,b,target\n" + "".join(f"{a},{b},{y}\n" for a, b, y in others))
    dataset = open_data(DataConfig(source=str(train), test=str(test), validation=0))
    assert dataset.repeated == {"test": 2}
    assert said(dataset.notes) == ["2 of 4 test rows equal rows of the training data: figures on them say nothing"]


def test_texts_are_equal_whatever_their_label(tmp_path: Path) -> None:
    lines = [{"text": f"a film of the year {k}", "label": "ab"[k % 2]} for k in range(30)]
    train, test = tmp_path / "reviews.jsonl", tmp_path / "copy.jsonl"
    train.write_text("".join(json.dumps(line) + "\n" for line in lines))
    changed = [{**lines[0], "label": "b"}, lines[1], {"text": "the film of the year 3", "label": "a"}]
    test.write_text("".join(json.dumps(line) + "\n" for line in changed))
    dataset = open_data(DataConfig(source=str(train), test=str(test), validation=0, kind="sentences"))
    assert dataset.repeated == {"test": 2}
    assert said(dataset.notes) == ["2 of 3 test texts are also in the training data: figures on them say nothing"]


def test_documents_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    for k in range(4):
        (tmp_path / "train" / f"{k}.txt").write_text(f"document {k} " * 50)
    (tmp_path / "test" / "0.txt").write_text("document 2 " * 50)
    config = DataConfig(source=str(tmp_path / "train"), test=str(tmp_path / "test"))
    assert open_data(config).repeated == {"validation": 0, "test": 1}
    shutil.copy(tmp_path / "train" / "0.txt", tmp_path / "train" / "9.txt")
    assert open_data(config).repeated == {"test": 1}  # the text held out may be the copy's


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_training_data_itself_is_refused_as_held_out_data(photos: Path, split: str) -> None:
    same = str(photos / "cat" / "..")
    with pytest.raises(ConfigError, match=f"data.{split}=.* is the training data itself"):
        open_data(DataConfig(source=str(photos), **{split: same}))
    shutil.copytree(photos, photos.parent / "whole" / "train")
    shutil.copytree(photos, photos.parent / "whole" / split)
    whole = str(photos.parent / "whole")  # which has a split of that name: it is taken
    assert len(open_data(DataConfig(source=whole, **{split: whole})).splits[split]) == 40
