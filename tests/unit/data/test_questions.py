"""Questions on texts: SQuAD's form and others, windows that overlap, and answers that keep their places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from strata.data import load_preprocess, open_data, recognize, save_preprocess
from strata.data.dataset import DataConfig, Dataset
from strata.data.questions import AskedSplit, QuestionSplit, references_of
from strata.errors import ConfigError, DataError

CONTEXT = "The river Aare rises in the Bernese Alps. It flows through Bern, and on into the Rhine near Koblenz."
JAPANESE = "アーレ川はスイスの川である。首都ベルンを流れ、ライン川に注ぐ。"


def squad(*paragraphs: tuple[str, list[tuple[str, list[str]]]], **more: Any) -> str:
    found = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"{k}",
                    "question": question,
                    "answers": [{"text": text, "answer_start": context.index(text)} for text in answers],
                    "is_impossible": not answers,
                }
                for k, (question, answers) in enumerate(asked)
            ],
        }
        for context, asked in paragraphs
    ]
    return json.dumps({"version": "v2.0", "data": [{"title": "Aare", "paragraphs": found}]} | more)


ASKED = [("Where does it flow into?", ["the Rhine", "Rhine"]), ("Who built it?", []), ("Through which town?", ["Bern"])]


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(**{"source": str(path), "validation": 0, "test": 0} | settings))


def written(folder: Path, text: str = "", name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(text or squad((CONTEXT, ASKED)), encoding="utf-8")
    return path


def asked_in(data: Dataset, part: str = "train") -> AskedSplit:
    split = data.splits[part]
    assert isinstance(split, QuestionSplit)
    return split.asked


def everything(split: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = split.gather(torch.arange(len(split)), torch.zeros(len(split)))
    return found


@pytest.mark.parametrize(
    "line",
    [
        {"answers": [{"text": "Bern", "answer_start": 59}]},
        {"answers": {"text": ["Bern"], "answer_start": [59]}},
        {"answers": ["Bern"]},
        {"answer": "Bern"},
        {"answers": [{"text": "Bern", "answer_start": 3}]},  # a place that is wrong is sought anew
    ],
)
def test_records_say_their_answers_in_several_ways(line: dict[str, Any], tmp_path: Path) -> None:
    first = {"question": "Through which town?", "context": CONTEXT.replace("Bernese", "high")} | line
    path = written(tmp_path, json.dumps(first), "a.jsonl")
    assert recognize(path) == "questions"
    batch = everything(asked_in(opened(path)))
    text = "".join(map(chr, batch["text"][0].tolist()))
    start, end = int(batch["start"][0]), int(batch["end"][0])
    assert text[int(batch["from"][0, start]) : int(batch["upto"][0, end])] == "Bern"
    assert references_of(batch) == [["Bern"]]


def test_squads_form_is_recognized_with_all_answers_and_with_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert recognize(path) == "questions"
    data = opened(path)
    split = asked_in(data)
    found = {split.describe(k)["question"]: split.describe(k)["references"] for k in range(3)}
    assert found == dict(ASKED)
    assert data.details["unanswerable"] == 1
    batch = everything(split)
    assert sorted(map(len, references_of(batch))) == [0, 1, 2]


def test_a_folder_of_folders_is_read_by_split_and_no_context_lies_on_both_sides_of_one_made_here(
    tmp_path: Path,
) -> None:
    for part in ("train", "dev"):
        (tmp_path / part).mkdir()
        for k in range(2):
            paragraphs = [(f"{part} {k} {n}: {CONTEXT}", ASKED) for n in range(10)]
            written(tmp_path / part, squad(*paragraphs), f"set_{part}_{k}.json")
    assert recognize(tmp_path) == "questions"
    data = opened(tmp_path, validation=None, test=0.2)
    assert {part: len(asked_in(data, part)) for part in data.splits} == {"train": 48, "validation": 60, "test": 12}
    contexts = [
        {asked_in(data, part).describe(k)["context"] for k in range(len(asked_in(data, part)))} for part in data.splits
    ]
    assert not contexts[0] & contexts[2]


@pytest.mark.parametrize("tokens", ["character", "byte", "word", "bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("context", "question", "answer"), [(CONTEXT, "Where?", "Bernese Alps"), (JAPANESE, "首都は?", "ベルン")]
)
def test_an_answer_comes_back_from_its_tokens(
    tokens: str, context: str, question: str, answer: str, tmp_path: Path
) -> None:
    text = squad((context, [(question, [answer])]), (f"{context} {context}", [(question, [answer])]))
    batch = everything(asked_in(opened(written(tmp_path, text), tokens=tokens)))
    for row, asked in enumerate(batch["asked"].tolist()):
        whole = "".join(map(chr, batch["text"][asked].tolist()))
        start, end = int(batch["start"][row]), int(batch["end"][row])
        assert 0 < start <= end
        found = whole[int(batch["from"][row, start]) : int(batch["upto"][row, end])]
        # Tokens of a writing without spaces may be longer than an answer, but hold it whole.
        assert found == answer if tokens in ("character", "byte") or context is CONTEXT else answer in found
        assert bool(batch["context"][row, start]) and batch["segment"][row, start] == 1


def test_windows_overlap_begin_with_the_question_and_hold_every_token_of_the_context(tmp_path: Path) -> None:
    data = opened(written(tmp_path), tokens="character", max_length=48, stride=16)
    preprocess: Any = data.preprocess
    question, context = preprocess.text.encode("Who built it?"), preprocess.encode(CONTEXT)
    windows = preprocess.windows(question, context)
    start, mark = preprocess.marks
    assert [window.first for window in windows] == [16 * k for k in range(len(windows))]
    for window in windows:
        assert len(window.token_T) <= 48
        limit = 12  # a quarter of the window
        assert window.token_T[: window.place].tolist() == [start, *question[:limit].tolist(), mark]
        part = context.token_T[window.first : window.first + window.length]
        assert window.token_T[window.place : -1].tolist() == part.tolist() and window.token_T[-1] == mark
    assert windows[-1].first + windows[-1].length == len(context.token_T)
    assert [note for note in data.notes if "several windows of 48 tokens, that begin 16" in note]


def test_a_window_without_the_answer_points_to_its_first_token(tmp_path: Path) -> None:
    data = opened(written(tmp_path), tokens="character", max_length=48, stride=16)
    batch = everything(asked_in(data))
    for row, asked in enumerate(batch["asked"].tolist()):
        wanted = references_of(batch)[asked]
        start, end = int(batch["start"][row]), int(batch["end"][row])
        shown = "".join(map(chr, batch["text"][asked].tolist()))
        inside = [int(x) for x in batch["from"][row][batch["context"][row]]]
        if not wanted:
            assert (start, end) == (0, 0)
            continue
        place = CONTEXT.index(wanted[0])
        whole = min(inside) <= place and place + len(wanted[0]) - 1 <= max(inside)
        assert (start > 0) == whole
        if whole:
            assert shown[int(batch["from"][row, start]) : int(batch["upto"][row, end])] == wanted[0]
    training = everything(data.splits["train"])
    assert training["start"].tolist() == batch["start"].tolist() and "asked" not in training


def test_a_question_whose_answer_is_not_in_its_context_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    lines = [
        {"question": "a?", "context": CONTEXT, "answer": "Bern"},
        {"question": "b?", "context": CONTEXT, "answer": "Berlin"},
    ]
    data = opened(written(tmp_path, "\n".join(map(json.dumps, lines)), "a.jsonl"))
    assert len(asked_in(data)) == 1
    assert "1 questions are left out of training: their answers do not stand in their contexts" in data.notes


def test_raw_input_is_a_record_or_a_pair(tmp_path: Path) -> None:
    preprocess: Any = opened(written(tmp_path)).preprocess
    one = preprocess.read({"question": "Who?", "context": CONTEXT})
    assert torch.equal(one, preprocess.read(("Who?", CONTEXT)))
    for bad in ("Who?", {"question": "Who?"}, {"question": " ", "context": CONTEXT}, ("Who?", 7)):
        with pytest.raises(DataError):
            preprocess.read(bad)


def test_what_reads_is_kept_with_the_model(tmp_path: Path) -> None:
    preprocess = opened(written(tmp_path)).preprocess
    save_preprocess(preprocess, tmp_path)
    assert load_preprocess(tmp_path) == preprocess


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length=8"):
        opened(written(tmp_path), max_length=8)
    with pytest.raises(DataError, match="is missing"):
        opened(written(tmp_path, json.dumps({"data": [{"paragraphs": [{"qas": []}, {"context": "a", "qas": [{}]}]}]})))
    with pytest.raises(DataError, match="for an answer"):
        opened(written(tmp_path, json.dumps({"question": "a?", "context": "b", "answers": [3]}), "b.jsonl"))
