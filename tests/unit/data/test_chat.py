"""Conversations and preferred answers: every form is read alike, and only answers are there to be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from strata.data import DataConfig, Dataset, open_data, recognize
from strata.data.chat import NOT_LEARNED, packed
from strata.data.sequences import Ragged, SequenceSplit
from strata.data.tokens import TextPreprocess
from strata.errors import DataError

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello you"}]
FORMS: dict[str, Any] = {
    "messages": {"messages": HELLO},
    "parts": {"messages": [HELLO[0], {"role": "assistant", "content": [{"type": "text", "text": "hello you"}]}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello you"}]},
    "completion": {"prompt": "hi", "completion": "hello you"},
    "instruction": {"instruction": "hi", "input": "", "output": "hello you"},
    "camrest": {"dial": [{"turn": 0, "usr": {"transcript": "hi", "slu": []}, "sys": {"sent": "hello you", "DA": []}}]},
}


def written(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(**{"source": str(path), "tokens": "character", "validation": 0, "test": 0} | settings))


def learned(dataset: Dataset, index: int, target: str = "target") -> str:
    """Return what is to be learned of a sample, special tokens by their names."""
    split: Any = dataset.splits["train"]
    text: TextPreprocess = dataset.preprocess  # type: ignore[assignment]
    return "".join(text.token_text(k) for k in split.columns[target][index].tolist() if k != NOT_LEARNED)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_read_as_the_same_conversation(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "talks.jsonl", [FORMS[form]] * 3)
    assert recognize(path) == "chat"
    dataset = opened(path)
    assert learned(dataset, 0) == "hello you<|end|>"
    plain = opened(written(tmp_path / "plain.jsonl", [FORMS["messages"]] * 3))
    assert dataset.fingerprint == plain.fingerprint and dataset.preprocess == plain.preprocess


def test_an_instruction_is_asked_with_its_input(tmp_path: Path) -> None:
    record = {"instruction": "Add.", "input": "1 1", "output": "2", "system": "Be brief."}
    dataset = opened(written(tmp_path / "t.jsonl", [record]))
    split: Any = dataset.splits["train"]
    assert [message["content"] for message in split.describe(0)["messages"]] == ["Be brief.", "Add.\n\n1 1", "2"]


def test_json_below_a_licence_in_comments_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talks.json"
    path.write_text("####\n#  Copyright  #\n####\n" + json.dumps([FORMS["camrest"]] * 2, indent=1))
    assert recognize(path) == "chat"
    assert len(opened(path).splits["train"]) == 2


def test_next_tokens_stand_where_the_answers_are_and_what_follows_the_last_is_left_out(tmp_path: Path) -> None:
    talk = [*HELLO, {"role": "user", "content": "bye"}, {"role": "assistant", "content": "yo"}]
    dataset = opened(written(tmp_path / "t.jsonl", [{"messages": [*talk, {"role": "user", "content": "?"}]}]))
    assert learned(dataset, 0) == "hello you<|end|>yo<|end|>"
    split: Any = dataset.splits["train"]
    token_T, target_T = split.columns["input"][0], split.columns["target"][0]
    is_learned_T = target_T != NOT_LEARNED
    assert torch.equal(target_T[:-1][is_learned_T[:-1]], token_T[1:][is_learned_T[:-1]])


def test_what_cannot_be_learned_is_left_out_and_said(tmp_path: Path) -> None:
    lonely = {"messages": [HELLO[0]]}
    path = written(tmp_path / "t.jsonl", [{"messages": HELLO}, lonely, {"messages": [HELLO[0], HELLO[0], *HELLO]}])
    dataset = opened(path, max_length=8)
    assert len(dataset.splits["train"]) == 1 and learned(dataset, 0) == "hel"
    assert any("2 conversations of more than 8 tokens are cut" in note for note in dataset.notes)
    assert any("2 conversations without an answer are left out" in note for note in dataset.notes)
    with pytest.raises(DataError, match="no conversation with an answer of the assistant in its train split"):
        opened(written(tmp_path / "u.jsonl", [lonely]), kind="chat")


def test_a_bad_record_is_refused_with_its_place(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "tool", "content": "x"}, HELLO[1]]}
    with pytest.raises(DataError, match=r"record 2 of the train split: Message 1 has role 'tool'"):
        opened(written(tmp_path / "t.jsonl", [{"messages": HELLO}, bad]))
    with pytest.raises(DataError, match=r"record 2 of the train split, has the message \{'role': 'user'\}"):
        opened(written(tmp_path / "u.jsonl", [{"messages": HELLO}, {"messages": [{"role": "user"}]}]))


def test_packs_hold_every_conversation_once_and_are_no_longer_than_their_room() -> None:
    torch.manual_seed(0)
    sequences = [torch.arange(int(length)) + 100 * k for k, length in enumerate(torch.randint(1, 30, (40,)))]
    split = SequenceSplit({"input": Ragged.of(sequences), "target": Ragged.of(sequences)})
    packs = packed(split, 32)
    length_N = packs.columns["input"].length_N
    assert int(length_N.max()) <= 32 and int(length_N.sum()) == sum(map(len, sequences))
    assert len(packs) <= 1 + sum(map(len, sequences)) / 32 * 1.1
    found: dict[int, list[int]] = {}
    for k in range(len(packs)):
        columns = [packs.columns[name][k].tolist() for name in ("input", "target", "document")]
        assert columns[0] == columns[1]
        for token, document in zip(columns[0], columns[2], strict=True):
            found.setdefault(document, []).append(token)
    assert [found[k] for k in range(40)] == [sequence.tolist() for sequence in sequences]


PAIRS: dict[str, Any] = {
    "texts": {"prompt": "hi", "chosen": "hello", "rejected": "go"},
    "lists": {"prompt": HELLO[:1], "chosen": [{"role": "assistant", "content": "hello"}], "rejected": "go"},
    "whole": {
        "chosen": [HELLO[0], {"role": "assistant", "content": "hello"}],
        "rejected": [HELLO[0], {"role": "assistant", "content": "go"}],
    },
}


@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_preferences_is_recognised_and_read_alike(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [PAIRS[form]] * 2)
    assert recognize(path) == "preferences"
    dataset = opened(path)
    assert (learned(dataset, 0), learned(dataset, 0, "rejected_target")) == ("hello<|end|>", "go<|end|>")
    assert dataset.fingerprint == opened(written(tmp_path / "q.jsonl", [PAIRS["texts"]] * 2)).fingerprint


def test_of_a_longer_conversation_only_the_last_answer_is_preferred(tmp_path: Path) -> None:
    record = {"prompt": [*HELLO, {"role": "user", "content": "bye"}], "chosen": "yo", "rejected": "no"}
    dataset = opened(written(tmp_path / "p.jsonl", [record]))
    assert (learned(dataset, 0), learned(dataset, 0, "rejected_target")) == ("yo<|end|>", "no<|end|>")


def test_an_answer_to_nothing_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [{"chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match="an answer to nothing: a field called 'prompt' is expected"):
        opened(path)
    with pytest.raises(DataError, match="does not end with an answer of the assistant"):
        opened(written(tmp_path / "q.jsonl", [{"prompt": "x", "chosen": HELLO[:1], "rejected": "b"}]))
