"""Plain text, a file or a folder of files, as tokens and windows of tokens.

N tokens in a split, B windows in a batch, T tokens in a window (the model's context).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strata import rng
from strata.data import splits
from strata.data.dataset import DataConfig, Dataset, digest
from strata.data.files import read_text
from strata.data.images import visible
from strata.data.preprocess import TextPreprocess
from strata.errors import DataError

_PROSE = "txt text md rst tex log html htm xml json jsonl yaml yml toml ini cfg srt csv ipynb"
_CODE = "c h cc cpp hpp cs css go hs java jl js jsx kt lua ml php pl py pyi r rb rs scala sh sql swift ts tsx"
EXTENSIONS = frozenset(f".{name}" for name in f"{_PROSE} {_CODE}".split())
CHARACTERS_AT_MOST = 256
"""Distinct characters up to which each is a token; a text with more is taken as bytes."""
HELD_OUT_SHARE = 0.05
"""Of the text, at its end, for each of validation and test where they are not given."""


class TokenSplit:
    """A stretch of text as tokens: uint8 or int32 (N,), on any device."""

    in_memory = True

    def __init__(self, token_N: Tensor, name: str = "train") -> None:
        self.token_N, self.name = token_N, name

    def __len__(self) -> int:
        return len(self.token_N)

    def windows(self, context: int, *, shift: bool = True) -> WindowSplit:
        """Cut the text into windows. Raises DataError when it is shorter than one."""
        return WindowSplit(self, context, shift=shift)

    def to(self, device: torch.device | str) -> TokenSplit:
        """Return the same text on a device."""
        return TokenSplit(self.token_N.to(device), self.name)


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
        self._window_NT = self.token_N.unfold(0, context + 1, 1)  # a view: every window that there is

    def __len__(self) -> int:
        return (len(self.token_N) - 1) // self.context

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return windows as int64: ``input`` (B, T) and ``target`` (B, T), which is one token ahead."""
        device = self.token_N.device
        index_B, epoch_B = index_B.to(device), epoch_B.to(device)
        start_B = index_B * self.context
        if self.shift:
            moved_B = rng.integers(self.context, 0, "window shift", epoch_B, torch.zeros_like(index_B))[:, 0]
            start_B = (start_B + moved_B).clamp(max=len(self.token_N) - 1 - self.context)
        window_BT = self._window_NT[start_B].to(torch.int64)
        return {"input": window_BT[:, :-1].contiguous(), "target": window_BT[:, 1:].contiguous()}


def read_folder(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the text of each part of a folder, and what was noticed.

    Files or folders called train, validation, test (or val, valid) are parts when there is one for training; else all
    files, in the order of their paths, are one text.
    """
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
    if others:
        ignored = ", ".join(f"{count:,} {name}" for name, count in others.most_common(5))
        notes.append(f"ignored {sum(others.values()):,} files that are not text: {ignored}")
    if not files:
        raise DataError(f"{root} holds no text files. Understood: {', '.join(sorted(EXTENSIONS))}.")
    notes.append(f"read {sum(len(found) for found in parts.values()):,} text files")
    return {part: join(found) for part, found in parts.items()}, notes


def list_texts(folder: Path, others: Counter[str]) -> list[Path]:
    """Return the text files below a folder, sorted; count the extensions of the others."""
    found: list[Path] = []
    for entry in visible(folder):
        path = Path(entry.path)
        if entry.is_dir():
            found += list_texts(path, others)
        elif path.suffix.lower() in EXTENSIONS:
            found.append(path)
        else:
            others[path.suffix.lower() or "no extension"] += 1
    return found


def join(files: Sequence[Path]) -> str:
    """Return the text of files, one after the other, each ending in a line break."""
    texts = (read_text(file) for file in files)
    return "".join(text if text.endswith("\n") or not text else text + "\n" for text in texts)


def open_text(path: Path, config: DataConfig) -> Dataset:
    """Read a text file, or all text files of a folder, as a data set. Raises DataError."""
    parts, notes = _read(path)
    return from_texts(path.stem, parts, config, notes=notes, path=path)


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    return read_folder(path) if path.is_dir() else ({"train": read_text(path)}, [])


def from_texts(
    name: str, parts: Mapping[str, str], config: DataConfig, *, notes: Sequence[str] = (), path: Path | None = None
) -> Dataset:
    """Make a data set of texts by part, "train" among them. Raises DataError for an empty text."""
    plan = splits.plan(
        config,
        [part for part in parts if part != "train"],
        share=HELD_OUT_SHARE,
        share_beside=HELD_OUT_SHARE,
        at_most_beside=None,
    )
    parts = {part: text for part, text in parts.items() if part not in plan.unused}
    for part, other in plan.paths.items():
        elsewhere, _ = _read(other)
        parts[part] = elsewhere.get(part, elsewhere["train"])
    for part, text in parts.items():
        if not text.strip():
            raise DataError(f"{path or name} holds no text" + (f" for its {part} split." if len(parts) > 1 else "."))

    characters = tuple(sorted(set().union(*parts.values())))
    tokens = config.tokens or ("character" if len(characters) <= CHARACTERS_AT_MOST else "byte")
    said = [*notes, *plan.notes]
    if config.tokens is None:
        why = f"{len(characters):,} distinct characters, " + ("at most" if tokens == "character" else "more than")
        said.append(f"tokens are {tokens}s: {why} {CHARACTERS_AT_MOST}")
    preprocess = TextPreprocess(tokens=tokens, characters=characters if tokens == "character" else ())
    token = {part: torch.from_numpy(preprocess.encode(text).copy()) for part, text in parts.items()}

    whole_N = token["train"]
    n = len(whole_N)
    # Counted from the front, so that 0.1 and 0 give the usual first nine tenths and last tenth.
    ends = [int(n * (1.0 - sum(plan.shares.values())))]
    ends.append(int(n * (1.0 - plan.shares.get("test", 0.0))))
    token["train"] = whole_N[: ends[0]]
    for part, start, end in (("validation", ends[0], ends[1]), ("test", ends[1], n)):
        if part in plan.shares and end > start:
            token[part] = whole_N[start:end]
            share = 100 * plan.shares[part]
            where = f"the last {share:.3g} %" if end == n else f"{share:.3g} % before the test text"
            said.append(f"{plan.why(part)}: {where} ({end - start:,} tokens) of the text held out")
    if config.limit is not None and config.limit < len(token["train"]):
        said.append(f"data.limit: the first {config.limit:,} of {len(token['train']):,} training tokens are used")
        token["train"] = token["train"][: config.limit]
    found: dict[str, Any] = {
        part: TokenSplit(token[part].clone(), part) for part in ("train", *splits.HELD_OUT) if part in token
    }
    return Dataset(
        name=name,
        kind="text",
        target_kind=None,
        splits=found,
        sizes={"vocab_size": preprocess.vocab_size},
        preprocess=preprocess,
        notes=tuple(said),
        fingerprint=digest(*(split.token_N for split in found.values()), "".join(preprocess.characters)),
        tokenizer=preprocess,
        details={"path": str(path)} if path else {},
    )
