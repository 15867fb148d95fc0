"""Groups: what belongs together lies on one side of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strata.data import DataConfig, open_data, splits
from strata.errors import ConfigError, DataError


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    classes=st.integers(1, 4),
    test=st.floats(0.05, 0.45),
    seed=st.integers(0, 5),
)
def test_no_group_is_divided_and_every_class_is_learned(sizes: list[int], classes: int, test: float, seed: int) -> None:
    group_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    class_N = group_N % classes
    plan = splits.plan(DataConfig(test=test), ())
    index, _ = splits.divide(plan, len(group_N), class_N, seed, group_N)
    assert sorted(torch.cat(list(index.values())).tolist()) == list(range(len(group_N)))
    sides = [set(group_N[found].tolist()) for found in index.values()]
    assert sum(map(len, sides)) == len(sizes)
    assert set(class_N[index["train"]].tolist()) == set(class_N.tolist())


def test_about_the_share_asked_for_is_held_out_of_every_class() -> None:
    group_N = torch.arange(300).repeat_interleave(torch.arange(300) % 5 + 1)
    class_N = (group_N % 3 == 0).long()
    plan = splits.plan(DataConfig(), ())
    index, notes = splits.divide(plan, len(group_N), class_N, 0, group_N)
    for name in ("validation", "test"):
        for k in range(2):
            share = int((class_N[index[name]] == k).sum()) / int((class_N == k).sum())
            assert share == pytest.approx(0.15, abs=0.02)
    assert "of 300 groups and none of them divided" in notes[0]
    again, _ = splits.divide(plan, len(group_N), class_N, 0, group_N)
    other, _ = splits.divide(plan, len(group_N), class_N, 1, group_N)
    assert torch.equal(again["test"], index["test"]) and not torch.equal(other["test"], index["test"])


def test_too_few_groups_are_said() -> None:
    index, notes = splits.divide(splits.plan(DataConfig(), ()), 40, None, 0, torch.zeros(40, dtype=torch.int64))
    assert list(index) == ["train"] and notes == [
        "too few groups for a validation split",
        "too few groups for a test split",
    ]


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Return a folder of two classes, of 20 patients with 4 pictures each."""
    root = tmp_path / "scans"
    for patient in range(20):
        for shot in range(4):
            file = root / f"{patient % 2}" / f"p{patient}_{shot}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), patient, np.uint8)).save(file)
    return root


def patients_of(data: object, split: str) -> set[str]:
    found = data.splits[split]  # type: ignore[attr-defined]
    return {Path(found.describe(k)["file"]).name.split("_")[0] for k in range(len(found))}


def test_a_patients_pictures_lie_in_one_split(patients: Path) -> None:
    data = open_data(DataConfig(source=str(patients), group=r"(p\d+)_"))
    sides = [patients_of(data, name) for name in ("train", "validation", "test")]
    assert all(sides) and len(set().union(*sides)) == sum(map(len, sides)) == 20
    assert not [note for note in data.notes if "lie in both" in note]
    together = open_data(DataConfig(source=str(patients)))
    assert patients_of(together, "train") & patients_of(together, "test")


def test_given_splits_that_share_patients_are_said(patients: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    patients.rename(both / "train")
    for patient in (3, 4, 30, 31):
        file = both / "test" / f"{patient % 2}" / f"p{patient}_9.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
    notes = open_data(DataConfig(source=str(both), group=r"p\d+", validation=0.0)).notes
    assert "2 groups lie in both train and test (p3, p4): what is measured on test may be too good" in notes


def test_a_table_names_groups_by_a_column_which_the_model_does_not_see(tmp_path: Path) -> None:
    rows = [f"{k % 7},p{k // 5},{k % 2}" for k in range(200)]
    (tmp_path / "t.csv").write_text("x,patient,label\n" + "\n".join(rows))
    data = open_data(DataConfig(source=str(tmp_path / "t.csv"), group="patient"))
    found = [
        {split.describe(k)["row"]["patient"] for k in range(len(split))}  # type: ignore[attr-defined]
        for split in data.splits.values()
    ]
    assert len(found) == 3 and len(set().union(*found)) == sum(map(len, found)) == 40
    assert [column.name for column in data.preprocess.columns] == ["x"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pattern", "error", "words"),
    [
        ("(", ConfigError, r"data.group=\( is no regular expression"),
        ("q(.)", DataError, r"data.group=q\(.\) finds no group in the path 0/p0_0.png and 79 more"),
        ("(z)?p", DataError, r"finds no group in the path"),
    ],
)
def test_an_expression_that_finds_no_group_is_refused(
    patients: Path, pattern: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_data(DataConfig(source=str(patients), group=pattern))


def test_groups_of_pictures_without_files_or_of_a_column_that_is_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pictures of arrays have none"):
        open_data(DataConfig(source="digits", group="p"))
    (tmp_path / "t.csv").write_text("x,patient,label\n" + "1,p,0\n2,q,1\n" * 20)
    with pytest.raises(DataError, match=r"no column 'patients' \(data.group\). Did you mean 'patient'"):
        open_data(DataConfig(source=str(tmp_path / "t.csv"), group="patients"))
