"""Texts and what each becomes: sentences and their translations, articles and their summaries.

Read from parallel files, one text a line (train.en and train.de, also as .gz), or from records with a field for each
side. Both sides share one tokenizer. A text may become several things, of which the first is learned and all serve to
score what a model writes.

N pairs, B in a batch, S tokens of a source, T of a target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from strata.data import records
from strata.data.dataset import DataConfig, Dataset, digest
from strata.data.files import read_text
from strata.data.images import visible
from strata.data.records import Parts, Record
from strata.data.sequences import Ragged, SequenceSplit
from strata.data.tokenizer import TextPreprocess, tokenizer_for
from strata.errors import DataError

SOURCES = ("source", "src", "document", "article", "dialogue", "abstract", "text", "input", "original", "sentence")
"""What the field of the source is called, where data.column does not say."""
TARGETS = ("target", "tgt", "trg", "summary", "highlights", "tldr", "title", "translation", "output", "simplified")
"""Likewise of the target, where data.target does not say."""
_TELLING = frozenset(("target", "tgt", "trg", "summary", "highlights", "tldr"))
"""Those of them that tell by themselves what a file holds; a title or a translation may be a field among others."""
WORDS_OF_PROSE = 3
"""Of a target on average, from which on it is taken for a text and not for the name of a class."""
SCORES = ("score", "similarity", "similarity_score", "relatedness", "relatedness_score")
"""What a field of numbers is called that say how much alike two texts are."""
LENGTH_AT_MOST = 512
"""Tokens of either side, where data.max_length does not say."""
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z]{2,4})?")
_NO_LANGUAGE = frozenset(
    ("txt", "csv", "tsv", "md", "rst", "py", "js", "ts", "rs", "go", "c", "h", "cc", "sh", "gz", "log")
)
"""Short extensions that are no languages."""


@dataclass(frozen=True, kw_only=True)
class PairPreprocess:
    """A source as tokens, with the mark of its end."""

    kind: ClassVar[str] = "text_pairs"

    text: TextPreprocess
    max_length: int
    longest_target: int
    """Tokens of the longest target that was learned, marks included."""
    column: str = ""
    """Field of a record that holds the source, where texts come as records."""
    labels: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.text.vocab_size

    @property
    def start(self) -> int:
        """The token that a target begins with; where a tokenizer has none, as T5's, that of padding."""
        found = self.text.pad if self.text.start is None else self.text.start
        assert found is not None, "checked where the data was read"
        return found

    @property
    def end(self) -> int:
        """The token that a source and a target end with."""
        assert self.text.end is not None, "checked where the data was read"
        return self.text.end

    def read(self, raw: Any) -> Tensor:
        """Turn a text, or a record with one, into a source, int64 (S,). Raises DataError for what is none, or empty."""
        text = raw
        if isinstance(raw, dict):
            if self.column not in raw:
                raise DataError(f"The record has no field {self.column!r}, which the model reads.")
            text = raw[self.column]
        if _is_text(text) and isinstance(text, list):
            text = " ".join(sentence.strip() for sentence in text)
        if not isinstance(text, str):
            raise DataError(f"A text is a str, not {type(text).__name__}.")
        if not text.strip():
            raise DataError("The text is empty.")
        return torch.from_numpy(self.source(self.text.encode(text.strip())))

    def source(self, tokens: np.ndarray) -> np.ndarray:
        """Cut a source to the length and end it."""
        return np.asarray([*tokens[: self.max_length - 1], self.end], dtype=np.int64)

    def target(self, tokens: np.ndarray) -> np.ndarray:
        """Put a target, cut to the length, between its marks."""
        return np.asarray([self.start, *tokens[: self.max_length - 2], self.end], dtype=np.int64)

    def decode(self, tokens: Any) -> str:
        """Turn tokens into text, without marks."""
        return self.text.decode(tokens)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return tokens as they are."""
        return input_B


class PairSplit(SequenceSplit):
    """Sources and targets of N pairs, and what they were made of.

    Args:
        texts: the sources.
        references: everything that each may become.
        score_N: how much alike the two are, where the data says.
    """

    def __init__(
        self,
        source: Ragged,
        target: Ragged,
        texts: Sequence[str],
        references: Sequence[Sequence[str]],
        score_N: Tensor | None = None,
    ) -> None:
        self.texts, self.references = texts, references
        values = {} if score_N is None else {"score": score_N}
        super().__init__({"input": source, "target": target}, values, describe=self._describe)

    def _describe(self, index: int) -> dict[str, Any]:
        return {"source": self.texts[index], "references": list(self.references[index])}

    @property
    def length_N(self) -> Tensor:
        """Sort key: the longer side first, then both. Sorted by the sum, a quarter more of a batch would be padding."""
        source_N, target_N = (column.length_N.cpu() for column in self.columns.values())
        sum_N = source_N + target_N
        return torch.maximum(source_N, target_N) * (int(sum_N.max()) + 1) + sum_N

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the pairs of these numbers, padded; on the CPU, where shapes may be any, no further than needed."""
        batch = super().gather(index_B, epoch_B)
        if batch["input"].device.type == "cpu":
            for name, mask in (("input", "mask"), ("target", "target_mask")):
                longest = int(batch[mask].sum(1).max())
                batch |= {name: batch[name][:, :longest], mask: batch[mask][:, :longest]}
        return batch


class WrittenSplit:
    """The pairs of a split in the order of their sources' length, with what the texts that a model writes are held to.

    A batch's sources are alike in length, so that little is padded and all are written at about the same time. Beside
    ``input`` and ``target`` a batch has ``reference``, the UTF-8 of all that a text may become, and ``beams``.

    Args:
        beams_N: with how many beams each is to be written; 0 for those that are not.
    """

    in_memory = True

    def __init__(self, split: PairSplit, beams_N: Tensor) -> None:
        self.split, self.beams_N = split, beams_N
        self.order_N = split.columns["input"].length_N.argsort(stable=True, descending=True)
        wanted = zip(split.references, beams_N.tolist(), strict=True)
        encoded = ("\0".join(texts).encode() if beams else b"" for texts, beams in wanted)
        self.reference = Ragged.of([np.frombuffer(text, dtype=np.uint8) for text in encoded])

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the pairs at these places of the order."""
        number_B = self.order_N[index_B.cpu()]
        batch = self.split.gather(number_B, epoch_B)
        batch["reference"], batch["reference_mask"] = self.reference.padded(number_B)
        return batch | {"beams": self.beams_N[number_B]}

    def describe(self, index: int) -> dict[str, Any]:
        """Return the source and the references at a place of the order."""
        return self.split.describe(int(self.order_N[index]))


def references_of(batch: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the references of a batch that a `WrittenSplit` gave."""
    return [
        bytes(row[mask].tolist()).decode().split("\0")
        for row, mask in zip(batch["reference"].cpu(), batch["reference_mask"].cpu(), strict=True)
    ]


def language_of(path: Path) -> str | None:
    """Return the language that a parallel file is of by its extension: train.de.gz is of "de"."""
    extension = path.name.removesuffix(".gz").rpartition(".")[2]
    return extension if _LANGUAGE.fullmatch(extension) and extension not in _NO_LANGUAGE else None


def languages_beside(path: Path) -> list[str]:
    """Return the languages that a folder's files, or a file and those beside it, are parallel in; [] if they are not.

    Parallel are files whose names are equal but for the language.
    """
    files = [Path(entry.path) for entry in visible(path if path.is_dir() else path.parent) if not entry.is_dir()]
    by_stem: dict[str, set[str]] = {}
    for file in files:
        language = language_of(file)
        if language is not None and (path.is_dir() or _stem(file) == _stem(path)):
            by_stem.setdefault(_stem(file), set()).add(language)
    if path.is_dir():
        by_stem = {stem: found for stem, found in by_stem.items() if records.split_named(stem) in ("train", None)}
    found = set.intersection(*by_stem.values()) if by_stem else set()
    return sorted(found) if len(found) > 1 else []


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def are_parallel(path: Path) -> bool:
    """Say whether a folder's files, or a file and those beside it, are one text in several languages, by name."""
    return (path.is_dir() or language_of(path) is not None) and bool(languages_beside(path))


def are_pairs(found: Sequence[Record]) -> bool:
    """Say whether records are texts and what each becomes: by their fields' names, and because both are prose."""
    if isinstance(found[0].get("translation"), dict):
        return True
    names = {name.strip().lower(): name for name in found[0]}
    target = next((names[name] for name in TARGETS if name in names and name in _TELLING), None)
    if target is None or not any(_is_text(found[0][names[name]]) for name in SOURCES if name in names):
        return False
    words = [len(" ".join(_sides(record.get(target))).split()) for record in found]
    return sum(words) >= WORDS_OF_PROSE * len(words)


def _sides(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value if _is_text(value) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)
    )


def open_pairs(path: Path, config: DataConfig) -> Dataset:
    """Read texts and what they become as a data set. Raises DataError."""
    languages = languages_beside(path)
    notes: list[str] = []
    if languages:
        sides = _languages(path, languages, config, notes)

        def read(file: Path, config: DataConfig) -> dict[str, list[Record]]:
            return {"train": _read_parallel(file, sides, config)}

        parts = records.read_parts(
            path if path.is_dir() else _counterpart(path, sides[0]), config, read, [f".{sides[0]}"]
        )
    else:
        parts = records.read_parts(path, config, _read_records)
        sides = _fields(parts, config, notes)
    parts.notes += notes
    return from_parts(path.stem, parts, config, sides, path=path)


def _languages(path: Path, languages: list[str], config: DataConfig, notes: list[str]) -> tuple[str, str]:
    """Return the languages of source and target; where there are only two, English is the source, or the first."""
    for asked, setting in ((config.column, "data.column"), (config.target, "data.target")):
        if asked is not None and asked not in languages:
            raise DataError(f"{path} has no files of {asked!r} ({setting}), but of: {', '.join(languages)}.")
    asked_for = [language for language in (config.column, config.target) if language is not None]
    if len(asked_for) == 2:
        return asked_for[0], asked_for[1]
    if len(languages) > 2:
        raise DataError(
            f"{path} holds texts in {', '.join(languages)}. Say from which to which: "
            f"data.column={languages[0]} data.target={languages[1]}"
        )
    first = config.column or next(
        (language for language in languages if language == "en" and config.target != "en"),
        next(language for language in languages if language != config.target),
    )
    second = next(language for language in languages if language != first)
    notes.append(f"from {first} to {second} (data.column={second} data.target={first} turns it round)")
    return first, second


def _counterpart(path: Path, language: str) -> Path:
    """Return the file of the same texts in another language, packed or not."""
    names = [f"{_stem(path)}.{language}{packed}" for packed in ("", ".gz")]
    found = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if found is None:
        raise DataError(f"{path} has no counterpart {names[0]} (or .gz) beside it.")
    return found


def _read_parallel(path: Path, sides: tuple[str, str], config: DataConfig) -> list[Record]:
    """Read a file of one language and its counterpart, line by line."""
    files = [_counterpart(path, side) for side in sides]
    lines = [read_text(file, config.encoding).removesuffix("\n").split("\n") for file in files]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{files[0]} has {len(lines[0]):,} lines and {files[1].name} has {len(lines[1]):,}: "
            "they are no translations of each other, line by line."
        )
    return [dict(zip(sides, pair, strict=True)) for pair in zip(*lines, strict=True)]


def _read_records(path: Path, config: DataConfig) -> dict[str, list[Record]]:
    """Read records; of those that hold a dict of languages called "translation", that dict. A line of text is one."""
    if records.extension_of(path) not in records.EXTENSIONS:
        lines = read_text(path, config.encoding).split("\n")
        return {"train": [{"text": line} for line in lines if line.strip()]}
    found = records.read_records(path, config)
    return {
        part: [record["translation"] if isinstance(record.get("translation"), dict) else record for record in of_part]
        for part, of_part in found.items()
    }


def _fields(parts: Parts, config: DataConfig, notes: list[str]) -> tuple[str, str]:
    """Return the names of the fields of source and target; of only two texts, the first becomes the second."""
    names = {name.strip().lower() for name in parts.fields}
    texts = [name for name in parts.fields if _is_text(parts.records["train"][0].get(name))]
    if parts.fields == texts and len(texts) == 1:
        notes.append(f"{texts[0]!r} is the only text that there is, and its own target")
        return texts[0], texts[0]
    if len(texts) == 2 and not (names & set(SOURCES) and names & set(TARGETS)):
        if config.column is None and config.target is None:
            notes.append(f"from {texts[0]!r} to {texts[1]!r}, the two texts that there are (data.column, data.target)")
        asked = config.column or next(name for name in texts if name != config.target)
        wanted = config.target or next(name for name in texts if name != asked)
    else:
        asked, wanted = config.column or "", config.target or ""
    column = parts.field_called(asked or None, [n for n in SOURCES if n != wanted], "data.column", "the source")
    usual = [name for name in TARGETS if name != column.strip().lower()]
    return column, parts.field_called(wanted or None, usual, "data.target", "the target")


@dataclass
class _Texts:
    """The pairs of a split."""

    sources: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """How much alike the two sides are; empty where nothing says."""


def from_parts(
    name: str, parts: Parts, config: DataConfig, sides: tuple[str, str], *, path: Path | None = None
) -> Dataset:
    """Make a data set of records with two texts.

    Args:
        sides: the fields of source and target.
    """
    parts = records.divided(parts, config)
    texts = {part: _texts(of_part, sides, part, parts) for part, of_part in parts.records.items()}
    learned = texts["train"]
    text, said = tokenizer_for(
        config, [*learned.sources, *(wanted[0] for wanted in learned.references)], default="bpe", special=True
    )
    if text.end is None or (text.start is None and text.pad is None):
        raise DataError(f"The tokenizer {config.tokenizer} has no tokens that begin and end a text. Leave it out.")
    max_length = config.max_length or LENGTH_AT_MOST
    encoded = {
        part: (text.encode_batch(of_part.sources), text.encode_batch([wanted[0] for wanted in of_part.references]))
        for part, of_part in texts.items()
    }
    preprocess = PairPreprocess(
        text=text,
        max_length=max_length,
        longest_target=min(max_length, 2 + max(map(len, encoded["train"][1]))),
        column=sides[0],
    )
    found: dict[str, Any] = {}
    for part, (sources, targets) in encoded.items():
        for side, tokens, marks in (("sources", sources, 1), ("targets", targets, 2)):
            if cut := sum(len(of_text) + marks > max_length for of_text in tokens):
                parts.notes.append(f"{part}: {cut:,} {side} of more than {max_length} tokens are cut (data.max_length)")
        found[part] = PairSplit(
            Ragged.of([preprocess.source(tokens) for tokens in sources]),
            Ragged.of([preprocess.target(tokens) for tokens in targets]),
            texts[part].sources,
            texts[part].references,
            torch.tensor(texts[part].scores) if texts[part].scores else None,
        )
    longest = max(int(column.length_N.max()) for split in found.values() for column in split.columns.values())
    means = [float(column.length_N.double().mean()) for column in found["train"].columns.values()]
    several = sum(len(wanted) > 1 for of_part in texts.values() for wanted in of_part.references)
    if several:
        parts.notes.append(f"{several:,} sources have several targets: the first is learned, all serve to score")
    parts.notes.append(f"a source has {means[0]:.1f} tokens on average, a target {means[1]:.1f}")
    return Dataset(
        name=name,
        kind="text_pairs",
        target_kind=None,
        splits=found,
        sizes={"vocab_size": text.vocab_size},
        preprocess=preprocess,
        repeated=parts.repeated,
        notes=(*parts.notes, *said),
        fingerprint=digest(
            *(column.value_M for split in found.values() for column in split.columns.values()),
            *(reference for of_part in texts.values() for wanted in of_part.references for reference in wanted),
            *(str(of_part.scores) for of_part in texts.values() if of_part.scores),
        ),
        tokenizer=text,
        details={"sides": sides, "longest": longest}
        | ({"path": str(path)} if path else {})
        | ({"greatest_score": max(learned.scores)} if learned.scores else {}),
    )


def _texts(of_part: Iterable[Record], sides: tuple[str, str], part: str, parts: Parts) -> _Texts:
    """Return the pairs of a split; those of which a side is empty are left out, and counted in the notes."""
    found, empty = _Texts(), 0
    scored = next((name for name in parts.fields if name.strip().lower() in SCORES), None)
    for row, record in enumerate(of_part):
        source = _sentences(record.get(sides[0]), sides[0], row, part, parts)
        wanted = [text for text in _sentences(record.get(sides[1]), sides[1], row, part, parts) if text.strip()]
        joined = " ".join(text.strip() for text in source).strip()
        if joined and wanted:
            found.sources.append(joined)
            found.references.append([text.strip() for text in wanted])
            if scored is not None:
                found.scores.append(_score(record.get(scored), scored, row, part, parts))
        else:
            empty += 1
    if not found.sources:
        raise DataError(f"{parts.where} holds no pairs of texts in its {part} split: one side is always empty.")
    if empty:
        parts.notes.append(f"{part}: {empty:,} pairs of which a side is empty are left out")
    return found


def _score(value: Any, name: str, row: int, part: str, parts: Parts) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"Field {name!r} of {parts.where} is {str(value)[:40]!r} in record {row + 1} of the {part} split; a "
            "number is expected."
        ) from None


def _sentences(value: Any, name: str, row: int, part: str, parts: Parts) -> list[str]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None:
        return []
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(part, str) for part in value)):
        raise DataError(
            f"Field {name!r} of {parts.where} is {str(value)[:40]!r} in record {row + 1} of the {part} split; a text, "
            "or a list of texts, is expected."
        )
    return [value] if isinstance(value, str) else value
