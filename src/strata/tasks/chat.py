"""The assistant's part in conversations: the next token of its answers, of no one else's words.

As in Ouyang et al. 2022, "Training language models to follow instructions with human feedback", section 3.1: the
supervised step. Conversations are packed where a model can tell documents apart, so that nothing is padding; recurrent
nets read them one by one, padded.

B conversations or packs of them, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from strata.data import chat_template
from strata.data.chat import messages_of, packed, room_of
from strata.data.dataset import Dataset, Split
from strata.errors import ConfigError, DataError
from strata.models import family_of, model_class
from strata.tasks.base import Answering, Sample
from strata.tasks.decoding import Decoding
from strata.tasks.next_token import NextToken
from strata.tasks.writing import Language, write

logger = logging.getLogger(__name__)
EXAMPLES = 5
"""Conversations that a report shows with what the model answered."""
TOKENS = 60
"""Of an answer at most, where nothing is said."""
GREETING = "Hello."
"""What a model is told where nobody says anything."""


def carries_state(model_config: Any) -> bool:
    """Say whether a model reads a text of any length, since it remembers and does not look back."""
    return bool(getattr(model_class(str(family_of(model_config))), "carries_state", False))


@dataclass(frozen=True, kw_only=True)
class Chat(NextToken):
    """What an assistant answers."""

    kind: ClassVar[str] = "chat"

    def resolve(self, dataset: Dataset) -> Chat:
        """Check that the data is conversations."""
        if dataset.kind != "chat":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from conversations: JSON lines "
                'such as {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}.'
            )
        return self

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return conversations, several in a sample where the model can tell them apart."""
        split: Any = dataset.splits[name]
        return split if carries_state(model_config) else packed(split, room_of(model_config.context))

    def examples(self, model: nn.Module, dataset: Dataset, split: str, context: Answering) -> list[dict[str, Any]]:
        """Return the first conversations of a split up to their last answer, that answer, and the model's own."""
        of_split: Any = dataset.splits[split]
        found = []
        for number in range(min(EXAMPLES, len(of_split))):
            messages = of_split.describe(number)["messages"]
            said = " / ".join(f"{message['role']}: {message['content']}" for message in messages[:-1])
            try:
                written = self._answer(model, [messages[:-1]], context, Decoding.of({"tokens": TOKENS}))[0][0]
            except (ConfigError, DataError):  # no room is left for an answer, or nothing was asked
                continue
            found.append({"source": said, "references": [messages[-1]["content"]], "written": written})
        return found

    def read(self, raw: Any, preprocess: Any) -> Tensor:
        """Turn what a person said, or a conversation, into the tokens before its answer. Raises DataError."""
        return torch.from_numpy(chat_template.prompt(preprocess, _conversation(raw)).astype("int64"))

    def answers_to(self, model: nn.Module, raws: Sequence[Any], context: Answering) -> list[dict[str, Any]]:
        """Return what the assistant says to each text or conversation, greedily, as "text"."""
        talks = [_conversation(raw) for raw in raws]
        return [{"text": texts[0]} for texts in self._answer(model, talks, context, Decoding.of({"tokens": TOKENS}))]

    def sample(self, model: nn.Module, context: Answering, **options: Any) -> Sample:
        """Answer what a person says, or each of a list of such texts; what was said stands in the line before.

        The options are those of `NextToken.sample`. Raises ConfigError for one that is not known, not allowed, or
        excluded by another.
        """
        said, stream, draft = (options.pop(name, None) for name in ("prompt", "stream", "draft"))
        settings = Decoding.of(options)
        for words in settings.without_effect():
            logger.warning(words)
        greeting = GREETING if can_read(GREETING, context.preprocess) else ""
        lines = [said or greeting] if said is None or isinstance(said, str) else [*said]
        talks = [_conversation(line) for line in lines]
        below = None if stream is None else _on_the_next_line(stream, "" if said else greeting)
        found = self._answer(model, talks, context, settings, draft=draft, stream=below)
        texts = [f"{line}\n{answer}" for line, several in zip(lines, found, strict=True) for answer in several]
        alone = settings.number == 1 and (said is None or isinstance(said, str))
        return Sample(text=texts[0]) if alone else Sample(texts=texts)

    def _answer(
        self,
        model: nn.Module,
        talks: Sequence[Sequence[Mapping[str, Any]]],
        context: Answering,
        settings: Decoding,
        **more: Any,
    ) -> list[list[str]]:
        """Return ``settings.number`` answers to each conversation."""
        prompts = [chat_template.prompt(context.preprocess, talk).tolist() for talk in talks]
        language = Language.of(context.preprocess)
        end = chat_template.end_of_answer(context.preprocess)
        stops = (*language.stop_tokens, *(() if end is None else (end,)))
        speaks = Language(context.preprocess, tuple(dict.fromkeys(stops)))
        found = write(model, prompts, settings, speaks, device=context.device, **more)
        return [[one.text for one in several] for several in found]


def can_read(text: str, preprocess: Any) -> bool:
    """Say whether a tokenizer has a token for every character of a text."""
    try:
        preprocess.encode(text)
    except DataError:
        return False
    return True


def _conversation(raw: Any) -> list[dict[str, str]]:
    """Return the messages of a text that a person said, of a list of messages, or of a record that holds one."""
    if isinstance(raw, Mapping):
        raw = raw.get("messages", raw.get("prompt"))
    return [{"role": "user", "content": raw}] if isinstance(raw, str) else messages_of(raw, "The conversation")


def _on_the_next_line(stream: Callable[[str], None], before: str) -> Callable[[str], None]:
    """Return what gives pieces of an answer on, and what stands before it with the first."""
    waiting = [f"{before}\n"]

    def say(piece: str) -> None:
        stream((waiting.pop() if waiting else "") + piece)

    return say
