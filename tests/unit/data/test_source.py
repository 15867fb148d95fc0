"""What lies at a path is recognised, or refused in one clear line."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from strata.data import DataConfig, files, listed, open_data, recognize, records, source, tables
from strata.errors import ConfigError, DataError


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"does not exist. Did you mean 'photos'\?"):
        recognize(tmp_path / "photo")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"'digit' is neither a path that exists nor a known data set. Did you mean 'digits'\?"
    ):
        recognize("digit")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is an empty folder. Understood: a folder of class folders"):
        recognize(tmp_path)


def test_unknown_contents_are_counted(tmp_path: Path) -> None:
    for name in ("a.xyz", "b.xyz", "c.mat"):
        (tmp_path / name).write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"holds nothing that is understood, but 2 .xyz, 1 .mat. Understood:"):
        recognize(tmp_path)
    with pytest.raises(DataError, match=r"c.mat is not understood \(.mat\)"):
        recognize(tmp_path / "c.mat")


@pytest.mark.parametrize("name", ["data.pkl", "data.pickle", "model.pt", "model.pth", "data.joblib", "disguised.dat"])
def test_a_pickle_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="is a pickle, and a pickle can run any code when it is read"):
        recognize(tmp_path / name)


def test_a_folder_of_pickles_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="a pickle can run any code"):
        recognize(tmp_path)


def test_a_trained_model_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    for path in (tmp_path, tmp_path / "model"):
        with pytest.raises(DataError, match=r"is a trained model, and no data. .* weights="):
            recognize(path)


def test_an_archive_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"is an archive. Unpack it"):
        recognize(tmp_path / "photos.zip")


def test_one_picture_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"is one picture. Give a folder"):
        recognize(tmp_path / "cat.jpg")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="is empty"):
        recognize(tmp_path / "a.txt")


def test_a_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.kind=text does not fit 'digits', which is of kind 'image'"):
        open_data(DataConfig(source="digits", kind="text"))


def test_a_kind_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{k},{k % 2}\n" for k in range(200)))
    assert recognize(tmp_path / "t.csv") == "table"
    assert open_data(DataConfig(source=str(tmp_path / "t.csv"), kind="text")).kind == "text"
    (tmp_path / "t.txt").write_text((tmp_path / "t.csv").read_text())
    assert recognize(tmp_path / "t.txt") == "text"
    assert open_data(DataConfig(source=str(tmp_path / "t.txt"), kind="table")).kind == "table"


def test_a_folder_that_holds_one_npz_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 4, 4), np.uint8), y=np.arange(20) % 2)
    (tmp_path / "LICENSE").write_text("free")
    assert recognize(tmp_path) == "image"
    assert open_data(DataConfig(source=str(tmp_path))).kind == "image"


def test_a_setting_without_effect_says_so() -> None:
    data = open_data(DataConfig(source="iris", image_size=32))
    assert "data.image_size has no effect on data of kind 'table'" in data.notes


def test_a_name_wins_over_a_path_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iris").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (
        "'iris' is the named data set; what lies at that path is ./iris" in open_data(DataConfig(source="iris")).notes
    )


@pytest.mark.parametrize("extension", [".jsonl", ".jsonl.gz", ".csv"])
def test_what_records_are_is_seen_from_their_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str
) -> None:
    rows = [(f"a gripping film, and number {k} of many", ("good", "bad")[k % 2]) for k in range(400)]
    if extension == ".csv":
        content = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows)
    else:
        content = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path = tmp_path / f"reviews{extension}"
    path.write_bytes(gzip.compress(content.encode()) if extension.endswith("gz") else content.encode())
    read: list[int | None] = []
    plain = files.read_text

    def watched(path: Path, encoding: str = "utf-8", most: int | None = None) -> str:
        text = plain(path, encoding, most)
        read.append(len(text))
        return text

    monkeypatch.setattr(source, "_BYTES_LOOKED_AT", 5000)
    monkeypatch.setattr(listed, "BYTES_LOOKED_AT", 5000)
    for module in (records, tables):
        monkeypatch.setattr(module, "read_text", watched)
    found = open_data(DataConfig(source=str(path)))
    assert found.kind == "sentences" and sum(len(split) for split in found.splits.values()) == 400
    assert read[-1] > 5000 and read[:-1] and all(4000 < length <= 5000 for length in read[:-1])
