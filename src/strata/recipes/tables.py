"""Recipes for tables: perceptrons of any depth."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.mlp import MLPConfig
from strata.tasks.classify import Classify
from strata.tasks.regress import Regress
from strata.train.recipe import Recipe, TrainConfig

_TRAIN = TrainConfig(
    epochs=200, batch_size=32, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, early_stopping=4
)
"""Small tables: many passes, and stop when the validation data says so."""


def mlp() -> Recipe:
    """A multilayer perceptron; the task follows the target: classes, or a number."""
    return Recipe(
        recipe="mlp",
        summary="Multilayer perceptron",
        model=MLPConfig(hidden=(128, 128), dropout=0.1),
        data=DataConfig(source="digits"),
        task=Classify(),
        train=TrainConfig(epochs=60, batch_size=64, learning_rate=2e-3, weight_decay=0.05, early_stopping=4),
    )


def perceptron() -> Recipe:
    """One layer of weights, by stochastic gradient descent on the hinge loss."""
    return Recipe(
        recipe="perceptron",
        summary="Linear classifier",
        model=MLPConfig(hidden=()),
        data=DataConfig(source="breast-cancer"),
        task=Classify(loss="hinge"),
        train=TrainConfig(epochs=50, batch_size=1, optimizer="sgd", learning_rate=0.01, schedule="linear", l2=1e-3),
    )


def iris() -> Recipe:
    """150 flowers, 4 measures, 3 species."""
    return _small("iris", "Three species of iris")


def wine() -> Recipe:
    """178 wines, 13 measures, 3 cultivars."""
    return _small("wine", "Three cultivars of wine")


def breast_cancer() -> Recipe:
    """569 biopsies, 30 measures, benign or malignant."""
    return _small("breast-cancer", "Benign or malignant")


def _small(name: str, summary: str) -> Recipe:
    return Recipe(
        recipe=name,
        summary=summary,
        model=MLPConfig(hidden=(64, 64), dropout=0.1),
        data=DataConfig(source=name),
        task=Classify(),
        train=_TRAIN,
    )


def diabetes() -> Recipe:
    """442 patients, 10 measures, progression after a year."""
    return Recipe(
        recipe="diabetes",
        summary="Progression of diabetes after a year",
        model=MLPConfig(hidden=(32,), dropout=0.1),
        data=DataConfig(source="diabetes"),
        task=Regress(),
        train=_TRAIN,
    )
