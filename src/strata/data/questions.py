"""Questions on a text, each answered by a part of that text or, in some sets, by nothing in it.

Read from SQuAD's JSON (Rajpurkar et al. 2016; version 2, with questions that have no answer, 2018), or from records
with a question, a context and its answers. A context that is too long is read in windows that overlap, each after the
question; an answer is a place in the context's characters, whatever the tokens are.

N windows, B questions of a batch, R windows of those, T tokens, C characters of a context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata.data import overlap, records, splits
from strata.data.dataset import DataConfig, Dataset, digest
from strata.data.files import read_text
from strata.data.images import visible
from strata.data.records import Parts, Record
from strata.data.sequences import Ragged, SequenceSplit
from strata.data.tokenizer import TextPreprocess, tokenizer_for
from strata.errors import ConfigError, DataError

QUESTIONS = ("question", "query")
"""What the field of the question is called, where data.column does not say."""
CONTEXTS = ("context", "passage", "paragraph", "document", "text", "article")
ANSWERS = ("answers", "answer", "answer_text")
"""Likewise of the answers, where data.target does not say."""
LENGTH_AT_MOST = 384
"""Tokens of a window where data.max_length does not say; Devlin et al.'s."""
QUESTION_SHARE = 0.25
"""Of a window, that a question has at most; the rest of it is cut off."""
_SQUAD = re.compile(rb'"paragraphs"\s*:\s*\[')


class Context(NamedTuple):
    """A context as tokens, and from where up to where in its characters each token is."""

    token_T: np.ndarray
    from_T: np.ndarray
    upto_T: np.ndarray


class Window(NamedTuple):
    """A question and a part of its context."""

    token_T: np.ndarray
    place: int
    """Where in the window the context begins."""
    first: int
    """Number in the context of the first token here."""
    length: int
    """Tokens of the context that are here."""


@dataclass(frozen=True, kw_only=True)
class QuestionPreprocess:
    """A question and its context as tokens: start, question, mark, as much of the context as goes in, mark."""

    kind: ClassVar[str] = "questions"

    text: TextPreprocess
    max_length: int
    stride: int
    """Tokens from where one window's part of the context begins to where the next one's does."""
    question: str = "question"
    """Field of a record that holds the question."""
    context: str = "context"
    labels: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.text.vocab_size

    def read(self, raw: Any) -> Tensor:
        """Turn a record, or a question and a context, into the tokens of its first window, int64 (T,).

        Raises DataError for what is none.
        """
        question, context = self.asked(raw)
        return torch.from_numpy(self.windows(self.text.encode(question), self.encode(context))[0].token_T)

    def asked(self, raw: Any) -> tuple[str, str]:
        """Return the question and the context of a raw input."""
        if isinstance(raw, Mapping):
            raw = (raw.get(self.question), raw.get(self.context))
        if not isinstance(raw, list | tuple) or len(raw) != 2 or not all(isinstance(part, str) for part in raw):
            raise DataError(f"A question is a record {{{self.question!r}: text, {self.context!r}: text}}.")
        if not all(part.strip() for part in raw):
            raise DataError("The question or its context is empty.")
        return raw[0].strip(), raw[1]

    def encode(self, context: str) -> Context:
        """Return a context as tokens; the space before a word, which some tokens begin with, is not of their places."""
        token_T, offsets = self.text.encode_with_offsets(context)
        from_T, upto_T = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
        is_space_C = np.asarray([character.isspace() for character in context], dtype=bool)
        before_C = is_space_C.cumsum() - is_space_C  # spaces before each character, for where a run of them ends
        first_C = np.flatnonzero(~is_space_C)
        if len(first_C):
            rank_T = np.minimum(from_T - before_C[from_T.clip(max=len(context) - 1)], len(first_C) - 1)
            from_T = np.minimum(np.maximum(from_T, first_C[rank_T]), upto_T)
        return Context(token_T.astype(np.int64), from_T, upto_T)

    def windows(self, question: np.ndarray, context: Context) -> list[Window]:
        """Return the windows of a question, one at least."""
        start, mark = self.marks
        question = question[: int(QUESTION_SHARE * self.max_length)]
        before = [start, *question, mark]
        room = self.max_length - len(before) - 1
        found, first = [], 0
        while True:
            part = context.token_T[first : first + room]
            found.append(Window(np.asarray([*before, *part, mark], dtype=np.int64), len(before), first, len(part)))
            if first + room >= len(context.token_T):
                return found
            first += min(self.stride, room)

    @property
    def marks(self) -> tuple[int, int]:
        """The tokens before a question, and after it and its context. Raises DataError where the tokenizer has none."""
        start = self.text.start if self.text.cls is None else self.text.cls
        mark = self.text.end if self.text.sep is None else self.text.sep
        if start is None or mark is None:
            raise DataError("Questions need a tokenizer with a token for the beginning and one for the end of a text.")
        return start, mark

    def decode(self, tokens: Any) -> str:
        """Turn tokens into text, without marks."""
        return self.text.decode(tokens)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return tokens as they are."""
        return input_B


class WindowSplit(SequenceSplit):
    """Windows one by one, to learn from. A batch has ``input``, ``mask``, and beside them:

    ``segment``, int64 (B, T): 1 for the context and the mark after it; ``context``, bool (B, T): where answers may be;
    ``start`` and ``end``, int64 (B,): first and last token of the answer, both 0 where it is not in the window.
    """

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the windows of these numbers."""
        batch = super().gather(index_B, epoch_B)
        return batch | segments_of(batch["mask"], batch.pop("place"))


def segments_of(mask_BT: Tensor, place_B: Tensor) -> dict[str, Tensor]:
    """Return "segment" and "context" of windows whose context begins at a place."""
    place_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    is_second_BT = mask_BT & (place_T >= place_B[:, None])
    is_last_BT = place_T == mask_BT.sum(1, keepdim=True) - 1
    return {"segment": is_second_BT.long(), "context": is_second_BT & ~is_last_BT}


class AskedSplit:
    """Questions with all of their windows, to be answered, in the order of their contexts' length.

    A batch has what a batch of a `WindowSplit` has, for the R windows of B questions; ``asked`` (R,): which of the
    questions of the batch a window is of; ``from`` and ``upto`` (R, T): each token's place in the characters of its
    context; ``text`` (B, C): these, as Unicode's numbers; ``reference``, the UTF-8 of all right answers, with a NUL
    between two.
    """

    in_memory = True

    def __init__(self, found: Sequence[_Asked], preprocess: QuestionPreprocess) -> None:
        self.found = sorted(found, key=lambda one: -len(one.context.token_T))
        windows = [preprocess.windows(one.question_T, one.context) for one in self.found]
        self.row_N1 = torch.tensor([0, *np.cumsum([len(of_one) for of_one in windows])], dtype=torch.int64)
        flat = [(window, one) for of_one, one in zip(windows, self.found, strict=True) for window in of_one]
        self.windows = _window_split(flat)
        self._flat = flat
        self._text = Ragged.of([np.frombuffer(one.text.encode("utf-32-le"), dtype="<u4") for one in self.found])
        self._reference = Ragged.of([np.frombuffer("\0".join(one.answers).encode(), np.uint8) for one in self.found])

    def __len__(self) -> int:
        return len(self.found)

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return all windows of the questions of these numbers."""
        rows = [torch.arange(int(self.row_N1[k]), int(self.row_N1[k + 1])) for k in index_B.tolist()]
        row_R = torch.cat(rows)
        batch = self.windows.gather(row_R, torch.zeros_like(row_R))
        batch["asked"] = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(of_one) for of_one in rows]))
        batch["from"], batch["upto"] = (torch.zeros_like(batch["input"]) for _ in range(2))
        for k, row in enumerate(row_R.tolist()):
            window, one = self._flat[row]
            here, there = (
                slice(window.place, window.place + window.length),
                slice(window.first, window.first + window.length),
            )
            batch["from"][k, here] = torch.from_numpy(one.context.from_T[there])
            batch["upto"][k, here] = torch.from_numpy(one.context.upto_T[there])
        batch["text"], _ = self._text.padded(index_B)
        batch["reference"], batch["reference_mask"] = self._reference.padded(index_B)
        return batch

    def describe(self, index: int) -> dict[str, Any]:
        """Return a question, its context, and its right answers."""
        one = self.found[index]
        return {"question": one.question, "context": one.text, "references": list(one.answers)}


def references_of(batch: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the right answers to each question of a batch of an `AskedSplit`; none where there is no answer."""
    texts = (
        bytes(row[mask].tolist()).decode()
        for row, mask in zip(batch["reference"].cpu(), batch["reference_mask"].cpu(), strict=True)
    )
    return [text.split("\0") if text else [] for text in texts]


class QuestionSplit(WindowSplit):
    """A part of the data: its windows, and as ``asked`` its questions with all of theirs."""

    def __init__(self, windows: WindowSplit, asked: AskedSplit) -> None:
        super().__init__(windows.columns, windows.values, describe=asked.describe)
        self.asked = asked


class _Asked(NamedTuple):
    """A question, and all that belongs to it."""

    question: str
    question_T: np.ndarray
    text: str
    context: Context
    answers: tuple[str, ...]
    span: tuple[int, int] | None
    """From where up to where, in characters, the answer is that is learned."""


def _window_split(flat: Sequence[tuple[Window, _Asked]]) -> WindowSplit:
    """Return windows to learn from, each with the tokens of the answer where it is in the window."""
    targets = [_target(window, one) for window, one in flat]
    return WindowSplit(
        {"input": Ragged.of([window.token_T for window, _ in flat])},
        {
            "place": torch.tensor([window.place for window, _ in flat]),
            "start": torch.tensor([start for start, _ in targets]),
            "end": torch.tensor([end for _, end in targets]),
        },
    )


def _target(window: Window, one: _Asked) -> tuple[int, int]:
    if one.span is None:
        return 0, 0
    start, end = one.span
    inside = np.flatnonzero((one.context.upto_T > start) & (one.context.from_T < end))
    if not len(inside) or inside[0] < window.first or inside[-1] >= window.first + window.length:
        return 0, 0
    return window.place + int(inside[0]) - window.first, window.place + int(inside[-1]) - window.first


def asked_of(pairs: Sequence[tuple[str, str]], preprocess: QuestionPreprocess) -> tuple[AskedSplit, list[int]]:
    """Return questions and their contexts, to be answered, and the number that each had, in the order they have now."""
    tokens = preprocess.text.encode_batch([question for question, _ in pairs])
    found = [
        _Asked(question, token_T.astype(np.int64), context, preprocess.encode(context), (str(number),), None)
        for number, ((question, context), token_T) in enumerate(zip(pairs, tokens, strict=True))
    ]
    split = AskedSplit(found, preprocess)
    return split, [int(one.answers[0]) for one in split.found]


# ------------------------------------------------------------------------------------------------ reading


def read_questions(path: Path, config: DataConfig) -> dict[str, list[Record]]:
    """Read a file of SQuAD's JSON, or of records. Raises DataError."""
    if records.extension_of(path) != ".json":
        return records.read_records(path, config)
    try:
        content = json.loads(read_text(path, config.encoding))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}.") from None
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list) or not all(isinstance(one, dict) and "paragraphs" in one for one in articles):
        return records.read_records(path, config)
    try:
        return {
            "train": [
                {"question": asked["question"], "context": paragraph["context"], "answers": asked.get("answers", [])}
                for article in articles
                for paragraph in article["paragraphs"]
                for asked in paragraph["qas"]
            ]
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not as SQuAD's files are: {error} is missing.") from None


def are_questions(found: Sequence[Record]) -> bool:
    """Say whether records are questions, each with its context and answers."""
    return bool(found) and all(
        all(any(name in record for name in names) for names in (QUESTIONS[:1], CONTEXTS, ANSWERS)) for record in found
    )


def are_squad(path: Path) -> bool:
    """Say whether what lies at a path is a file, or a folder with training files, in SQuAD's JSON."""
    if path.is_dir():
        files = [Path(entry.path) for entry in visible(path) if records.split_named(entry.name) == "train"]
        files += [Path(entry.path) for file in files if file.is_dir() for entry in visible(file)]
        return any(are_squad(file) for file in files if file.is_file())
    if records.extension_of(path) != ".json" or path.suffix == ".gz":
        return False
    with path.open("rb") as file:
        return _SQUAD.search(file.read(4096)) is not None


def open_questions(path: Path, config: DataConfig) -> Dataset:
    """Read questions on texts as a data set. Raises DataError."""
    parts = records.read_parts(path, config, read_questions, records.EXTENSIONS)
    return from_parts(path.stem, parts, config, path=path)


def from_parts(name: str, parts: Parts, config: DataConfig, *, path: Path | None = None) -> Dataset:
    """Make a data set of records with a question, a context and answers."""
    column = parts.field_called(config.column, QUESTIONS, "data.column", "the question")
    target = parts.field_called(config.target, ANSWERS, "data.target", "the answers")
    around = parts.field_called(None, CONTEXTS, "data.column", "the context")
    notes: list[str] = []
    plain = {
        part: [_plain(record, column, around, target, k, parts) for k, record in enumerate(found, 1)]
        for part, found in parts.records.items()
    }
    divided = _divided(plain, parts, config)
    contexts = list(dict.fromkeys(context for _, context, _ in divided["train"]))
    text, said = tokenizer_for(
        config, [*contexts, *(question for question, _, _ in divided["train"])], default="wordpiece", special=True
    )
    max_length = config.max_length or LENGTH_AT_MOST
    if max_length < 16:
        raise ConfigError(f"data.max_length={max_length} is not allowed: questions and contexts need at least 16.")
    preprocess = QuestionPreprocess(
        text=text,
        max_length=max_length,
        stride=config.stride or max(1, max_length // 3),
        question=column,
        context=around,
    )
    found: dict[str, Any] = {}
    lost = several = 0
    for part, of_part in divided.items():
        asked, without_place = _asked(of_part, preprocess)
        lost += without_place
        if not asked:
            raise DataError(f"{parts.where} has no question of which the answer stands in its context ({part}).")
        split = AskedSplit(asked, preprocess)
        several += int((split.row_N1.diff() > 1).sum())
        found[part] = QuestionSplit(split.windows, split)
    if lost:
        notes.append(f"{lost:,} questions are left out of training: their answers do not stand in their contexts")
    if several:
        notes.append(
            f"{several:,} questions are read in several windows of {max_length} tokens, that begin {preprocess.stride} "
            "tokens after each other (data.max_length, data.stride)"
        )
    without = sum(not answers for of_part in divided.values() for _, _, answers in of_part)
    if without:
        notes.append(f"{without:,} questions have no answer")
    longest = int(max(int(split.columns["input"].length_N.max()) for split in found.values()))
    spaces = sum(context.count(" ") for context in contexts) / max(1, sum(map(len, contexts)))
    return Dataset(
        name=name,
        kind="questions",
        target_kind="span",
        splits=found,
        sizes={"vocab_size": text.vocab_size},
        preprocess=preprocess,
        repeated=parts.repeated,
        notes=(*parts.notes, *said, *notes),
        fingerprint=digest(
            *(t for s in found.values() for t in (s.columns["input"].value_M, s.values["start"], s.values["end"]))
        ),
        tokenizer=text,
        details={"longest": longest, "unanswerable": without, "spaces": spaces} | ({"path": str(path)} if path else {}),
    )


_Plain = tuple[str, str, list[tuple[str, int | None]]]
"""A question, its context, and its answers, each with its place where that is known."""


def _plain(record: Record, column: str, around: str, target: str, number: int, parts: Parts) -> _Plain:
    question, context, answers = record.get(column), record.get(around), record.get(target)
    if not isinstance(question, str) or not isinstance(context, str):
        raise DataError(f"Record {number} of {parts.where} has no text as {column!r} or {around!r}.")
    if isinstance(answers, dict):  # as lists of texts and of places, which is how columns keep them
        texts, places = list(answers.get("text", ())), list(answers.get("answer_start", ()))
        answers = [{"text": t, "answer_start": p} for t, p in zip(texts, places or [None] * len(texts), strict=True)]
    if isinstance(answers, str):
        answers = [answers]
    found: list[tuple[str, int | None]] = []
    for answer in [] if answers is None else answers:
        given = answer if isinstance(answer, dict) else {"text": answer}
        if not isinstance(given.get("text"), str):
            raise DataError(f"Record {number} of {parts.where} has {str(answer)[:40]!r} for an answer.")
        place = given.get("answer_start")
        if given["text"].strip():
            found.append((given["text"], None if place is None else int(place)))
    return question.strip(), context, found


def _divided(plain: Mapping[str, list[_Plain]], parts: Parts, config: DataConfig) -> dict[str, list[_Plain]]:
    """Make the splits that lack, in which no context stands on both sides."""
    plan = splits.plan(config, [part for part in plain if part != "train"])
    train = plain["train"]
    group_N = splits.number_groups([context for _, context, _ in train])
    index, notes = splits.divide(plan, len(train), None, config.split_seed, group_N)
    index["train"], limited = splits.limit(index["train"], None, config.limit, config.split_seed)
    parts.notes += [*notes, *limited]
    made = {part: [train[k] for k in index_N.tolist()] for part, index_N in index.items()}
    found = {part: (dict(plain) | made)[part] for part in ("train", *splits.HELD_OUT) if part in {**plain, **made}}
    parts.repeated = overlap.of_keys({part: [repr(one) for one in of_part] for part, of_part in found.items()})
    parts.notes += overlap.told(parts.repeated, found, "questions")
    return found


def _asked(plain: Sequence[_Plain], preprocess: QuestionPreprocess) -> tuple[list[_Asked], int]:
    """Return questions as tokens, and how many are left out since their answers do not stand in their contexts."""
    of_context = {context: preprocess.encode(context) for context in dict.fromkeys(context for _, context, _ in plain)}
    tokens = preprocess.text.encode_batch([question for question, _, _ in plain])
    found, lost = [], 0
    for (question, context, answers), token_T in zip(plain, tokens, strict=True):
        span = next((span for text, place in answers if (span := _span(context, text, place)) is not None), None)
        if answers and span is None:
            lost += 1
            continue
        texts = tuple(dict.fromkeys(text for text, _ in answers))
        found.append(_Asked(question, token_T.astype(np.int64), context, of_context[context], texts, span))
    return found, lost


def _span(context: str, text: str, place: int | None) -> tuple[int, int] | None:
    """Return where an answer stands: at the place that is given, or else where it comes first."""
    if place is None or context[place : place + len(text)] != text:
        place = context.find(text)
    return None if place < 0 else (place, place + len(text))
