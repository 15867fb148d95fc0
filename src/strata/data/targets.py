"""What is to be predicted: a class or a number, and the classes' names.

N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strata.data.dataset import DataConfig
from strata.data.preprocess import MISSING_CATEGORY
from strata.errors import DataError

CLASSES_AT_MOST = 20
"""Whole numbers with more distinct values than this are numbers to predict, not classes."""
ROWS_PER_CLASS = 10
"""Likewise whole numbers that would leave fewer rows than this for each class, on average."""


@dataclass(frozen=True)
class Targets:
    """The targets of every part of the data."""

    kind: str
    """"class" or "number"."""
    values: dict[str, Tensor]
    """By part: int64 (N,) classes, or float64 (N,) numbers."""
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_targets(
    raw: Mapping[str, np.ndarray],
    config: DataConfig,
    where: str,
    *,
    labels: tuple[str, ...] = (),
    place: Callable[[str, int], str] = lambda part, row: f"sample {row}",
) -> Targets:
    """Decide what the targets are and number the classes.

    Args:
        raw: by part, "train" among them: numbers, or objects and strings.
        where: what holds the targets, for words: "column 'price'".
        labels: names of the classes 0, 1, ... where they are known.
        place: names a sample of a part, for an error.

    Raises DataError for a target that is missing, not finite, constant, or in no training sample.
    """
    parts = {part: _plain(values) for part, values in raw.items()}
    for part, values in parts.items():
        absent = np.array([_is_missing(value) for value in values]) if values.dtype == object else np.isnan(values)
        if absent.any():
            first, count = int(absent.argmax()), int(absent.sum())
            raise DataError(
                f"{where} has no value (NaN or empty) in {place(part, first)}"
                + (f" and {count - 1} more" if count > 1 else "")
                + ". Fill it in or remove the row."
            )
        if values.dtype != object and np.isinf(values).any():
            raise DataError(f"{where} is infinite in {place(part, int(np.isinf(values).argmax()))}. Remove the row.")
    train = parts["train"]
    distinct = np.unique(train.astype(str) if train.dtype == object else train)
    if len(distinct) < 2:
        only = _shown(distinct[0]) if len(distinct) else "nothing"
        raise DataError(f"{where} is constant: every training sample has {only}. There is nothing to learn.")
    numeric = train.dtype != object
    whole = numeric and all(bool((values == np.round(values)).all()) for values in parts.values())
    few = len(distinct) == 2 or len(distinct) <= min(CLASSES_AT_MOST, len(train) // ROWS_PER_CLASS)
    kind = config.target_kind or ("class" if labels or not numeric or (whole and few) else "number")
    if kind == "number":
        if not numeric:
            value = next(value for value in train if not isinstance(value, float))
            raise DataError(f"{where} cannot be a number to predict: it holds {value!r}. Use data.target_kind=class.")
        note = (
            ""
            if config.target_kind
            else f"{where} holds numbers to predict (data.target_kind=class would make classes)"
        )
        numbers = {part: torch.from_numpy(values) for part, values in parts.items()}
        return Targets("number", numbers, notes=(note,) if note else ())
    if not labels and len(distinct) > max(2, len(train) // 2):
        advice = "Use data.target_kind=number." if numeric else "Is it the right target?"
        raise DataError(f"{where} has {len(distinct):,} classes for {len(train):,} training samples. {advice}")
    note = f"{where} holds {len(distinct)} classes"
    if numeric and not config.target_kind and not labels:
        note += " (data.target_kind=number would make it a number)"
    numbers, names = _number(parts, distinct, whole, labels, where, place)
    if numeric and not labels and config.labels:
        if len(set(config.labels)) != len(names):
            raise DataError(
                f"data.labels gives {len(set(config.labels))} names to the {len(names)} classes of {where}."
            )
        note = f"{where} holds {len(names)} classes: " + ", ".join(map("{} is {}".format, names, config.labels))
        names = config.labels
    return Targets("class", numbers, names, () if labels else (note,))


def _plain(values: np.ndarray) -> np.ndarray:
    """Return float64 for numbers, objects for the rest."""
    return values.astype(np.float64 if values.dtype.kind in "biuf" else object)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_missing(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in MISSING_CATEGORY)


def _number(
    parts: Mapping[str, np.ndarray],
    distinct: np.ndarray,
    whole: bool,
    labels: tuple[str, ...],
    where: str,
    place: Callable[[str, int], str],
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Number the classes in order; with labels given, a class's number is its label's place."""
    if labels:
        known = np.arange(len(labels), dtype=np.float64)
        names = labels
    else:
        known = distinct
        names = tuple(str(int(value)) if whole else str(value) for value in distinct)
    found = {}
    for part, values in parts.items():
        comparable = values.astype(str) if values.dtype == object else values
        number_N = np.searchsorted(known, comparable).clip(0, len(known) - 1)
        stranger = known[number_N] != comparable
        if stranger.any():
            row = int(stranger.argmax())
            raise DataError(
                f"{where} has class {_shown(values[row])} in {place(part, row)}, "
                + (f"outside 0 to {len(labels) - 1}." if labels else "which no training sample has.")
            )
        found[part] = torch.from_numpy(number_N.astype(np.int64))
    return found, names
