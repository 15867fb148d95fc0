"""From what a user names to a data set: what lies at a path is looked at, and read as what it is."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from strata.data import (
    arrays,
    catalog,
    chat,
    images,
    listed,
    pairs,
    pictures,
    preferences,
    questions,
    records,
    sentences,
    splits,
    tables,
    tags,
    text,
    text_pairs,
)
from strata.data.augment import without_effect
from strata.data.dataset import TEXTUAL, DataConfig, Dataset
from strata.errors import ConfigError, DataError, suggest

UNDERSTOOD = (
    "a folder of class folders of pictures (jpg, png, bmp, webp, gif, tiff), a table that lists pictures, idx files "
    "(.gz too), an .npz, a .csv or .parquet, or plain text (a file or a folder)"
)
_PICKLES = frozenset((".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt"))
_ARCHIVES = frozenset((".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar"))
_PROSE = frozenset((".txt", ".md", ".rst", ".py"))
_FILES_LOOKED_AT = 20_000
_BYTES_LOOKED_AT = 1_000_000
"""Of a file of records in lines, whose kind is seen from the fields of the first."""
_BYTES_READ_WHOLE = 100_000_000
"""Of one that cannot be read in part, for the same; a larger one needs data.kind."""
_KIND_OF = {
    "folder": "image",
    "listed": "image",
    "idx": "image",
    "npz": "image",
    "pairs": "pairs",
    "table": "table",
    "text": "text",
    "sentences": "sentences",
    "tags": "tags",
    "questions": "questions",
    "text_pairs": "text_pairs",
    "chat": "chat",
    "preferences": "preferences",
}
_OPENERS: dict[str, Callable[[Path, DataConfig], Dataset]] = {
    "folder": images.open_folder,
    "listed": listed.open_listed,
    "idx": arrays.open_idx,
    "npz": arrays.open_npz,
    "pairs": pairs.open_pairs,
    "table": tables.open_table,
    "text": text.open_text,
    "sentences": sentences.open_sentences,
    "tags": tags.open_tags,
    "questions": questions.open_questions,
    "text_pairs": text_pairs.open_pairs,
    "chat": chat.open_chat,
    "preferences": preferences.open_preferences,
}
_OF_RECORDS = tuple(kind for kind in TEXTUAL if kind != "text")
"""Kinds of data that are records of text; each has an opener of its own name."""
_FITS: dict[str, Callable[[list[records.Record]], bool]] = {
    "text_pairs": text_pairs.are_pairs,
    "sentences": sentences.are_sentences,
    "tags": tags.are_tags,
    "questions": questions.are_questions,
    "preferences": preferences.are_preferences,
    "chat": chat.are_conversations,
}
"""What tells from the first records of a file that they are of a kind; the first that fits decides."""
_ONLY_FOR = {
    "image_size": ("image", "pairs"),
    "channels": ("image", "pairs"),
    "fit": ("image", "pairs"),
    "crop_share": ("image", "pairs"),
    "interpolation": ("image", "pairs"),
    "pixels": ("image", "pairs"),
    "mean": ("image", "pairs"),
    "std": ("image", "pairs"),
    "augment": ("image", "pairs"),
    "target": ("pairs", "listed", "table", *_OF_RECORDS),
    "region": ("pairs",),
    "crop_size": ("pairs",),
    "group": ("image", "table"),
    "tokens": TEXTUAL,
    "vocab_size": TEXTUAL,
    "lowercase": TEXTUAL,
    "tokenizer": TEXTUAL,
    "sentinels": TEXTUAL,
    "column": TEXTUAL,
    "encoding": TEXTUAL,
    "separate_documents": ("text",),
    "max_length": _OF_RECORDS,
    "stride": ("questions",),
    "target_kind": ("image", "pairs", "table", "sentences"),
    "labels": ("image", "table", "sentences", "tags"),
}
"""Settings that do nothing for other kinds of data; "listed" is that of pictures which has a column for its target."""


def open_data(config: DataConfig) -> Dataset:
    """Read the data that a config names, ready to be learned from.

    Raises DataError for data that is missing, unreadable or unfit, and ConfigError for settings that contradict it.
    """
    entry = catalog.find(config.source)
    form = ""
    if entry is not None:
        as_pairs = config.kind == "pairs" and entry.kind == "image"
        _check_kind(config, "pairs" if as_pairs else entry.kind)
        dataset = pairs.alone(entry.open(config), config) if as_pairs else entry.open(config)
        if Path(config.source).exists():
            note = f"{config.source!r} is the named data set; what lies at that path is ./{config.source}"
            dataset = dataset.replace(notes=(note, *dataset.notes))
    else:
        path = _existing(config.source)
        form = form_of(path, config.kind, config.target)
        dataset = _OPENERS[form](path, config)
        _check_kind(config, dataset.kind)
    idle = [
        f"data.{name} has no effect on data of kind {dataset.kind!r}"
        for name, kinds in _ONLY_FOR.items()
        if {dataset.kind, form}.isdisjoint(kinds) and getattr(config, name) != _DEFAULTS[name]
    ]
    numbered = config.labels == dataset.labels or (dataset.kind == "tags" and {*config.labels} & {*dataset.labels})
    if config.labels and dataset.kind in _ONLY_FOR["labels"] and not numbered:
        idle.append("data.labels has no effect: the data has names for its classes, or no classes")
    if dataset.kind in _ONLY_FOR["augment"]:
        idle += without_effect(config.augment)
    if config.balance and not dataset.class_counts:
        raise ConfigError(f"data.balance draws classes equally often, and {dataset.name!r} has none to tell apart.")
    balance = splits.balance_note(dataset.labels, dataset.class_counts, config.balance)
    return dataset.replace(notes=(*dataset.notes, *balance, *idle), balance=config.balance)


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(DataConfig)}


def recognize(source: str | Path) -> str:
    """Return what kind of data a name or path is: "image", "pairs", "table" or "text".

    Raises DataError for a path that does not exist, is empty, holds pickles, or is not understood.
    """
    entry = catalog.find(str(source))
    if entry is not None:
        return entry.kind
    path = _existing(str(source))
    form = form_of(path, None)
    if form == "npz":
        return _kind_of_npz(path)
    return _KIND_OF[form]


def _check_kind(config: DataConfig, kind: str) -> None:
    if config.kind not in (None, kind):
        raise ConfigError(f"data.kind={config.kind} does not fit {config.source!r}, which is of kind {kind!r}.")


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.exists():
        if os.sep in source or path.suffix:
            parent = path.parent
            beside = [entry.name for entry in images.visible(parent)] if parent.is_dir() else []
            hint = suggest(path.name, beside).split(" Known:")[0]
            raise DataError(f"{source} does not exist.{hint}")
        raise DataError(
            f"{source!r} is neither a path that exists nor a known data set.{suggest(source, catalog.DATASETS)}"
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"{source} may not be read: permission denied.")
    return path


def form_of(path: Path, kind: str | None, target: str | None = None) -> str:
    """Return the name of the reader for a path.

    Args:
        target: the column to predict, or what pairs call their targets, where it is asked for.
    """
    if kind is None and text_pairs.are_parallel(path):
        return "text_pairs"
    if kind is None and tags.are_tagged_lines(path):
        return "tags"
    if kind is None and questions.are_squad(path):
        return "questions"
    if kind in _OF_RECORDS:
        return str(kind)
    are_lines = kind is None and path.suffix.lower() == ".jsonl" and path.is_file()
    if are_lines and (form := _form_of_fields(path)) is not None:
        return form
    are_pairs = kind is None and path.is_dir() and pairs.is_paired(path)
    if kind in (None, "image") and not are_pairs and listed.is_listed(path, kind, target):
        return "listed"
    return _form_of_folder(path, kind) if path.is_dir() else _form_of_file(path, kind)


def _form_of_file(path: Path, kind: str | None) -> str:
    extension = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder.")
    with path.open("rb") as file:
        head = file.read(4096)
    if extension in _PICKLES or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise DataError(_pickle_words(str(path)))
    if not head:
        raise DataError(f"{path} is empty.")
    if arrays.is_idx(path.name):
        return "idx"
    if extension == ".npz":
        return "npz"
    if extension in pictures.EXTENSIONS:
        raise DataError(f"{path} is one picture. Give a folder that holds a folder of pictures for each class.")
    if kind is None and (form := _form_of_records(path, head)) is not None:
        return form
    if kind == "table" or (extension in tables.EXTENSIONS and kind != "text"):
        return "table"
    if ".idx" in path.name or "-idx" in path.name:
        raise DataError(
            f"{path} holds no pictures by its name. Give the folder, or the file called ...-images-idx3-ubyte."
        )
    if extension in _ARCHIVES:
        raise DataError(f"{path} is an archive. Unpack it, and give the folder.")
    if extension in text.EXTENSIONS or kind == "text" or b"\0" not in head:
        return "text"
    raise DataError(f"{path} is not understood ({extension or 'no extension'}). Understood: {UNDERSTOOD}.")


def _form_of_records(path: Path, head: bytes) -> str | None:
    """Return the kind of the records of text that a file holds, or None where it holds something else."""
    extension = records.extension_of(path)
    if extension in records.EXTENSIONS:
        return _form_of_fields(path)
    if path.suffix.lower() in (".gz", *pictures.EXTENSIONS) or b"\0" in head:
        return None
    beginning = head.decode("latin-1").rpartition("\n")[0]
    return "sentences" if sentences.are_labelled_lines(beginning) else None


def _form_of_parts(root: Path) -> str | None:
    """Likewise of a folder that holds a file of records for training."""
    files = (Path(entry.path) for entry in images.visible(root) if not entry.is_dir())
    train = next((f for f in files if records.split_named(f.name) == "train"), None)
    if train is None or records.extension_of(train) not in records.EXTENSIONS:
        return None
    return _form_of_fields(train)


def _form_of_fields(path: Path) -> str | None:
    """Return the kind of records by the names of their fields, and by whether one of them is prose."""
    whole = records.extension_of(path) in (".json", ".parquet")
    if whole and path.stat().st_size > _BYTES_READ_WHOLE:
        return None
    try:
        found = records.read_records(path, DataConfig(source=str(path)), _BYTES_LOOKED_AT)["train"][:200]
    except (DataError, KeyError):
        return None  # the reader that is tried next says what is wrong
    return next((kind for kind, fits in _FITS.items() if fits(found)), None)


def _pickle_words(what: str) -> str:
    return (
        f"{what} is a pickle, and a pickle can run any code when it is read. Save the data as .npz, .csv or .parquet."
    )


def _form_of_folder(path: Path, kind: str | None) -> str:
    if kind == "pairs" or (kind is None and pairs.is_paired(path)):
        return "pairs"
    if kind is None and (form := _form_of_parts(path)) is not None:
        return form
    if kind is None and any(_is_model(folder) for folder in (path, path / "model")):
        raise DataError(
            f"{path} is a trained model, and no data. A run begins with its weights by weights={path}; strata predict "
            "uses a run's."
        )
    top, counts = _look(path)
    if not counts:
        raise DataError(f"{path} is an empty folder. Understood: {UNDERSTOOD}.")
    many_pictures = sum(counts[extension] for extension in pictures.EXTENSIONS)
    many_texts = sum(counts[extension] for extension in text.EXTENSIONS - tables.EXTENSIONS)
    has_table = any(Path(name).suffix.lower() in tables.EXTENSIONS for name in top)
    if kind in (None, "image"):
        if any(arrays.is_idx(name) for name in top):
            return "idx"
        prose = sum(counts[extension] for extension in _PROSE)  # an .xml or .json may well annotate a picture
        if many_pictures and (kind == "image" or many_pictures >= prose):
            return "folder"
    if kind in (None, "image", "table") and sum(name.lower().endswith(".npz") for name in top) == 1:
        return "npz"
    if kind == "table" or (kind is None and has_table and many_texts <= len(top)):
        return "table"
    if many_texts or kind == "text":
        return "text"
    if has_table:
        return "table"
    found = ", ".join(f"{count:,} {extension or 'without extension'}" for extension, count in counts.most_common(6))
    if set(counts) <= _PICKLES:
        raise DataError(_pickle_words(f"All that {path} holds ({found})"))
    raise DataError(f"{path} holds nothing that is understood, but {found}. Understood: {UNDERSTOOD}.")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _look(root: Path) -> tuple[list[str], Counter[str]]:
    """Return the names of the files on top, and how many files there are of each extension, the first many at least."""
    top: list[str] = []
    counts: Counter[str] = Counter()
    folders = [root]
    while folders and counts.total() < _FILES_LOOKED_AT:
        folder = folders.pop(0)
        for entry in images.visible(folder):
            if entry.is_dir():
                folders.append(Path(entry.path))
            else:
                counts[Path(entry.name).suffix.lower()] += 1
                if folder == root:
                    top.append(entry.name)
    return top, counts


def _kind_of_npz(path: Path) -> str:
    if path.is_dir():
        path = next(Path(entry.path) for entry in images.visible(path) if entry.name.lower().endswith(".npz"))
    parts, _ = arrays.read_npz_parts(path)
    return "table" if parts["train"][0].ndim == 2 else "image"
