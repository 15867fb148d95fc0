"""Answers of which one was preferred to another: what a model is tuned to people's taste with.

Read from records with ``prompt``, ``chosen`` and ``rejected``, each a text or a list of messages; chosen and rejected
may also be whole conversations, with the prompt in them.

N pairs of answers, T tokens of one with what it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strata.data import records
from strata.data.chat import NOT_LEARNED, Messages, as_targets, messages_of, speaking
from strata.data.dataset import DataConfig, Dataset
from strata.data.records import Record
from strata.data.sequences import Ragged, SequenceSplit, fingerprint
from strata.errors import DataError

CHOSEN, REJECTED, PROMPT = "chosen", "rejected", "prompt"


def are_preferences(found: Sequence[Record]) -> bool:
    """Say whether records are pairs of answers, by the names of their fields."""
    return bool(found) and all({CHOSEN, REJECTED} <= record.keys() for record in found)


@dataclass(frozen=True)
class _Describe:
    """Gives a pair's conversation with the answer that was chosen, for the report."""

    talks: list[Messages]

    def __call__(self, index: int) -> dict[str, Any]:
        return {"messages": self.talks[index]}


def open_preferences(path: Path, config: DataConfig) -> Dataset:
    """Read pairs of answers as a data set. Raises DataError."""
    parts = records.divided(records.read_parts(path, config), config)
    talks: dict[str, list[tuple[Messages, Messages]]] = {}
    for part, of_part in parts.records.items():
        wheres = (f"{parts.where}, record {row + 1} of the {part} split," for row in range(len(of_part)))
        talks[part] = [_pair(record, where) for record, where in zip(of_part, wheres, strict=True)]
    learned = (message["content"] for pair in talks["train"] for talk in pair for message in talk)
    text, said = speaking(config, learned)
    found: dict[str, Any] = {}
    longest = 0
    for part, pairs in talks.items():
        columns: dict[str, list[Any]] = {"input": [], "target": [], "rejected": [], "rejected_target": []}
        kept = []
        for row, pair in enumerate(pairs):
            where = f"{parts.where}, record {row + 1} of the {part} split"
            sides = [as_targets(text, talk, where, last_only=True) for talk in pair]
            if config.max_length is not None:
                sides = [(tokens[: config.max_length - 1], wanted[: config.max_length - 1]) for tokens, wanted in sides]
            if all((wanted != NOT_LEARNED).any() for _, wanted in sides):
                for column, side in zip(columns, [*sides[0], *sides[1]], strict=True):
                    columns[column].append(side)
                kept.append(pair[0])
        if not kept:
            raise DataError(
                f"{parts.where} holds no pair of answers within {config.max_length} tokens (data.max_length)."
            )
        if len(kept) < len(pairs):
            lost = len(pairs) - len(kept)
            parts.notes.append(f"{part}: {lost:,} pairs whose answers begin too late are left out (data.max_length)")
        found[part] = SequenceSplit(
            {name: Ragged.of(column) for name, column in columns.items()},
            fillers={"target": NOT_LEARNED, "rejected_target": NOT_LEARNED},
            describe=_Describe(kept),
        )
        longest = max(longest, *(int(found[part].columns[name].length_N.max()) for name in ("input", "rejected")))
    return Dataset(
        name=path.stem,
        kind="preferences",
        target_kind=None,
        splits=found,
        sizes={"vocab_size": text.vocab_size},
        preprocess=text,
        repeated=parts.repeated,
        notes=(*parts.notes, *said, f"the longest answer ends after {longest + 1:,} tokens, its prompt included"),
        fingerprint=fingerprint(found),
        tokenizer=text,
        details={"path": str(path), "longest": longest},
    )


def _pair(record: Record, where: str) -> tuple[Messages, Messages]:
    """Return the two conversations of a record, which differ in their last answer. Raises DataError."""
    prompt = record.get(PROMPT)
    before: Messages = []
    if isinstance(prompt, str):
        before = [{"role": "user", "content": prompt}]
    elif prompt is not None:
        before = messages_of(prompt, f"{where} prompt,")
    chosen, rejected = (_talk(record.get(side), before, f"{where} {side},") for side in (CHOSEN, REJECTED))
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise DataError(f"{where} does not end with an answer of the assistant.")
    return chosen, rejected


def _talk(answer: Any, before: Messages, where: str) -> Messages:
    """Return a whole conversation of what was asked and an answer, which may hold what was asked already."""
    if isinstance(answer, str):
        if not before:
            raise DataError(f"{where} is an answer to nothing: a field called {PROMPT!r} is expected beside it.")
        return [*before, {"role": "assistant", "content": answer}]
    messages = messages_of(answer, where)
    return messages if messages[0]["role"] != "assistant" else [*before, *messages]
