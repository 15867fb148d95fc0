"""Texts with a class or a number each: sentiment, topic, intent.

Read from records with a field for the text and one for the target, or from plain lines that begin with the label, as
Kim's files (``1 a gripping film``), fastText's (``__label__pos a gripping film``) and tab-separated ones have it.

N texts, T tokens in one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from strata.data import records, splits
from strata.data.dataset import DataConfig, Dataset, digest
from strata.data.files import read_text
from strata.data.records import Parts, Record
from strata.data.sequences import Ragged, SequenceSplit
from strata.data.targets import read_targets
from strata.data.tokenizer import TextPreprocess, tokenizer_for
from strata.errors import DataError

TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "document",
    "utterance",
    "question",
    "query",
    "tweet",
    "title",
    "body",
)
"""What the field of the text is called, where data.column does not say."""
TARGETS = ("label", "target", "class", "category", "intent", "sentiment", "topic", "y", "rating", "stars", "score")
"""Likewise of the target, where data.target does not say."""
LENGTH_AT_MOST = 512
"""Tokens read of a text, where data.max_length does not say."""
SHOWN = 200
"""Characters of a text that a report shows."""
_LABELLED_LINE = re.compile(r"(?:__label__)?(\S+?)[ \t]\s*(\S.*)")


@dataclass(frozen=True, kw_only=True)
class SentencePreprocess:
    """A text as tokens, between the tokenizer's marks of beginning and end where it has them."""

    kind: ClassVar[str] = "sentences"

    text: TextPreprocess
    max_length: int
    column: str
    """Field of a record that holds the text."""
    labels: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0
    """Of numbers to predict, over the training texts."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.text.vocab_size

    def read(self, raw: Any) -> Tensor:
        """Turn a text, or a record that holds one, into tokens, int64 (T,). Raises DataError for what is neither."""
        raw = raw.get(self.column) if isinstance(raw, Mapping) else raw
        if not isinstance(raw, str):
            raise DataError(f"A text is a str, not {type(raw).__name__}.")
        return torch.from_numpy(self.frame([self.text.encode(raw)])[0].astype(np.int64))

    def frame(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Cut texts to the length and put them between their marks; an empty one becomes a single unknown token."""
        first = [mark for mark in (self.text.cls,) if mark is not None]
        last = [mark for mark in (self.text.sep,) if mark is not None]
        room = max(1, self.max_length - len(first) - len(last))
        found = [np.asarray([*first, *part[:room], *last], dtype=np.int64) for part in tokens]
        empty = np.asarray([self.text.unk or 0], dtype=np.int64)
        return [part if len(part) else empty for part in found]

    def decode(self, tokens: Any) -> str:
        """Turn tokens into text, without marks."""
        return self.text.decode(tokens)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return tokens as they are."""
        return input_B


def read_lines(path: Path, config: DataConfig) -> dict[str, list[Record]]:
    """Read a file of records, or of lines that begin with their label. Raises DataError for a line without one."""
    if records.extension_of(path) in records.EXTENSIONS:
        return records.read_records(path, config)
    found = []
    for number, line in enumerate(read_text(path, config.encoding).split("\n"), 1):
        if line.strip():
            match = _LABELLED_LINE.fullmatch(line.strip())
            if match is None:
                raise DataError(f"{path}, line {number}, is {line[:40]!r}; a label and a text are expected.")
            found.append({"label": match[1], "text": match[2]})
    return {"train": found}


def are_labelled_lines(text: str) -> bool:
    """Say whether the lines of a text begin with one of few labels, so that they are texts with a class."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    labels = [match[1] for line in lines if (match := _LABELLED_LINE.fullmatch(line))]
    if len(labels) < max(10, len(lines)):
        return False
    marked = all(line.startswith("__label__") for line in lines)
    return marked or (all(label.isdigit() for label in labels) and 2 <= len(set(labels)) <= len(labels) // 5)


def are_sentences(found: Sequence[Record]) -> bool:
    """Say whether records are a text and its target, and nothing else."""
    names = {str(name).strip().lower() for record in found for name in record}
    if len(names) != 2 or not names & set(TARGETS) or not names & set(TEXTS):
        return False
    prose = [value for record in found for value in record.values() if isinstance(value, str) and " " in value.strip()]
    return 2 * len(prose) >= len(found)


def open_sentences(path: Path, config: DataConfig) -> Dataset:
    """Read texts with a class or a number each as a data set. Raises DataError."""
    parts = records.read_parts(path, config, read_lines, None if path.is_file() else (*records.EXTENSIONS, ".txt"))
    return from_parts(path.stem, parts, config, path=path)


def from_parts(name: str, parts: Parts, config: DataConfig, *, path: Path | None = None) -> Dataset:
    """Make a data set of records with a text and a target."""
    column = parts.field_called(config.column, TEXTS, "data.column", "the text")
    target = parts.field_called(config.target, TARGETS, "data.target", "the target")
    targets = read_targets(
        {part: _values(values) for part, values in parts.column(target).items()},
        config,
        f"field {target!r} of {parts.where}",
        place=lambda part, row: f"record {row + 1} of the {part} split",
    )
    parts.notes += targets.notes
    whole = {
        part: [_text(value, column, row, parts) for row, value in enumerate(values)]
        for part, values in parts.column(column).items()
    }
    classes = targets.values if targets.kind == "class" else None
    index = records.divide(parts, config, classes, whole)
    texts, values = {}, {}
    for part, index_N in index.items():
        source = part if part in parts.records else "train"
        texts[part] = [whole[source][k] for k in index_N.tolist()]
        values[part] = targets.values[source][index_N]
    if classes:
        counts = torch.bincount(values["train"], minlength=len(targets.labels)).tolist()
        splits.check_classes(targets.labels, dict(zip(targets.labels, counts, strict=True)), "text", parts.where)
    text, said = tokenizer_for(config, texts["train"], default="word", special=True)
    preprocess = SentencePreprocess(
        text=text,
        max_length=config.max_length or LENGTH_AT_MOST,
        column=column,
        labels=targets.labels if classes else (),
        target_mean=0.0 if classes else float(values["train"].mean()),
        target_std=1.0 if classes else float(values["train"].std(correction=0)),
    )
    found: dict[str, Any] = {}
    cut = 0
    for part, of_part in texts.items():
        encoded = text.encode_batch(of_part)
        cut += sum(len(tokens) > preprocess.max_length for tokens in encoded)
        describe = _Describe(of_part)
        found[part] = SequenceSplit(
            {"input": Ragged.of(preprocess.frame(encoded))}, {"target": values[part]}, describe=describe
        )
    if cut:
        parts.notes.append(f"{cut:,} texts have more than {preprocess.max_length} tokens and are cut (data.max_length)")
    length = int(max(int(split.length_N.max()) for split in found.values()))
    return Dataset(
        name=name,
        kind="sentences",
        target_kind=targets.kind,
        splits=found,
        sizes={"vocab_size": text.vocab_size, "num_classes": len(targets.labels) or 1},
        preprocess=preprocess,
        labels=targets.labels,
        class_counts=tuple(counts) if classes else (),
        repeated=parts.repeated,
        notes=(*parts.notes, *said, f"the longest text has {length} tokens"),
        fingerprint=digest(*(t for split in found.values() for t in (split.columns["input"].value_M, split.target))),
        tokenizer=text,
        details={"path": str(path), "longest": length} if path else {"longest": length},
    )


@dataclass(frozen=True)
class _Describe:
    """Gives a sample's text, for the report."""

    texts: list[str]

    def __call__(self, index: int) -> dict[str, Any]:
        return {"row": {"text": textwrap.shorten(self.texts[index], SHOWN, placeholder=" ...")}}


def _values(values: list[Any]) -> np.ndarray:
    """Return targets as numbers where all are numbers or written as such, else as objects."""
    try:
        return np.asarray([float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        return np.asarray([None if value is None else str(value) for value in values], dtype=object)


def _text(value: Any, column: str, row: int, parts: Parts) -> str:
    if not isinstance(value, str):
        raise DataError(f"Field {column!r} of {parts.where} is {value!r} in record {row + 1}; a text is expected.")
    return value
