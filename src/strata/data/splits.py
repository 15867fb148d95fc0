"""Who learns, who validates, who tests: splits that are given are used, others are made, stratified, seeded and said.

The place of a sample is a function of (split_seed, its number), so that it does not change with the library's version.

N samples.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
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
UNEQUAL = 2
"""Times as many training samples of one class as of another, from which on it is said."""


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
    path: Path | None = None,
    *,
    share: float = SHARE_WITHOUT_ANY,
    share_beside: float = SHARE_BESIDE_ANOTHER,
    at_most_beside: int | None = SAMPLES_BESIDE_ANOTHER,
) -> Plan:
    """Decide where validation and test come from.

    Args:
        given: the splits that the data brings.
        path: where the data lie.
        share: of each split that is made where neither is given.
        share_beside: of the one that is made where the other is given; with ``at_most_beside`` samples.

    Raises ConfigError for shares that leave nothing, and for a path that is the training data itself.
    """
    found = Plan()
    settings = {name: setting(config, name) for name in HELD_OUT}
    if any(isinstance(settings[name], Path) or (settings[name] is None and name in given) for name in HELD_OUT):
        share, found.at_most = share_beside, at_most_beside
    for name in HELD_OUT:
        value = settings[name]
        if isinstance(value, Path):
            if path is not None and name not in given and value.resolve() == path.resolve():
                raise ConfigError(
                    f"data.{name}={getattr(config, name)} is the training data itself, and figures on it say nothing. "
                    "Give other data, or a share to hold out, such as 0.1."
                )
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


def _samples(count: int) -> str:
    return f"{count:,} sample{'s' * (count != 1)}"


def divide(
    plan: Plan, n: int, class_N: Tensor | None, seed: int, group_N: Tensor | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Divide ``n`` training samples; return the sample numbers of each split, ascending, and what was done, in words.

    Every class keeps its share in every split as nearly as whole samples (or groups) allow, and keeps at least one to
    train on.

    Args:
        group_N: the number of the group that each sample belongs to: none is divided.
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
    if group_N is not None:
        return _divide_groups(plan, counts, class_N, group_N, seed)
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
                f"{plan.why(name)}: held out {100 * held / n:.3g} % ({_samples(held)}), {how}, split_seed={seed}"
            )
    notes += [f"too few samples for a {name} split" for name in plan.shares if name not in taken]
    order = ("train", *HELD_OUT)
    return {name: torch.cat(picked[name]).sort().values for name in order if name in picked}, notes


def _divide_groups(
    plan: Plan, counts: Mapping[str, int], class_N: Tensor, group_N: Tensor, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Hold out whole groups, at random among those that most have a class in common, until about enough samples are."""
    n, classes = len(class_N), int(class_N.max()) + 1
    table_GK = torch.bincount(group_N * classes + class_N, minlength=(int(group_N.max()) + 1) * classes)
    table_GK = table_GK.view(-1, classes)
    size_G, class_G = table_GK.sum(1), table_GK.argmax(1)
    order_G = rng.bits(seed, "split of groups", 0, torch.arange(len(size_G)))[:, 0].argsort(stable=True)
    left = {k: order_G[class_G[order_G] == k].tolist() for k in range(classes)}
    taken: dict[str, list[int]] = {name: [] for name in counts}
    shares = {k: sum(int(size_G[g]) for g in found) / n for k, found in left.items()}
    for name, count in counts.items():
        for k, found in left.items():
            held = 0
            for group in list(found):
                size = int(size_G[group])
                if len(found) > 1 and held + size / 2 <= count * shares[k]:
                    found.remove(group)
                    taken[name].append(group)
                    held += size
        several = [group for found in left.values() if len(found) > 1 for group in found]
        if not taken[name] and several:  # all are larger than what is wanted
            smallest = min(several, key=lambda group: int(size_G[group]))
            left[int(class_G[smallest])].remove(smallest)
            taken[name].append(smallest)
    split_G = torch.zeros(len(size_G), dtype=torch.int64)
    for number, groups in enumerate(taken.values(), 1):
        split_G[groups] = number
    split_N = split_G[group_N]
    index, notes = {"train": (split_N == 0).nonzero()[:, 0]}, []
    for number, (name, groups) in enumerate(taken.items(), 1):
        if groups:
            index[name] = (split_N == number).nonzero()[:, 0]
            notes.append(
                f"{plan.why(name)}: held out {100 * len(index[name]) / n:.3g} % ({_samples(len(index[name]))}), "
                f"{len(groups):,} of {len(size_G):,} groups and none of them divided, split_seed={seed}"
            )
    notes += [f"too few groups for a {name} split" for name in plan.shares if name not in index]
    return {name: index[name] for name in ("train", *HELD_OUT) if name in index}, notes


def groups_of_paths(files: Mapping[str, Sequence[Path]], pattern: str, root: Path) -> dict[str, list[str]]:
    """Return by part the name of each file's group, as data.group finds it in the path below ``root``.

    Raises ConfigError for what is no regular expression, DataError for files in whose path it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.group={pattern} is no regular expression: {error}.") from None
    found: dict[str, list[str]] = {}
    strangers: list[str] = []
    for part, paths in files.items():
        found[part] = []
        for file in paths:
            place = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
            match = expression.search(place)
            name = None if match is None else match[1 if expression.groups else 0]
            if name is None:
                strangers.append(place)
            found[part].append(name or "")
    if strangers:
        more = f" and {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
        raise DataError(f"data.group={pattern} finds no group in the path {strangers[0]}{more}. Change the expression.")
    return found


def number_groups(names: Sequence[str]) -> Tensor:
    """Return the number of each sample's group: int64 (N,)."""
    number = {name: k for k, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names], dtype=torch.int64)


def shared_groups(groups: Mapping[str, Collection[str]]) -> list[str]:
    """Return a warning in words for each two splits that share groups.

    Args:
        groups: by split, the names of its samples' groups.
    """
    notes = []
    for one, other in itertools.combinations([name for name in ("train", *HELD_OUT) if name in groups], 2):
        both = sorted(set(groups[one]) & set(groups[other]))
        if both:
            lie = "group lies" if len(both) == 1 else "groups lie"
            notes.append(
                f"{len(both):,} {lie} in both {one} and {other} ({', '.join(both[:3])}{', ...' * (len(both) > 3)}): "
                f"what is measured on {other} may be too good"
            )
    return notes


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


def balance_note(labels: Sequence[str], counts: Sequence[int], is_balanced: bool) -> list[str]:
    """Return what a person should know where some classes have far more training samples than others.

    Args:
        counts: training samples of each class.
    """
    most = max(range(len(counts)), key=lambda k: counts[k], default=0)
    least = min(range(len(counts)), key=lambda k: counts[k], default=0)
    if not counts or counts[least] == 0 or counts[most] <= UNEQUAL * counts[least]:
        return []
    if is_balanced:
        often, seldom = (sum(counts) / len(counts) / counts[k] for k in (least, most))
        return [
            f"data.balance: classes are drawn equally often, so a sample of {labels[least]!r} {often:.3g} times an "
            f"epoch and one of {labels[most]!r} {seldom:.3g} times"
        ]
    return [
        f"classes are unequal: {labels[most]!r} has {counts[most]:,} training samples and {labels[least]!r} "
        f"{counts[least]:,}; task.class_weights=balanced or data.balance=true make each class count alike"
    ]


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
