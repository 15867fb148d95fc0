"""What was learned from text alone goes on: to classes of texts, and to more text, with the same tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import strata
from strata.api import choose
from strata.data.tokens import TextPreprocess

GOOD, BAD = ("lovely", "gripping", "warm"), ("dull", "clumsy", "cold")
STILL = {"train.steps": 1, "train.learning_rate": 1e-12, "train.warmup": 0, "train.device": "cpu"}
"""So little training that weights stay what they were."""


def review(word: str) -> str:
    return f"the film is {word} and the end is {word} too"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "reviews.txt"
    path.write_text("".join(f"{review(random.Random(k).choice(GOOD + BAD))}.\n" for k in range(600)))
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "reviews.csv"
    rows = [f"{review(word)},{label}" for label, words in (("good", GOOD), ("bad", BAD)) for word in words]
    path.write_text("\n".join(["text,label", *rows * 12]))
    return path


SIZES: dict[str, Any] = {"model.num_layers": 2, "model.num_heads": 2, "model.width": 32, "model.context": 24}


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    settings = SIZES | {"data": str(corpus), "train.steps": 3, "train.device": "cpu", "model.hidden_width": 64}
    return strata.train("bert", settings, runs=tmp_path_factory.mktemp("runs"))


def test_texts_with_classes_begin_from_a_bert_and_are_cut_into_its_tokens(
    pretrained: Any, labelled: Path, tmp_path: Path
) -> None:
    settings = {"weights": str(pretrained.folder)} | STILL
    recipe, why = choose(str(labelled), settings)
    assert recipe.recipe == "finetune-sentences" and "kind 'sentences'" in why
    run = strata.train(str(labelled), settings, runs=tmp_path)
    before, after = pretrained.predictor(), run.predictor()
    assert isinstance(before.preprocess, TextPreprocess) and after.preprocess.text == before.preprocess
    assert run.recipe.data.tokenizer == str((pretrained.folder / "model").resolve())
    assert run.recipe.weights.new_head and run.recipe.model.head == "class"
    theirs = before.model.state_dict()
    trunk = {name: value for name, value in after.model.state_dict().items() if not name.startswith("head.")}
    assert len(trunk) == 2 * 12 + 5
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in trunk.items())


def test_a_recipe_of_other_tokens_takes_those_of_the_weights(pretrained: Any, labelled: Path) -> None:
    recipe = strata.recipe("sentences", data=str(labelled), weights=str(pretrained.folder))
    assert (recipe.data.tokens, recipe.data.lowercase) == (None, False)
    assert recipe.data.tokenizer == str((pretrained.folder / "model").resolve())


def test_texts_longer_than_the_model_reads_are_refused_before_training(
    pretrained: Any, labelled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.csv"
    path.write_text(labelled.read_text().replace("the film", 20 * "the " + "film"))
    with pytest.raises(strata.StrataError, match=r"more than go into model.context=24 .* data.max_length=24"):
        strata.train(str(path), {"weights": str(pretrained.folder)} | STILL, runs=tmp_path)


@pytest.mark.parametrize("tokens", ["character", "bpe"])
def test_more_text_goes_on_with_the_head_and_the_tokens_of_a_gpt(corpus: Path, tmp_path: Path, tokens: str) -> None:
    first = {"data": str(corpus), "data.tokens": tokens, "train.steps": 3, "train.device": "cpu"}
    before = strata.train("gpt", SIZES | first, runs=tmp_path)
    more = tmp_path / "more.txt"
    more.write_text(400 * "the warm end is the end of the cold film.\n")
    after = strata.train("gpt", {"data": str(more), "weights": str(before.folder)} | STILL, runs=tmp_path)
    assert after.predictor().preprocess == before.predictor().preprocess
    assert not after.recipe.weights.new_head and after.recipe.model == before.recipe.model
    ours, theirs = after.model().state_dict(), before.model().state_dict()
    assert ours.keys() == theirs.keys() and "head.weight" in ours
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_a_t5_goes_on_with_its_sentinels(corpus: Path, tmp_path: Path) -> None:
    sizes = {"model.num_layers": 1, "model.width": 16, "model.hidden_width": 32, "task.source_length": 24}
    first = sizes | {"data": str(corpus), "train.steps": 2, "train.device": "cpu"}
    before = strata.train("t5", first, runs=tmp_path)
    settings = {"data": str(corpus), "weights": str(before.folder), "task.source_length": 24} | STILL
    after = strata.train("t5", settings, runs=tmp_path)
    assert after.predictor().preprocess == before.predictor().preprocess
    assert after.recipe.task == before.recipe.task and not after.recipe.weights.new_head
