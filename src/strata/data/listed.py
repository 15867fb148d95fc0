"""Pictures that a table lists: a column names the files, another holds the class or the number of each.

The table is a CSV or Parquet file, or lines of JSON, above or beside its pictures: ``labels.csv`` and a folder of
pictures, ``train.csv`` and ``test.csv`` on top of ``train/`` and ``test/``, or one in the folder of each split, as
Hugging Face's imagefolder has its ``metadata.csv`` or ``metadata.jsonl``. It may call a picture by its path or by its
name alone, with its extension or without, in capitals or not: wherever below the table's folder it lies, it is found. A
column called split, if there is one, says who learns, who validates, who tests.

N pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from strata.data import images, pictures, splits, tables
from strata.data.dataset import DataConfig, Dataset
from strata.data.files import NAMED
from strata.data.records import NAMES, read_records, split_named
from strata.data.tables import Table
from strata.data.targets import read_targets
from strata.errors import DataError, UnavailableError

EXTENSIONS = tables.EXTENSIONS | {".jsonl"}
TARGET_NAMES = frozenset((*tables.TARGET_NAMES, "labels", "category", "diagnosis", "dx"))
"""What the column to predict is called, where data.target does not say and there are several."""
SPLIT_NAMES = frozenset(("split", "set", "subset", "partition", "fold", "usage"))
"""What a column is called that says which split a picture is of."""
GROUP_NAMES = re.compile(r"patient|subject|lesion|person|scene|video|series|study|session", re.I)
"""What a column is called that may say which pictures belong together."""
ROWS_LOOKED_AT, BYTES_LOOKED_AT, BYTES_READ_WHOLE = 16, 200_000, 100_000_000
"""Of a table, to see whether it lists pictures; the last of a Parquet file, which cannot be read in part."""
SHARE_FOUND = 0.9
"""Of those rows whose pictures have to be there; where the names end as pictures' do, any will."""
FILES_LOOKED_AT = 500_000
"""Files and folders below a table, at most, for the same."""
MISSING_AT_MOST = images.BAD_AT_MOST
"""Share of listed pictures that may be missing before the run stops."""
_TALKS = frozenset(("conversations", "conversation", "messages", "dialog"))
"""Fields of records that are conversations, though they may be about pictures."""
_NOT_DATA = "submission"
"""In the name of a table that shows what answers to a contest look like."""


class Finder:
    """The pictures below a folder, by whatever a table calls them; they are looked for when first asked for.

    Args:
        most: files and folders that are looked at; all where None.
    """

    def __init__(self, root: Path, most: int | None = None) -> None:
        self.root, self.most = root, most

    @functools.cached_property
    def _at(self) -> dict[str, Path]:
        """The pictures by their path below the root, in small letters."""
        found: dict[str, Path] = {}
        folders, seen = [(self.root, "")], 0
        while folders and (self.most is None or seen < self.most):
            folder, above = folders.pop(0)
            for entry in _entries(folder):
                seen += 1
                if entry.is_dir():
                    folders.append((Path(entry.path), f"{above}{entry.name.lower()}/"))
                elif Path(entry.name).suffix.lower() in pictures.EXTENSIONS:
                    found[above + entry.name.lower()] = Path(entry.path)
                if seen == self.most:
                    break
        return found

    @functools.cached_property
    def _called(self) -> dict[str, list[str]]:
        """Their paths by their names, with extension and without."""
        found: dict[str, list[str]] = {}
        for place in self._at:
            name = place.rpartition("/")[2]
            for key in {name, name.rpartition(".")[0]}:
                found.setdefault(key, []).append(place)
        return found

    def files(self) -> set[Path]:
        """Return all of them."""
        return set(self._at.values())

    def find(self, named: str, part: str = "train", *, strict: bool = False) -> Match:
        """Return the pictures that may be meant: those whose path agrees furthest, and of these the split's own.

        Args:
            part: the split of the picture.
            strict: what lies in a folder that is called after another split is not meant.
        """
        plain = named.strip().replace("\\", "/")
        extension = Path(plain).suffix.lower()
        if extension in pictures.EXTENSIONS and (self.root / plain).is_file():
            return Match([self.root / plain], plain.count("/") + 1)
        words = plain.lower().split("/")
        for start in range(len(words) - 1):  # what lies before may be of another machine
            if (file := self._at.get("/".join(words[start:]))) is not None:
                return Match([file], len(words) - start - 1)
        places = self._called.get(words[-1], [])
        if not places and extension in pictures.EXTENSIONS:  # it may have been saved in another format since
            places = self._called.get(words[-1].rpartition(".")[0], [])
        if strict:
            places = [place for place in places if _split_above(place) in (None, part)]
        agree = [_agreeing(place, words) for place in places]
        most = max(agree, default=0)
        places = [place for place, length in zip(places, agree, strict=True) if length == most]
        if len(places) > 1:
            places = [place for place in places if _split_above(place) == part] or places
        return Match([self._at[place] for place in places], most)


class Match(NamedTuple):
    """Pictures that a name may mean."""

    files: list[Path]
    agreeing: int
    """Folders above that the name has, too."""


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return images.visible(folder)
    except OSError:  # somebody else's, or gone in the meantime
        return []


def _split_above(place: str) -> str | None:
    """Return the split that a folder above a picture is called after."""
    return split_named(place.rpartition("/")[0])


def _agreeing(place: str, words: Sequence[str]) -> int:
    above = zip(reversed(place.split("/")[:-1]), reversed(words[:-1]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], above))


@dataclass
class Rows:
    """Listed pictures of one split that were found."""

    files: list[Path] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    """What is to be predicted of each, as the table has it; empty where it has nothing."""
    groups: list[str] = field(default_factory=list)
    """Of each, where groups are asked for by a column."""
    places: list[str] = field(default_factory=list)
    """Where a person finds its row."""
    decimal: str = "."


@dataclass
class Lists:
    """What the tables of a path list."""

    rows: dict[str, Rows]
    """By part."""
    target: str | tuple[str, ...]
    """The column to predict, or those of which one is 1."""
    notes: list[str]
    might_group: str | None = None
    """A column that may tell what belongs together, where data.group does not."""


# ------------------------------------------------------------------------------------------------ recognising


def is_listed(path: Path, kind: str | None = None, target: str | None = None) -> bool:
    """Say whether a table, or the tables of a folder, list pictures that are to be learned from.

    Class folders beside a table that lists their pictures are learned from instead, where the table says the same, or
    does not say what is to be predicted; unless a column is asked for by ``target``.

    Raises DataError for a table that names pictures, has nothing else to learn from, and none of them is there; and
    where neither a table nor folders are plainly what is to be learned, unless ``kind`` asks for the folders.
    """
    if path.is_file():
        table = _beginning(path)
        return table is not None and picture_column(table, Finder(path.parent, FILES_LOOKED_AT), path) is not None
    found = _tables_of(path)
    if not found:
        return False
    parts, _ = images.list_folder(path)
    folders = {name for listing in parts.values() for name in listing.classes}
    if len(folders) < 2 or target is not None:
        return True
    table, finder = _beginning(found["train"]), Finder(found["train"].parent, FILES_LOOKED_AT)
    assert table is not None
    column = str(picture_column(table, finder))
    predicted = _named_target(table, column)
    if predicted is not None:
        return not folders & set(map(str, _values(table, predicted)))
    words = {word for value in table.columns[column] for word in re.split(r"[/\\]", str(value))[:-1]}
    words |= {str(value) for name, values in table.columns.items() if name != column for value in values}
    are_splits = any(name.lower() in splits.NAMES for name in folders)
    if kind == "image" or (len(folders & words) > 1 and not are_splits):
        return False
    names = ", ".join(name for name in list(table.columns)[:40] if name != column)
    raise DataError(
        f"{found['train']} lists the pictures in {', '.join(sorted(folders)[:NAMED])}, and does not say what is to be "
        f"predicted. Give data.target=COLUMN, one of: {names}; or data.kind=image, and the folders are the classes."
    )


def picture_column(table: Table, finder: Finder, path: Path | None = None) -> str | None:
    """Return the column that names pictures; None where there is none.

    Args:
        path: of the table, for the error; none is raised without it.
    """
    if table.rows == 0:
        return None
    rows = range(0, table.rows, -(-table.rows // ROWS_LOOKED_AT))
    best, most = None, (False, 0.0)
    for name, values in table.columns.items():
        named = [_name_of(values[row]) for row in rows]
        if len(set(named)) < SHARE_FOUND * len(named) or not all(named):
            continue
        found = sum(bool(finder.find(str(value)).files) for value in named) / len(named)
        are_pictures = all(Path(str(value)).suffix.lower() in pictures.EXTENSIONS for value in named)
        if (are_pictures, found) > most and (found if are_pictures else found >= SHARE_FOUND):
            best, most = name, (are_pictures, found)
        if path is not None and are_pictures and not found and len(table.columns) <= 2:
            raise DataError(
                f"{path} names pictures in column {name!r}, such as {named[0]}, and none of those looked for lies in "
                f"or below {path.parent}. Put the table beside its pictures or above them."
            )
    return best


def _name_of(value: Any) -> str | None:
    """Return what a picture may be called by; None for what names nothing."""
    if isinstance(value, float | np.floating | int | np.integer):
        return str(int(value)) if math.isfinite(value) and value == int(value) else None
    if not isinstance(value, str) or len(value) > 500 or "\n" in value:
        return None
    value = value.strip()
    is_fraction = re.fullmatch(r"-?\d*[.,]\d+(e-?\d+)?", value, re.I) is not None
    return None if is_fraction else value or None


def _beginning(path: Path) -> Table | None:
    """Return the first rows of a table; None for what is none."""
    is_large = path.suffix.lower() == ".parquet" and path.stat().st_size > BYTES_READ_WHOLE
    if path.suffix.lower() not in EXTENSIONS or is_large:
        return None
    try:
        return _read(path, most=BYTES_LOOKED_AT)
    except (DataError, UnavailableError):
        return None  # the reader that is tried next says what is wrong


def _read(path: Path, target: str | None = None, most: int | None = None) -> Table:
    """Return a table, read as `tables.read_table` does, or of the plain values of lines of JSON."""
    if path.suffix.lower() != ".jsonl":
        return _with_header(tables.read_table(path, target, most))
    found = read_records(path, DataConfig(source=str(path)), most)["train"]
    if found and _TALKS & found[0].keys():
        raise DataError(f"{path} holds conversations.")
    names = [name for name, value in found[0].items() if not isinstance(value, list | dict)] if found else []
    columns = {name: _as_read([record.get(name) for record in found]) for name in names}
    return Table(columns, len(found), str(path))


def _as_read(values: list[Any]) -> Any:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array(values, dtype=np.float64) if numbers else values


def _with_header(table: Table) -> Table:
    """Return a table whose first line names a picture, and so is no header, with names for its columns."""
    if not any(Path(name.strip()).suffix.lower() in pictures.EXTENSIONS for name in table.columns):
        return table
    columns = {f"column_{k + 1}": [name, *values] for k, (name, values) in enumerate(table.columns.items())}
    lines = None if table.lines is None else [1, *table.lines]
    notes = [*table.notes, f"no header: columns are called column_1 to column_{len(columns)}"]
    return dataclasses.replace(table, columns=columns, rows=table.rows + 1, lines=lines, notes=notes)


def _tables_of(root: Path) -> dict[str, Path]:
    """Return the tables of a folder that list pictures, by part; none where there are none.

    Raises DataError where several do, and none is called train.
    """
    found = _listing(root)
    if not found:
        held = {part: _listing(folder) for part, folder in images.divided(root).items()}
        single = {part: files[0] for part, files in held.items() if len(files) == 1}
        return single if "train" in single else {}
    if len(found) == 1:
        return {"train": found[0]}
    named: dict[str | None, Path] = {}
    for file in sorted(found, key=lambda file: file.stem.lower() not in splits.NAMES):  # val.csv before val_boxes.csv
        named.setdefault(split_named(file.name), file)
    if "train" in named and sum(split_named(file.name) == "train" for file in found) == 1:
        return {part: file for part, file in named.items() if part is not None}
    listed = ", ".join(file.name for file in found[:NAMED])
    raise DataError(f"{root} holds several tables that list pictures ({listed}). Give the path of one.")


def _listing(folder: Path) -> list[Path]:
    """Return the tables in a folder that list pictures below it."""
    files = [Path(entry.path) for entry in images.visible(folder) if not entry.is_dir()]
    files = [f for f in files if f.suffix.lower() in EXTENSIONS and _NOT_DATA not in f.name.lower()]
    if not files:
        return []
    finder = Finder(folder, FILES_LOOKED_AT)
    if not finder.files():
        return []
    beginnings = {file: _beginning(file) for file in files}
    return [file for file, table in beginnings.items() if table is not None and picture_column(table, finder)]


# ------------------------------------------------------------------------------------------------ reading


def open_listed(path: Path, config: DataConfig) -> Dataset:
    """Read pictures and what is to be predicted of each as a table lists them.

    Raises DataError for pictures that are missing or cannot be told apart, a target that is missing or is not plain,
    and a picture that is listed with two targets.
    """
    found = read_lists(path, config)
    rows, notes = found.rows, found.notes
    plan = splits.plan(config, [part for part in rows if part != "train"], path)
    notes += plan.notes
    rows = {part: of_part for part, of_part in rows.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        same = config if isinstance(found.target, tuple) else dataclasses.replace(config, target=found.target)
        elsewhere = read_lists(other, same)
        rows[part] = elsewhere.rows.get(part) or elsewhere.rows["train"]
        notes += [note for note in elsewhere.notes if note.startswith("skipped")]
    if plan.shares and found.might_group:
        notes.append(
            f"column {found.might_group!r} may tell what belongs together: data.group={found.might_group} keeps that "
            "in one split"
        )
    called = _called(found.target)
    raw = {part: raw_values(of_part) for part, of_part in rows.items()}
    notes += _told_joined(raw["train"], found.target)
    targets = read_targets(
        raw,
        dataclasses.replace(config, target_kind="class") if _are_numbered(raw, found.target, config) else config,
        f"{called[0].upper()}{called[1:]} of {path}",
        place=lambda part, row: rows[part].places[row],
    )
    groups = {part: of_part.groups or [*map(str, of_part.files)] for part, of_part in rows.items()}
    return images.of_files(
        path.stem,
        {part: of_part.files for part, of_part in rows.items()},
        targets.values,
        plan,
        config,
        root=path.parent if path.is_file() else path,
        target_kind=targets.kind,
        labels=targets.labels,
        groups=groups if rows["train"].groups else None,
        notes=[*notes, *targets.notes],
    )


def _are_numbered(raw: Mapping[str, np.ndarray], target: str | tuple[str, ...], config: DataConfig) -> bool:
    """Say whether numbers are those of classes, however many: by the column's name, and since they come again."""
    if config.target_kind is not None or not isinstance(target, str) or raw["train"].dtype == object:
        return False
    name, values = target.strip().lower(), raw["train"]
    is_named = name in TARGET_NAMES or re.search(r"class|label|categor|(^|_)id$|species", name) is not None
    is_whole = all(bool((of_part == np.round(of_part)).all()) for of_part in raw.values())
    return is_named and name != "y" and is_whole and len(np.unique(values)) <= len(values) / 2


def _told_joined(values: np.ndarray, target: str | tuple[str, ...]) -> list[str]:
    """Return a line where classes are joined to others, as in "oak|elm"; none elsewhere."""
    distinct = {str(value) for value in values} if values.dtype == object else set()
    for mark in ("|", ";", ",", " "):
        joined = [value for value in distinct if mark in value]
        single = {word.strip() for value in joined for word in value.split(mark)}
        if joined and len(single & distinct) >= len(single) / 2:
            return [
                f"in {_called(target)} classes are joined by {mark!r}, such as {min(joined)!r}: several at once are "
                "not learned, and each combination is a class of its own"
            ]
    return []


def raw_values(rows: Rows) -> np.ndarray:
    """Return what is to be predicted: float64 (N,) where all are numbers, else objects with None where missing."""
    return tables.target_values(rows.values, rows.decimal)


def read_lists(path: Path, config: DataConfig) -> Lists:
    """Return the pictures that a table, or the tables of a folder, list.

    Raises DataError as `open_listed` does.
    """
    files = {"train": path} if path.is_file() else _tables_of(path)
    if not files:
        raise DataError(f"{path} holds no table that lists pictures.")
    read = {part: _read(file, config.target) for part, file in files.items()}
    finders = {folder: Finder(folder) for folder in {file.parent for file in files.values()}}
    train, finder = read["train"], finders[files["train"].parent]
    column = picture_column(train, finder)
    if column is None:
        raise DataError(f"No column of {train.where} names pictures that lie in or below {files['train'].parent}.")
    target = _target(train, column, config)
    if target is None:
        names = ", ".join(name for name in list(train.columns)[:40] if name != column)
        raise DataError(
            f"{train.where} lists pictures and does not say what is to be predicted. Give data.target=COLUMN, one of: "
            f"{names}."
        )
    notes = list(train.notes)
    found: dict[str, Rows] = {}
    missing: list[str] = []
    twice = 0
    for part, table in read.items():
        lacking = [name for name in (column, *_columns_of(target)) if name not in table.columns]
        if lacking:
            notes.append(f"{table.where} has no column {lacking[0]!r} and is not used")
            continue
        named = split_named(files[part].name)
        finder, strict = finders[files[part].parent], len(read) > 1 or named is not None
        lost, repeated = _add(table, part, named or part, column, target, config, finder, found, strict=strict)
        missing += lost
        twice += repeated
    total = sum(len(of_part.files) for of_part in found.values()) + twice + len(missing)
    _refuse_missing(missing, total, path)
    if "train" not in found:
        raise DataError(f"{path} lists no pictures to train on.")
    others = [name for name in train.columns if name not in (column, *_columns_of(target))]
    said = f"{files['train'].name} lists {total:,} pictures in column {column!r}, their targets in {_called(target)}"
    notes.insert(0, said + "; data.kind=table learns from the other columns instead" * bool(others))
    if twice:
        notes.append(f"{twice:,} rows list a picture again, with the same target, and count once")
    if missing:
        notes.append(f"skipped {len(missing):,} of {total:,} listed pictures that are missing: {_some(missing)}")
    used = {file for of_part in found.values() for file in of_part.files}
    unlisted = {file for below in finders.values() for file in below.files()} - used
    if unlisted:
        notes.append(f"{len(unlisted):,} pictures that lie there are not listed, and not used")
    might_group = None if config.group else next((name for name in others if _might_group(train, name)), None)
    return Lists(found, target, notes, might_group)


def _add(
    table: Table,
    part: str,
    near: str,
    column: str,
    target: str | tuple[str, ...],
    config: DataConfig,
    finder: Finder,
    found: dict[str, Rows],
    *,
    strict: bool,
) -> tuple[list[str], int]:
    """Add a table's rows to those of each part; return the pictures that are missing, and how many are listed again.

    Args:
        near: the split whose folders its pictures lie in, if there are such.
        strict: what lies in a folder of another split is another's.
    """
    split_of = _split_of(table, part)
    values = _values(table, target)
    is_column = config.group is not None and config.group in table.columns  # else an expression for paths
    groups = tables.groups_of(table, str(config.group)) if is_column else []
    named_N = [_name_of(raw) for raw in table.columns[column]]
    if None in named_N:
        raise DataError(f"Column {column!r} of {table.where} names no picture in {table.place(named_N.index(None))}.")
    matches = [
        finder.find(str(named), near if of_row == part else of_row, strict=strict)
        for named, of_row in zip(named_N, split_of, strict=True)
    ]
    agrees = any(match.agreeing for match in matches)  # else folders in the names are of another machine
    missing: list[str] = []
    twice = 0
    seen: dict[Path, int] = {}
    for row, (files, agreeing) in enumerate(matches):
        named = str(named_N[row])
        if not files or (agrees and not agreeing and re.search(r"[/\\]", named)):
            missing.append(named)
            continue
        if len(files) > 1:
            both = " and ".join(file.relative_to(finder.root).as_posix() for file in files[:2])
            raise DataError(f"{table.where} calls a picture {named!r} in {table.place(row)}, and {both} are called so.")
        if files[0] in seen:
            before = seen[files[0]]
            if values[before] != values[row] or split_of[before] != split_of[row]:
                raise DataError(
                    f"{table.where} lists {named!r} twice, as {values[before]!r} in {table.place(before)} and as "
                    f"{values[row]!r} in {table.place(row)}. A picture has one target: several classes at once are "
                    "not learned."
                )
            twice += 1
            continue
        seen[files[0]] = row
        of_part = found.setdefault(split_of[row], Rows(decimal=table.decimal))
        of_part.files.append(files[0])
        of_part.values.append(values[row])
        of_part.places.append(table.place(row))
        if groups:
            of_part.groups.append(groups[row])
    return missing, twice


def _refuse_missing(missing: Sequence[str], total: int, path: Path) -> None:
    if len(missing) > MISSING_AT_MOST * total:
        raise DataError(
            f"{len(missing):,} of {total:,} pictures that {path} lists are missing, more than "
            f"{100 * MISSING_AT_MOST:g} %: {_some(missing)}. They have to lie in or below the folder of the table."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)


def _called(target: str | tuple[str, ...]) -> str:
    return f"column {target!r}" if isinstance(target, str) else f"the one of {', '.join(target[:NAMED])} that is 1"


def _columns_of(target: str | tuple[str, ...]) -> tuple[str, ...]:
    return (target,) if isinstance(target, str) else target


def _target(table: Table, column: str, config: DataConfig) -> str | tuple[str, ...] | None:
    """Return the column to predict, or those of which one is 1; None where that is not plain.

    Raises DataError for a column asked for that is not there.
    """
    if config.target is not None:
        return tables.column_asked_for(table, config.target, "data.target")
    others = [
        name
        for name in table.columns
        if name not in (column, config.group) and not _is_split(table, name) and not re.fullmatch(r"column_\d+", name)
    ]
    if not others:  # without a header
        others = [name for name in table.columns if name != column]
    return others[0] if len(others) == 1 else _plain_target(table, others)


def _named_target(table: Table, column: str) -> str | tuple[str, ...] | None:
    """Return what is plainly to be predicted, by names alone; None where nothing is."""
    return _plain_target(table, [name for name in table.columns if name != column and not _is_split(table, name)])


def _plain_target(table: Table, names: Sequence[str]) -> str | tuple[str, ...] | None:
    named = [name for name in names if name.strip().lower() in TARGET_NAMES]
    if len(named) == 1:
        return named[0]
    return tuple(names) if len(names) > 1 and _is_one_hot(table, names) else None


def _is_one_hot(table: Table, names: Sequence[str]) -> bool:
    """Say whether in every row one of these columns is 1 and the others are 0."""
    for row in range(table.rows):
        try:
            values = [float(table.columns[name][row]) for name in names]
        except (TypeError, ValueError):
            return False
        if sorted(values) != [0.0] * (len(names) - 1) + [1.0]:
            return False
    return True


def _values(table: Table, target: str | tuple[str, ...]) -> list[Any]:
    """Return what is to be predicted of each row; of columns of which one is 1, its name."""
    if isinstance(target, str):
        return list(table.columns[target])
    if not _is_one_hot(table, target):
        raise DataError(f"In {table.where} not always one of the columns {', '.join(target[:NAMED])} is 1.")
    return [next(name for name in target if float(table.columns[name][row]) == 1) for row in range(table.rows)]


def _is_split(table: Table, name: str) -> bool:
    if name.strip().lower() not in SPLIT_NAMES:
        return False
    return all(isinstance(value, str) and _split(value) is not None for value in table.columns[name])


def _split(value: str) -> str | None:
    return NAMES.get(value.strip().lower())


def _split_of(table: Table, part: str) -> list[str]:
    """Return the split of each row: as a column says, else that of the table."""
    column = next((name for name in table.columns if _is_split(table, name)), None)
    if column is None or part != "train":
        return [part] * table.rows
    return [str(_split(value)) for value in table.columns[column]]


def _might_group(table: Table, name: str) -> bool:
    """Say whether a column, by its name, tells which pictures belong together."""
    return bool(GROUP_NAMES.search(name)) and 1 < len({str(value) for value in table.columns[name]}) < table.rows
