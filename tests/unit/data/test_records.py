"""Records of text are read from the forms that people keep, and their splits found."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from strata.data import records
from strata.data.dataset import DataConfig
from strata.errors import DataError


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(source=str(path), **settings)  # type: ignore[arg-type]


def lines(count: int, word: str = "w") -> str:
    return "".join(json.dumps({"text": f"{word} {k}", "label": k % 2}) + "\n" for k in range(count))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("stsa.binary.dev", "validation"),
        ("wnut17train.conll", "train"),
        ("emerging.test.annotated", "test"),
        ("oos val", "validation"),
        ("jaquad_train_0001.json", "train"),
        ("trainer.txt", None),
        ("latest.csv", None),
    ],
)
def test_a_name_says_its_split(name: str, split: str | None) -> None:
    assert records.split_named(name) == split


def test_splits_that_lie_beside_the_named_file_are_found_and_said(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("dev", 3), ("test", 2)):
        (tmp_path / f"a.{part}.jsonl").write_text(lines(count, part))
    (tmp_path / "b.test.jsonl").write_text(lines(5))
    path = tmp_path / "a.train.jsonl"
    parts = records.read_parts(path, config(path))
    assert {part: len(found) for part, found in parts.records.items()} == {"train": 8, "validation": 3, "test": 2}
    assert "test: a.test.jsonl, which lies beside it" in parts.notes


def test_a_folder_of_shards_is_one_data_set_and_a_folder_of_two_is_refused(tmp_path: Path) -> None:
    for name in ("part_train_0.jsonl", "part_train_1.jsonl", "part_dev_0.jsonl"):
        (tmp_path / name).write_text(lines(4))
    parts = records.read_parts(tmp_path, config(tmp_path))
    assert len(parts.records["train"]) == 8
    (tmp_path / "other_train.jsonl").write_text(lines(4))
    with pytest.raises(DataError, match="holds several data sets"):
        records.read_parts(tmp_path, config(tmp_path))


def test_what_is_not_given_is_made_and_said(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(lines(100))
    parts = records.divided(records.read_parts(path, config(path)), config(path))
    assert {part: len(found) for part, found in parts.records.items()} == {"train": 70, "validation": 15, "test": 15}
    assert any("no test split given" in note for note in parts.notes)
    texts = {record["text"] for found in parts.records.values() for record in found}
    assert len(texts) == 100


def test_other_paths_are_taken_for_validation_and_test(tmp_path: Path) -> None:
    for name, count in (("one.jsonl", 10), ("two.jsonl", 4), ("three.jsonl.gz", 3)):
        path = tmp_path / name
        content = lines(count).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    settings = config(
        tmp_path / "one.jsonl", validation=str(tmp_path / "two.jsonl"), test=str(tmp_path / "three.jsonl.gz")
    )
    parts = records.divided(records.read_parts(tmp_path / "one.jsonl", settings), settings)
    assert {part: len(found) for part, found in parts.records.items()} == {"train": 10, "validation": 4, "test": 3}


def test_one_json_file_may_hold_all_splits_and_pairs_of_text_and_label(tmp_path: Path) -> None:
    path = tmp_path / "data_full.json"
    path.write_text(
        json.dumps({"train": [["a b", "x"]], "oos_train": [["c", "oos"]], "val": [["d", "x"]], "test": [["e", "x"]]})
    )
    parts = records.read_parts(path, config(path))
    assert parts.records["train"] == [{"text": "a b", "label": "x"}, {"text": "c", "label": "oos"}]
    assert set(parts.records) == {"train", "validation", "test"}


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2, is no JSON"):
        records.read_parts(path, config(path))


def test_a_field_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(5))
    parts = records.read_parts(path, config(path))
    with pytest.raises(DataError, match="Did you mean 'label'"):
        parts.field_called("lable", (), "data.target", "the target")
    with pytest.raises(DataError, match=r"does not say which field holds the answer\. Give data.target=, one of: text"):
        parts.field_called(None, ("answer",), "data.target", "the answer")
