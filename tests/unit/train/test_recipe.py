"""A recipe is everything that decides a run, and JSON holds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import strata
from strata.config import keys
from strata.errors import ConfigError, UnknownNameError
from strata.recipes import FOR_KIND, RECIPES
from strata.train.announce import without_effect
from strata.train.recipe import Recipe

NAMED_IN_THE_ISSUE = (
    *("data.image_size", "data.target", "data.validation", "data.test"),
    *("train.epochs", "train.steps", "train.batch_size", "train.learning_rate", "train.optimizer"),
    *("train.weight_decay", "train.schedule", "train.warmup", "train.seed", "train.precision", "train.compile"),
    *("train.accumulate", "train.clip", "train.ema", "train.device", "train.save_every", "train.evaluate_every"),
    *("data", "name"),
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_equal_from_its_json(name: str) -> None:
    recipe = strata.recipe(name)
    assert recipe.recipe == name
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert (recipe.train.steps is None) != (recipe.train.epochs is None)
    assert set(NAMED_IN_THE_ISSUE) <= keys(recipe).keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.optimizer", "muon"),
        ("train.optimizer", "rmsprop"),
        ("train.schedule", "wsd"),
        ("train.schedule", "one-cycle"),
        ("train.schedule", "warm-up"),
        ("train.batch_size", "full"),
        ("train.compile", "true"),
        ("train.precision", "fp32"),
        ("train.ema", "0.99"),
        ("train.clip", "none"),
        ("train.warmup", "0.1"),
        ("data.image_size", "32"),
        ("data.validation", "0.2"),
        ("data.test", "./other"),
        ("data.target", "price"),
        ("name", "trial"),
    ],
)
def test_a_setting_survives_json(key: str, value: str) -> None:
    recipe = strata.recipe("mlp", {key: value})
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_has_a_setting_without_effect(name: str) -> None:
    dataset: Any = SimpleNamespace(splits={"train": [], "validation": []})
    assert without_effect(strata.recipe(name), dataset) == []


def test_every_kind_of_data_has_its_recipe() -> None:
    assert all(name in RECIPES for name in FOR_KIND.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 3}, "no setting 'epoch'. Did you mean 'train.epochs'?"),
        ({"runs": 3}, "no setting 'runs'. It takes: data.*, model.*, name, task.*, train.*, weights.*."),
        ({"train.epoch": 3}, "Recipe 'mlp' has no setting 'train.epoch'. Did you mean 'train.epochs'? It takes: acc"),
        ({"epochs": 3}, "Recipe 'mlp' has no setting 'epochs'. Did you mean 'train.epochs'?"),
        ({"model.hiden": 3}, "Did you mean 'model.hidden'? It takes: activation,"),
        ({"model": "resnet19"}, "Unknown model 'resnet19'. Did you mean 'resnet1"),
        ({"task": "clasify"}, "Unknown task 'clasify'. Did you mean 'classify'?"),
        ({"task.loss": "hinges"}, "task.loss=hinges is not allowed: it has to be 'cross_entropy', 'binary_cross_ent"),
        ({"train.optimizer": "adamm"}, "Unknown optimizer 'adamm'. Did you mean 'adam"),
        ({"train.schedule": "cosin"}, "Unknown schedule 'cosin'. Did you mean 'cosine'?"),
        ({"train.batch_size": 0}, "train.batch_size=0 is not allowed: it has to be greater than or equal to 1 or"),
        ({"train.learning_rate": -1}, "train.learning_rate=-1 is not allowed: it has to be greater than 0."),
        ({"train.ema": 1.0}, "train.ema=1.0 is not allowed: it has to be less than 1."),
        ({"train.steps": 3, "train.epochs": 3}, "Give either train.steps or train.epochs, not both."),
        ({"model": 3}, "'model' is a group of settings. Set one of: model.hidden, "),
        ({"summary": "x"}, "'summary' describes the recipe and cannot be set."),
        ({"reference.published": 1}, "'reference.published' describes the recipe and cannot be set."),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_what_is_right(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        strata.recipe("mlp", settings)
    assert words in str(refused.value)


@pytest.mark.parametrize("settings", [{}, {"train.steps": "null"}, {"train.steps": None}], ids=str)
def test_epochs_take_the_place_of_steps(settings: dict[str, object]) -> None:
    train = strata.recipe("cifar10", {"train.epochs": "8", **settings}).train
    assert (train.epochs, train.steps) == (8, None)


def test_an_unknown_recipe_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown recipe 'resnt'\. Did you mean 'resnet'"):
        strata.recipe("resnt")
    assert strata.recipe("fashion_mnist") == strata.recipe("fashion-mnist")


def test_the_model_is_set_before_the_settings_that_it_has() -> None:
    recipe = strata.recipe("mlp", {"model.depths": "1,1", "model": "resnet18", "train.epochs": 2})
    assert recipe.model.depths == (1, 1)


def test_steps_and_epochs_replace_each_other() -> None:
    recipe = strata.recipe("mlp", {"train.steps": 5})
    assert (recipe.train.steps, recipe.train.epochs) == (5, None)
    recipe = recipe.set({"train.epochs": 2})
    assert (recipe.train.steps, recipe.train.epochs) == (None, 2)


def test_json_without_a_kind_of_model_is_refused() -> None:
    values = strata.recipe("mlp").to_json()
    with pytest.raises(ConfigError, match="A recipe's 'model' needs a 'kind', one of: mlp"):
        Recipe.from_json(values | {"model": {}})
    with pytest.raises(ConfigError, match="Unknown task 'guess'"):
        Recipe.from_json(values | {"task": {"kind": "guess"}})


def test_a_runs_recipe_repeats_it_to_the_last_bit(tmp_path: Path, digest: Callable[[Path], str]) -> None:
    settings = {"data": "digits", "train.steps": 8, "train.ema": 0.9, "train.optimizer": "muon", "train.seed": 3}
    first = strata.train("mlp", settings, runs=tmp_path)
    stored = Recipe.from_json(json.loads((first.folder / "recipe.json").read_text()))
    again = strata.train(stored, runs=tmp_path)
    assert digest(again.folder) == digest(first.folder)
    other = strata.train(stored.set({"train.seed": 4}), runs=tmp_path)
    assert digest(other.folder) != digest(first.folder)


def test_other_data_takes_neither_the_published_number_nor_the_names_of_the_classes() -> None:
    known = strata.recipe("pneumonia")
    assert known.reference is not None and known.data.labels == ("normal", "pneumonia")
    assert strata.recipe("pneumonia", data="elsewhere/pneumoniamnist").data.labels == ("normal", "pneumonia")
    assert strata.recipe("fashion-mnist", data="copies/fashion_mnist").data.labels[9] == "Ankle boot"
    other = strata.recipe("pneumonia", data="breasts.npz")
    assert other.reference is None and other.data.labels == ()
    named = strata.recipe("pneumonia", {"data.labels": "benign,malignant", "data": "breasts.npz"})
    assert named.data.labels == ("benign", "malignant")


def test_another_model_is_compared_with_what_was_published_of_it_and_else_with_nothing() -> None:
    assert strata.recipe("fashion-mnist").reference.published == 0.949
    other = strata.recipe("fashion-mnist", model="vgg16")
    assert other.reference.published == 0.935 and other.reference.source.startswith("VGG-16 in the table")
    assert strata.recipe("fashion-mnist", model="vgg16", data="./fashion_mnist").reference == other.reference
    assert strata.recipe("fashion-mnist", model="vit_tiny").reference is None
    own = strata.recipe("cifar10")
    assert own.reference is not None and strata.recipe("cifar10", model="resnet20").reference == own.reference
    assert Recipe.from_json(json.loads(json.dumps(other.to_json()))) == other
