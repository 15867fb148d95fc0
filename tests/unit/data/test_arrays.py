"""idx files and npz archives."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from strata.data import DataConfig, Dataset, arrays, open_data, recognize
from strata.errors import DataError

RANDOM = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = ".gz") -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = RANDOM.integers(0, 256, (40, 6, 6)), np.arange(40) % 4
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", pixels)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", labels)
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", pixels[:8])
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", labels[:8])
    return pixels, labels


def read(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(path), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_named_as_mnist_is_read_with_its_test_split(tmp_path: Path, suffix: str) -> None:
    pixels, labels = write_mnist(tmp_path, suffix)
    assert recognize(tmp_path) == "image"
    data = read(tmp_path, validation=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 40, "test": 8}
    batch = data.splits["train"].gather(torch.tensor([5, 2]), torch.zeros(2, dtype=torch.int64))
    assert np.array_equal(batch["input"][:, 0].numpy(), pixels[[5, 2]])
    assert batch["target"].tolist() == labels[[5, 2]].tolist()


def test_one_idx_file_finds_its_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert sum(len(split) for split in read(tmp_path / "train-images-idx3-ubyte.gz").splits.values()) == 40
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"has no labels beside it: train-labels-idx1-ubyte \(or"):
        read(tmp_path / "train-images-idx3-ubyte.gz")


def test_a_truncated_idx_file_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is damaged: its header says .* but 1,439 follow"):
        read(tmp_path)


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read: Compressed file ended"):
        read(tmp_path)


def test_lengths_that_do_not_match_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 4, 4), np.uint8), y=np.arange(4))
    with pytest.raises(DataError, match="has 5 train samples but 4 labels"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "names",
    [("train_images", "train_labels"), ("x_train", "y_train"), ("x", "y"), ("images", "labels"), ("data", "target")],
)
def test_usual_names_of_arrays_are_understood(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: np.zeros((20, 4, 4), np.uint8), names[1]: np.arange(20)[:, None] % 2})
    data = read(tmp_path / "a.npz")
    assert (data.kind, data.target_kind, data.labels) == ("image", "class", ("0", "1"))


def test_all_three_splits_of_an_npz_are_used(tmp_path: Path) -> None:
    found = {}
    for part, count in (("train", 30), ("val", 6), ("test", 9)):
        found |= {f"{part}_images": np.zeros((count, 4, 4), np.uint8), f"{part}_labels": np.arange(count) % 3}
    np.savez(tmp_path / "a.npz", **found)
    lengths = {name: len(split) for name, split in read(tmp_path / "a.npz").splits.items()}
    assert lengths == {"train": 30, "validation": 6, "test": 9}


@pytest.mark.parametrize("shape", [(20, 5, 5, 3), (20, 3, 5, 5)])
def test_channels_may_stand_last_or_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(20) % 2)
    data = read(tmp_path / "a.npz", validation=0, test=0)
    batch = data.splits["train"].gather(torch.tensor([7]), torch.tensor([0]))
    wanted = pixels[7] if shape[1] == 3 else pixels[7].transpose(2, 0, 1)
    assert np.array_equal(batch["input"][0].numpy(), wanted)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_floating_point_pixels_become_bytes(tmp_path: Path, low: float, high: float) -> None:
    whole = np.arange(256, dtype=np.float64).reshape(4, 8, 8).repeat(2, 0)
    np.savez(tmp_path / "a.npz", x=low + whole / 255 * (high - low), y=np.arange(8) % 2)
    data = read(tmp_path / "a.npz", validation=0, test=0)
    index = torch.arange(8)
    assert np.array_equal(data.splits["train"].gather(index, index)["input"][:, 0].numpy(), whole)


def test_labels_that_are_not_counted_from_zero_are_mapped_and_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 4, 4), np.uint8), y=np.array([3, 7, -1] * 10))
    data = read(tmp_path / "a.npz", validation=0, test=0)
    assert data.labels == ("-1", "3", "7")
    index = torch.arange(3)
    assert data.splits["train"].gather(index, index)["target"].tolist() == [1, 2, 0]


def test_two_dimensions_are_a_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RANDOM.normal(size=(50, 4)), y=RANDOM.normal(size=50))
    assert recognize(tmp_path / "a.npz") == "table"
    data = read(tmp_path / "a.npz")
    assert (data.kind, data.target_kind, data.sizes) == ("table", "number", {"in_features": 4, "num_classes": 1})


@pytest.mark.parametrize("shape", [(20, 4, 4), (20, 4)])
def test_nan_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = RANDOM.random(shape)
    values[3] = np.nan
    np.savez(tmp_path / "a.npz", x=values, y=np.arange(20) % 2)
    with pytest.raises(DataError, match="NaN"):
        read(tmp_path / "a.npz")


def test_object_arrays_are_refused_as_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}, []], dtype=object), y=np.arange(2))
    with pytest.raises(DataError, match="pickles, and a pickle can run any code"):
        read(tmp_path / "a.npz")


def test_an_npz_with_other_names_says_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    with pytest.raises(DataError, match=r"holds weights arrays that are not understood. Known: train_images with"):
        read(tmp_path / "a.npz")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(DataError, match="not an npz archive, or not a whole one"):
        read(tmp_path / "a.npz")


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 3, 3, 3)), y=np.arange(4))
    with pytest.raises(DataError, match=r"shapes that are not understood: train \(4, 3, 3, 3, 3\)"):
        read(tmp_path / "a.npz")


def test_idx_keeps_every_type(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [0.25, 8.0]], dtype=">f4")
    (tmp_path / "a").write_bytes(b"\0\0\x0d\x02" + struct.pack(">2I", 2, 2) + values.tobytes())
    assert arrays.read_idx(tmp_path / "a").tolist() == values.tolist()


def test_a_test_file_elsewhere_is_numbered_like_the_training_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 4, 4), np.uint8), y=np.array([3, 7, 9] * 10))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 4, 4), np.uint8), y=np.array([9, 3, 3, 9]))
    data = read(tmp_path / "a.npz", test=str(tmp_path / "b.npz"))
    index = torch.arange(4)
    assert data.splits["test"].gather(index, index)["target"].tolist() == [2, 0, 0, 2]
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 4, 4), np.uint8), y=np.array([9, 3, 4, 9]))
    with pytest.raises(DataError, match="has class 4 in sample 2, which no training sample has"):
        read(tmp_path / "a.npz", test=str(tmp_path / "b.npz"))


def test_classes_that_are_only_numbered_get_the_names_that_are_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((20, 4, 4), np.uint8), labels=np.arange(20) % 2)
    data = read(tmp_path / "a.npz", labels=("normal", "pneumonia"))
    assert data.labels == ("normal", "pneumonia")
    assert any("0 is normal, 1 is pneumonia" in note for note in data.notes)
    with pytest.raises(DataError, match=r"data\.labels gives 3 names to the 2 classes of"):
        read(tmp_path / "a.npz", labels=("a", "b", "c"))


def test_names_for_classes_that_have_names_are_said_to_have_no_effect() -> None:
    data = open_data(DataConfig(source="iris", labels=("a", "b", "c")))
    assert data.labels == ("setosa", "versicolor", "virginica")
    assert any(note.startswith("data.labels has no effect") for note in data.notes)
