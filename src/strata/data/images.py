"""Folders of class folders of pictures, and arrays of pictures, as data sets.

A small folder is decoded at once and checked to the last file. A large one begins at once: a part of the headers says
what it holds, and pictures are decoded in threads when a batch first wants them, then kept where all fit in memory.

B samples in a batch, N pictures, C channels, S side.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strata.data import overlap, pictures, splits
from strata.data.dataset import DataConfig, Dataset, TensorSplit, digest
from strata.data.files import NAMED, ignored
from strata.data.preprocess import ImagePreprocess
from strata.device import available_memory_bytes
from strata.errors import ConfigError, DataError

log = logging.getLogger(__name__)

BAD_AT_MOST = 0.01
"""Share of pictures that may be unreadable before the run stops."""
SMALL_SIDE, SQUARE_SIDE, LARGEST_SIDE, SIDE_STEP = 64, 256, 224, 32
KEPT_AT_LEAST = 0.5
"""Share of the median picture, below which it is said that pictures are cut."""
MEMORY_SHARE = 0.25
"""Of the available memory that decoded pictures may take."""
PICTURES_AT_ONCE, PIXELS_AT_ONCE = 10_000, 1_000_000_000
"""In a folder, at most, that is decoded before training begins: some seconds' work on a few cores."""
HEADERS_OF_MANY = 2048
"""Read of a folder with more pictures than are decoded at once, evenly spread."""
PICTURES_FOR_STATISTICS = 1024
"""Decoded to find mean and deviation where not all are decoded anyway."""


@dataclass
class Listing:
    """The picture files of one part of a folder."""

    files: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Of each file; empty where the pictures lie in no class folders."""
    empty_classes: dict[str, Counter[str]] = field(default_factory=dict)
    """What the files of those class folders are that hold no pictures, by their extensions."""


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, sorted by name, without hidden files and what macOS leaves behind.

    Links to a folder that holds them are left out: whoever followed them would never end.
    """
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    return sorted((entry for entry in found if not _leads_back(entry)), key=lambda entry: entry.name)


def _leads_back(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        if not entry.is_dir():
            return False
    except OSError:  # a link to itself
        return True
    return any(folder.samefile(entry.path) for folder in Path(entry.path).absolute().parents)


def divided(folder: Path) -> dict[str, Path]:
    """Return the folders in it that are called after splits, by part."""
    folders = [Path(entry.path) for entry in visible(folder) if entry.is_dir()]
    return {splits.NAMES[path.name.lower()]: path for path in folders if path.name.lower() in splits.NAMES}


def list_folder(root: Path) -> tuple[dict[str, Listing], Counter[str]]:
    """Return the pictures of each part of a folder, and the extensions of the files that are none.

    Folders called train, validation, test (or val, valid, training, testing) are parts, "train" not always among
    them, when no other folder beside them holds pictures; else every folder is a class, and everything is "train".
    """
    others: Counter[str] = Counter()
    folders = [Path(entry.path) for entry in visible(root) if entry.is_dir()]
    named: dict[str, list[Path]] = {}
    for folder in folders:
        named.setdefault(splits.NAMES.get(folder.name.lower(), ""), []).append(folder)
    beside = named.pop("", [])
    if named and not any(pictures_in(folder) for folder in beside):
        for found in named.values():
            if len(found) > 1:
                raise DataError(f"{root} has two folders for one split: {found[0].name} and {found[1].name}. Keep one.")
        pictures_in(root, others, deep=False)
        return {part: _list_part(found[0], others) for part, found in named.items()}, others
    return {"train": _list_part(root, others)}, others


def _list_part(folder: Path, others: Counter[str]) -> Listing:
    found = Listing()
    loose = pictures_in(folder, others, deep=False)
    for entry in visible(folder):
        if entry.is_dir():
            no_pictures: Counter[str] = Counter()
            files = pictures_in(Path(entry.path), no_pictures)
            others += no_pictures
            label = unicodedata.normalize("NFC", entry.name)  # macOS may have taken its accents apart
            found.files += files
            found.classes += [label] * len(files)
            if not files:
                found.empty_classes[label] = no_pictures
    if not found.files:
        return Listing(files=loose)
    for file in loose:
        others[f"{file.suffix.lower()} beside the class folders"] += 1
    return found


def pictures_in(folder: Path, others: Counter[str] | None = None, *, deep: bool = True) -> list[Path]:
    """Return the pictures of a folder in the order of their names, those of its folders too where it is ``deep``.

    The extensions of files that are none are counted in ``others``. What is hidden is left out.
    """
    others = Counter() if others is None else others
    found: list[Path] = []
    for entry in visible(folder):
        if entry.is_dir():
            if deep:
                found += pictures_in(Path(entry.path), others)
            continue
        file = Path(entry.path)
        extension = file.suffix.lower()
        if extension in pictures.EXTENSIONS:
            found.append(file)
        else:
            others[extension or "no extension"] += 1
    return found


class Damage:
    """Pictures that turned out bad while they were decoded, of all splits of a data set together.

    Args:
        total: pictures of the data set.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._bad: dict[Path, str] = {}
        self._lock = threading.Lock()

    def __contains__(self, file: Path) -> bool:
        return file in self._bad

    def remember(self, file: Path, reason: str, *, refuses: bool) -> None:
        """Log a bad picture, once. Raises DataError when too many of all are bad, where ``refuses``."""
        with self._lock:
            if file in self._bad:
                return
            log.warning("%s cannot be read (%s); another picture stands in for it.", file, reason)
            self._bad[file] = reason
            if refuses and len(self._bad) > 1:  # a single one ends no run, however few pictures there are
                _refuse_if_too_many(list(self._bad.items()), self.total, "the data")


class FileSplit:
    """Pictures that are decoded when a batch wants them.

    A picture that turns out bad is logged, and another of its class stands in for it; the run stops when too many are.

    Args:
        files: (N,) of them.
        target: int64 (N,), where there is one.
        keeps: pictures once decoded stay in memory.
        damage: of the whole data set; None: of this split alone.
        refuses: stop when too many pictures are bad. Not of a test split: what was trained is not lost for its sake.
    """

    in_memory = False

    def __init__(
        self,
        files: Sequence[Path],
        target: Tensor | None,
        side: int,
        channels: int,
        framing: pictures.Framing = pictures.MIDDLE,
        keeps: bool = False,
        damage: Damage | None = None,
        refuses: bool = True,
    ) -> None:
        self.files, self.target, self.side, self.channels = list(files), target, side, channels
        self.framing, self.keeps, self.refuses = framing, keeps, refuses
        self._damage = Damage(len(self.files)) if damage is None else damage
        n = len(self.files) if keeps else 0
        self._kept_NCHW = torch.empty((n, channels, side, side), dtype=torch.uint8)  # takes memory as it is written
        self._is_kept_N = torch.zeros(n, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the sample's file."""
        return {"file": str(self.files[index])}

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the samples of these numbers, decoded: uint8 (B, C, S, S). Raises DataError when too many are bad."""
        if self.keeps:
            new_M = index_B[~self._is_kept_N[index_B]].unique()
            if len(new_M):
                self._kept_NCHW[new_M] = self._decode(new_M)
                self._is_kept_N[new_M] = True
            image_BCHW = self._kept_NCHW[index_B]
        else:
            image_BCHW = self._decode(index_B)
        batch = {"input": image_BCHW}
        if self.target is not None:
            batch["target"] = self.target[index_B]
        return batch

    def _decode(self, index_B: Tensor) -> Tensor:
        wanted = index_B.tolist()
        image_BCHW, bad = pictures.read_pictures(
            [self.files[k] for k in wanted], self.side, self.channels, self.framing
        )
        for row, reason in bad.items():
            self._damage.remember(self.files[wanted[row]], reason, refuses=self.refuses)
            image_BCHW[row] = self._stand_in(wanted[row])
        return image_BCHW

    def _stand_in(self, index: int) -> Tensor:
        for other in self._alike(index):
            if self.files[other] in self._damage:
                continue
            image_1CHW, bad = pictures.read_pictures([self.files[other]], self.side, self.channels, self.framing)
            if not bad:
                return image_1CHW[0]
            self._damage.remember(self.files[other], bad[0], refuses=self.refuses)
        raise DataError(f"{self.files[index]} cannot be read, and no other picture of its class can.")

    def _alike(self, index: int) -> list[int]:
        """Return what may stand in for a sample: those of its class that follow it, or those of the nearest number."""
        others = [(index + step) % len(self.files) for step in range(1, len(self.files))]
        if self.target is None:
            return others
        apart_N = (self.target[others] - self.target[index]).abs()
        if self.target.is_floating_point():
            return [others[k] for k in apart_N.argsort(stable=True).tolist()]
        return [others[k] for k in (apart_N == 0).nonzero()[:, 0].tolist()]


def _refuse_if_too_many(bad: Sequence[tuple[Path, str]], total: int, where: str) -> None:
    if len(bad) > BAD_AT_MOST * total:
        raise DataError(
            f"{len(bad):,} of {total:,} pictures in {where} cannot be read, more than {100 * BAD_AT_MOST:g} %: "
            f"{_named(bad)}. Repair or remove them."
        )


def _named(bad: Sequence[tuple[Path, str]]) -> str:
    more = ", ..." if len(bad) > NAMED else ""
    return ", ".join(f"{Path(*file.parts[-2:])} ({reason})" for file, reason in bad[:NAMED]) + more


def decide_side(sizes: Sequence[tuple[int, int]]) -> tuple[int, str]:
    """Return the side that pictures of these (width, height) are brought to, and why."""
    first = sizes[0]
    equal = all(size == first for size in sizes)
    if equal and (max(first) <= SMALL_SIDE or (first[0] == first[1] <= SQUARE_SIDE)):
        return min(first), "their own size" if first[0] == first[1] else f"the short side of {first[0]} x {first[1]}"
    shorts = sorted(min(size) for size in sizes)
    median = shorts[len(shorts) // 2]
    side = min(LARGEST_SIDE, max(SIDE_STEP, SIDE_STEP * round(median / SIDE_STEP)))
    return side, f"from a median short side of {median}"


def open_folder(root: Path, config: DataConfig) -> Dataset:
    """Read a folder of class folders of pictures, or of pictures alone, which then have no target.

    Raises DataError for a class without pictures or with one, for too many unreadable pictures, and for no pictures.
    """
    if config.target_kind == "number":
        raise ConfigError("data.target_kind=number does not fit class folders, whose names are classes.")
    if config.target is not None:
        raise ConfigError(f"data.target={config.target} names a column, and {root} holds no table that lists pictures.")
    notes: list[str] = []
    parts, others = list_folder(root)
    if "train" not in parts:
        raise DataError(f"{root} has folders by the names of {' and '.join(parts)}, and none called train. Rename one.")
    plan = splits.plan(config, [part for part in parts if part != "train"], root)
    notes += plan.notes
    for part in plan.unused:
        parts.pop(part)
    for part, path in plan.paths.items():
        parts[part] = _list_elsewhere(path, part)
    labels = _check_listing(parts, root)
    notes += ignored(others, "picture")

    number = {label: k for k, label in enumerate(labels)}
    return of_files(
        root.name,
        {part: listing.files for part, listing in parts.items()},
        {part: torch.tensor([number[name] for name in listing.classes]) for part, listing in parts.items() if labels},
        plan,
        config,
        root=root,
        labels=labels,
        notes=notes,
    )


def of_files(
    name: str,
    files: Mapping[str, Sequence[Path]],
    targets: Mapping[str, Tensor],
    plan: splits.Plan,
    config: DataConfig,
    *,
    root: Path,
    target_kind: str = "class",
    labels: tuple[str, ...] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Make a data set of picture files, decoded at once where they are few.

    Args:
        files: by part.
        targets: by part, one for each file; empty where there are none.
        root: where the data lie.
        labels: names of the classes.
        groups: by part, the name of each file's group; those that data.group finds in the paths where None.

    Raises DataError for too many unreadable pictures, and for classes of which too few are readable.
    """
    notes = list(notes)
    total = sum(len(paths) for paths in files.values())
    every = 1 if total <= PICTURES_AT_ONCE else -(-total // HEADERS_OF_MANY)
    headers, bad = _read_headers({part: paths[::every] for part, paths in files.items()})
    looked_at = len(bad) + sum(len(found) for found in headers.values())
    _refuse_if_too_many(bad, looked_at, str(root))
    train_sizes = [(header.width, header.height) for header in headers["train"].values()]
    side, why = (config.image_size, "asked for") if config.image_size else decide_side(train_sizes)
    unequal = len(set(train_sizes)) > 1 or train_sizes[0] != (side, side)
    notes.append(f"pictures are {side} x {side}: {why}" + (_how(config) if unequal else ""))
    if looked_at < total:
        notes.append(
            f"{looked_at:,} of {total:,} pictures were looked at, evenly spread, to decide their size and colour"
        )
    grey = all(header.is_grey for found in headers.values() for header in found.values())
    channels = config.channels or (1 if grey else 3)
    if config.channels is None:
        notes.append("pictures are grey" if grey else "pictures are in colour")
    notes += _told_cut(train_sizes, config)
    notes += pictures.told_dim([file for found in headers.values() for file, header in found.items() if header.is_deep])

    known_bad = {file for file, _ in bad}
    sound = {part: [k for k, file in enumerate(paths) if file not in known_bad] for part, paths in files.items()}
    fits = total * channels * side * side <= MEMORY_SHARE * available_memory_bytes()
    pixels = sum(header.width * header.height for found in headers.values() for header in found.values())
    at_once = fits and looked_at == total and pixels <= PIXELS_AT_ONCE
    images: dict[str, Tensor] = {}
    if at_once:
        for part, numbers in sound.items():
            paths = [files[part][k] for k in numbers]
            images[part], failed = pictures.read_pictures(paths, side, channels, config.framing)
            if failed:
                bad += [(paths[k], reason) for k, reason in failed.items()]
                kept = [k for k in range(len(paths)) if k not in failed]
                sound[part] = [numbers[k] for k in kept]
                images[part] = images[part][kept]
        _refuse_if_too_many(bad, total, str(root))
    elif fits:
        notes.append("pictures are decoded when they are first wanted, and then kept in memory")
    else:
        notes.append("pictures do not fit in memory and are decoded for each batch")
    if bad:
        notes.append(f"skipped {len(bad):,} of {looked_at:,} pictures that cannot be read: {_named(bad)}")

    files = {part: [files[part][k] for k in numbers] for part, numbers in sound.items()}
    targets = {part: target_N[sound[part]] for part, target_N in targets.items()}
    if groups is not None:
        groups = {part: [groups[part][k] for k in numbers] for part, numbers in sound.items()}
    elif config.group is not None:
        groups = splits.groups_of_paths(files, config.group, root)
    if labels:
        counts = torch.bincount(targets["train"], minlength=len(labels)).tolist()
        splits.check_classes(labels, dict(zip(labels, counts, strict=True)), "picture", str(root))
    looked_at_files = {file for found in headers.values() for file in found}
    found = assemble(
        name,
        images or None,
        targets,
        plan,
        config,
        side=side,
        channels=channels,
        target_kind=target_kind,
        labels=labels,
        files=files,
        groups=groups,
        notes=notes,
        details={"path": str(root)},
        keeps=fits,
    )
    made = {part: split.files for part, split in found.splits.items() if isinstance(split, FileSplit)}
    content: list[Tensor | str] = [found.fingerprint]
    if not at_once:
        content = ["decoded for each batch", str(side), str(channels), *labels]
        content += [split.target for split in found.splits.values() if split.target is not None]  # type: ignore[attr-defined]
    lists = files if at_once else made  # which say where each picture is, as the first digest does of those in memory
    content += [
        f"{part}/{'/'.join(file.parts[-2:])}" + (f"/{file.stat().st_size}" if file in looked_at_files else "")
        for part, paths in lists.items()
        for file in paths
    ]
    return found.replace(fingerprint=digest(*content))


def _how(config: DataConfig) -> str:
    if config.fit == "stretch":
        return "; both sides stretched to it"
    share = "" if config.crop_share == 1.0 else f" ({config.crop_share:g} of it)"
    return f"; short side resized, middle{share} cut out"


def _told_cut(sizes: Sequence[tuple[int, int]], config: DataConfig) -> list[str]:
    """Return a line where most of the median picture is cut away for its shape; none elsewhere."""
    kept = sorted(min(size) / max(size) for size in sizes)[len(sizes) // 2]
    if config.fit == "stretch" or kept >= KEPT_AT_LEAST:
        return []
    longest = sorted(max(size) for size in sizes)[len(sizes) // 2]
    side = min(LARGEST_SIDE, max(SIDE_STEP, SIDE_STEP * round(longest / SIDE_STEP)))
    return [
        f"of the median picture {100 * (1 - kept):.0f} % is cut away, since it is long: "
        f"data.fit=stretch data.image_size={side} keeps all of it"
    ]


def _list_elsewhere(path: Path, part: str) -> Listing:
    if not path.is_dir():
        raise DataError(f"data.{part}={path} has to be a folder like the training data's.")
    parts, _ = list_folder(path)
    if part not in parts and "train" not in parts:
        raise DataError(f"data.{part}={path} has a folder called {next(iter(parts))}, and none called {part} or train.")
    return parts[part if part in parts else "train"]


def _check_listing(parts: Mapping[str, Listing], root: Path) -> tuple[str, ...]:
    """Refuse listings that nothing can be learned from; return the classes' names."""
    for part, listing in parts.items():
        if not listing.files:
            raise DataError(f"{root} holds no pictures" + (f" for its {part} split." if len(parts) > 1 else "."))
    train = parts["train"]
    if train.empty_classes:
        named = ", ".join(repr(name) for name in [*train.empty_classes][:NAMED])
        held = sum(train.empty_classes.values(), Counter()).most_common(NAMED)
        but = ", but " + ", ".join(f"{count:,} {name}" for name, count in held) if held else ""
        remedy = "Convert those to PNG or JPEG" if held else "Add some"
        raise DataError(f"Class folder {named} in {root} holds no pictures{but}. {remedy}, or remove the folder.")
    labels = tuple(sorted(set(train.classes)))
    if train.classes:
        if len(labels) == 1:
            raise DataError(
                f"{root} has only one class folder, {labels[0]!r}: at least two are needed to tell apart. "
                f"For pictures without classes, give the folder that holds them: {root / labels[0]}"
            )
        splits.check_classes(labels, Counter(train.classes), "picture", str(root))
    for part, listing in parts.items():
        if bool(listing.classes) != bool(train.classes):
            lies, others_lie = ("", "not ") if listing.classes else ("not ", "")
            raise DataError(
                f"The {part} pictures do {lies}lie in class folders, and the training pictures do {others_lie}so. "
                f"data.{part}=0.1 leaves them aside, and holds out a tenth of the training pictures instead."
            )
        strangers = sorted(set(listing.classes) - set(labels))
        if strangers:
            raise DataError(f"The {part} split has class {strangers[0]!r}, which no training picture has.")
    return labels


def _read_headers(
    files: Mapping[str, Sequence[Path]],
) -> tuple[dict[str, dict[Path, pictures.Header]], list[tuple[Path, str]]]:
    headers, bad = {}, []
    for part, paths in files.items():
        found, failed = pictures.read_headers(paths)
        headers[part] = {file: header for file, header in zip(paths, found, strict=True) if header is not None}
        bad += [(paths[k], reason) for k, reason in failed.items()]
    return headers, bad


def assemble(
    name: str,
    images: Mapping[str, Tensor] | None,
    targets: Mapping[str, Tensor],
    plan: splits.Plan,
    config: DataConfig,
    *,
    side: int,
    channels: int,
    target_kind: str = "class",
    labels: tuple[str, ...] = (),
    files: Mapping[str, Sequence[Path]] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
    keeps: bool = False,
) -> Dataset:
    """Divide pictures into splits and measure them.

    Args:
        images: by part, uint8 (N, C, S, S); None where ``files`` are decoded when wanted.
        targets: by part; empty where there are none.
        labels: names of the classes.
        groups: by part, the name of the group that each belongs to.
        keeps: files, once decoded, stay in memory.

    Raises ConfigError where groups are asked for and there are none.
    """
    if config.group is not None and groups is None:
        raise ConfigError("data.group finds groups in the pictures' paths, and pictures of arrays have none.")
    lengths = {part: len(found) for part, found in (images or files or {}).items()}
    train_N = targets.get("train")
    class_N = train_N if target_kind == "class" else None
    group_N = splits.number_groups(groups["train"]) if groups else None
    index, said = splits.divide(plan, lengths["train"], class_N, config.split_seed, group_N)
    index["train"], limited = splits.limit(
        index["train"], None if class_N is None else class_N[index["train"]], config.limit, config.split_seed
    )
    index |= {part: torch.arange(n) for part, n in lengths.items() if part != "train"}

    found: dict[str, Any] = {}
    damage = Damage(sum(len(numbers) for numbers in index.values()))
    for part in ("train", *splits.HELD_OUT):
        if part not in index:
            continue
        source, index_N = part if part in lengths and part != "train" else "train", index[part]
        target_N = targets[source][index_N] if source in targets else None
        paths = [files[source][k] for k in index_N.tolist()] if files is not None else None
        if images is None:
            assert paths is not None
            found[part] = FileSplit(paths, target_N, side, channels, config.framing, keeps, damage, part != "test")
        else:
            whole = len(index_N) == lengths[source]
            image_NCHW = images[source] if whole else images[source].index_select(0, index_N)
            found[part] = TensorSplit(image_NCHW, target_N, *([_describer(paths)] if paths else []))
    if groups:
        held = {part: [groups[part if part in lengths else "train"][k] for k in index[part].tolist()] for part in found}
        said += splits.shared_groups(held)
    repeated = (
        overlap.of_files({part: split.files for part, split in found.items()})
        if images is None
        else overlap.of_pixels({part: split.input for part, split in found.items()})
    )
    said += overlap.told(repeated, found, "pictures", plan.shares if files is not None and not groups else ())
    train = found["train"]
    mean, std = constants(train, config, channels)
    scale = _number_scale(train.target) if target_kind == "number" and train.target is not None else (0.0, 1.0)
    preprocess = ImagePreprocess(
        image_size=side,
        channels=1 if channels == 1 else 3,
        mean=mean,
        std=std,
        labels=labels,
        target_mean=scale[0],
        target_std=scale[1],
        **dataclasses.asdict(config.framing),
    )
    classes = {"num_classes": len(labels) if target_kind == "class" else 1} if targets else {}
    return Dataset(
        name=name,
        kind="image",
        target_kind=target_kind if targets else None,
        splits=found,
        sizes={"in_channels": channels, "image_size": side, "in_features": channels * side * side} | classes,
        preprocess=preprocess,
        labels=labels,
        class_counts=tuple(torch.bincount(train.target, minlength=len(labels)).tolist()) if labels else (),
        notes=(*notes, *said, *limited),
        repeated=repeated,
        fingerprint=""
        if images is None
        else digest(*(t for s in found.values() for t in (s.input, s.target) if t is not None), *labels),
        details=dict(details or {}),
    )


def _describer(paths: Sequence[Path]) -> Callable[[int], dict[str, Any]]:
    return lambda index: {"file": str(paths[index])}


def _number_scale(target_N: Tensor) -> tuple[float, float]:
    values = target_N.double()
    return float(values.mean()), float(values.std(correction=0)) or 1.0


def constants(
    train: FileSplit | TensorSplit, config: DataConfig, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel that the model's pixels are brought to: given, or measured.

    Raises ConfigError for given ones that are not one for each channel, or contradict data.pixels.
    """
    for name, given in (("mean", config.mean), ("std", config.std)):
        if given is not None and config.pixels == "tanh":
            raise ConfigError(f"data.{name} and data.pixels=tanh contradict each other. Leave one out.")
        if given is not None and len(given) != channels:
            raise ConfigError(
                f"data.{name} has {len(given)} values and the pictures {channels} channels: one for each is needed; "
                "data.channels=1 or 3 decides which they are read with."
            )
    if config.pixels == "tanh":
        return (0.5,) * channels, (0.5,) * channels
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    if isinstance(train, FileSplit):
        every = max(1, len(train) // PICTURES_FOR_STATISTICS)
        index_N = torch.arange(0, len(train), every)
        image_NCHW = train.gather(index_N, torch.zeros_like(index_N))["input"]
    else:
        image_NCHW = train.input
    mean, std = _statistics(image_NCHW)
    return config.mean or mean, config.std or std


def _statistics(image_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, where pixels are 0 to 1; from whole counts, so always the same."""
    mean, std = [], []
    value_256 = torch.arange(256, dtype=torch.float64) / 255.0
    for channel in range(image_NCHW.shape[1]):
        count_256 = torch.zeros(256, dtype=torch.int64)
        for chunk in image_NCHW[:, channel].split(4096):
            count_256 += torch.bincount(chunk.reshape(-1), minlength=256)
        share_256 = count_256.double() / count_256.sum()
        middle = float((share_256 * value_256).sum())
        mean.append(middle)
        std.append(float((share_256 * (value_256 - middle) ** 2).sum()) ** 0.5 or 1.0)
    return tuple(mean), tuple(std)
