"""Conversations as one text, by a chat template: the small Jinja program that says which marks stand around who speaks.

A Hugging Face folder brings its own; `DEFAULT` is ours, for models that never talked. A template is a program by
someone else, so it runs in Jinja's sandbox, which neither reads files nor reaches Python.

T tokens in a conversation.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError

Message = Mapping[str, Any]
"""What one of the two says: ``role`` ("user", "assistant" or "system") and ``content``."""
ROLE_TOKENS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
DEFAULT = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{%- else -%}{{ message['content'] + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
"""Who speaks as one special token, what is said, and one that ends it: ``<|user|>Hello<|end|><|assistant|>Hi.<|end|>``.

The answer, which is what the model learns, is all after ``<|assistant|>``, its end included.
"""
_ROLES = ("user", "assistant", "system")
_BORDER = "\0"
"""Around an answer's number in a rendered text; a character that no text has."""
_END_OF_ANSWER = re.compile(r"\s+\Z")


def with_roles(preprocess: TextPreprocess) -> TextPreprocess:
    """Return a tokenizer that can hold a conversation: itself where it has a chat template, else with ours."""
    if preprocess.chat_template:
        return preprocess
    return preprocess.with_special(ROLE_TOKENS, chat_template=DEFAULT)


def end_of_answer(preprocess: TextPreprocess) -> int | None:
    """Return the token that ends an answer: ours where the template is ours, else the tokenizer's end."""
    if preprocess.chat_template == DEFAULT:
        return preprocess.special_ids.get(ROLE_TOKENS[-1])
    tokens_T, is_answer_T = conversation(
        preprocess, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    )
    last = [int(token) for token, is_answer in zip(tokens_T, is_answer_T, strict=True) if is_answer][-1:]
    return last[0] if last and last[0] in preprocess.special_ids.values() else preprocess.end


def conversation(preprocess: TextPreprocess, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
    """Return a conversation's tokens (T,), and which of them are the assistant's to write, bool (T,).

    Raises DataError for messages that are none, or that the template refuses, and ConfigError where there is none.
    """
    text, answers = render(preprocess, messages)
    token_T, offsets = preprocess.encode_with_offsets(text, marked=True)
    is_answer_T = np.zeros(len(token_T), dtype=bool)
    begins = np.array([start for start, _ in offsets])
    for start, end in answers:
        is_answer_T |= (begins >= start) & (begins < end)
    return token_T, is_answer_T


def prompt(preprocess: TextPreprocess, messages: Sequence[Message]) -> np.ndarray:
    """Return the tokens (T,) of a conversation up to where the assistant's next answer begins."""
    text, _ = render(preprocess, messages, for_answer=True)
    return preprocess.encode(text, marked=True)


def render(
    preprocess: TextPreprocess, messages: Sequence[Message], *, for_answer: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """Return a conversation as one text, and from where to where in it each of the assistant's answers goes.

    A template that does not mark its answers is asked for the conversation up to each answer, and up to its end; what
    the second has more is the answer, without white space at its end.

    Args:
        for_answer: end with what comes before the assistant's next answer.

    Raises DataError for messages that are none, or that the template refuses, and ConfigError where there is none.
    """
    if not preprocess.chat_template:
        raise ConfigError("The tokenizer has no chat template. Train on conversations first, or take one that has.")
    _check(messages)
    text, answers = _rendered(preprocess, messages, for_answer)
    if not answers:
        for k, message in enumerate(messages):
            if message["role"] == "assistant":
                before, _ = _rendered(preprocess, messages[:k], True)
                with_it, _ = _rendered(preprocess, messages[: k + 1], False)
                if not (text.startswith(before) and text.startswith(with_it) and len(before) < len(with_it)):
                    raise DataError(
                        "The chat template writes earlier messages in another way once later ones follow, so that "
                        "answers cannot be told from the rest. Mark them: {% generation %} ... {% endgeneration %}."
                    )
                answers.append((len(before), len(before) + len(_END_OF_ANSWER.sub("", with_it[len(before) :]))))
    return text, answers


def _check(messages: Sequence[Message]) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError('A conversation is a list of messages such as {"role": "user", "content": "Hello"}, not empty.')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(f'Message {number} is {str(message)[:60]!r}; {{"role": ..., "content": TEXT}} is expected.')
        role = message.get("role")
        if role not in _ROLES:
            raise DataError(f"Message {number} has role {role!r}; it has to be one of {', '.join(_ROLES)}.")


def _rendered(
    preprocess: TextPreprocess, messages: Sequence[Message], for_answer: bool
) -> tuple[str, list[tuple[int, int]]]:
    import jinja2

    said: list[str] = []

    def keep(caller: Any) -> str:
        said.append(str(caller()))
        return f"{_BORDER}{len(said) - 1}{_BORDER}"

    roles = {"bos_token": "start", "eos_token": "end", "pad_token": "pad", "unk_token": "unk"}
    try:
        text = _compiled(preprocess.chat_template).render(
            messages=[{**message, "content": message["content"].replace(_BORDER, "")} for message in messages],
            add_generation_prompt=for_answer,
            keep_answer=keep,
            **{theirs: preprocess.roles.get(ours, "") for theirs, ours in roles.items()},
        )
    except jinja2.TemplateError as error:
        raise DataError(f"The chat template refuses the conversation: {error}.") from None
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(f"The chat template fails on the conversation: {error}.") from None
    found, answers = "", []
    for k, part in enumerate(text.split(_BORDER)):
        if k % 2:
            answers.append((len(found), len(found) + len(said[int(part)])))
            part = said[int(part)]
        found += part
    return found, answers


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The block that a template marks an answer with."""

        tags = {"generation"}  # noqa: RUF012 (Jinja names the attribute so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            keep = jinja2.nodes.Call(jinja2.nodes.Name("keep_answer", "load"), [], [], None, None)
            return jinja2.nodes.CallBlock(keep, [], [], body).set_lineno(line)

    def refuse(words: str) -> None:
        raise jinja2.TemplateError(words)

    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    sandbox.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return sandbox.from_string(template)
    except jinja2.TemplateError as error:
        raise DataError(f"The chat template is damaged: {error}.") from None
