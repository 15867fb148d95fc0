"""Arrays on disk as data sets: idx files as MNIST has them (.gz too), npz archives, and CIFAR's binary records.

N samples, C channels, H height, W width.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata.data import images, pictures, splits, tables
from strata.data.dataset import DataConfig, Dataset
from strata.data.targets import Targets, read_targets
from strata.errors import DataError

Part = tuple[np.ndarray, np.ndarray | None]
"""Samples (N, ...) and their targets (N,)."""

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_IMAGES = re.compile(
    r"^(?P<prefix>.*?)(?P<part>train|t10k|test|val|valid|validation)?(?P<dash>[-_.]?)images[-_.]idx(?P<rank>\d)[-_.]ubyte"
    r"(\.gz)?$",
    re.IGNORECASE,
)
_INPUT_KEYS = frozenset(("images", "image", "x", "data", "features", "inputs", "input"))
_TARGET_KEYS = frozenset(("labels", "label", "y", "target", "targets", "classes"))
NPZ_KEYS = "train_images with train_labels (likewise val_*, test_*), x_train with y_train, x with y, data with target"


def is_idx(name: str) -> bool:
    """Say whether a file's name is that of idx pictures."""
    return _IDX_IMAGES.match(name) is not None


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file, gzipped or not. Raises DataError when it is damaged."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Get the file again.") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise DataError(f"{path} is not an idx file: it begins with {content[:4].hex(' ') or 'nothing'}.")
    kind, rank = np.dtype(_IDX_TYPES[content[2]]), content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4 : 4 + 4 * rank], dtype=">u4"))
    start, count = 4 + 4 * rank, int(np.prod(shape, dtype=np.int64))
    if len(shape) != rank or len(content) - start != count * kind.itemsize:
        raise DataError(
            f"{path} is damaged: its header says {shape}, which is {count * kind.itemsize:,} bytes, "
            f"but {max(0, len(content) - start):,} follow. Get the file again."
        )
    return np.frombuffer(content, dtype=kind, offset=start).reshape(shape).astype(kind.newbyteorder("="), copy=False)


def _labels_of(images_path: Path) -> Path:
    """Return the file with the labels that belong to a file with pictures."""
    name = re.sub("images", "labels", images_path.name.removesuffix(".gz"), flags=re.IGNORECASE)
    name = re.sub(r"idx\d", "idx1", name, flags=re.IGNORECASE)
    for candidate in (name, f"{name}.gz"):
        if images_path.with_name(candidate).is_file():
            return images_path.with_name(candidate)
    raise DataError(f"{images_path} has no labels beside it: {name} (or {name}.gz) is missing.")


def read_idx_parts(path: Path) -> dict[str, Part]:
    """Read a folder of idx files, or one file of pictures with its labels. Raises DataError."""
    if path.is_file():
        return {"train": (read_idx(path), read_idx(_labels_of(path)))}
    found: dict[str, Path] = {}
    for entry in images.visible(path):
        match = _IDX_IMAGES.match(entry.name)
        if match is None:
            continue
        said = (match["part"] or "train").lower()
        part = "test" if said == "t10k" else splits.NAMES[said]
        file = Path(entry.path)
        if part in found and found[part].name.removesuffix(".gz") != file.name.removesuffix(".gz"):
            raise DataError(f"{path} holds two sets: {found[part].name} and {file.name}. Give the path of one file.")
        found.setdefault(part, file)
    if "train" not in found:
        raise DataError(f"{path} holds no training pictures: train-images-idx3-ubyte or .gz is missing.")
    return {part: (read_idx(file), read_idx(_labels_of(file))) for part, file in found.items()}


def read_npz_parts(path: Path) -> tuple[dict[str, Part], list[str]]:
    """Read an npz archive; return its parts, and the names of arrays that were not used. Raises DataError."""
    inputs: dict[str, np.ndarray] = {}
    targets: dict[str, np.ndarray] = {}
    unused = []
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz archive, or not a whole one. Save it again with numpy.savez.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                role = _role_of(key)
                if role is None:
                    unused.append(key)
                    continue
                part, group = role[0], inputs if role[1] == "input" else targets
                if part in group:
                    raise DataError(f"{path} holds two arrays for the {part} {role[1]}s. Keep one.")
                group[part] = archive[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds object arrays, which are pickles, and a pickle can run any code when it is read. "
                f"Save plain numbers or strings."
            ) from None
        raise DataError(f"{path} cannot be read: {error}.") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}. Save it again.") from None
    if "train" not in inputs:
        raise DataError(f"{path} holds {', '.join(unused) or 'no'} arrays that are not understood. Known: {NPZ_KEYS}.")
    strangers = sorted(set(targets) - set(inputs))
    if strangers:
        raise DataError(f"{path} holds {strangers[0]} labels without {strangers[0]} samples.")
    return {part: (array, targets.get(part)) for part, array in inputs.items()}, unused


def _role_of(key: str) -> tuple[str, str] | None:
    words = key.lower().split("_")
    named = [splits.NAMES[word] for word in words if word in splits.NAMES]
    rest = [word for word in words if word not in splits.NAMES]
    if len(named) > 1 or len(rest) != 1:
        return None
    part = named[0] if named else "train"
    if rest[0] in _INPUT_KEYS:
        return part, "input"
    return (part, "target") if rest[0] in _TARGET_KEYS else None


def open_idx(path: Path, config: DataConfig, *, name: str = "", labels: tuple[str, ...] = ()) -> Dataset:
    """Read idx files as a data set. Raises DataError."""
    return from_parts(name or path.name, read_idx_parts(path), config, labels=labels, path=path, again=read_idx_parts)


def npz_of(path: Path) -> Path:
    """Return the npz archive at a path: itself, or the one that the folder holds."""
    if not path.is_dir():
        return path
    return next(Path(entry.path) for entry in images.visible(path) if entry.name.lower().endswith(".npz"))


def open_npz(path: Path, config: DataConfig) -> Dataset:
    """Read an npz archive, or a folder that holds one, as a data set. Raises DataError."""
    path = npz_of(path)
    parts, unused = read_npz_parts(path)
    notes = [f"arrays not used: {', '.join(unused)}"] if unused else []
    return from_parts(path.stem, parts, config, path=path, notes=notes, again=lambda other: read_npz_parts(other)[0])


def open_cifar(path: Path, config: DataConfig, *, name: str, labels: tuple[str, ...]) -> Dataset:
    """Read CIFAR-10's binary archive, without unpacking it to disk. Raises DataError."""
    records: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                base = Path(member.name).name
                if base.endswith(".bin") and (file := archive.extractfile(member)) is not None:
                    part = "test" if base.startswith("test") else "train"
                    records[part].append(np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Remove it, to have it downloaded again.") from None
    parts: dict[str, Part] = {}
    for part, found in records.items():
        whole = np.concatenate(found)
        parts[part] = whole[:, 1:].reshape(-1, 3, 32, 32), whole[:, 0]
    return from_parts(name, parts, config, labels=labels, path=path)


def from_parts(
    name: str,
    parts: Mapping[str, Part],
    config: DataConfig,
    *,
    labels: tuple[str, ...] = (),
    path: Path | None = None,
    notes: Sequence[str] = (),
    again: Any = None,
) -> Dataset:
    """Make a data set of arrays: (N, F) a table, (N, H, W) and (N, H, W, C) or (N, C, H, W) pictures.

    Args:
        labels: names of the classes 0, 1, ... where they are known.
        again: reads parts from another path, for data.validation and data.test.

    Raises DataError for shapes and values that are neither, and for lengths that do not match.
    """
    where = str(path or name)
    plan = splits.plan(config, [part for part in parts if part != "train"], path)
    parts = {part: found for part, found in parts.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        if again is None:
            raise DataError(f"data.{part}={other} cannot stand beside {name!r}. Give a share such as 0.1.")
        elsewhere = again(other)
        parts[part] = elsewhere.get(part, elsewhere.get("train"))
    flat: dict[str, Part] = {}
    for part, (input_N, target_N) in parts.items():
        if target_N is not None:
            if target_N.ndim == 2 and target_N.shape[1] == 1:
                target_N = target_N[:, 0]
            if target_N.ndim != 1:
                raise DataError(
                    f"The {part} labels in {where} have shape {target_N.shape}; one for each sample, (N,), is needed."
                )
            if len(target_N) != len(input_N):
                raise DataError(
                    f"{where} has {len(input_N):,} {part} samples but {len(target_N):,} labels. They have to match."
                )
        if len(input_N) == 0:
            raise DataError(f"{where} has no {part} samples.")
        if (target_N is None) != (parts["train"][1] is None):
            raise DataError(f"{where} has labels for some splits only; {part} and train differ.")
        flat[part] = input_N, target_N
    ranks = {array.ndim for array, _ in flat.values()}
    if ranks == {2}:
        return tables.from_arrays(name, flat, config, plan, labels=labels, path=path, notes=[*plan.notes, *notes])
    if len(ranks) != 1 or not ranks <= {3, 4}:
        shapes = ", ".join(f"{part} {array.shape}" for part, (array, _) in flat.items())
        raise DataError(
            f"{where} holds shapes that are not understood: {shapes}. Pictures are (N, H, W) or (N, H, W, C)."
        )
    return _pictures(name, flat, config, plan, labels, path, [*plan.notes, *notes])


def _pictures(
    name: str,
    parts: Mapping[str, Part],
    config: DataConfig,
    plan: splits.Plan,
    labels: tuple[str, ...],
    path: Path | None,
    notes: list[str],
) -> Dataset:
    where = str(path or name)
    stretch = _stretch([array for array, _ in parts.values()], where)
    raw = {part: _channels_first(stretch(array), where) for part, (array, _) in parts.items()}
    height, width = raw["train"].shape[2:]
    side, why = (config.image_size, "asked for") if config.image_size else images.decide_side([(width, height)])
    channels = config.channels or raw["train"].shape[1]
    notes.append(f"pictures are {side} x {side}: {why}")
    tensors = {part: _resize(array, side, channels, config.framing) for part, array in raw.items()}
    targets = Targets("class", {})
    given = {part: target_N for part, (_, target_N) in parts.items() if target_N is not None}
    if given:
        targets = read_targets(given, config, f"the target in {where}", labels=labels)
        if targets.kind == "class":
            counts = torch.bincount(targets.values["train"], minlength=len(targets.labels)).tolist()
            names = dict(zip(targets.labels, counts, strict=True))
            splits.check_classes(targets.labels, names, "picture", where)
    return images.assemble(
        name,
        tensors,
        targets.values,
        plan,
        config,
        side=side,
        channels=channels,
        target_kind=targets.kind,
        labels=targets.labels,
        notes=[*notes, *targets.notes],
        details={"path": str(path)} if path else {},
    )


def squares(parts: Sequence[np.ndarray], where: str, side: int, channels: int, framing: pictures.Framing) -> Tensor:
    """Return arrays of pictures one after the other as uint8 (N, C, S, S). Raises DataError for what is no picture."""
    if not {array.ndim for array in parts} <= {3, 4}:
        raise DataError(f"{where} holds no pictures, which are (N, H, W) or (N, H, W, C).")
    stretch = _stretch(parts, where)
    return torch.cat([_resize(_channels_first(stretch(array), where), side, channels, framing) for array in parts])


def _stretch(arrays: Sequence[np.ndarray], where: str) -> Any:
    """Return the function that brings pixels to uint8, the same for all parts.

    Raises DataError for values that are NaN or in no range that is understood.
    """
    if all(array.dtype == np.uint8 for array in arrays):
        return lambda array: array
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise DataError(f"{where} holds {arrays[0].dtype} where pixels are expected.")
    low = min(float(array.min()) for array in arrays)
    high = max(float(array.max()) for array in arrays)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{where} holds pixels that are NaN or infinite. Remove or replace them.")
    fractions = any(array.dtype.kind == "f" for array in arrays)
    if low >= 0 and high <= 1:
        return lambda array: np.round(array.astype(np.float32) * 255.0).astype(np.uint8)
    if fractions and low >= -1 and high <= 1:
        return lambda array: np.round((array.astype(np.float32) + 1.0) * 127.5).astype(np.uint8)
    if low >= 0 and high <= 255:
        return lambda array: np.round(array).astype(np.uint8)
    raise DataError(f"{where} holds pixels from {low:g} to {high:g}. Understood: 0 to 255, 0 to 1, and -1 to 1.")


def _channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """Return pictures as (N, C, H, W)."""
    if array.ndim == 3:
        return array[:, None]
    if array.shape[-1] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if array.shape[1] in (1, 3):
        return array
    raise DataError(
        f"{where} holds pictures of shape {array.shape[1:]}; grey (1) or colour (3) channels are understood."
    )


def _resize(array_NCHW: np.ndarray, side: int, channels: int, framing: pictures.Framing) -> Tensor:
    if array_NCHW.shape[1:] == (channels, side, side) and framing.crop_share == 1.0:
        return torch.from_numpy(np.array(array_NCHW, order="C"))
    found = np.empty((len(array_NCHW), channels, side, side), dtype=np.uint8)
    for k, pixels in enumerate(array_NCHW):
        found[k] = pictures.to_square(pictures.from_array(pixels), side, channels, framing)
    return torch.from_numpy(found)
