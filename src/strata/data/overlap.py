"""Samples that are held out and trained on all the same: what is measured on them says nothing about new ones.

Equal are pictures in memory by their pixels, picture files by their bytes, rows of a table by all that is learned from
with the target, records by their content. Samples are looked at more and more closely, and each look only at those that
the one before could not tell apart, so that large data that holds no equals is hardly read.

N samples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

BYTES_GLANCED_AT = 64
"""Of a sample, evenly spread (of a file: in its middle)."""
BYTES_AT_MOST = 500_000_000
"""Read to the last: about half a second's work where they lie in memory."""
FILES_AT_MOST, FILES_OPENED_AT_MOST = 100_000, 10_000
"""Whose sizes are asked for, and that are opened."""
WORTH_SAYING_WHY = 0.01
"""Share of a split from which on it is said what equals do to its figures."""

Look = Callable[[Any, list[int]], list[Hashable] | None]
"""Returns of samples of these numbers what is equal where they are, or None where that would take too long."""


def of_pixels(input_of: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many pictures of each split but "train" equal one of "train".

    Args:
        input_of: uint8 (N, C, H, W), by split.
    """
    return _count({part: _bytes_of(input_N) for part, input_N in input_of.items()}, (_glance, _all_bytes))


def of_rows(rows_of: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, int]:
    """Likewise of rows: features (N, F) and target (N,), by split."""
    parts = {part: np.concatenate([_bytes_of(column) for column in found], 1) for part, found in rows_of.items()}
    return _count(parts, (_glance, _all_bytes))


def of_files(files_of: Mapping[str, Sequence[Path]]) -> dict[str, int]:
    """Likewise of files; none is told where too many would have to be read."""
    return _count(files_of, (_sizes, _middles, _contents))


def of_keys(keys_of: Mapping[str, Sequence[Hashable]]) -> dict[str, int]:
    """Likewise of what can be compared as it is: texts."""
    return _count(keys_of, (lambda keys, index: [keys[k] for k in index],))


def told(repeated: Mapping[str, int], splits: Mapping[str, Any], noun: str, made: Collection[str] = ()) -> list[str]:
    """Return a note in words for each split that has samples which are trained on.

    Args:
        noun: what samples are called, in the plural.
        made: splits that data.group could have made otherwise.
    """
    notes = []
    for split, count in repeated.items():
        if not count:
            continue
        total, is_one = len(splits[split]), count == 1
        share = count / total
        verb = ("equals a row of" if is_one else "equal rows of") if noun == "rows" else ("is" if is_one else "are")
        note = f"{count:,} of {total:,} {split} {noun} {verb}{' also in' * (noun != 'rows')} the training data"
        if share < WORTH_SAYING_WHY:
            note += f" ({100 * share:.2g} %)"
        else:
            note += f": figures on {'it' if is_one else 'them'} say nothing"
            note += "; data.group keeps what belongs together on one side" * (split in made)
        notes.append(note)
    return notes


def _count(parts: Mapping[str, Any], looks: Sequence[Look]) -> dict[str, int]:
    left = {part: list(range(len(samples))) for part, samples in parts.items()}
    for look in looks:
        keys = {}
        for part, index in left.items():
            found = look(parts[part], index)
            if found is None:
                return {}
            keys[part] = found
        in_train = set(keys["train"])
        in_held = {key for part, found in keys.items() if part != "train" for key in found}
        left = {
            part: [
                k for k, key in zip(index, keys[part], strict=True) if key in (in_held if part == "train" else in_train)
            ]
            for part, index in left.items()
        }
    return {part: len(index) for part, index in left.items() if part != "train"}


def _bytes_of(value_N: Tensor) -> np.ndarray:
    """Return samples as their bytes, uint8 (N, M)."""
    return value_N.contiguous().view(len(value_N), -1).numpy().view(np.uint8)


def _glance(bytes_NM: np.ndarray, index: list[int]) -> list[Hashable]:
    every = -(-bytes_NM.shape[1] // BYTES_GLANCED_AT)
    few_NK = np.ascontiguousarray(bytes_NM[:, every // 2 :: every])
    keys: list[Hashable] = few_NK.view(f"V{few_NK.shape[1]}")[:, 0].tolist()
    return keys if len(index) == len(keys) else [keys[k] for k in index]


def _all_bytes(bytes_NM: np.ndarray, index: list[int]) -> list[Hashable] | None:
    if len(index) * bytes_NM.shape[1] > BYTES_AT_MOST:
        return None
    return [hashlib.blake2b(bytes_NM[k].tobytes(), digest_size=16).digest() for k in index]


def _sizes(files: Sequence[Path], index: list[int]) -> list[Hashable] | None:
    return None if len(index) > FILES_AT_MOST else [_of_file(files[k], lambda file: file.stat().st_size) for k in index]


def _middles(files: Sequence[Path], index: list[int]) -> list[Hashable] | None:
    def middle(file: Path) -> bytes:
        with file.open("rb", buffering=0) as opened:
            opened.seek(os.fstat(opened.fileno()).st_size // 2)
            return opened.read(BYTES_GLANCED_AT)

    return None if len(index) > FILES_OPENED_AT_MOST else [_of_file(files[k], middle) for k in index]


def _contents(files: Sequence[Path], index: list[int]) -> list[Hashable] | None:
    sizes = [size for size in _sizes(files, index) or () if isinstance(size, int)]
    if sum(sizes) > BYTES_AT_MOST:
        return None
    return [_of_file(files[k], lambda file: hashlib.blake2b(file.read_bytes()).digest()) for k in index]


def _of_file(file: Path, look: Callable[[Path], Any]) -> Any:
    """Return what a file shows; of one that cannot be read, what equals nothing."""
    try:
        return look(file)
    except OSError:
        return object()
