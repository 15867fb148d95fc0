"""Strata's side of a benchmark: the real loop of `strata train`, watched from outside by an observer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rounds import Enough, StopWatch

from strata.checkpoint.run_folder import RunFolder, create
from strata.data import open_data
from strata.data.dataset import Dataset
from strata.recipes import recipe as named
from strata.train import loop
from strata.train.events import Event, Stepped
from strata.train.recipe import Recipe

LONG = 100_000
"""Steps of the run that a stretch is timed of: long enough that every choice is made as for a real run."""


def recipe(name: str, settings: Mapping[str, Any]) -> tuple[Recipe, Dataset]:
    """Return a recipe with its settings, and its data, opened."""
    found = named(name, settings)
    return found, open_data(found.data)


def train(recipe: Recipe, dataset: Dataset, watch: Callable[[loop.Training], Callable[[Event], None]]) -> loop.Training:
    """Train as `strata train` does, in a folder that is thrown away, until the end or until the observer has enough.

    Args:
        watch: makes the observer, which may raise Enough.
    """
    recipe, from_data = loop.resolve(recipe, dataset)
    training = loop.Training(recipe, dataset)
    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as runs:
        folder = RunFolder.create(create(Path(runs), "benchmark"), recipe.to_json())
        try:
            training.run(folder, [watch(training)], from_data=from_data)
        except Enough:
            pass
        finally:
            folder.unlock()
            for loader in training.loaders.values():
                loader.close()
    return training


def time_steps(recipe: Recipe, dataset: Dataset, watch: StopWatch) -> loop.Training:
    """Train until the stop watch has what it wants."""

    def observe(event: Event) -> None:
        if isinstance(event, Stepped):
            watch.tick()

    return train(recipe, dataset, lambda training: observe)


def choices(training: loop.Training) -> dict[str, Any]:
    """Return what decided the run's speed, for the log."""
    config = training.config
    return {
        "recipe": training.recipe.recipe,
        "model": training.recipe.to_json()["model"],
        "parameters": sum(p.numel() for p in training.state.model.parameters()),
        "batch_size": training.plan.batch_size,
        "accumulate": config.accumulate,
        "optimizer": config.optimizer,
        "ema": config.ema,
        "clip": config.clip,
        "decisions": {decision.name: f"{decision.value}: {decision.reason}" for decision in training.setup.decisions},
    }
