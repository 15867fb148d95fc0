"""Conversations of a person and an assistant, of which a model learns the assistant's part.

Read from records in the forms that people keep: ``messages`` of role and content, ShareGPT's ``conversations`` of from
and value, a prompt and its completion, an instruction with its input and output; and the dialogues of CamRest676 (Wen
et al. 2017). A chat template writes each as one text: see `chat_template.py`.

N conversations, T tokens in one.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata.data import chat_template, records
from strata.data.dataset import DataConfig, Dataset
from strata.data.records import Parts, Record
from strata.data.sequences import PAD_TO, Ragged, SequenceSplit, fingerprint
from strata.data.tokenizer import TextPreprocess, tokenizer_for
from strata.errors import DataError

Messages = list[dict[str, str]]
"""A conversation, message by message: "role" and "content"."""
NOT_LEARNED = -100
"""In the place of a next token that is not the assistant's to write."""
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "dial")
"""What a field that holds a whole conversation is called, where data.column does not say."""
QUESTIONS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"))
"""Fields of one question and its answer."""
_ROLES = {
    "human": "user",
    "customer": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Other names of who speaks."""


def messages_of(value: Any, where: str) -> Messages:
    """Return a list of messages in our form, whatever their fields are called. Raises DataError for what is none."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where} holds {str(value)[:60]!r} where a list of messages is expected.")
    found: Messages = []
    for message in value:
        if isinstance(message, Mapping) and "usr" in message and "sys" in message:  # a turn of both, as CamRest676 has
            found.append({"role": "user", "content": str(message["usr"].get("transcript", ""))})
            found.append({"role": "assistant", "content": str(message["sys"].get("sent", ""))})
            continue
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        content = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
        if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
            content = "".join(str(part["text"]) for part in content)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f'{where} has the message {str(message)[:60]}; {{"role": "user", "content": TEXT}} is expected.'
            )
        found.append({"role": _ROLES.get(role.lower(), role.lower()), "content": content})
    return found


def _question_and_answer(record: Record, where: str) -> Messages:
    """Return the messages of a record of a question, perhaps what it is about, and its answer."""
    asked, answered = next(names for names in QUESTIONS if set(names) <= record.keys())
    question, answer = record[asked], record[answered]
    for name, text in ((asked, question), (answered, answer)):
        if not isinstance(text, str):
            raise DataError(f"{where} has {name}={str(text)[:40]!r}; a text is expected.")
    about = record.get("input")
    if asked == "instruction" and isinstance(about, str) and about.strip():
        question = f"{question}\n\n{about}"
    system = record.get("system")
    first = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _is_question(record: Record) -> bool:
    return any(set(names) <= record.keys() for names in QUESTIONS)


def are_conversations(found: Sequence[Record]) -> bool:
    """Say whether records are conversations, by the names of their fields."""

    def holds_one(record: Record) -> bool:
        lists = (record.get(name) for name in LISTS)
        return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in lists)

    return bool(found) and all(holds_one(record) or _is_question(record) for record in found)


def open_chat(path: Path, config: DataConfig) -> Dataset:
    """Read conversations as a data set. Raises DataError."""
    parts = records.divided(records.read_parts(path, config), config)
    column = config.column or next((name for name in LISTS if name in parts.fields), None)
    if column is None and not _is_question(parts.records["train"][0]):
        column = parts.field_called(None, LISTS, "data.column", "the conversation")
    told: dict[str, list[Messages]] = {}
    for part, of_part in parts.records.items():
        wheres = (f"{parts.where}, record {row + 1} of the {part} split," for row in range(len(of_part)))
        told[part] = [
            _question_and_answer(record, where) if column is None else messages_of(record.get(column), where)
            for record, where in zip(of_part, wheres, strict=True)
        ]
    text, said = speaking(config, (message["content"] for talk in told["train"] for message in talk))
    found: dict[str, Any] = {}
    for part, talks in told.items():
        found[part] = _split(talks, text, config, part, parts)
    answers = int((found["train"].columns["target"].value_M != NOT_LEARNED).sum())
    share = answers / max(1, len(found["train"].columns["target"].value_M))
    parts.notes.append(f"{share:.0%} of the training tokens are answers, which are what is learned")
    longest = max(int(split.columns["input"].length_N.max()) for split in found.values())
    return Dataset(
        name=path.stem,
        kind="chat",
        target_kind=None,
        splits=found,
        sizes={"vocab_size": text.vocab_size},
        preprocess=text,
        repeated=parts.repeated,
        notes=(*parts.notes, *said, f"the longest conversation has {longest + 1:,} tokens"),
        fingerprint=fingerprint(found),
        tokenizer=text,
        details={"path": str(path), "longest": longest},
    )


def speaking(config: DataConfig, texts: Any) -> tuple[TextPreprocess, list[str]]:
    """Return a tokenizer that can hold a conversation, trained on these texts unless one is given; and what was
    decided, in words."""
    text, said = tokenizer_for(config, [*texts], default="bpe", special=True)
    speaks = chat_template.with_roles(text)
    if speaks is text:
        return text, [*said, "conversations are written by the tokenizer's own chat template"]
    new = speaks.vocab_size - text.vocab_size
    return speaks, [*said, f"conversations are written with {new} more tokens: {' '.join(chat_template.ROLE_TOKENS)}"]


@dataclass(frozen=True)
class _Describe:
    """Gives a conversation, for the report."""

    talks: list[Messages]

    def __call__(self, index: int) -> dict[str, Any]:
        return {"messages": self.talks[index]}


def _split(talks: list[Messages], text: TextPreprocess, config: DataConfig, part: str, parts: Parts) -> SequenceSplit:
    """Return a split's conversations, each up to its last answer, as tokens and the next tokens to be learned."""
    input_N, target_N, kept, cut = [], [], [], 0
    for row, messages in enumerate(talks):
        while messages and messages[-1]["role"] != "assistant":
            messages = messages[:-1]
        if not messages:
            continue
        token_T, target_T = as_targets(text, messages, f"{parts.where}, record {row + 1} of the {part} split")
        if config.max_length is not None and len(token_T) >= config.max_length:
            cut += 1
            token_T, target_T = token_T[: config.max_length - 1], target_T[: config.max_length - 1]
        if (target_T != NOT_LEARNED).any():
            input_N.append(token_T)
            target_N.append(target_T)
            kept.append(messages)
    if not kept:
        raise DataError(f"{parts.where} holds no conversation with an answer of the assistant in its {part} split.")
    if cut:
        parts.notes.append(
            f"{part}: {cut:,} conversations of more than {config.max_length} tokens are cut (data.max_length)"
        )
    if len(kept) < len(talks):
        parts.notes.append(f"{part}: {len(talks) - len(kept):,} conversations without an answer are left out")
    columns = {"input": Ragged.of(input_N), "target": Ragged.of(target_N)}
    return SequenceSplit(columns, fillers={"target": NOT_LEARNED}, describe=_Describe(kept))


def as_targets(
    text: TextPreprocess, messages: Sequence[Mapping[str, Any]], where: str, *, last_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return a conversation's tokens but the last (T,), and of each the next one where that is to be learned.

    Args:
        where: it stands, for an error.
        last_only: learn the last answer alone.

    Raises DataError for what the chat template refuses.
    """
    try:
        token_T, is_answer_T = chat_template.conversation(text, messages)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if last_only and is_answer_T.any():
        others = np.flatnonzero(~is_answer_T[: np.flatnonzero(is_answer_T)[-1]])
        is_answer_T[: others[-1] + 1 if len(others) else 0] = False
    token_T = token_T.astype(np.int64)
    return token_T[:-1], np.where(is_answer_T[1:], token_T[1:], NOT_LEARNED)


def packed(split: SequenceSplit, room: int) -> SequenceSplit:
    """Return the same conversations, several in a sample as far as they fit, and a number that tells them apart.

    The longest go first, each to where it leaves the least room. A batch has ``document`` beside ``input`` and
    ``target``, int64 (B, T): equal within a conversation.

    Args:
        room: tokens of a sample; no conversation has more.
    """
    length_N = split.columns["input"].length_N
    packs: list[list[int]] = []
    open_ones: list[tuple[int, int]] = []
    """Room that is left, and in which pack; sorted."""
    for number in length_N.argsort(descending=True, stable=True).tolist():
        length = int(length_N[number])
        place = bisect.bisect_left(open_ones, (length, -1))
        if place == len(open_ones):
            left, pack = room, len(packs)
            packs.append([])
        else:
            left, pack = open_ones.pop(place)
        packs[pack].append(number)
        if left > length:
            bisect.insort(open_ones, (left - length, pack))
    order_N = torch.tensor([number for pack in packs for number in pack])
    bounds = torch.tensor([len(pack) for pack in packs]).cumsum(0)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), length_N[order_N].cumsum(0)[bounds - 1]])
    columns = {name: Ragged(_reordered(column, order_N), start) for name, column in split.columns.items()}
    columns["document"] = Ragged(torch.repeat_interleave(order_N.to(torch.int32), length_N[order_N]), start)
    return SequenceSplit(columns, fillers={"target": NOT_LEARNED, "document": NOT_LEARNED})


def _reordered(column: Ragged, order_N: Tensor) -> Tensor:
    """Return the values of sequences in another order."""
    return torch.cat([column.value_M[column.start_N1[k] : column.start_N1[k + 1]] for k in order_N.tolist()])


def room_of(context: int) -> int:
    """Return how many tokens a padded batch may have for a model that looks back on ``context``."""
    return context // PAD_TO * PAD_TO
