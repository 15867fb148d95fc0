"""Answers as parts of a text: scored as SQuAD scores them, the best over all windows, and none where there is none."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig, Dataset
from strata.errors import ConfigError, DataError
from strata.models.bert import BertConfig
from strata.models.rnn import RNNConfig
from strata.tasks.base import Answering, Draw, Evaluation
from strata.tasks.extract_answer import ExtractAnswer, best_spans, occurs_in_question, score, units

TEXT = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Rhine.", ["rhine"], 1, 1),
        ("a river, the Rhine", ["the Rhine"], 0, 2 / 3),
        ("Bern", ["Rhine", "the town of Bern"], 0, 0.5),
        ("Rhine Rhine", ["Rhine"], 0, 2 / 3),
        ("Bern", ["Rhine"], 0, 0),
        ("", [], 1, 1),
        ("Bern", [], 0, 0),
        ("", ["Rhine"], 0, 0),
    ],
)
def test_words_are_scored_as_squads_script_scores_them(answer: str, right: list[str], exact: float, f1: float) -> None:
    assert score(answer, right, "words") == (exact, pytest.approx(f1))


def test_texts_without_spaces_are_scored_by_characters() -> None:
    assert units("第11王朝、「Ab」 ", "characters") == ["第", "1", "1", "王", "朝", "a", "b"]
    assert score("第11王朝", ["11王朝"], "characters") == (0, pytest.approx(8 / 9))
    assert score("「ベルン」", ["ベルン"], "characters") == (1, 1)


def test_the_best_span_is_that_of_all_pairs_of_a_start_and_an_end() -> None:
    draw = torch.Generator().manual_seed(0)
    start_RT, end_RT = (torch.randn(20, 9, generator=draw) for _ in range(2))
    for longest in (1, 3, 20):
        best_R, first_R, last_R = best_spans(start_RT, end_RT, longest)
        for row in range(20):
            pairs = ((i, j) for i, j in itertools.product(range(9), range(9)) if 0 <= j - i < longest)
            i, j = max(pairs, key=lambda pair: float(start_RT[row, pair[0]] + end_RT[row, pair[1]]))
            assert (int(first_R[row]), int(last_R[row])) == (i, j)
            assert float(best_R[row]) == pytest.approx(float(start_RT[row, i] + end_RT[row, j]))


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def alphabet(folder: Path, answers: list[str], **settings: Any) -> Dataset:
    path = written(folder, [{"question": "?!", "context": TEXT, "answers": [text] if text else []} for text in answers])
    given = {"tokens": "character", "max_length": 16, "stride": 4, "validation": 0, "test": 0}
    return open_data(DataConfig(**{"source": str(path)} | given | settings))


class Knows(torch.nn.Module):
    """Gives letters of the context scores as starts and as ends, wherever they stand, and the first token another."""

    def __init__(self, data: Dataset, start: dict[str, float], end: dict[str, float], none: float = 0.0) -> None:
        super().__init__()
        self.config = BertConfig(num_segments=2)
        size = data.sizes["vocab_size"]
        self.score_VX = torch.full((size, 2), -20.0)
        text: Any = data.tokenizer
        for column, scores in enumerate((start, end)):
            for letter, value in scores.items():
                self.score_VX[int(text.encode(letter)[0]), column] = value
        self.score_VX[data.preprocess.marks[0]] = none  # type: ignore[attr-defined]

    def forward(self, token_BT: Tensor, mask_BT: Tensor, segment_BT: Tensor) -> Tensor:
        return self.score_VX[token_BT]


def measured(task: ExtractAnswer, model: torch.nn.Module, data: Dataset) -> tuple[dict[str, float], Any]:
    split = task.split(data, "train", None, training=False)
    batch = split.gather(torch.arange(len(split)), torch.zeros(len(split)))
    measure = task.measure(model, batch, Draw(0, 0, torch.arange(len(split))))
    return task.metrics(measure.sums, {}), measure


def test_the_best_answer_over_all_windows_counts(tmp_path: Path) -> None:
    data = alphabet(tmp_path, ["tuv"])
    assert len(data.splits["train"]) > 3
    # "c" is far behind in a window that knows nothing better; "t" to "v" lie in the last windows.
    model = Knows(data, {"t": 9, "c": 4}, {"v": 9, "d": 4})
    metrics, _ = measured(ExtractAnswer(scores="characters"), model, data)
    assert metrics["answer_f1"] == metrics["exact_match"] == 1
    model = Knows(data, {"t": 9, "c": 4}, {"u": 9, "d": 4})
    metrics, _ = measured(ExtractAnswer(scores="characters"), model, data)
    assert metrics["answer_f1"] == pytest.approx(0.8) and metrics["exact_match"] == 0


def test_an_answer_has_at_most_so_many_tokens_and_ends_after_it_begins(tmp_path: Path) -> None:
    data = alphabet(tmp_path, ["bcd"])
    model = Knows(data, {"b": 9, "k": 5}, {"d": 9, "a": 10})
    assert measured(ExtractAnswer(scores="characters"), model, data)[0]["exact_match"] == 1
    metrics, _ = measured(ExtractAnswer(scores="characters", answer_length=2), model, data)
    assert metrics["exact_match"] == 0


def test_the_loss_is_that_of_places_in_the_context_and_the_first_token(tmp_path: Path, close: Any) -> None:
    data = alphabet(tmp_path, ["tuv"])
    model = Knows(data, {"t": 3.0}, {"v": 2.0}, none=1.0)
    task = ExtractAnswer(scores="characters")
    batch = data.splits["train"].gather(torch.arange(2), torch.zeros(2))
    loss = task.objective(model, batch, "train", Draw(0, 0, torch.arange(2)))
    assert int(loss.count) == 2
    wanted = torch.zeros(())
    for row in range(2):
        allowed = [0, *batch["context"][row].nonzero()[:, 0].tolist()]
        scores_TX = model(batch["input"], batch["mask"], batch["segment"])[row][allowed]
        for column, name in enumerate(("start", "end")):
            place = allowed.index(int(batch[name][row]))
            wanted = wanted - scores_TX[:, column].log_softmax(0)[place] / 2
    close(loss.total, wanted)


def test_the_threshold_of_no_answer_is_the_best_on_validation_data() -> None:
    draw = random.Random(0)
    rows = [(draw.gauss(0, 1), draw.random(), float(draw.random() < 0.6)) for _ in range(40)]
    margin_N, f1_N, has_answer_N = torch.tensor(rows, dtype=torch.float64).unbind(1)
    f1_N = f1_N * has_answer_N
    task = ExtractAnswer(may_lack=True)

    def total(threshold: float) -> float:
        return float(torch.where(margin_N > threshold, f1_N, 1 - has_answer_N).sum())

    found = task.after_training(Evaluation({}, {}, {"margin": margin_N, "f1": f1_N, "has_answer": has_answer_N}))
    assert isinstance(found, ExtractAnswer)
    best = max(total(t) for t in (-9.0, 9.0, *margin_N.tolist()))
    assert total(found.threshold) == pytest.approx(best)
    assert ExtractAnswer().after_training(Evaluation({}, {}, {})) == ExtractAnswer()


def test_questions_without_an_answer_are_answered_by_nothing_below_the_threshold(tmp_path: Path) -> None:
    data = alphabet(tmp_path, ["cd", ""])
    task = ExtractAnswer(scores="characters").resolve(data)
    assert isinstance(task, ExtractAnswer) and task.may_lack
    sure, unsure = Knows(data, {"c": 9}, {"d": 9}), Knows(data, {"c": 2}, {"d": 2}, none=3.0)
    metrics, _ = measured(task, sure, data)
    assert (metrics["answer_f1"], metrics["answer_f1_answerable"], metrics["no_answer_accuracy"]) == (0.5, 1, 0)
    metrics, _ = measured(task, unsure, data)
    assert (metrics["answer_f1"], metrics["answer_f1_answerable"], metrics["no_answer_accuracy"]) == (0.5, 0, 1)
    context = Answering((), data.preprocess, torch.device("cpu"))
    answers = [task.answers_to(model, [("?!", TEXT)], context)[0] for model in (sure, unsure)]
    assert answers[0]["answer"] == "cd" and (answers[0]["start"], answers[0]["end"]) == (2, 4)
    assert answers[1]["answer"] == "" and answers[1]["likeliest"]["answer"] == "cd"


def test_answers_come_in_the_order_of_the_questions_whatever_their_length(tmp_path: Path) -> None:
    data = alphabet(tmp_path, ["cd"])
    task = ExtractAnswer(scores="characters")
    context = Answering((), data.preprocess, torch.device("cpu"))
    raws = [("?!", text) for text in ("xcdx", TEXT, "cd", "q" * 30 + "cd")]
    found = task.answers_to(Knows(data, {"c": 9}, {"d": 9}), raws, context)
    assert [(answer["start"], answer["end"]) for answer in found] == [(1, 3), (2, 4), (0, 2), (30, 32)]
    assert all(0 < answer["probability"] <= 1 for answer in found)


def test_a_third_segment_marks_what_occurs_in_the_question(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "cd?", "context": "abcdc", "answer": "a"}])
    data = open_data(DataConfig(source=str(path), tokens="character", validation=0, test=0, max_length=16))
    batch = data.splits["train"].gather(torch.arange(1), torch.zeros(1))
    place = int(batch["context"][0].nonzero()[0, 0])
    assert occurs_in_question(batch)[0].nonzero()[:, 0].tolist() == [place + 2, place + 3, place + 4]


def test_it_learns_and_answers_with_a_place_in_the_context(tmp_path: Path) -> None:
    towns, rivers = ["Bern", "Rome", "Oslo", "Bonn"], ["Aare", "Tiber", "Rhine", "Elbe"]
    lines = []
    for k in range(64):
        town, river = towns[k % 4], rivers[k // 4 % 4]
        context = f"number {k} : the town is {town} and the river is {river} ."
        wanted, answer = ("town", town) if k % 2 else ("river", river)
        lines.append({"question": f"which {wanted} ?", "context": context, "answers": [answer]})
    settings: dict[str, Any] = {"model.width": 32, "model.num_heads": 2, "model.num_layers": 1, "model.context": 32}
    settings |= {"model.hidden_width": 32, "model.dropout": 0.0, "model.attention_dropout": 0.0, "data.tokens": "word"}
    settings |= {"train.steps": 80, "train.batch_size": 16, "train.learning_rate": 0.01, "data.max_length": 32}
    settings |= {"train.device": "cpu", "train.precision": "fp32", "train.evaluate_every": 80}
    run = strata.train(str(written(tmp_path, lines)), settings, runs=tmp_path / "runs")
    assert run.metrics["test"]["exact_match"] == 1
    context = "number 7 : the town is Oslo and the river is Elbe ."
    answer = run.predict({"question": "which river ?", "context": context})
    assert answer["answer"] == "Elbe" and context[answer["start"] : answer["end"]] == "Elbe"
    assert "error" in run.predict([("which ?", " ")])[0]
    example = run.finished["texts"][0]
    assert example["written"] in example["references"] and example["source"].startswith("which")


def test_other_data_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="questions on texts"):
        ExtractAnswer().resolve(open_data(DataConfig(source="iris")))
    data = alphabet(tmp_path, ["cd"])
    with pytest.raises(ConfigError, match="Models that can: bert"):
        ExtractAnswer().check_model(RNNConfig(), data)
