"""A tokenizer that was trained here gives the same tokens and texts when transformers opens its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from strata.data import DataConfig, save_preprocess
from strata.data.chat_template import conversation, prompt, with_roles
from strata.data.tokenizer import open_tokenizer, tokenizer_for
from strata.data.tokens import Tokens

transformers = pytest.importorskip("transformers")
TEXT = "The films' naïve end, isn't it?\n  Two  spaces, and then: 北京!\nThe end of the films is two spaces.\n" * 20
EVERY: tuple[Tokens, ...] = ("character", "byte", "word", "bpe", "wordpiece", "unigram")


@pytest.mark.parametrize("tokens", EVERY)
def test_transformers_reads_and_writes_the_same_tokens(tokens: Tokens, tmp_path: Path) -> None:
    ours, _ = tokenizer_for(DataConfig(tokens=tokens), [TEXT], special=True)
    save_preprocess(ours, tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXT, add_special_tokens=False) == ours.encode(TEXT).tolist()
    assert theirs.decode(ours.encode(TEXT).tolist(), skip_special_tokens=True) == ours.decode(ours.encode(TEXT))
    assert len(theirs) == ours.vocab_size


@pytest.mark.parametrize("tokens", EVERY)
def test_a_folder_written_for_transformers_comes_back(tokens: Tokens, tmp_path: Path) -> None:
    ours = with_roles(tokenizer_for(DataConfig(tokens=tokens), [TEXT], special=True)[0])
    ours.write_huggingface(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.unk_token_id) == (ours.pad, ours.unk)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.start, ours.end)
    again = open_tokenizer(tmp_path)
    assert again.roles.items() >= ours.roles.items() and again.chat_template == ours.chat_template
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()


@pytest.mark.parametrize("tokens", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("segments", [0, 2])
def test_marks_around_texts_are_those_of_the_model(tokens: Tokens, segments: int, tmp_path: Path) -> None:
    ours, _ = tokenizer_for(DataConfig(tokens=tokens), [TEXT], special=True)
    ours.write_huggingface(tmp_path, first=ours.cls, last=ours.sep, segments=segments)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    one, two = "The films", "is it?"
    assert theirs(one)["input_ids"] == [ours.cls, *ours.encode(one), ours.sep]
    found = theirs(one, two)
    assert found["input_ids"] == [ours.cls, *ours.encode(one), ours.sep, *ours.encode(two), ours.sep]
    kinds = [0] * (len(ours.encode(one)) + 2) + [1] * (len(ours.encode(two)) + 1)
    assert found.get("token_type_ids") == (kinds if segments else None)
    assert open_tokenizer(tmp_path).encode(one).tolist() == ours.encode(one).tolist()
    ours.write_huggingface(tmp_path, last=ours.end)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(one)["input_ids"] == [*ours.encode(one), ours.end]


def test_conversations_are_those_of_transformers_answers_included(tmp_path: Path) -> None:
    ours = with_roles(tokenizer_for(DataConfig(tokens="bpe"), [TEXT])[0])
    ours.write_huggingface(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "Two films."},
        {"role": "user", "content": "The end?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "Is it?\n"},
        {"role": "assistant", "content": " naïve"},
    ]
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    token_T, is_answer_T = conversation(ours, messages)
    assert token_T.tolist() == found["input_ids"] and is_answer_T.tolist() == [
        bool(k) for k in found["assistant_masks"]
    ]
    expected = theirs.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt(ours, messages[:2]).tolist() == expected
