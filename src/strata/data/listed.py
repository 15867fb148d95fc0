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
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strata.data import images, pictures, splits, tables
from strata.data.dataset import DataConfig, Dataset
from strata.data.files import NAMED
from strata.data.preprocess import parse_category
from strata.data.records import read_records, split_named
from strata.data.tables import Table
from strata.data.targets import read_targets
from strata.errors import DataError, UnavailableError, suggest

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
    def _called(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        folders, seen = [self.root], 0
        while folders and (self.most is None or seen < self.most):
            for entry in images.visible(folders.pop(0)):
                seen += 1
                file = Path(entry.path)
                if entry.is_dir():
                    folders.append(file)
                elif file.suffix.lower() in pictures.EXTENSIONS:
                    for name in {file.name.lower(), file.stem.lower()}:
                        found.setdefault(name, []).append(file)
        return found

    def files(self) -> set[Path]:
        """Return all of them."""
        return {file for files in self._called.values() for file in files}

    def find(self, named: str, part: str = "train") -> list[Path]:
        """Return the pictures that may be meant: those whose path agrees furthest, and of these the split's own."""
        words = named.strip().replace("\\", "/").lower().split("/")
        files = self._called.get(words[-1], [])
        if not files and "." in words[-1]:  # it may have been saved in another format since
            stem, extension = words[-1].rsplit(".", 1)
            files = self._called.get(stem, []) if f".{extension}" in pictures.EXTENSIONS else []
        if len(files) < 2:
            return files
        agree = [self._agreeing(file, words) for file in files]
        files = [file for file, length in zip(files, agree, strict=True) if length == max(agree)]
        own = [file for file in files if split_named(file.parent.relative_to(self.root).as_posix()) == part]
        return own or files

    def _agreeing(self, file: Path, words: Sequence[str]) -> int:
        above = zip(reversed(file.relative_to(self.root).parts[:-1]), reversed(words[:-1]), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].lower() == pair[1], above))


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

    Class folders beside a table that lists their pictures are learned from instead, where the table does not say what
    is to be predicted, or says the same, or ``kind`` asks for pictures, and no column is asked for by ``target``.

    Raises DataError for a table that names pictures, has nothing else to learn from, and none of them is there.
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
    if kind == "image":
        return False
    table, finder = _beginning(found["train"]), Finder(found["train"].parent, FILES_LOOKED_AT)
    assert table is not None
    predicted = _target(table, str(picture_column(table, finder)), DataConfig())
    return predicted is not None and not folders & set(map(str, _values(table, predicted)))


def picture_column(table: Table, finder: Finder, path: Path | None = None) -> str | None:
    """Return the column that names pictures; None where there is none.

    Args:
        path: of the table, for the error; none is raised without it.
    """
    rows = range(0, table.rows, -(-table.rows // ROWS_LOOKED_AT))
    best, most = None, 0.0
    for name, values in table.columns.items():
        named = [_name_of(values[row]) for row in rows]
        if len(set(named)) < SHARE_FOUND * len(named) or not all(named):
            continue
        found = sum(bool(finder.find(str(value))) for value in named) / len(named)
        are_pictures = all(Path(str(value)).suffix.lower() in pictures.EXTENSIONS for value in named)
        if found > most and (are_pictures or found >= SHARE_FOUND):
            best, most = name, found
        if path is not None and are_pictures and not found and len(table.columns) <= 2:
            raise DataError(
                f"{path} names pictures in column {name!r}, such as {named[0]}, and none of those looked for lies in "
                f"or below {path.parent}. Put the table beside its pictures or above them."
            )
    return best


def _name_of(value: Any) -> str | None:
    """Return what a picture may be called by; None for what names nothing."""
    if isinstance(value, float | np.floating | int | np.integer):
        return str(int(value)) if value == value and value == int(value) else None
    if not isinstance(value, str) or len(value) > 500 or "\n" in value:
        return None
    return value.strip() or None


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
        held = {splits.NAMES[folder.name.lower()]: _listing(folder) for folder in _split_folders(root)}
        single = {part: files[0] for part, files in held.items() if len(files) == 1}
        return single if "train" in single else {}
    if len(found) == 1:
        return {"train": found[0]}
    named = {split_named(file.name): file for file in found}
    if "train" in named and sum(split_named(file.name) == "train" for file in found) == 1:
        return {part: file for part, file in named.items() if part is not None}
    listed = ", ".join(file.name for file in found[:NAMED])
    raise DataError(f"{root} holds several tables that list pictures ({listed}). Give the path of one.")


def _split_folders(root: Path) -> list[Path]:
    return [Path(e.path) for e in images.visible(root) if e.is_dir() and e.name.lower() in splits.NAMES]


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
        elsewhere = read_lists(other, same).rows
        rows[part] = elsewhere.get(part) or elsewhere["train"]
    if plan.shares and found.might_group:
        notes.append(
            f"column {found.might_group!r} may tell what belongs together: data.group={found.might_group} keeps that "
            "in one split"
        )
    targets = read_targets(
        {part: raw_values(of_part) for part, of_part in rows.items()},
        config,
        f"{_called(found.target).capitalize()} of {path}",
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
        lost, repeated = _add(table, part, column, target, config, finders[files[part].parent], found)
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
    column: str,
    target: str | tuple[str, ...],
    config: DataConfig,
    finder: Finder,
    found: dict[str, Rows],
) -> tuple[list[str], int]:
    """Add a table's rows to those of each part; return the pictures that are missing, and how many are listed again."""
    split_of = _split_of(table, part)
    values = _values(table, target)
    groups = _groups(table, config)
    missing: list[str] = []
    twice = 0
    seen: dict[Path, int] = {}
    for row, raw in enumerate(table.columns[column]):
        named = _name_of(raw)
        if named is None:
            raise DataError(f"Column {column!r} of {table.where} names no picture in {table.place(row)}.")
        files = finder.find(named, split_of[row])
        if len(files) > 1:
            both = " and ".join(file.relative_to(finder.root).as_posix() for file in files[:2])
            raise DataError(f"{table.where} calls a picture {named!r} in {table.place(row)}, and {both} are called so.")
        if not files:
            missing.append(named)
            continue
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
        if config.target not in table.columns:
            hint = suggest(config.target, [*table.columns], 40)
            raise DataError(f"{table.where} has no column {config.target!r} (data.target).{hint}")
        return config.target
    others = [
        name
        for name in table.columns
        if name not in (column, config.group) and not _is_split(table, name) and not re.fullmatch(r"column_\d+", name)
    ]
    if not others:  # without a header
        others = [name for name in table.columns if name != column]
    named = [name for name in others if name.strip().lower() in TARGET_NAMES]
    if len(named) == 1 or len(others) == 1:
        return (named or others)[0]
    return tuple(others) if len(others) > 1 and _is_one_hot(table, others) else None


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
    return {**splits.NAMES, "dev": "validation"}.get(value.strip().lower())


def _split_of(table: Table, part: str) -> list[str]:
    """Return the split of each row: as a column says, else that of the table."""
    column = next((name for name in table.columns if _is_split(table, name)), None)
    if column is None or part != "train":
        return [part] * table.rows
    return [str(_split(value)) for value in table.columns[column]]


def _groups(table: Table, config: DataConfig) -> list[str]:
    """Return the group of each row, where data.group names a column; a row without one is a group of its own."""
    if config.group is None or config.group not in table.columns:
        return []
    return [parse_category(value) or table.place(row) for row, value in enumerate(table.columns[config.group])]


def _might_group(table: Table, name: str) -> bool:
    """Say whether a column, by its name, tells which pictures belong together."""
    return bool(GROUP_NAMES.search(name)) and 1 < len({str(value) for value in table.columns[name]}) < table.rows
