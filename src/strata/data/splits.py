"""Who learns, who validates, who tests: splits that are given are used, others are made, stratified, seeded and said.

The place of a sample is a function of (split_seed, its number), so that it does not change with the library's version.

N samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from strata import rng
from strata.data.dataset import DataConfig
from strata.errors import ConfigError, DataError

HELD_OUT = ("validation", "test")
NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What folders, files and arrays are called that hold a given split."""
SHARE_WITHOUT_ANY = 0.15
"""Of all samples, for each of validation and test, where the data gives neither."""
SHARE_BESIDE_ANOTHER = 0.10
"""Of the training samples, where the data gives one of the two and the other is made ..."""
SAMPLES_BESIDE_ANOTHER = 5000
"""... but not more than this."""


@dataclass
class Plan:
    """Where validation and test come from."""

    shares: dict[str, float] = field(default_factory=dict)
    """Held out of the training data."""
    paths: dict[str, Path] = field(default_factory=dict)
    """Read from elsewhere."""
    unused: tuple[str, ...] = ()
    """Given by the data, and not wanted."""
    asked: tuple[str, ...] = ()
    """Shares that were asked for, and not chosen here."""
    at_most: int | None = None
    """Samples in a split whose share was chosen here."""
    notes: list[str] = field(default_factory=list)

    def why(self, name: str) -> str:
        """Say why a split is made."""
        return f"data.{name}={self.shares[name]:g}" if name in self.asked else f"no {name} split given"


def setting(config: DataConfig, name: str) -> float | Path | None:
    """Return data.validation or data.test as a share, a path or None.

    Raises ConfigError for a share that is not from 0 up to but not including 1, DataError for a path that is missing.
    """
    value = getattr(config, name)
    if value is None:
        return None
    try:
        share = float(value)
    except ValueError:
        path = Path(value).expanduser()
        if not path.exists():
            raise DataError(f"data.{name}={value} does not exist. Give a path, or a share such as 0.1.") from None
        return path
    if not 0.0 <= share < 1.0:
        raise ConfigError(f"data.{name}={value} is not allowed: a share has to be at least 0 and less than 1.")
    return share


def plan(
    config: DataConfig,
    given: Collection[str],
    *,
    share: float = SHARE_WITHOUT_ANY,
    share_beside: float = SHARE_BESIDE_ANOTHER,
    at_most_beside: int | None = SAMPLES_BESIDE_ANOTHER,
) -> Plan:
    """Decide where validation and test come from.

    Args:
        given: the splits that the data brings.
        share: of each split that is made where neither is given.
        share_beside: of the one that is made where the other is given; with ``at_most_beside`` samples.
    """
    found = Plan()
    settings = {name: setting(config, name) for name in HELD_OUT}
    if any(isinstance(settings[name], Path) or (settings[name] is None and name in given) for name in HELD_OUT):
        share, found.at_most = share_beside, at_most_beside
    for name in HELD_OUT:
        value = settings[name]
        if isinstance(value, Path):
            found.paths[name] = value
        elif value is not None:
            found.asked += (name,)
            if value > 0:
                found.shares[name] = value
        elif name not in given:
            found.shares[name] = share
        if value is not None and name in given:
            found.unused += (name,)
            found.notes.append(f"the data's own {name} split is left unused, since data.{name}={getattr(config, name)}")
    if sum(found.shares.values()) >= 1:
        asked = " and ".join(f"data.{name}={value}" for name, value in found.shares.items())
        raise ConfigError(f"{asked} leave nothing to train on: together they have to be less than 1.")
    return found


def divide(plan: Plan, n: int, class_N: Tensor | None, seed: int) -> tuple[dict[str, Tensor], list[str]]:
    """Divide ``n`` training samples; return the sample numbers of each split, ascending, and what was done, in words.

    Every class keeps its share in every split as nearly as whole samples allow, and keeps at least one to train on.
    """
    counts: dict[str, int] = {}
    for name, share in plan.shares.items():
        counts[name] = max(1, round(share * n))
        if plan.at_most is not None and name not in plan.asked:
            counts[name] = min(counts[name], plan.at_most)
    while sum(counts.values()) >= n and counts:  # too few samples to go round
        counts.pop(next(iter(counts)))
    class_N = torch.zeros(n, dtype=torch.int64) if class_N is None else class_N
    stratified = bool((class_N != class_N[:1]).any())
    place_N = rng.bits(seed, "split", 0, torch.arange(n))[:, 0]
    order_N = place_N.argsort(stable=True)
    order_N = order_N[class_N[order_N].argsort(stable=True)]  # by class, at random within
    sizes = torch.bincount(class_N).tolist() if n else []
    room = [max(0, size - 1) for size in sizes]
    taken = {name: _apportion(count, sizes, room) for name, count in counts.items()}
    picked: dict[str, list[Tensor]] = {name: [] for name in ("train", *taken)}
    start = 0
    for k, size in enumerate(sizes):
        end = start + size
        for name, of_class in taken.items():
            picked[name].append(order_N[start : start + of_class[k]])
            start += of_class[k]
        picked["train"].append(order_N[start:end])
        start = end
    notes = []
    for name, parts in picked.items():
        if name != "train":
            held = sum(len(part) for part in parts)
            how = "stratified" if stratified else "at random"
            notes.append(
                f"{plan.why(name)}: held out {100 * held / n:.3g} % ({held:,} samples), {how}, split_seed={seed}"
            )
    notes += [f"too few samples for a {name} split" for name in plan.shares if name not in taken]
    order = ("train", *HELD_OUT)
    return {name: torch.cat(picked[name]).sort().values for name in order if name in picked}, notes


def _apportion(total: int, sizes: list[int], room: list[int]) -> list[int]:
    """Share ``total`` among classes in proportion to their sizes by largest remainders, within their room, and take
    what was given out of the room."""
    n = sum(sizes)
    given = [min(total * size // max(1, n), space) for size, space in zip(sizes, room, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (-(total * sizes[k] % n), k))
    while sum(given) < total and any(given[k] < room[k] for k in by_remainder):
        for k in by_remainder:
            if sum(given) < total and given[k] < room[k]:
                given[k] += 1
    for k, count in enumerate(given):
        room[k] -= count
    return given


def limit(index_N: Tensor, class_N: Tensor | None, at_most: int | None, seed: int) -> tuple[Tensor, list[str]]:
    """Return at most so many of the training samples, every class in its share, and what was done, in words.

    Args:
        class_N: class of each sample of ``index_N``.
    """
    n = len(index_N)
    if at_most is None or at_most >= n:
        return index_N, []
    class_N = torch.zeros(n, dtype=torch.int64) if class_N is None else class_N
    sizes = torch.bincount(class_N).tolist()
    taken = _apportion(at_most, sizes, list(sizes))
    order_N = rng.bits(seed, "limit", 0, index_N)[:, 0].argsort(stable=True)
    order_N = order_N[class_N[order_N].argsort(stable=True)]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    kept_M = torch.cat([order_N[start : start + count] for start, count in zip(starts, taken, strict=True)])
    return index_N[kept_M.sort().values], [f"data.limit: {at_most:,} of {n:,} training samples are used"]


def check_classes(labels: Collection[str], counts: Mapping[str, int], what: str, where: str) -> None:
    """Refuse classes that nothing can be learned from.

    Args:
        counts: training samples of each class.
        what: what a sample is called: "picture", "row".
        where: the data, for the error's words.

    Raises DataError for a class with one sample, and where there are not two classes.
    """
    single = [label for label in labels if counts.get(label, 0) < 2]
    if single:
        named = ", ".join(f"{label!r} ({counts.get(label, 0)})" for label in single[:5]) + (
            ", ..." if len(single) > 5 else ""
        )
        classes = "Class" if len(single) == 1 else "Classes"
        raise DataError(f"{classes} with fewer than two {what}s in {where}: {named}. Add some, or remove the class.")
    if len(labels) < 2:
        only = f" ({next(iter(labels))!r})" if labels else ""
        raise DataError(f"{where} has only one class{only}: at least two are needed to tell apart.")
