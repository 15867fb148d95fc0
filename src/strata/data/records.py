"""Records: what a data set of texts consists of, each a dict of named fields, read from the forms that people keep.

Understood: JSON lines, JSON (a list of records, or such lists by split), CSV and TSV, Parquet, each also as .gz; a
format of its own is read by the function that the caller hands in. A split is found by its name: in a folder
(train.jsonl, dev.jsonl, or folders of those names), beside the file that was named (reviews.train.csv and
reviews.test.csv), or inside one JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strata.data import overlap, splits, tables
from strata.data.dataset import DataConfig
from strata.data.files import read_text
from strata.data.images import visible
from strata.errors import DataError, suggest

Record = dict[str, Any]
Reader = Callable[[Path, DataConfig], dict[str, list[Record]]]
"""Reads a file as records by split; what says no split is called "train"."""

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_SPLIT = re.compile(r"(?<![a-z])(training|train|validation|valid|val|dev|testing|test)(?![a-z])|(?<=\d)train", re.I)
NAMES = splits.NAMES | {"dev": "validation"}
_HEADER = re.compile(r"\A(?:\s*#[^\n]*\n)+")
"""Lines of comment before the JSON, such as a licence."""
FIELDS_SHOWN = 20
"""Field names that an error lists."""


@dataclass
class Parts:
    """The records of every split."""

    records: dict[str, list[Record]]
    """By split, "train" among them."""
    notes: list[str] = field(default_factory=list)
    where: str = ""
    repeated: dict[str, int] = field(default_factory=dict)
    """Held-out records that equal a training one, by split, once they are divided."""

    def column(self, name: str) -> dict[str, list[Any]]:
        """Return a field of all records, by split; None where a record lacks it."""
        return {part: [record.get(name) for record in records] for part, records in self.records.items()}

    @property
    def fields(self) -> list[str]:
        """Names of the fields that the training records have, in the order of the first."""
        found: dict[str, None] = {}
        for record in self.records["train"][:1000]:
            found.update(dict.fromkeys(record))
        return list(found)

    def field_called(self, asked: str | None, usual: Sequence[str], setting: str, what: str) -> str:
        """Return the name of the field that holds something.

        Args:
            asked: what the setting says, if anything.
            usual: names that such a field often has, lower case.
            setting: its name, for an error.
            what: what it holds, for an error: "the text".

        Raises DataError where no field is it.
        """
        names = self.fields
        if asked is not None:
            if asked not in names:
                raise DataError(f"{self.where} has no field {asked!r} ({setting}).{suggest(asked, names)}")
            return asked
        found = next((name for word in usual for name in names if name.strip().lower() == word), None)
        if found is None:
            listed = ", ".join(names[:FIELDS_SHOWN])
            raise DataError(f"{self.where} does not say which field holds {what}. Give {setting}=, one of: {listed}.")
        return found


def split_named(name: str) -> str | None:
    """Return the split that a file or field is called after: "stsa.binary.dev" is validation."""
    match = _SPLIT.search(name)
    return None if match is None else NAMES[match.group(0).lower()]


def read_records(path: Path, config: DataConfig, most: int | None = None) -> dict[str, list[Record]]:
    """Read one file as its extension says.

    Args:
        most: bytes that are read of lines of JSON or CSV, to see what they are; all where it is None.

    Raises DataError for what is no list of records.
    """
    extension = extension_of(path)
    if extension in (".csv", ".tsv", ".parquet"):
        table = tables.read_table(path, config.target, most)
        columns = {name: list(values) for name, values in table.columns.items()}
        return {"train": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    if extension == ".json":
        return _from_json(path, read_text(path, config.encoding))
    text = read_text(path, config.encoding, most)
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}, is no JSON: {error}.") from None
            found.append(_as_record(record, f"{path}, line {number},"))
    return {"train": found}


def extension_of(path: Path) -> str:
    """Return the extension in lower case, that below .gz where it is compressed."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _from_json(path: Path, text: str) -> dict[str, list[Record]]:
    try:
        content = json.loads(_HEADER.sub("", text))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}.") from None
    if isinstance(content, list):
        content = {"train": content}
    named = {
        key: split_named(key.replace("_", " "))
        for key, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(value, list)
    }
    if not any(split == "train" for split in named.values()):
        raise DataError(f"{path} holds neither a list of records nor lists called train, validation and test.")
    found: dict[str, list[Record]] = {}
    for key, split in named.items():
        if split is not None:
            found.setdefault(split, []).extend(_as_record(record, f"{path}, {key},") for record in content[key])
    return found


def _as_record(value: Any, where: str) -> Record:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return {"text": value[0], "label": value[1]}
    raise DataError(f"{where} holds {str(value)[:40]!r} where a record {{name: value}} is expected.")


def read_parts(
    path: Path, config: DataConfig, read: Reader = read_records, extensions: Sequence[str] | None = EXTENSIONS
) -> Parts:
    """Read all splits that lie at a path, and those that data.validation and data.test name; make those that lack.

    Args:
        read: reads one file.
        extensions: of the files of a folder that are read; None for all.

    Raises DataError for a path that holds no records, or several data sets.
    """
    notes: list[str] = []
    found = _given(path, config, read, extensions, notes)
    plan = splits.plan(config, [part for part in found if part != "train"], path)
    found = {part: records for part, records in found.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        elsewhere = _given(other, config, read, extensions, [], siblings=False)
        found[part] = elsewhere.get(part) or elsewhere["train"]
    for part, records in found.items():
        if not records:
            raise DataError(f"{path} holds no records" + (f" for its {part} split." if len(found) > 1 else "."))
    return Parts(found, [*notes, *plan.notes], str(path))


def _given(
    path: Path,
    config: DataConfig,
    read: Reader,
    extensions: Sequence[str] | None,
    notes: list[str],
    *,
    siblings: bool = True,
) -> dict[str, list[Record]]:
    """Return the records by split of a file and its siblings, or of a folder."""
    if path.is_dir():
        return _given_in_folder(path, config, read, extensions, notes)
    found = read(path, config)
    if siblings and set(found) == {"train"} and split_named(path.name) == "train":
        pattern = _SPLIT.sub("\0", path.name)
        for file in sorted(Path(entry.path) for entry in visible(path.parent) if not entry.is_dir()):
            split = split_named(file.name)
            if split not in (None, "train") and _SPLIT.sub("\0", file.name) == pattern:
                found[str(split)] = read(file, config)["train"]
                notes.append(f"{split}: {file.name}, which lies beside it")
    return found


def _given_in_folder(
    root: Path, config: DataConfig, read: Reader, extensions: Sequence[str] | None, notes: list[str]
) -> dict[str, list[Record]]:
    files: dict[str, list[Path]] = {}
    for file in _files_below(root):
        if extensions is None or extension_of(file) in extensions:
            place = file.relative_to(root).as_posix()
            files.setdefault(split_named(place) or "", []).append(file)
    if not files:
        listed = ", ".join(extensions or ())
        raise DataError(f"{root} holds no files that are understood here: {listed}.")
    if "train" not in files:
        files = {"train": [file for found in files.values() for file in found]}
    shapes = {re.sub(r"\d+", "", file.name) for file in files["train"]}
    if len(shapes) > 1:
        listed = ", ".join(sorted(file.name for file in files["train"])[:6])
        raise DataError(f"{root} holds several data sets ({listed}). Give the path of one training file.")
    found: dict[str, list[Record]] = {}
    for part in ("train", *splits.HELD_OUT):
        for file in files.get(part, ()):
            for split, records in read(file, config).items():
                found.setdefault(part if split == "train" else split, []).extend(records)
    notes.append(f"read {sum(len(files.get(part, ())) for part in ('train', *splits.HELD_OUT)):,} files")
    return found


def _files_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for entry in visible(folder):
        found += _files_below(Path(entry.path)) if entry.is_dir() else [Path(entry.path)]
    return sorted(found)


def divide(
    parts: Parts,
    config: DataConfig,
    class_of: Mapping[str, Tensor] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Tensor]:
    """Make the splits that the data lacks, and cut the training data to data.limit; say both in the notes.

    Args:
        class_of: class of each record, by split, for splits in which every class keeps its share.
        texts: by which records are equal or not, by split; all that they hold where None.

    Returns the record numbers of each split; numbers of a split that was made count in the training records.
    """
    plan = splits.plan(config, [part for part in parts.records if part != "train"])
    class_N = None if class_of is None else class_of["train"]
    index, notes = splits.divide(plan, len(parts.records["train"]), class_N, config.split_seed)
    of_train = None if class_N is None else class_N[index["train"]]
    index["train"], limited = splits.limit(index["train"], of_train, config.limit, config.split_seed)
    parts.notes += [*notes, *limited]
    given = {part: torch.arange(len(records)) for part, records in parts.records.items() if part != "train"}
    found = {part: (index | given)[part] for part in ("train", *splits.HELD_OUT) if part in index | given}
    told = texts or {part: [repr(record) for record in records] for part, records in parts.records.items()}
    keys = {
        part: [told[part if part in told else "train"][k] for k in index_N.tolist()] for part, index_N in found.items()
    }
    parts.repeated = overlap.of_keys(keys)
    parts.notes += overlap.told(parts.repeated, keys, "records" if texts is None else "texts")
    return found


def divided(parts: Parts, config: DataConfig) -> Parts:
    """Return the records of every split, those made here included."""
    index = divide(parts, config)
    found = {}
    for part, index_N in index.items():
        records = parts.records[part if part in parts.records else "train"]
        found[part] = [records[k] for k in index_N.tolist()]
    return Parts(found, parts.notes, parts.where, parts.repeated)
