"""Tables with a column to predict: CSV, Parquet, and arrays.

What a column is, number or category, is decided from all rows; every figure that turns it into features (mean,
deviation, levels) is taken from the training rows alone.

N rows.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from strata.data import overlap, splits
from strata.data.dataset import DataConfig, Dataset, TensorSplit, digest
from strata.data.files import read_text
from strata.data.preprocess import FLAGS, MISSING, OTHER, PARSERS, PLURALS, Column, TablePreprocess, parse_category
from strata.data.targets import read_targets
from strata.errors import DataError, UnavailableError, suggest

EXTENSIONS = frozenset((".csv", ".tsv", ".parquet"))
TARGET_NAMES = ("target", "label", "class", "y")
"""What a target column is called, where data.target does not say."""
LEVELS_AT_MOST = 50
"""Of a category; rarer ones are put together."""
ROWS_PER_LEVEL = 2
"""A level in fewer training rows than this is rare."""
DISTINCT_SHARE = 0.5
"""A category with more distinct values than this share of the rows (and more than `LEVELS_AT_MOST`) names rows."""
_DELIMITERS = ",;\t|"


@dataclass
class Table:
    """Columns by name, as read: arrays of numbers, or lists of whatever the file holds."""

    columns: dict[str, Any]
    rows: int
    where: str
    lines: Sequence[int] | None = None
    """Line in the file of each row, counted from 1."""
    decimal: Literal[".", ","] = "."
    notes: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Name a row as a person finds it."""
        return f"row {row + 1}" if self.lines is None else f"row {row + 1} (line {self.lines[row]})"


# ------------------------------------------------------------------------------------------------ reading


def read_table(
    path: Path, target: str | None = None, most: int | None = None, *, columns: Collection[str] = ()
) -> Table:
    """Read a CSV or Parquet file.

    Args:
        target: the column to predict; where the first line names it, that line is a header.
        columns: that a model reads; likewise where the first line names all of them.
        most: bytes of a CSV file that are read; all where it is None.

    Raises DataError for a file without rows or with ragged ones, UnavailableError where pyarrow is missing.
    """
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, target, most, columns)


def read_rows(path: Path, columns: Collection[str] = ()) -> Iterator[Any]:
    """Yield the rows of a CSV or Parquet file as `TablePreprocess.read` takes them: by name, or in order if nameless.

    Args:
        columns: that the model reads, by which a header is told from a row.

    Raises DataError as `read_table` does.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give the .csv or .parquet file.")
    table = read_table(path, columns=columns)
    nameless = table.lines is not None and table.lines[0] == 1  # the first line is a row already
    for row in range(table.rows):
        values = {name: _plain(column[row]) for name, column in table.columns.items()}
        yield list(values.values()) if nameless else values


def _read_csv(path: Path, target: str | None, most: int | None, columns: Collection[str]) -> Table:
    text = read_text(path, most=most)
    if not text.strip():
        raise DataError(f"{path} is empty.")
    delimiter = _delimiter(text)
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    began = 1
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
                lines.append(began)
            began = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table, line {began}: {error}.") from None
    first = [cell.strip() for cell in rows[0]]
    is_named = target in first or (bool(columns) and set(columns) <= set(first))
    has_header = is_named or not any(_is_number(cell) or cell.lower() in MISSING - {""} for cell in first)
    names = [cell or f"column_{k + 1}" for k, cell in enumerate(first)]
    if has_header:
        rows, lines = rows[1:], lines[1:]
    else:
        names = [f"column_{k + 1}" for k in range(len(first))]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has two columns named {twice[0]!r}. Rename one.")
    if not rows:
        raise DataError(f"{path} holds a header but no rows.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise DataError(f"{path} is ragged: line {line} has {len(row)} values, the first line has {len(names)}.")
    found = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    notes = [] if has_header else [f"no header: columns are called {names[0]} to {names[-1]}"]
    return Table(found, len(rows), str(path), lines, "," if delimiter == ";" and _commas(rows) else ".", notes)


def _delimiter(text: str) -> str:
    """Return what separates values: the mark that gives equal rows of the most columns."""
    lines = text.splitlines()[:50]
    best, most = ",", 1
    for mark in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=mark, skipinitialspace=True) if row]
        except csv.Error:
            continue
        if widths[0] > most and sum(width == widths[0] for width in widths) >= 0.9 * len(widths):
            best, most = mark, widths[0]
    return best


def _commas(rows: Sequence[Sequence[str]]) -> bool:
    """Say whether numbers are written 1,5."""
    cells = [cell for row in rows[:50] for cell in row if "," in cell]
    return bool(cells) and all(_is_number(cell.replace(",", ".", 1)) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().lower() not in MISSING


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnavailableError(f"Reading {path} needs pyarrow. Install it: pip install 'strata[tables]'") from None
    try:
        read = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None
    if read.num_rows == 0:
        raise DataError(f"{path} holds columns but no rows.")
    columns: dict[str, Any] = {}
    notes = []
    for name, column in zip(read.column_names, read.columns, strict=True):
        if pyarrow.types.is_nested(column.type) or pyarrow.types.is_binary(column.type):
            notes.append(f"column {name!r} dropped: {column.type} values are not understood")
        elif pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type):
            columns[name] = _numbers(column)
        else:
            columns[name] = column.to_pylist()
    return Table(columns, read.num_rows, str(path), notes=notes)


def _numbers(column: Any) -> np.ndarray:
    import pyarrow

    return np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


# ------------------------------------------------------------------------------------------------ columns


def _kind_of(values: Any, decimal: str) -> str:
    """Return "number", "flag", "date" or "category": the first whose parser takes every value."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return "number"
    present = {value for value in values if not (value is None or _is_missing_text(value))}
    if not present:
        return "number"
    texts = {value.strip().lower() for value in present if isinstance(value, str)}
    if all(isinstance(value, bool) for value in present) or (len(texts) == len(present) and texts <= set(FLAGS)):
        return "flag"
    for kind in ("number", "date"):
        try:
            for value in present:
                PARSERS[kind](value, decimal)
        except (ValueError, TypeError, OverflowError):
            continue
        return kind
    return "category"


def _is_missing_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in MISSING


def _typed(table: Table, name: str, kind: str, decimal: str) -> np.ndarray:
    """Return a column parsed. Raises DataError naming the row of a value that is not of the kind, or infinite."""
    values = table.columns[name]
    if kind == "number" and isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        found = values.astype(np.float64)
    else:
        parse = PARSERS[kind]
        found = np.empty(table.rows, dtype=object if kind == "category" else np.float64)
        for row, value in enumerate(values):
            try:
                found[row] = parse(value, decimal)
            except (ValueError, TypeError, OverflowError):
                raise DataError(
                    f"Column {name!r} of {table.where} holds {PLURALS[kind]}, but {value!r} in {table.place(row)}."
                ) from None
    if kind != "category" and np.isinf(found).any():
        raise DataError(
            f"Column {name!r} of {table.where} is infinite in {table.place(int(np.isinf(found).argmax()))}. "
            f"Replace the value, or leave it empty."
        )
    return found


def _fit(name: str, kind: str, values: np.ndarray) -> Column | str:
    """Return how a column becomes features, or in words why it is dropped; from the training rows."""
    if kind == "category":
        return _fit_category(name, values)
    absent = np.isnan(values)
    present = values[~absent]
    if present.size == 0:
        return "it is empty"
    if present.min() == present.max() and not absent.any():
        return "it is constant"
    if kind == "number" and name.lower().rstrip("_").endswith(("id", "index")) and _counts_rows(present):
        return "it numbers the rows"
    if kind == "number" and name.startswith("column_") and _counts_rows(present):
        return "it numbers the rows"
    periods: list[Any] = []
    if kind == "date":
        span = float(present.max() - present.min())
        periods += ["year"] if span > 180 else []
        periods += ["week"] if span > 7 else []
        periods += ["day"] if (present != np.floor(present)).any() else []
    return Column(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        mean=float(present.mean()),
        std=float(present.std()) or 1.0,
        has_missing=bool(absent.any()),
        periods=tuple(periods),
    )


def _counts_rows(values: np.ndarray) -> bool:
    """Say whether values are whole and all different, and lie as close as numbers of rows do."""
    if len(values) < 10 or not (values == np.floor(values)).all() or len(np.unique(values)) < len(values):
        return False
    return bool(np.ptp(values) < 2 * len(values))


def _fit_category(name: str, values: np.ndarray) -> Column | str:
    counts = Counter(value for value in values if value is not None)
    missing = any(value is None for value in values)
    if not counts:
        return "it is empty"
    if len(counts) == 1 and not missing:
        return "it is constant"
    if len(counts) > LEVELS_AT_MOST and len(counts) > DISTINCT_SHARE * sum(counts.values()):
        return f"its {len(counts):,} distinct values are names or free text, not categories"
    frequent = sorted(counts, key=lambda level: (-counts[level], level))[:LEVELS_AT_MOST]
    kept = sorted(level for level in frequent if counts[level] >= ROWS_PER_LEVEL)
    if not kept:
        return "every value in it is different"
    rare = len(kept) < len(counts)
    return Column(name=name, kind="category", levels=(*kept, OTHER) if rare else tuple(kept), has_missing=missing)


# ------------------------------------------------------------------------------------------------ the data set


def open_table(path: Path, config: DataConfig) -> Dataset:
    """Read a CSV or Parquet file, or a folder with a train file and perhaps validation and test files, as a data set.

    Raises DataError for a target that is missing, constant or incomplete, and for columns that cannot be read.
    """
    files = table_files(path)
    parts = {part: read_table(file, config.target) for part, file in files.items()}
    plan = splits.plan(config, [part for part in parts if part != "train"], path)
    parts = {part: table for part, table in parts.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        elsewhere = table_files(other)
        parts[part] = read_table(elsewhere.get(part, elsewhere["train"]), config.target)
    target = _target_column(parts["train"], config)
    for part, table in list(parts.items()):
        if target not in table.columns:
            if part in plan.paths:
                raise DataError(f"{table.where} has no target column {target!r}. It has: {', '.join(table.columns)}.")
            parts.pop(part)
            plan.notes.append(f"{table.where} has no target column {target!r} and is not used")
    return _build(path.stem, parts, target, config, plan, path=path)


def table_files(path: Path) -> dict[str, Path]:
    """Return the table files of a path by part; none where a folder's files cannot be told apart."""
    if path.is_file():
        return {"train": path}
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    named = {splits.NAMES.get(file.stem.lower(), ""): file for file in files}
    if "train" in named:
        return {part: file for part, file in named.items() if part}
    if len(files) == 1:
        return {"train": files[0]}
    listed = ", ".join(file.name for file in files[:8])
    raise DataError(f"{path} holds several tables ({listed}), none named train. Give the path of one file.")


def column_asked_for(table: Table, column: str, setting: str) -> str:
    """Return a column that a setting names. Raises DataError where there is none."""
    if column not in table.columns:
        hint = suggest(column, table.columns, 40)
        raise DataError(f"{table.where} has no column {column!r} ({setting}).{hint}")
    return column


def groups_of(table: Table, group: str) -> list[str]:
    """Return the name of each row's group; a row without one is a group of its own."""
    column = column_asked_for(table, group, "data.group")
    return [parse_category(value) or table.place(row) for row, value in enumerate(table.columns[column])]


def _target_column(table: Table, config: DataConfig) -> str:
    names = list(table.columns)
    if config.target is not None:
        return column_asked_for(table, config.target, "data.target")
    found = [name for name in names if name.strip().lower() in TARGET_NAMES]
    if len(found) != 1:
        listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        raise DataError(
            f"{table.where} does not say which column to predict. Give data.target=COLUMN, one of: {listed}."
        )
    return found[0]


def from_arrays(
    name: str,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    config: DataConfig,
    plan: splits.Plan,
    *,
    columns: Sequence[str] = (),
    labels: tuple[str, ...] = (),
    path: Path | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Make a data set of arrays (N, F) with targets (N,). Raises DataError where there are no targets."""
    where = str(path or name)
    tables: dict[str, Table] = {}
    for part, (input_NF, target_N) in parts.items():
        if target_N is None:
            raise DataError(f"{where} holds a table without a target. Add an array of labels.")
        if input_NF.dtype.kind not in "biuf":
            raise DataError(f"{where} holds {input_NF.dtype} where numbers are expected.")
        if np.isnan(input_NF.astype(np.float64)).any():
            raise DataError(f"{where} holds NaN among its {part} samples. Remove the samples, or use a CSV.")
        names = columns or [f"feature_{k + 1}" for k in range(input_NF.shape[1])]
        if input_NF.shape[1] != len(names):
            raise DataError(f"{where}: the {part} samples have {input_NF.shape[1]} features, not {len(names)}.")
        found: dict[str, Any] = {column: input_NF[:, k] for k, column in enumerate(names)}
        tables[part] = Table(found | {"target": target_N}, len(input_NF), where)
    plan.notes[:] = notes
    return _build(name, tables, "target", config, plan, labels=labels, path=path)


def _build(
    name: str,
    parts: Mapping[str, Table],
    target: str,
    config: DataConfig,
    plan: splits.Plan,
    *,
    labels: tuple[str, ...] = (),
    path: Path | None = None,
) -> Dataset:
    train = parts["train"]
    notes = [*train.notes, *plan.notes]
    inputs = [column for column in train.columns if column != target]
    for part, table in parts.items():
        lacking = [column for column in inputs if column not in table.columns]
        if lacking:
            raise DataError(f"{table.where}, the {part} split, lacks column {lacking[0]!r} that the training data has.")

    raw_targets = {part: target_values(table.columns[target], train.decimal) for part, table in parts.items()}
    targets = read_targets(
        raw_targets,
        config,
        f"Column {target!r} of {train.where}" if train.lines is not None or path else f"the target of {name!r}",
        labels=labels,
        place=lambda part, row: parts[part].place(row),
    )
    class_N = targets.values["train"] if targets.kind == "class" else None
    if class_N is not None:
        counts = torch.bincount(class_N, minlength=len(targets.labels)).tolist()
        found = dict(zip(targets.labels, counts, strict=True))
        splits.check_classes(targets.labels, found, "row", f"column {target!r} of {train.where}")
    groups = {part: groups_of(table, str(config.group)) for part, table in parts.items()} if config.group else {}
    group_N = splits.number_groups(groups["train"]) if groups else None
    index, said = splits.divide(plan, train.rows, class_N, config.split_seed, group_N)
    in_train_N = index["train"]
    class_of_train = None if class_N is None else class_N[in_train_N]
    index["train"], limited = splits.limit(in_train_N, class_of_train, config.limit, config.split_seed)
    index |= {part: torch.arange(table.rows) for part, table in parts.items() if part != "train"}
    if groups:
        held = {part: [groups[part if part in parts else "train"][k] for k in index[part].tolist()] for part in index}
        said += splits.shared_groups(held)

    kinds = {
        column: _kind_of(_chained([table.columns[column] for table in parts.values()]), train.decimal)
        for column in inputs
    }
    typed = {
        part: {column: _typed(table, column, kinds[column], train.decimal) for column in inputs}
        for part, table in parts.items()
    }
    columns: list[Column] = []
    fitted_rows = index["train"].numpy()
    for column in inputs:
        if column == config.group:
            notes.append(f"column {column!r} dropped: it names groups (data.group)")
            continue
        fitted = _fit(column, kinds[column], typed["train"][column][fitted_rows])
        if isinstance(fitted, Column):
            columns.append(fitted)
        else:
            notes.append(f"column {column!r} dropped: {fitted}")
    if not columns:
        raise DataError(f"{train.where} has no column to learn from besides the target {target!r}.")
    filled = [column.name for column in columns if column.has_missing]
    if filled:
        notes.append(
            f"missing values in {', '.join(filled[:8])}: a number's mean or no level stands in, and a feature says so"
        )
    rare = [column.name for column in columns if OTHER in column.levels]
    if rare:
        notes.append(f"rare levels of {', '.join(rare[:8])} are put together as {OTHER}")

    number: dict[str, Any] = {}
    if targets.kind == "number":
        value_N = targets.values["train"][index["train"]].double()
        number = {"target_mean": float(value_N.mean()), "target_std": float(value_N.std(correction=0)) or 1.0}
    preprocess = TablePreprocess(
        columns=tuple(columns), inputs=tuple(inputs), target=target, labels=targets.labels,
        decimal=train.decimal, **number,
    )  # fmt: skip
    encoded = {
        part: torch.from_numpy(np.concatenate([column.encode(values[column.name]) for column in columns], axis=1))
        for part, values in typed.items()
    }
    found_splits: dict[str, Any] = {}
    for part in ("train", *splits.HELD_OUT):
        if part in index:
            source, index_N = part if part != "train" and part in parts else "train", index[part]
            found_splits[part] = TensorSplit(
                encoded[source][index_N], targets.values[source][index_N], _describer(parts[source], index_N, target)
            )
    repeated = overlap.of_rows({part: (split.input, split.target) for part, split in found_splits.items()})
    said += overlap.told(repeated, found_splits, "rows")
    train_target_N = found_splits["train"].target
    return Dataset(
        name=name,
        kind="table",
        target_kind=targets.kind,
        splits=found_splits,
        sizes={
            "in_features": len(preprocess.features),
            "num_classes": len(targets.labels) if targets.kind == "class" else 1,
        },
        preprocess=preprocess,
        labels=targets.labels,
        class_counts=tuple(torch.bincount(train_target_N, minlength=len(targets.labels)).tolist())
        if targets.kind == "class"
        else (),
        notes=(*notes, *targets.notes, *said, *limited),
        repeated=repeated,
        fingerprint=digest(*(t for s in found_splits.values() for t in (s.input, s.target)), *targets.labels),
        details={"columns": inputs, "features": list(preprocess.features), "target": target}
        | ({"path": str(path)} if path else {}),
    )


def joined(parts: Sequence[Table], names: Sequence[str]) -> Table:
    """Return the rows of several tables one after the other, of these columns."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: _chained([table.columns[name] for table in parts]) for name in names}
    return Table(columns, sum(table.rows for table in parts), parts[0].where, decimal=parts[0].decimal)


def of_arrays(input_NF: np.ndarray, target_N: np.ndarray | None, learned: TablePreprocess, where: str) -> Table:
    """Return arrays as a table with the columns of a model. Raises DataError for another number of them."""
    if input_NF.ndim != 2 or input_NF.shape[1] != len(learned.inputs) or target_N is None:
        raise DataError(
            f"{where} holds samples of shape {input_NF.shape[1:]}{' without targets' * (target_N is None)}; the model "
            f"reads {len(learned.inputs)} features, and a target says what is right."
        )
    found = {name: input_NF[:, k] for k, name in enumerate(learned.inputs)}
    return Table(found | {learned.target: target_N}, len(input_NF), where)


def encoded(table: Table, learned: TablePreprocess, target_N: torch.Tensor) -> TensorSplit:
    """Return a table's rows as a model reads them. Raises DataError for a value that is not of its column's kind."""
    parts = [column.encode(_typed(table, column.name, column.kind, table.decimal)) for column in learned.columns]
    input_NF = torch.from_numpy(np.concatenate(parts, axis=1))
    return TensorSplit(input_NF, target_N, _describer(table, torch.arange(table.rows), learned.target))


def target_values(values: Any, decimal: str) -> np.ndarray:
    """Return a target column's values: float64 where all are numbers, else objects with None where missing."""
    if isinstance(values, np.ndarray):
        return values
    if _kind_of(values, decimal) == "number":
        return np.array([PARSERS["number"](value, decimal) for value in values], dtype=np.float64)
    return np.array([PARSERS["category"](value) for value in values], dtype=object)


def _chained(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _describer(table: Table, index_N: torch.Tensor, target: str) -> Callable[[int], dict[str, Any]]:
    def describe(row: int) -> dict[str, Any]:
        source = int(index_N[row])
        values = {name: column[source] for name, column in table.columns.items()}
        return {
            "row": {name: _plain(value) for name, value in values.items()},
            "place": table.place(source),
        }

    return describe


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
