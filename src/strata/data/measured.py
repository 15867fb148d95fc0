"""Other data than a model was trained on, read to be measured: as its own preprocessing reads, with its own classes.

The training data takes no part and may be gone: size, channels, columns and the classes' numbers come from the model.

N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from strata.data import arrays, images, listed, source, tables
from strata.data.dataset import DataConfig, Dataset, Split, TensorSplit
from strata.data.preprocess import ImagePreprocess, TablePreprocess
from strata.errors import DataError

T = TypeVar("T")


def open_measured(path: Path, kind: str, learned: Any, labels: Sequence[str], config: DataConfig) -> Dataset | None:
    """Return other data as a data set with a test split alone: its own "test", else everything.

    Args:
        kind: of the training data.
        learned: the model's preprocessing.
        labels: the model's classes, in the order of their numbers; none where it has none.
        config: how the training data was read; where it lies is not looked at.

    None for a kind of data that only its opener can read, beside the training data.
    Raises DataError for data that is missing or of another kind, and for classes that the model does not know.
    """
    if kind not in ("image", "table"):
        return None
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the path of the data to measure on.")
    form = source.form_of(path, kind, config.target if kind == "image" else None)
    if isinstance(learned, TablePreprocess) and form in ("table", "npz"):
        split = _rows(path, form, learned, labels, config)
    elif isinstance(learned, ImagePreprocess) and form == "folder":
        split = _folder(path, learned, labels)
    elif isinstance(learned, ImagePreprocess) and form == "listed":
        split = _listed(path, learned, labels, config)
    elif isinstance(learned, ImagePreprocess) and form in ("idx", "npz"):
        split = _pictures(path, form, learned, labels, config)
    else:
        return None
    return Dataset(
        name=path.stem,
        kind=kind,
        target_kind=None if getattr(split, "target", None) is None else "class" if labels else "number",
        splits={"test": split},
        sizes={},
        preprocess=learned,
        labels=tuple(labels),
        details={"path": str(path)},
    )


def own_test(parts: Mapping[str, T]) -> list[T]:
    """Return what is measured of data that has these parts: its "test", else all of them."""
    return [parts["test"]] if "test" in parts else list(parts.values())


def _folder(path: Path, learned: ImagePreprocess, labels: Sequence[str]) -> Split:
    listings = own_test(images.list_folder(path)[0])
    files = [file for listing in listings for file in listing.files]
    classes = [name for listing in listings for name in listing.classes]
    if not files:
        raise DataError(f"{path} holds no pictures.")
    if labels and len(classes) < len(files):
        raise DataError(f"The pictures in {path} lie in no class folders, and nothing says what is right.")
    target_N = _numbered(classes, labels, path) if labels else None
    assert learned.image_size is not None
    return images.FileSplit(files, target_N, learned.image_size, learned.channels, learned.framing)


def _listed(path: Path, learned: ImagePreprocess, labels: Sequence[str], config: DataConfig) -> Split:
    rows = own_test(listed.read_lists(path, config).rows)
    files = [file for of_part in rows for file in of_part.files]
    raw_N = np.concatenate([listed.raw_values(of_part) for of_part in rows])
    assert learned.image_size is not None
    target_N = _targets(raw_N, labels, config, path)
    return images.FileSplit(files, target_N, learned.image_size, learned.channels, learned.framing)


def _pictures(path: Path, form: str, learned: ImagePreprocess, labels: Sequence[str], config: DataConfig) -> Split:
    assert learned.image_size is not None
    parts = own_test(_parts(path, form))
    pixels = [array for array, _ in parts]
    image_NCHW = arrays.squares(pixels, str(path), learned.image_size, learned.channels, learned.framing)
    targets = [target_N for _, target_N in parts if target_N is not None]
    if not labels and not targets:
        return TensorSplit(image_NCHW)
    if [target_N.size for target_N in targets] != [len(array) for array in pixels]:
        raise DataError(f"{path} has not one label for each sample, and nothing else says what is right.")
    target_N = np.concatenate([target_N.reshape(-1) for target_N in targets])
    return TensorSplit(image_NCHW, _targets(target_N, labels, config, path))


def _parts(path: Path, form: str) -> dict[str, arrays.Part]:
    return arrays.read_idx_parts(path) if form == "idx" else arrays.read_npz_parts(arrays.npz_of(path))[0]


def _rows(path: Path, form: str, learned: TablePreprocess, labels: Sequence[str], config: DataConfig) -> Split:
    if form == "npz":
        found = [tables.of_arrays(*part, learned, str(path)) for part in own_test(_parts(path, form))]
    else:
        found = [tables.read_table(file, learned.target) for file in own_test(tables.table_files(path))]
    wanted = [*(column.name for column in learned.columns), learned.target]
    for table in found:
        lacking = [name for name in wanted if name not in table.columns]
        if lacking:
            raise DataError(f"{table.where} lacks column {lacking[0]!r}. It has: {', '.join(table.columns)}.")
    table = tables.joined(found, wanted)
    target_N = _targets(tables.target_values(table.columns[learned.target], table.decimal), labels, config, path)
    return tables.encoded(table, learned, target_N)


def _targets(raw_N: np.ndarray, labels: Sequence[str], config: DataConfig, path: Path) -> Tensor:
    """Return classes by the model's numbers, int64 (N,), or numbers, float64 (N,)."""
    absent = np.array([value is None or value != value for value in raw_N])
    if absent.any():
        raise DataError(f"The target in {path} is missing in sample {int(absent.argmax())}. Fill it in, or remove it.")
    is_numeric = raw_N.dtype.kind in "biuf"
    if not labels:
        if not is_numeric:
            raise DataError(f"The target in {path} holds {raw_N[0]!r}, and the model learned numbers.")
        return torch.from_numpy(raw_N.astype(np.float64))
    names = [_name(value) for value in raw_N.tolist()]
    if is_numeric and not set(names) <= set(labels):
        named = _names_of(np.unique(raw_N).tolist(), labels, config, path)
        names = [named.get(name, name) for name in names]
    return _numbered(names, labels, path)


def _names_of(found: list[float], labels: Sequence[str], config: DataConfig, path: Path) -> dict[str, str]:
    """Return the class that each number stands for, where the data only numbers them."""
    if not config.labels:  # of data that is known by name, whose classes are numbered from 0
        return {str(k): label for k, label in enumerate(labels)}
    if len(found) != len(labels):
        raise DataError(
            f"{path} numbers its classes and holds {len(found)} of {len(labels)}, which does not tell whose name is "
            "whose. Give data that holds all, or that names them."
        )
    return {_name(value): label for value, label in zip(found, labels, strict=True)}


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool | int | float) and value == int(value) else str(value)


def _numbered(names: Sequence[str], labels: Sequence[str], path: Path) -> Tensor:
    number = {label: k for k, label in enumerate(labels)}
    strangers = sorted(set(names) - set(labels))
    if strangers:
        raise DataError(
            f"{path} has class {strangers[0]!r}, which the model never learned. It knows: {', '.join(labels[:20])}."
        )
    return torch.tensor([number[name] for name in names], dtype=torch.int64)
