"""Words with a tag each: entities, parts of speech.

Read from CoNLL files, a word and its tag a line and an empty line between sentences, or from records that hold a list
of words and one of tags. Tags of spans come in many hands (IOB1, IOB2, BIOES, BILOU, BMES); all are brought to IOB2,
where a span begins with B- and goes on with I-, by the rules of the conlleval script (Tjong Kim Sang and Buchholz
2000). A word may be several tokens, of which the first carries the tag.

T tokens, W words of a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata.data import records
from strata.data.dataset import DataConfig, Dataset
from strata.data.files import read_text
from strata.data.images import visible
from strata.data.records import Parts, Record
from strata.data.sequences import Ragged, SequenceSplit, fingerprint
from strata.data.tokenizer import TextPreprocess, tokenizer_for
from strata.errors import DataError

WORDS = ("tokens", "words", "token", "word")
"""What the field of the words is called, where data.column does not say."""
TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags", "upos", "tag", "label", "entities")
"""Likewise of the tags, where data.target does not say."""
EXTENSIONS = (".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2")
"""Of files with a word and its tag a line, whatever they hold."""
LENGTH_AT_MOST = 512
"""Tokens that are read at once, where data.max_length does not say."""
OUTSIDE = "O"
UNTAGGED = -100
"""In the place of a tag at a word's further tokens."""
_SPAN_TAG = re.compile(r"([BIESLUM])(?:-(.+))?")
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")
_UNNAMED = "span"
"""What spans are called whose tags are a bare B and I."""
_WORD = re.compile(r"https?://\S+|[@#]\w+|\w+(?=n['’]t\b)|n['’]t\b|['’](?:s|ve|re|d|ll|m)\b|\w+|[^\w\s]")
"""What a text without its words is taken apart into: links, mentions, and words as treebanks have them."""
_LINES_LOOKED_AT = 200


class Piece(NamedTuple):
    """A sentence, or as much of one as is read at once."""

    token_T: np.ndarray
    start_W: np.ndarray
    """Place of each word's first token."""
    first_word: int
    """Number in the sentence of its first word."""


@dataclass(frozen=True, kw_only=True)
class TagPreprocess:
    """Words as tokens, between the tokenizer's marks of beginning and end where it has them."""

    kind: ClassVar[str] = "tags"

    text: TextPreprocess
    max_length: int
    column: str
    """Field of a record that holds the words."""
    labels: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.text.vocab_size

    def read(self, raw: Any) -> Tensor:
        """Turn a text, a list of words, or a record of them into tokens, int64 (T,). Raises DataError for others."""
        words, _, _ = self.words(raw)
        return torch.from_numpy(np.concatenate(self.encode([words])[0]))

    def words(self, raw: Any) -> tuple[list[str], list[tuple[int, int]], str]:
        """Return the words of a raw input, from where up to where each is written, and the text in which that is.

        The text of a list of words is they, joined by spaces.
        """
        raw = raw.get(self.column, raw.get("text")) if isinstance(raw, Mapping) else raw
        if isinstance(raw, str):
            found = [(match.group(), match.span()) for match in _WORD.finditer(raw)]
            if not found:
                raise DataError("The text has no words.")
            return [word for word, _ in found], [place for _, place in found], raw
        words = _words(raw)
        if not words:
            raise DataError(f"A sentence is a text or a list of words, not {str(raw)[:40]!r}.")
        ends = np.cumsum([len(word) + 1 for word in words])
        return (
            words,
            [(int(end) - len(w) - 1, int(end) - 1) for w, end in zip(words, ends, strict=True)],
            " ".join(words),
        )

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[list[np.ndarray]]:
        """Return the tokens of each word of sentences, one at least."""
        distinct = list(dict.fromkeys(word for sentence in sentences for word in sentence))
        # After a space, as where they stand in a text: to many tokenizers that is another beginning.
        tokens = self.text.encode_batch([f" {word}" for word in distinct])
        unknown = np.asarray([self.text.unk or 0])
        of_word = {word: t.astype(np.int64) if len(t) else unknown for word, t in zip(distinct, tokens, strict=True)}
        return [[of_word[word] for word in sentence] for sentence in sentences]

    def pieces(self, tokens: Sequence[np.ndarray]) -> list[Piece]:
        """Put a sentence's words, tokens each, end to end between the marks, in as many pieces as it takes."""
        before = [mark for mark in (self.text.cls,) if mark is not None]
        after = [mark for mark in (self.text.sep,) if mark is not None]
        room = max(1, self.max_length - len(before) - len(after))
        words = [token_T[:room] for token_T in tokens]
        cuts, used = [0], 0
        for number, token_T in enumerate(words):
            if used + len(token_T) > room:
                cuts.append(number)
                used = 0
            used += len(token_T)
        found = []
        for first, last in pairwise([*cuts, len(words)]):
            part = words[first:last]
            start_W = len(before) + np.cumsum([0, *map(len, part[:-1])])
            found.append(Piece(np.concatenate([before, *part, after]).astype(np.int64), start_W, first))
        return found

    def decode(self, tokens: Any) -> str:
        """Turn tokens into text, without marks."""
        return self.text.decode(tokens)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return tokens as they are."""
        return input_B


# ------------------------------------------------------------------------------------------------ tags


def are_of_spans(tags: Iterable[str]) -> bool:
    """Say whether tags mark spans, and not each word for itself: all are O, or begin with B-, I- and the like."""
    distinct = set(tags) - {OUTSIDE}
    return bool(distinct) and all(_SPAN_TAG.fullmatch(tag) for tag in distinct)


def as_iob2(tags: Sequence[str]) -> list[str]:
    """Return the tags of a sentence with B- where a span begins and I- where it goes on, by conlleval's rules."""
    found, before, kind_before = [], OUTSIDE, ""
    for tag in tags:
        match = _SPAN_TAG.fullmatch(tag)
        if match is None:
            found.append(OUTSIDE)
            before, kind_before = OUTSIDE, ""
            continue
        letter, kind = match[1], match[2] or _UNNAMED
        begins = letter in _BEGINS or before == OUTSIDE or before in _ENDS or kind != kind_before
        found.append(f"{'B' if begins else 'I'}-{kind}")
        before, kind_before = letter, kind
    return found


def labels_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags that there are, in order: of spans O, and B- and I- of each type; else by the alphabet."""
    distinct = set(tags)
    if not are_of_spans(distinct):
        return tuple(sorted(distinct))
    types = sorted({tag[2:] for tag in distinct - {OUTSIDE}})
    return (OUTSIDE, *(f"{letter}-{name}" for name in types for letter in "BI"))


def types_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the types of spans that `labels_of` gave tags for; none where tags are of single words."""
    types = tuple(label[2:] for label in labels[1::2])
    made = (OUTSIDE, *(f"{letter}-{name}" for name in types for letter in "BI"))
    return types if tuple(labels) == made else ()


# ------------------------------------------------------------------------------------------------ reading


def read_tagged(path: Path, config: DataConfig) -> dict[str, list[Record]]:
    """Read a file of records, or of lines with a word and its tag.

    Such lines have columns, of which the first is "tokens" and the last "tags", and each has its number from 1 on.
    Raises DataError for lines of one column, or of several numbers of them.
    """
    if records.extension_of(path) in records.EXTENSIONS:
        return records.read_records(path, config)
    return {"train": _read_columns(path, read_text(path, config.encoding))}


def _read_columns(path: Path, text: str) -> list[Record]:
    tabs = "\t" in text
    found: list[Record] = []
    rows: list[list[str]] = []
    width = 0
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if rows:
                columns = {str(k): list(column) for k, column in enumerate(zip(*rows, strict=True), 1)}
                found.append({"tokens": columns["1"], "tags": columns[str(width)]} | columns)
            rows = []
            continue
        if tabs and line.startswith("# "):  # a comment; the word "#" has a tab after it
            continue
        cells = line.strip().split("\t") if "\t" in line.strip() else line.split()
        width = width or len(cells)
        if len(cells) != width or width < 2:
            wanted = "a word and its tag are expected" if len(cells) < 2 else f"the lines before have {width} columns"
            raise DataError(f"{path}, line {number}, is {line[:40]!r}; {wanted}.")
        rows.append(cells)
    return found


def are_tags(found: Sequence[Record]) -> bool:
    """Say whether records are sentences as lists of words, with as many tags."""
    return bool(found) and all(
        any(
            isinstance(record.get(words), list) and isinstance(record.get(tags), list)
            and len(record[words]) == len(record[tags])
            for words in WORDS
            for tags in TAGS
        )
        for record in found
    )  # fmt: skip


def are_tagged_lines(path: Path) -> bool:
    """Say whether what lies at a path is a file, or a folder with a training file, of words with their tags."""
    if path.is_dir():
        files = [Path(entry.path) for entry in visible(path) if not entry.is_dir()]
        named = [file for file in files if records.split_named(file.name) == "train"]
        return any(are_tagged_lines(file) for file in named)
    extension = records.extension_of(path)
    if extension in EXTENSIONS:
        return True
    if extension in records.EXTENSIONS or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.split() for line, _ in zip(file, range(_LINES_LOOKED_AT), strict=False) if line.strip()]
    except (OSError, UnicodeDecodeError):
        return False
    widths = {len(cells) for cells in lines if cells[0] != "-DOCSTART-"}
    return len(widths) == 1 and widths.pop() >= 2 and are_of_spans(cells[-1] for cells in lines)


def open_tags(path: Path, config: DataConfig) -> Dataset:
    """Read words with their tags as a data set. Raises DataError."""
    parts = records.read_parts(path, config, read_tagged, None)
    return from_parts(path.stem, parts, config, path=path)


def from_parts(name: str, parts: Parts, config: DataConfig, *, path: Path | None = None) -> Dataset:
    """Make a data set of records with words and tags."""
    column = parts.field_called(config.column, WORDS, "data.column", "the words")
    target = parts.field_called(config.target, TAGS, "data.target", "the tags")
    parts = records.divided(parts, config)
    sentences: dict[str, list[list[str]]] = {}
    tags: dict[str, list[list[str]]] = {}
    for part, found in parts.records.items():
        where = f"of {parts.where} in the {part} split"
        pairs = [_checked(record, column, target, config, f"{where}, record {k}") for k, record in enumerate(found, 1)]
        sentences[part] = [words for words, of_words in pairs if words]
        tags[part] = [of_words for words, of_words in pairs if words]
    notes = []
    everything = [tag for of_part in tags.values() for of_sentence in of_part for tag in of_sentence]
    if are_of_spans(everything):
        tags = {part: [as_iob2(of_sentence) for of_sentence in of_part] for part, of_part in tags.items()}
        if any(tag[0] not in "BIO" for tag in set(everything)):
            notes.append("tags are brought to B-, I- and O")
    labels = labels_of(tag for of_part in tags.values() for of_sentence in of_part for tag in of_sentence)
    if len(labels) < 2:
        raise DataError(f"{parts.where} has no tags to tell apart ({', '.join(labels)}).")
    text, said = tokenizer_for(
        config, [f" {' '.join(words)}" for words in sentences["train"]], default="bpe", special=True
    )
    preprocess = TagPreprocess(text=text, max_length=config.max_length or LENGTH_AT_MOST, column=column, labels=labels)
    number_of = {label: k for k, label in enumerate(labels)}
    splits: dict[str, SequenceSplit] = {}
    for part, of_part in sentences.items():
        tokens, targets, texts = [], [], []
        for words, pieces, of_words in zip(of_part, preprocess.encode(of_part), tags[part], strict=True):
            for piece in preprocess.pieces(pieces):
                target_T = np.full(len(piece.token_T), UNTAGGED)
                last = piece.first_word + len(piece.start_W)
                target_T[piece.start_W] = [number_of[tag] for tag in of_words[piece.first_word : last]]
                tokens.append(piece.token_T)
                targets.append(target_T)
                texts.append(words[piece.first_word : last])
        if len(tokens) > len(of_part):
            notes.append(
                f"{part}: sentences of more than {preprocess.max_length} tokens are read in pieces (data.max_length): "
                f"{len(tokens):,} for {len(of_part):,}"
            )
        columns = {"input": Ragged.of(tokens), "target": Ragged.of(targets)}
        splits[part] = SequenceSplit(columns, fillers={"target": UNTAGGED}, describe=_Describe(texts))
    types = types_of(labels)
    notes.append(
        f"{len(types)} types of spans: {', '.join(types)}" if types else f"{len(labels)} tags, of single words"
    )
    longest = int(max(int(split.columns["input"].length_N.max()) for split in splits.values()))
    return Dataset(
        name=name,
        kind="tags",
        target_kind="tag",
        splits=dict(splits),
        sizes={"vocab_size": text.vocab_size, "num_classes": len(labels)},
        preprocess=preprocess,
        labels=labels,
        repeated=parts.repeated,
        notes=(*parts.notes, *said, *notes, f"the longest sentence has {longest} tokens"),
        fingerprint=fingerprint(splits),
        tokenizer=text,
        details={"longest": longest} | ({"path": str(path)} if path else {}),
    )


@dataclass(frozen=True)
class _Describe:
    """Gives a sentence's words, for the report."""

    sentences: list[list[str]]

    def __call__(self, index: int) -> dict[str, Any]:
        return {"words": self.sentences[index]}


def _words(value: Any) -> list[str]:
    """Return a list of words; an empty one of what is none."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str):
        return value.split()
    return value if isinstance(value, list) and all(isinstance(word, str) for word in value) else []


def _checked(record: Record, column: str, target: str, config: DataConfig, where: str) -> tuple[list[str], list[str]]:
    """Return a record's words and tags, both as texts."""
    words, tags = _words(record.get(column)), record.get(target)
    tags = tags.tolist() if isinstance(tags, np.ndarray) else tags.split() if isinstance(tags, str) else tags
    if not isinstance(tags, list) or (not words and tags):
        raise DataError(f"Fields {column!r} and {target!r} {where}, are no lists of words and tags.")
    if len(words) != len(tags):
        raise DataError(f"{len(words)} words and {len(tags)} tags {where}: each word needs one.")
    if config.labels and all(isinstance(tag, int) for tag in tags):
        if tags and max(tags) >= len(config.labels):
            raise DataError(f"Tag {max(tags)} {where}, has no name: data.labels gives {len(config.labels)}, from 0 on.")
        return words, [config.labels[tag] for tag in tags]
    return words, [str(tag) for tag in tags]
