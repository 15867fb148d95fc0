"""A Hugging Face folder of a text model answers as what its head says it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import strata
from strata import models
from strata.data.dataset import DataConfig
from strata.data.tokenizer import tokenizer_for
from strata.errors import ConfigError, DataError, RunError
from strata.models.bert import BertConfig
from strata.models.gpt import GPTConfig
from strata.models.resnet import TINY
from strata.models.t5 import T5Config
from strata.predict.run import Predictor
from strata.weights import preprocessing, write_huggingface

TEXTS = ["the cat sat on the mat", "a dog ran over the hill", "who sat on the mat ?"] * 20


def folder_of(path: Path, config: Any, tokens: str = "wordpiece", labels: tuple[str, ...] = ()) -> Path:
    text, _ = tokenizer_for(DataConfig(source="", tokens=tokens), TEXTS)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = models.build(dataclasses.replace(config, vocab_size=text.vocab_size))
    special = {"start": text.start, "end": text.end, "pad": text.pad}
    write_huggingface(path, model, labels=labels, special=special)
    text.write_huggingface(path)
    return path


BERT = BertConfig(num_layers=1, num_heads=2, width=16, hidden_width=32, context=32)


def test_a_language_model_continues_a_text(tmp_path: Path) -> None:
    config = GPTConfig(num_layers=1, num_heads=2, width=16, context=32)
    predictor = Predictor(folder_of(tmp_path, config, "bpe"))
    one, two = (predictor.generate(prompt="the cat", tokens=5, temperature=0).text for _ in range(2))
    assert one == two
    assert str(one).startswith("the cat")


def test_a_classifier_names_its_own_labels(tmp_path: Path) -> None:
    config = dataclasses.replace(BERT, head="class", num_classes=3)
    predictor = Predictor(folder_of(tmp_path, config, labels=("x", "y", "z")))
    (answer,) = predictor.predict(["the dog sat"])
    assert answer["label"] in ("x", "y", "z")


def test_a_tagger_a_reader_and_an_embedder_answer_in_their_way(tmp_path: Path) -> None:
    tags = dataclasses.replace(BERT, head="token_class", num_classes=3)
    tagger = Predictor(folder_of(tmp_path / "tags", tags, labels=("O", "B-x", "I-x")))
    assert "error" not in next(iter(tagger.predict(["the dog sat"])))
    reader = Predictor(folder_of(tmp_path / "span", dataclasses.replace(BERT, head="span", num_classes=2)))
    question = {"question": "who sat ?", "context": "the cat sat on the mat"}
    assert next(iter(reader.predict([question])))["answer"] in question["context"]
    embedder = Predictor(folder_of(tmp_path / "embedding", dataclasses.replace(BERT, head="embedding")))
    (answer,) = embedder.predict(["the dog sat"])
    assert len(answer["vector"]) == 16


def test_masked_words_are_filled_in(tmp_path: Path) -> None:
    predictor = Predictor(folder_of(tmp_path, dataclasses.replace(BERT, head="token")))
    (answer,) = predictor.predict(["the [MASK] sat on the mat"])
    assert "error" not in answer


def test_an_encoder_decoder_writes_a_text_from_a_text(tmp_path: Path) -> None:
    config = T5Config(num_layers=1, num_heads=2, width=16, hidden_width=32, head_width=8)
    predictor = Predictor(folder_of(tmp_path, config, "unigram"))
    (answer,) = predictor.predict(["the cat sat"])
    assert isinstance(answer["text"], str)


def test_a_trunk_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"without a head, which answers nothing by itself. Train one on it: strata train"
    ):
        Predictor(folder_of(tmp_path, BERT))
    assert isinstance(strata.load(tmp_path), torch.nn.Module)


@pytest.mark.parametrize(
    "changes",
    [
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression"},
        {"id2label": {"0": "score"}},
        {"id2label": None, "num_labels": 1},
    ],
)
@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_head_that_does_not_tell_classes_apart_is_refused_with_what_to_do(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    if kind == "texts":
        folder_of(tmp_path, dataclasses.replace(BERT, head="class", num_classes=2), labels=("x", "y"))
    else:
        config = dataclasses.replace(TINY, stem="imagenet", num_classes=2)
        write_huggingface(tmp_path, models.build(config), preprocessing.imagenet(32), ("x", "y"))
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"problem_type": "single_label_classification"}))
    Predictor(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(RunError, match=r"for problem_type='.*strata train DATA weights=.*strata\.load") as caught:
        Predictor(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, dataclasses.replace(BERT, head="class"), labels=("x", "y"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Predictor(folder)


def test_weights_without_their_tokenizer_are_not_trained_from(tmp_path: Path) -> None:
    config = GPTConfig(num_layers=1, num_heads=2, width=16, context=8)
    folder = folder_of(tmp_path / "gpt", config, "bpe")
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 200)
    settings = {"weights": str(folder), "train.steps": 1}
    run = strata.train(strata.recipe("gpt", data=str(tmp_path / "text.txt"), **settings), runs=tmp_path / "runs")
    assert run.finished is not None
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ConfigError, match=r"holds no tokenizer\.json, and without its tokens these weights mean nothing"
    ):
        strata.train(strata.recipe("gpt", data=str(tmp_path / "text.txt"), **settings), runs=tmp_path / "runs")
