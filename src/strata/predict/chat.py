"""A conversation with a model that writes text, kept within what the model can look back on.

With a chat template (a tokenizer that has one) each side has its role. Without, a model knows no roles: it goes on with
what was said so far, each line of the person's followed by its own, up to an empty line.

T tokens of a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from strata.data.chat_template import end_of_answer, prompt
from strata.errors import ConfigError, DataError
from strata.predict.run import Predictor
from strata.tasks.decoding import Decoding
from strata.tasks.reading import context_of
from strata.tasks.writing import Language

TOKENS = 200
"""Of an answer at most, where nothing is said."""
EMPTY_LINE = "\n\n"


class Chat:
    """What was said, and the model that answers.

    Args:
        predictor: a trained model of texts.
        system: what the model is told before the conversation; needs a chat template.
        options: as of `Run.generate`, but for the number of texts.

    Raises ConfigError for a model that writes no text, and for options that are not allowed.
    """

    def __init__(self, predictor: Predictor, *, system: str | None = None, **options: Any) -> None:
        if not (predictor.task.generates and predictor.preprocess.kind == "text"):
            raise ConfigError("This model does not write text. Chat with a model that was trained on the next token.")
        self.has_roles = bool(predictor.preprocess.chat_template)
        if system is not None and not self.has_roles:
            raise ConfigError("A model without a chat template knows no roles. Leave out system.")
        self._predictor = predictor
        self._beside: dict[str, Any] = {name: options.pop(name, None) for name in ("weights", "draft")}
        language = Language.of(predictor.preprocess)
        end = end_of_answer(predictor.preprocess) if self.has_roles else None
        self._language = Language(predictor.preprocess, (*language.stop_tokens, *([] if end is None else [end])))
        if not self.has_roles and not {"stop", "regex"} & options.keys():
            options["stop"] = EMPTY_LINE
        self.settings = Decoding.of({"tokens": TOKENS} | options)
        if self.settings.number > 1:
            raise ConfigError(f"number={self.settings.number}: a chat has one answer at a time.")
        try:
            predictor.preprocess.read(EMPTY_LINE)
            self._line, self._gap = "\n", EMPTY_LINE
        except DataError:  # a vocabulary without line breaks
            self._line = self._gap = ""
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Mapping[str, str]] = []
        """What was said and still is remembered, in turns: "role" ("user" or "assistant") and "content"."""
        self.forgotten = 0
        """Messages that were dropped from the front, because the model cannot look back that far."""

    def reset(self) -> None:
        """Begin a new conversation."""
        self.messages, self.forgotten = [], 0

    def answer(self, text: str, stream: Callable[[str], None] | None = None) -> str:
        """Return what the model says to a text; both are remembered, also when Ctrl-C cuts the answer short.

        Raises DataError for a text that the model cannot read, or that leaves no room for an answer.
        """
        before, forgotten = self.messages, self.forgotten
        self.messages = [*before, {"role": "user", "content": text}]
        said: list[str] = []

        def say(piece: str) -> None:
            said.append(piece)
            if stream is not None:
                stream(piece)

        try:
            token_T = self._fitted()
            self._predictor.write(token_T, self.settings, self._language, stream=say, **self._beside)
        except (DataError, ConfigError):
            self.messages, self.forgotten = before, forgotten
            raise
        except KeyboardInterrupt:
            self._remember(said)
            raise
        self._remember(said)
        return "".join(said)

    def _remember(self, said: list[str]) -> None:
        self.messages = [*self.messages, {"role": "assistant", "content": "".join(said)}]

    def _fitted(self) -> list[int]:
        """Forget the oldest messages until an answer has room beside the others; return the others' tokens."""
        context = context_of(self._predictor.model, self._predictor.setup.device)
        room = min(self.settings.tokens, context // 2)
        while len(token_T := self._tokens()) + room > context:
            if len(self.messages) == 1:
                raise DataError(
                    f"The text has {len(token_T):,} tokens; this model looks back on {context:,}, and {room:,} of them "
                    f"are for the answer. Say it in fewer words."
                )
            turn = 2 if len(self.messages) > 2 else 1
            self.messages, self.forgotten = self.messages[turn:], self.forgotten + turn
        return token_T

    def _tokens(self) -> list[int]:
        preprocess = self._predictor.preprocess
        if self.has_roles:
            tokens: list[int] = prompt(preprocess, [*self._first, *self.messages]).tolist()
            return tokens
        text = "".join(
            message["content"] + (self._line if message["role"] == "user" else self._gap) for message in self.messages
        )
        return [*preprocess.prefix, *preprocess.read(text).tolist()]
