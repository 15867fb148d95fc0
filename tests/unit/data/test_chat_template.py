"""Chat templates: what is the assistant's to write is told from the rest, and a template can do no harm."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from strata.data import DataConfig
from strata.data.chat_template import DEFAULT, conversation, end_of_answer, prompt, render, with_roles
from strata.data.tokenizer import tokenizer_for
from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes, hi"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "no"},
]
UNMARKED = (
    "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)


@pytest.fixture
def bare() -> TextPreprocess:
    return tokenizer_for(DataConfig(tokens="byte"), [], special=True)[0]


def with_template(bare: TextPreprocess, template: str) -> TextPreprocess:
    return dataclasses.replace(bare, chat_template=template)


def answers(preprocess: TextPreprocess, messages: Any) -> str:
    token_T, is_answer_T = conversation(preprocess, messages)
    return "".join(preprocess.token_text(token) for token in token_T[is_answer_T].tolist())


def test_only_the_answers_and_their_ends_are_to_be_learned(bare: TextPreprocess) -> None:
    preprocess = with_roles(bare)
    assert preprocess.chat_template == DEFAULT and preprocess.vocab_size == bare.vocab_size + 4
    assert render(preprocess, TALK[:2])[0] == "<|user|>hi<|end|><|assistant|>yes, hi<|end|>"
    assert answers(preprocess, TALK) == "yes, hi<|end|>no<|end|>"
    assert end_of_answer(preprocess) == preprocess.special_ids["<|end|>"]


def test_a_template_without_marks_gives_the_same_answers(bare: TextPreprocess) -> None:
    preprocess = with_template(bare.with_special(["<|im|>", "<|stop|>"]), UNMARKED)
    assert answers(preprocess, TALK) == "yes, hi<|stop|>no<|stop|>"
    assert end_of_answer(preprocess) == preprocess.special_ids["<|stop|>"]


def test_a_prompt_ends_where_the_answer_begins(bare: TextPreprocess) -> None:
    preprocess = with_roles(bare)
    token_T, is_answer_T = conversation(preprocess, TALK[:2])
    assert prompt(preprocess, TALK[:1]).tolist() == token_T[: is_answer_T.argmax()].tolist()


def test_a_template_that_rewrites_what_came_before_is_refused(bare: TextPreprocess) -> None:
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"writes earlier messages in another way.*endgeneration"):
        render(with_template(bare, rewriting), TALK)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in %}", "The chat template is damaged"),
        ("{{ raise_exception('system first') }}", "refuses the conversation: system first"),
        ("{{ messages.__class__.__mro__ }}", "refuses the conversation"),
        ("{{ messages.append(1) }}", "refuses the conversation"),
        ("{{ messages[0].content + 1 }}", "fails on the conversation"),
    ],
)
def test_a_template_that_cannot_or_must_not_be_run_is_refused(bare: TextPreprocess, template: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        render(with_template(bare, template), TALK)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "not empty"),
        ("hello", "A conversation is a list of messages"),
        ([{"role": "user"}], "Message 1 is"),
        (
            [{"role": "cat", "content": "miaow"}],
            "Message 1 has role 'cat'; it has to be one of user, assistant, system",
        ),
    ],
)
def test_messages_that_are_none_are_refused(bare: TextPreprocess, messages: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        render(with_roles(bare), messages)


def test_a_tokenizer_without_a_template_says_what_to_do(bare: TextPreprocess) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        conversation(bare, TALK)
