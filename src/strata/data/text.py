"""Corpora: text files, folders of them, and files of records with a text each, as tokens and windows of tokens.

What is several documents is packed: one follows the other, never padded, with the end token between them where the
tokenizer has one.

N tokens in a split, B windows in a batch, T tokens in a window (the model's context).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata import rng
from strata.data import overlap, records, splits
from strata.data.dataset import DataConfig, Dataset, digest
from strata.data.files import ignored, read_text
from strata.data.images import visible
from strata.data.tokenizer import tokenizer_for
from strata.data.tokens import TextPreprocess, one_newline
from strata.errors import ConfigError, DataError, suggest

_PROSE = "txt text md rst tex log html htm xml json jsonl yaml yml toml ini cfg srt csv ipynb"
_CODE = "c h cc cpp hpp cs css go hs java jl js jsx kt lua ml php pl py pyi r rb rs scala sh sql swift ts tsx"
EXTENSIONS = frozenset(f".{name}" for name in f"{_PROSE} {_CODE}".split())
RECORDS = frozenset((".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"))
"""Files whose records are documents, where one of their fields is text."""
COLUMN_NAMES = ("text", "content")
"""What the field of the text is called, where data.column does not say."""
_RECORDS_LOOKED_AT = 1000
HELD_OUT_SHARE = 0.05
"""Of the text, at its end, for each of validation and test where they are not given."""


class TokenSplit:
    """A stretch of text as tokens: uint8, uint16 or int32 (N,), on any device.

    Args:
        characters: how many the tokens stand for, where that is known.
        end: the token after each document; given where documents are to be told apart.
    """

    in_memory = True

    def __init__(
        self, token_N: Tensor, name: str = "train", *, characters: int | None = None, end: int | None = None
    ) -> None:
        self.token_N, self.name, self.characters, self.end = token_N, name, characters, end

    def __len__(self) -> int:
        return len(self.token_N)

    def windows(self, context: int, *, shift: bool = True) -> WindowSplit:
        """Cut the text into windows. Raises DataError when it is shorter than one."""
        return WindowSplit(self, context, shift=shift)

    def stream(self, context: int) -> StreamSplit:
        """Cut the text into windows that are read in their order. Raises DataError when it is shorter than one."""
        return StreamSplit(self, context)

    def to(self, device: torch.device | str) -> TokenSplit:
        """Return the same text on a device."""
        return TokenSplit(self.token_N.to(device), self.name, characters=self.characters, end=self.end)


class WindowSplit:
    """A text cut into windows of ``context`` tokens that do not overlap, each with the tokens that come next.

    Args:
        shift: move the cuts by a random number in each epoch, so that in time every token is seen in every place. The
            last window then ends where the text ends, and overlaps the one before it. Without, every window but a
            shorter rest is there once, in order.
    """

    in_memory = True

    def __init__(self, split: TokenSplit, context: int, *, shift: bool) -> None:
        if len(split) <= context:
            raise DataError(
                f"The {split.name} text has {len(split):,} tokens, fewer than the {context + 1:,} of one context and "
                f"the token after it. Give more text, or a smaller model.context."
            )
        self.token_N, self.context, self.shift = split.token_N, context, shift
        self._end = split.end
        measured = not shift and split.characters is not None
        self._characters = context * (split.characters or 0) / len(split) if measured else None
        self._window_NT = self.token_N.unfold(0, context + 1, 1)  # a view: every window that there is

    def __len__(self) -> int:
        return (len(self.token_N) - 1) // self.context

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return windows as int64: ``input`` (B, T) and ``target`` (B, T), which is one token ahead.

        Where documents are told apart, ``document`` (B, T) numbers them in each window; an end token counts to the
        document that follows it, whose first token is its target. Where nothing is shifted, ``characters``, float32
        (B,), says how many the targets stand for on average.
        """
        device = self.token_N.device
        index_B, epoch_B = index_B.to(device), epoch_B.to(device)
        start_B = index_B * self.context
        if self.shift:
            moved_B = rng.integers(self.context, 0, "window shift", epoch_B, torch.zeros_like(index_B))[:, 0]
            start_B = (start_B + moved_B).clamp(max=len(self.token_N) - 1 - self.context)
        window_BT = self._window_NT[start_B].to(torch.int64)
        batch = {"input": window_BT[:, :-1].contiguous(), "target": window_BT[:, 1:].contiguous()}
        if self._end is not None:
            batch["document"] = (batch["input"] == self._end).cumsum(1)
        if self._characters is not None:
            batch["characters"] = torch.full((len(index_B),), self._characters, device=device)
        return batch


class StreamSplit(WindowSplit):
    """A text's windows to be read in their order, for nets that carry their state from one to the next.

    Windows are those of a `WindowSplit` that never shift, since what stands before a window is known all the same.
    """

    in_order_rows = True

    def __init__(self, split: TokenSplit, context: int) -> None:
        super().__init__(split, context, shift=False)

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return windows, and ``begins`` (B,): True where the text begins, and nothing stands before the window."""
        return super().gather(index_B, epoch_B) | {"begins": index_B.to(self.token_N.device) == 0}


@dataclass
class Corpus:
    """Documents by split, "train" among them."""

    parts: dict[str, list[str]]
    are_records: bool = False
    """They were apart in their file, and are not what a folder's files happen to be."""
    notes: list[str] = field(default_factory=list)


def read_corpus(path: Path, config: DataConfig) -> Corpus:
    """Read a file or folder as documents by split. Raises DataError for what is no text.

    Files or folders called train, validation, test (or val, valid, dev) are splits when there is one for training;
    else all files, in the order of their paths, are one.
    """
    if path.is_dir():
        return _read_folder(path, config)
    found = _read_documents(path, config)
    return Corpus({"train": found.documents}, found.are_records, found.notes)


def _read_folder(root: Path, config: DataConfig) -> Corpus:
    others: Counter[str] = Counter()
    files = list_texts(root, others)
    parts: dict[str, list[Path]] = {}
    for file in files:
        first = file.relative_to(root).parts[0]
        name = first if file.parent != root else file.stem
        parts.setdefault(splits.NAMES.get(name.lower(), ""), []).append(file)
    if "train" not in parts:
        parts = {"train": files}
    notes = []
    if "" in parts:
        notes.append(f"{len(parts.pop('')):,} files beside the given splits are not used")
    notes += ignored(others, "text")
    if not files:
        raise DataError(f"{root} holds no text files. Understood: {', '.join(sorted(EXTENSIONS))}.")
    notes.append(f"read {sum(len(found) for found in parts.values()):,} text files")
    read = {part: [_read_documents(file, config) for file in found] for part, found in parts.items()}
    every = [found for of_part in read.values() for found in of_part]
    notes += list(dict.fromkeys(note for found in every for note in found.notes))
    documents = {part: [text for found in of_part for text in found.documents] for part, of_part in read.items()}
    return Corpus(documents, any(found.are_records for found in every), notes)


@dataclass
class _Documents:
    documents: list[str]
    are_records: bool
    notes: list[str]


def _read_documents(path: Path, config: DataConfig) -> _Documents:
    """Read one file: the texts of its records, or all of it as one document."""
    if records.extension_of(path) not in RECORDS:
        return _Documents([read_text(path, config.encoding)], False, [])
    found = records.read_records(path, config)["train"]
    column = _text_column(found, config, path)
    if column is None:
        if path.suffix.lower() == ".parquet":
            raise DataError(f"{path} has no column of text. Its columns: {', '.join(found[0])}.")
        note = f"{path.name} has no field of text and is read as it stands"
        return _Documents([read_text(path, config.encoding)], False, [note])
    texts = [one_newline(str(record[column])) for record in found if record.get(column)]
    chosen = "data.column" if config.column else "the field of text"
    notes = [f"{path.name}: {len(texts):,} documents, from {column!r} ({chosen})"]
    if len(texts) < len(found):
        notes.append(f"{path.name}: {len(found) - len(texts):,} records without a text left out")
    return _Documents(texts, True, notes)


def _text_column(found: Sequence[records.Record], config: DataConfig, path: Path) -> str | None:
    """Return the field of records that holds a text; None where none does.

    Raises DataError for a data.column that is not there, and where several fields may be meant.
    """
    names = list(dict.fromkeys(name for record in found[:_RECORDS_LOOKED_AT] for name in record))
    if config.column is not None:
        if config.column not in names:
            raise DataError(f"{path} has no field {config.column!r} (data.column).{suggest(config.column, names)}")
        return config.column
    texts = []
    for name in names:
        values = [record.get(name) for record in found[:_RECORDS_LOOKED_AT]]
        present = [value for value in values if value]
        spaced = sum(isinstance(value, str) and len(value.split()) > 1 for value in present)
        if present and 2 * spaced > len(present):
            texts.append(name)
    usual = [name for known in COLUMN_NAMES for name in names if name.strip().lower() == known]
    strings = [name for name in usual if all(isinstance(r.get(name), str | None) for r in found[:_RECORDS_LOOKED_AT])]
    if strings or len(texts) == 1:
        return (strings or texts)[0]
    if not texts:
        return None
    raise DataError(f"{path} does not say which field holds the text. Give data.column=, one of: {', '.join(texts)}.")


def list_texts(folder: Path, others: Counter[str]) -> list[Path]:
    """Return the text files below a folder, sorted; count the extensions of the others."""
    found: list[Path] = []
    for entry in visible(folder):
        path = Path(entry.path)
        if entry.is_dir():
            found += list_texts(path, others)
        elif records.extension_of(path) in EXTENSIONS | RECORDS:
            found.append(path)
        else:
            others[path.suffix.lower() or "no extension"] += 1
    return found


def _running(documents: Sequence[str]) -> str:
    """Return documents one after the other, each ending in a line break; one alone as it is."""
    if len(documents) == 1:
        return documents[0]
    return "".join(text if text.endswith("\n") or not text else text + "\n" for text in documents)


def open_text(path: Path, config: DataConfig) -> Dataset:
    """Read a text file, a file of records, or all such files of a folder, as a corpus. Raises DataError."""
    return from_corpus(path.stem, read_corpus(path, config), config, path=path)


def from_texts(name: str, parts: Mapping[str, str | Sequence[str]], config: DataConfig, **more: Any) -> Dataset:
    """Make a data set of texts by part, "train" among them, each one text or several documents; see `from_corpus`."""
    documents = {part: [text] if isinstance(text, str) else list(text) for part, text in parts.items()}
    return from_corpus(name, Corpus(documents, notes=list(more.pop("notes", ()))), config, **more)


def from_corpus(name: str, corpus: Corpus, config: DataConfig, *, path: Path | None = None) -> Dataset:
    """Make a data set of documents. Raises DataError for an empty text, and what `tokenizer_for` raises."""
    parts = corpus.parts
    plan = splits.plan(
        config,
        [part for part in parts if part != "train"],
        path,
        share=HELD_OUT_SHARE,
        share_beside=HELD_OUT_SHARE,
        at_most_beside=None,
    )
    parts = {part: texts for part, texts in parts.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        elsewhere = read_corpus(other, config).parts
        parts[part] = elsewhere.get(part, elsewhere["train"])
    for part, texts in parts.items():
        if not any(text.strip() for text in texts):
            raise DataError(f"{path or name} holds no text" + (f" for its {part} split." if len(parts) > 1 else "."))

    several = corpus.are_records or any(len(texts) > 1 for texts in parts.values())
    is_running = config.tokenizer is None and config.tokens in (None, "character", "byte")
    is_running &= not corpus.are_records and not (several and config.separate_documents)
    said = [*corpus.notes, *plan.notes]
    make = _running_tokens if is_running else _packed_tokens
    tokens, characters, preprocess, notes = make(parts, config, plan, several)
    said += notes
    end = None
    if config.separate_documents:
        end = preprocess.end if several else None
        if not several:
            said.append("data.separate_documents has no effect: the text is one document")
        elif end is None:
            raise ConfigError("data.separate_documents needs a tokenizer with an end token, and this one has none.")
    if config.limit is not None and config.limit < len(tokens["train"]):
        said.append(f"data.limit: the first {config.limit:,} of {len(tokens['train']):,} training tokens are used")
        characters["train"] = round(characters["train"] * config.limit / len(tokens["train"]))
        tokens["train"] = tokens["train"][: config.limit]
    found: dict[str, Any] = {
        part: TokenSplit(tokens[part].clone(), part, characters=characters[part], end=end)
        for part in ("train", *splits.HELD_OUT)
        if part in tokens
    }
    repeated = overlap.of_keys(parts)
    said += overlap.told(repeated, parts, "documents")
    if len({*parts["train"]}) == len(parts["train"]):  # parts of a text, or documents that all differ
        repeated |= {part: 0 for part in found if part in plan.shares}
    return Dataset(
        name=name,
        kind="text",
        target_kind=None,
        splits=found,
        sizes={"vocab_size": preprocess.vocab_size},
        preprocess=preprocess,
        notes=tuple(said),
        repeated=repeated,
        fingerprint=digest(
            *(split.token_N for split in found.values()), preprocess.tokenizer or "".join(preprocess.characters)
        ),
        tokenizer=preprocess,
        details={"characters": {part: characters[part] for part in found}} | ({"path": str(path)} if path else {}),
    )


Made = tuple[dict[str, Tensor], dict[str, int], TextPreprocess, list[str]]
"""Tokens and their number of characters by split, what made them, and what was decided."""


def _running_tokens(parts: Mapping[str, list[str]], config: DataConfig, plan: splits.Plan, several: bool) -> Made:
    """Encode characters or bytes without anything between documents, and divide the tokens."""
    texts = {part: _running(documents) for part, documents in parts.items()}
    preprocess, said = tokenizer_for(config, [texts["train"]], others=texts.values())
    tokens = {part: torch.from_numpy(preprocess.encode(text).copy()) for part, text in texts.items()}
    whole_N = tokens["train"]
    n = len(whole_N)
    # Counted from the front, so that 0.1 and 0 give the usual first nine tenths and last tenth.
    ends = [int(n * (1.0 - sum(plan.shares.values())))]
    ends.append(int(n * (1.0 - plan.shares.get("test", 0.0))))
    tokens["train"] = whole_N[: ends[0]]
    for part, start, end in (("validation", ends[0], ends[1]), ("test", ends[1], n)):
        if part in plan.shares and end > start:
            tokens[part] = whole_N[start:end]
            said.append(_held_out(plan, part, end == n, f"{end - start:,} tokens"))
    characters = {part: len(token_N) for part, token_N in tokens.items()}
    if preprocess.tokens == "byte":  # each but those that go on with a character
        characters = {part: int((token_N & 0xC0 != 0x80).sum()) for part, token_N in tokens.items()}
    return tokens, characters, preprocess, said


def _packed_tokens(parts: Mapping[str, list[str]], config: DataConfig, plan: splits.Plan, several: bool) -> Made:
    """Divide the documents, take or train a tokenizer, and encode them with an end token after each."""
    texts, held_out = _divide(parts["train"], plan)
    texts |= {part: documents for part, documents in parts.items() if part != "train"}
    others = (text for documents in texts.values() for text in documents)
    preprocess, said = tokenizer_for(config, texts["train"], special=True, others=others)
    tokens = {}
    for part, documents in texts.items():
        tokens[part] = _encode(preprocess, documents, preprocess.end if several else None)
        unknown = int((tokens[part] == preprocess.unk).sum()) if preprocess.unk is not None else 0
        if unknown:
            said.append(f"{part}: {100 * unknown / len(tokens[part]):.2g} % of the tokens stand for what is not known")
    said += [_held_out(plan, part, last, f"{len(tokens[part]):,} tokens") for part, last in held_out.items()]
    characters = {part: sum(map(len, documents)) for part, documents in texts.items()}
    mean = characters["train"] / max(1, len(tokens["train"]))
    said.append(f"a token stands for {mean:.2f} characters on average")
    return tokens, characters, preprocess, said


def _held_out(plan: splits.Plan, part: str, is_last: bool, size: str) -> str:
    share = 100 * plan.shares[part]
    where = f"the last {share:.3g} %" if is_last else f"{share:.3g} % before the test text"
    return f"{plan.why(part)}: {where} ({size}) of the text held out"


def _encode(preprocess: TextPreprocess, documents: Sequence[str], end: int | None) -> Tensor:
    """Encode documents one after the other."""
    encoded = preprocess.encode_batch(documents)
    if end is not None:
        last = np.array([end], dtype=encoded[0].dtype)
        encoded = [part for document in encoded for part in (document, last)]
    return torch.from_numpy(np.concatenate(encoded))


def _divide(documents: list[str], plan: splits.Plan) -> tuple[dict[str, list[str]], dict[str, bool]]:
    """Divide documents in order, by characters: between two documents where that is near, else at a line's end.

    Returns the documents of each split, and whether a split that was made is the last.
    """
    starts_N = np.cumsum([0, *map(len, documents)])
    n = int(starts_N[-1])
    cuts = [0]
    for share in (sum(plan.shares.values()), plan.shares.get("test", 0.0)):
        cut = int(n * (1.0 - share))
        nearest = int(starts_N[np.abs(starts_N - cut).argmin()])
        if 0 < cut < n and not (cuts[-1] < nearest < n and abs(nearest - cut) <= 0.25 * share * n):
            k = int(np.searchsorted(starts_N, cut, "right")) - 1
            inside = cut - int(starts_N[k])
            line, space = (documents[k].find(mark, inside, inside + 1000) for mark in ("\n", " "))
            nearest = int(starts_N[k]) + (line + 1 if line >= 0 else max(space, inside))
        cuts.append(nearest if 0 < cut < n else cut)
    cuts.append(n)
    found: dict[str, list[str]] = {}
    held_out = {}
    for part, (start, end) in zip(("train", *splits.HELD_OUT), itertools.pairwise(cuts), strict=True):
        if end > start and (part == "train" or part in plan.shares):
            found[part] = _between(documents, starts_N, start, end)
            if part in plan.shares:
                held_out[part] = end == n
    return found, held_out


def _between(documents: Sequence[str], starts_N: np.ndarray, start: int, end: int) -> list[str]:
    """Return the documents from one character up to another, those at the borders cut."""
    first, last = np.searchsorted(starts_N, start, "right") - 1, np.searchsorted(starts_N, end, "left")
    found = []
    for k in range(int(first), int(last)):
        offset = int(starts_N[k])
        text = documents[k][max(0, start - offset) : end - offset]
        if text:
            found.append(text)
    return found
