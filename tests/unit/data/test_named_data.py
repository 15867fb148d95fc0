"""The data sets that have a name."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from strata.data import DATASETS, DataConfig, arrays, catalog, open_data, recognize
from strata.data.tokens import TextPreprocess


def test_listing_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from strata.data import DATASETS\n"
        "assert [entry.summary for entry in DATASETS.values()]\n"
        "assert not {'torch', 'sklearn', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_entry_says_what_it_is() -> None:
    assert {name for name, entry in DATASETS.items() if entry.bundled} == {
        "digits", "iris", "wine", "breast-cancer", "diabetes", "pycode",
    }  # fmt: skip
    for name, entry in DATASETS.items():
        assert entry.name == name and entry.kind in ("image", "table", "text")
        assert entry.summary and entry.samples and entry.origin
        for file in entry.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0
            assert all(url.startswith("http") and url.endswith(file.name) for url in file.urls)


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.bundled])
def test_bundled_data_opens_offline_with_three_splits(name: str) -> None:
    data = open_data(DataConfig(source=name))
    assert data.kind == DATASETS[name].kind == recognize(name)
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.fingerprint and data.fingerprint == open_data(DataConfig(source=name)).fingerprint


def test_digits_keep_their_sixteen_greys() -> None:
    import sklearn.datasets

    data = open_data(DataConfig(source="digits", validation=0, test=0))
    index = torch.arange(1797)
    batch = data.splits["train"].gather(index, index)
    assert batch["input"].dtype == torch.uint8
    back = torch.round(batch["input"][:, 0].double() * 16 / 255).numpy()
    assert np.array_equal(back, sklearn.datasets.load_digits().images)
    assert data.labels == tuple("0123456789")


def test_diabetes_is_a_number_and_the_others_are_classes() -> None:
    assert open_data(DataConfig(source="diabetes")).target_kind == "number"
    assert open_data(DataConfig(source="breast_cancer")).labels == ("malignant", "benign")


def test_pycode_is_ascii_source_divided_by_file() -> None:
    data = open_data(DataConfig(source="pycode"))
    assert isinstance(data.preprocess, TextPreprocess) and data.preprocess.tokens == "character"
    assert all(character.isascii() for character in data.preprocess.characters)
    text = data.preprocess.decode(data.splits["train"].token_N[:200_000])  # type: ignore[attr-defined]
    assert "import " in text and "def " in text
    assert not any("test" in file.parent.parts or "site-packages" in file.parts for file in catalog.pycode_files())


def test_cifars_binary_records_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    records = random.integers(0, 256, (40, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(40) % 10
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in (
            ("data_batch_1", records[:20]),
            ("data_batch_2", records[:20]),
            ("test_batch", records[20:]),
        ):
            (tmp_path / name).write_bytes(rows.tobytes())
            archive.add(tmp_path / name, f"cifar-10-batches-bin/{name}.bin")
    labels = DATASETS["cifar10"].labels
    data = arrays.open_cifar(path, DataConfig(validation=0), name="cifar10", labels=labels)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 40, "test": 20}
    batch = data.splits["test"].gather(torch.tensor([3]), torch.tensor([0]))
    assert np.array_equal(batch["input"][0].numpy().reshape(-1), records[23, 1:])
    assert data.labels[int(batch["target"][0])] == "cat"
