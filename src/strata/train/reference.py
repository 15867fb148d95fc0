"""What a model says of its data before it is trained, for losses that hold it to what it was: calculated once, kept.

It is found again where a run is resumed or evaluated, in the cache folder by what it depends on (weights, data, task,
precision), or calculated again from the weights that the run began from.

B samples.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from strata import rng
from strata.data.dataset import Dataset, digest
from strata.device import Setup
from strata.errors import RunError, WeightsError
from strata.models import build
from strata.tasks import Task
from strata.train import lora
from strata.train.probe import kept
from strata.train.recipe import Recipe
from strata.weights import load_into, open_weights

BATCH_SIZE = 32


def with_reference(task: Task, model: nn.Module, dataset: Dataset, setup: Setup) -> tuple[Dataset, str]:
    """Return the data with what `Task.reference` gives of each sample, and in words where that came from.

    Args:
        model: as the run begins, on its device.
    """
    began, read_back = time.perf_counter(), 0
    learned = {name: value for name, value in model.state_dict().items() if not lora.is_added(name)}  # adds nothing yet
    of_weights = digest(*(part for name, value in learned.items() for part in (name, value.float())))
    found: dict[str, Any] = {}
    for name, split in dataset.splits.items():
        key = digest(of_weights, dataset.fingerprint, name, str(len(split)), task.kind, setup.precision)
        values, was_there = kept(key, lambda split=split: _calculate(task, model, split, setup))  # type: ignore[misc]
        found[name], read_back = split.with_values(values), read_back + was_there  # type: ignore[attr-defined]
    samples, seconds = sum(len(split) for split in found.values()), time.perf_counter() - began
    how = "read back from the cache" if read_back == len(found) else f"calculated once, in {seconds:.1f} s"
    said = f"what the model says of {samples:,} samples before training: {how}"
    return dataset.replace(splits=found), said


def reference_of(recipe: Recipe, dataset: Dataset, setup: Setup) -> Dataset:
    """Return the data with what the model of a run said before it was trained.

    Raises RunError where the weights that it began from are gone.
    """
    rng.seed_everything_for(recipe.train.seed, "initial weights")
    model = build(recipe.model)
    if recipe.weights.source is not None:
        try:
            load_into(model, open_weights(recipe.weights.source, recipe.model), labels=dataset.labels)
        except WeightsError as error:
            raise RunError(f"The run is held to the weights that it began from, and they are gone: {error}") from error
    return with_reference(recipe.task, setup.place(model), dataset, setup)[0]


@torch.no_grad()
def _calculate(task: Task, model: nn.Module, split: Any, setup: Setup) -> dict[str, Tensor]:
    """Return what a task wants to know of all samples of a split, those of about equal length together."""
    was_training = model.training
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    order_N = split.length_N.argsort(stable=True)
    for index_B in order_N.split(BATCH_SIZE):
        batch = split.gather(index_B, torch.zeros_like(index_B))
        with setup.autocast():
            values = task.reference(model, {name: value.to(setup.device) for name, value in batch.items()})
        for name, value in values.items():
            parts.setdefault(name, []).append(value.float().cpu())
    model.train(was_training)
    place_N = order_N.argsort()
    return {name: torch.cat(tensors)[place_N] for name, tensors in parts.items()}
