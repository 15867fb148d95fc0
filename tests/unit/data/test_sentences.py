"""Texts with a class or a number each are read from records and from labelled lines, and learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import strata
from strata.data import open_data, recognize
from strata.data.dataset import DataConfig
from strata.data.preprocess import load, save
from strata.errors import DataError

GOOD, BAD = "a fine and moving film", "dull and far too long"


def labelled(path: Path, count: int = 60) -> Path:
    path.write_text("".join(f"{k % 2} {(BAD, GOOD)[k % 2]} number {k}\n" for k in range(count)))
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.train.all", "".join(f"{k % 3} what is {k} ?\n" for k in range(40)), "sentences"),
        ("a.txt", "__label__x one two\n__label__y three four\n" * 10, "sentences"),
        ("a.jsonl", '{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n' * 9, "sentences"),
        ("a.csv", "review,sentiment\nvery good,pos\nvery bad,neg\n" * 1 + "quite good,pos\n" * 9, "sentences"),
        ("b.csv", "width,label\n1.5,x\n2.5,y\n", "table"),
        ("c.csv", "text,size,label\na b,1,x\nc d,2,y\n", "table"),
        ("prose.txt", "It was a dark night.\n" * 40, "text"),
        ("list.txt", "".join(f"{k} item\n" for k in range(40)), "text"),
    ],
)
def test_what_lies_at_a_path_is_recognised(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content)
    assert recognize(tmp_path / name) == kind


def test_lines_with_labels_become_padded_tokens_with_a_class(tmp_path: Path) -> None:
    dataset = open_data(DataConfig(source=str(labelled(tmp_path / "a.all"))))
    assert (dataset.kind, dataset.labels) == ("sentences", ("0", "1"))
    batch: dict[str, Any] = dataset.splits["train"].gather(torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64))
    for row in range(2):
        text = dataset.preprocess.decode(batch["input"][row][batch["mask"][row]])
        assert (GOOD if batch["target"][row] else BAD).split()[0] in text


def test_a_text_is_cut_at_max_length_between_its_marks_and_that_is_said(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.all")
    dataset = open_data(DataConfig(source=str(path), tokens="wordpiece", max_length=5))
    tokens = dataset.preprocess.read(GOOD)
    text = dataset.preprocess.text
    assert len(tokens) == 5
    assert (int(tokens[0]), int(tokens[-1])) == (text.cls, text.sep)
    assert any("have more than 5 tokens and are cut" in note for note in dataset.notes)


def test_an_empty_text_is_one_unknown_token_and_not_nothing(tmp_path: Path) -> None:
    dataset = open_data(DataConfig(source=str(labelled(tmp_path / "a.all"))))
    assert dataset.preprocess.read("").tolist() == [dataset.preprocess.text.unk]


def test_preprocessing_is_kept_with_its_tokenizer(tmp_path: Path) -> None:
    dataset = open_data(DataConfig(source=str(labelled(tmp_path / "a.all")), lowercase=True))
    save(dataset.preprocess, tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = load(tmp_path)
    assert again == dataset.preprocess
    assert again.read("A Fine film!").tolist() == dataset.preprocess.read("a fine film!").tolist()


def test_a_line_without_a_label_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0 a b\nword\n")
    with pytest.raises(DataError, match=r"line 2, is 'word'; a label and a text are expected"):
        open_data(DataConfig(source=str(path), kind="sentences"))


def test_a_record_without_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b", "label": "x"}\n{"text": null, "label": "y"}\n' * 9)
    with pytest.raises(DataError, match=r"Field 'text' of .*a\.jsonl is None in record 2"):
        open_data(DataConfig(source=str(path), kind="sentences"))


def test_a_run_learns_classes_of_texts_and_answers(tmp_path: Path) -> None:
    path = labelled(tmp_path / "films.all", 200)
    run = strata.train(
        strata.recipe("sentences", data=str(path), **{"train.epochs": 8, "train.learning_rate": 3e-3}),
        runs=tmp_path / "runs",
    )
    assert run.metrics["test"]["accuracy"] == 1.0
    assert run.predict("a fine and moving film")["label"] == "1"
    one, two = run.predict(["dull and far too long, I say", {"text": GOOD}])
    assert (one["label"], two["label"]) == ("0", "1")


def test_numbers_are_predicted_in_their_own_units(tmp_path: Path) -> None:
    path = tmp_path / "stars.jsonl"
    with path.open("w") as file:
        for k in range(300):
            file.write(json.dumps({"text": (BAD, GOOD)[k % 2], "score": 100.0 + 50 * (k % 2) + 0.001 * k}) + "\n")
    run = strata.train(
        strata.recipe("sentences", data=str(path), **{"data.target_kind": "number", "train.epochs": 10}),
        runs=tmp_path / "runs",
    )
    assert run.metrics["test"]["r2"] > 0.9
    assert 130 < run.predict(GOOD)["value"] < 170


def test_what_belongs_to_no_class_is_measured_apart(tmp_path: Path) -> None:
    path = tmp_path / "intents.jsonl"
    with path.open("w") as file:
        for k in range(300):
            text, label = [("play some music", "music"), ("what time is it", "time"), ("zebras eat grass", "oos")][
                k % 3
            ]
            file.write(json.dumps({"text": text, "intent": label}) + "\n")
    run = strata.train(strata.recipe("sentences", data=str(path), **{"train.epochs": 6}), runs=tmp_path / "runs")
    found = run.metrics["test"]
    assert found["in_scope_accuracy"] == found["out_of_scope_recall"] == 1.0
    assert run.predict("zebras eat grass")["out_of_scope"] > run.predict("play some music")["out_of_scope"]
