"""A recipe: everything that decides a training run, as nested frozen dataclasses that JSON can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Le
from pydantic import AfterValidator

from strata.config import (
    Fraction,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Probability,
    from_json,
    override,
    says_none,
    to_json,
)
from strata.data.dataset import DataConfig
from strata.errors import ConfigError
from strata.models import MODELS, config_class, family_of, preset, settled
from strata.tasks import TASKS, Task
from strata.train import optim, schedule
from strata.train.transfer import TransferConfig
from strata.weights import open_weights


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    epochs: PositiveFloat | None = None
    """Passes over the training data; give this or `steps`."""
    steps: Positive | None = None
    """Optimiser steps; give this or `epochs`."""
    batch_size: Positive | Literal["full"] = 64
    """Samples in one forward pass; "full" is batch gradient descent, 1 is stochastic."""
    accumulate: Positive = 1
    """Batches whose gradients make one step: the step equals one of batch_size x accumulate samples."""
    optimizer: Annotated[str, AfterValidator(optim.canonical)] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    momentum: Probability | None = None
    """Of momentum, nesterov, rmsprop and muon; None takes the method's own."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Of adam and adamw, and of the part of muon's parameters that AdamW takes."""
    weight_decay: NotNegativeFloat = 0.0
    """Decoupled for adamw and muon, added to the gradient for the others; matrices and filters only."""
    l1: NotNegativeFloat = 0.0
    """Adds l1 * sum |w| to the loss, over matrices and filters."""
    l2: NotNegativeFloat = 0.0
    """Adds l2 / 2 * sum w^2 to the loss, over matrices and filters."""
    schedule: Annotated[str, AfterValidator(schedule.canonical)] = "cosine"
    warmup: NotNegativeFloat = 0.0
    """Steps of linear warm-up; below 1, a share of all steps."""
    decay: Fraction = 0.2
    """Share of all steps in which warmup-stable-decay decays."""
    final: Fraction = 0.0
    """Learning rate at the end, as a share of the highest."""
    step_every: Fraction = 0.3333
    """Step schedule: share of all steps between drops."""
    step_at: tuple[Fraction, ...] = ()
    """Step schedule: shares of all steps after which it drops, such as 0.5,0.75, in place of ``step_every``."""
    step_factor: Fraction = 0.1
    """Step schedule: factor of each drop."""
    clip: PositiveFloat | None = None
    """Greatest norm of the gradient over all parameters of a phase."""
    ema: Probability | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations without a better validation metric, and keep the best weights."""
    grow_from: Annotated[float, Gt(0), Le(1)] = 1.0
    """Side of the pictures at the start, as a share of the full one: they grow as training goes (progressive resizing,
    Howard 2018; Tan and Le 2021, section 4)."""
    grow_until: Fraction = 0.7
    """Share of all steps after which pictures have their full size."""
    grow_step: Positive = 4
    """Pixels by which the side grows at a time. 3x3 convolutions on a CPU are quickest where the maps of all stages are
    multiples of 4: pictures of 28 pixels learn from ``grow_from=0.57 grow_step=12`` at 16 first, which is 3.6 times
    quicker."""
    seed: NotNegative = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    save_every: Positive | None = None
    """Steps between checkpoints; None: about once a minute, and at the end."""
    evaluate_every: Positive | None = None
    """Steps between evaluations; None: about ten times in a run."""
    log_every: Positive | None = None
    """Steps between lines in metrics.jsonl; None: about two hundred lines in a run."""
    keep: Positive = 2
    """Checkpoints kept."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published number, and what we measured with this recipe."""

    metric: str
    split: str = "test"
    published: float | None = None
    source: str = ""
    of_models: Mapping[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    """By the names of other models on the same data: what was published of each, and where. ``model=NAME`` takes it."""
    measured: float | None = None
    spread: float | None = None
    """Standard deviation over seeds."""
    seeds: int | None = None
    changed: str = ""
    """Settings that were measured in place of the recipe's own, as they are typed."""
    note: str = ""
    """Machine, versions, commit, and anything a reader must know to compare."""


FROM_DATA = {
    "model.in_channels": " data.channels=1 makes pictures grey.",
    "model.image_size": " data.image_size=N brings pictures to N x N pixels.",
    "model.in_features": "",
    "model.num_classes": "",
    "model.vocab_size": " data.tokens says what a token is, data.vocab_size how many are made of the text.",
}
"""Sizes that a model takes from the data, and what to set instead."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Model, data, task and training of one run."""

    NOT_SET: ClassVar[tuple[str, ...]] = ("recipe", "summary", "asked", "reference")
    """What describes a recipe, and is no setting."""

    recipe: str
    """The recipe's name in `strata recipes`."""
    name: str = ""
    """What the run's folder is called; the recipe's name if empty."""
    summary: str = ""
    model: Any
    data: DataConfig = DataConfig()
    task: Task
    train: TrainConfig = TrainConfig()
    weights: TransferConfig = TransferConfig()
    reference: Reference | None = None
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the task as they were before the data filled them in ("balanced" weights): of other data they hold
    again."""

    def filled_in(self, task: Task) -> Recipe:
        """Return a copy with the task as the data filled it in, which remembers what was asked for."""
        if type(task) is not type(self.task):  # a regression, of numbers
            return dataclasses.replace(self, task=task)
        names = [field.name for field in dataclasses.fields(task)]
        asked = {name: was for name in names if (was := getattr(self.task, name)) != getattr(task, name)}
        return dataclasses.replace(self, task=task, asked={**asked, **self.asked})

    def _as_asked(self) -> Recipe:
        """Return a copy with nothing in its task that data filled in."""
        recipe = dataclasses.replace(self, asked={})
        for name, value in self.asked.items():
            recipe = override(recipe, f"task.{name}", value)
        return recipe

    def set(self, settings: Mapping[str, Any]) -> Recipe:
        """Return a copy with dotted keys changed. ``model`` and ``task`` first: they decide which keys exist."""
        if not says_none(settings.get("train.steps")) and not says_none(settings.get("train.epochs")):
            raise ConfigError("Give either train.steps or train.epochs, not both.")
        recipe = self._as_asked() if any(key.split(".")[0] == "data" for key in settings) else self
        first = ("model", "task", "weights", "weights.source")
        for key in sorted(settings, key=lambda key: (first.index(key) if key in first else len(first), "." in key)):
            recipe = recipe._set(key, settings[key])
            if key in ("weights", "weights.source") and recipe.weights.source is not None:
                recipe = recipe._as_weights_say(has_model="model" in settings)
        if not same_data(recipe.data.source, self.data.source) and "data.labels" not in settings:
            return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, labels=()))  # of other classes
        return recipe

    def _as_weights_say(self, has_model: bool) -> Recipe:
        """Return a copy with the model of the weights, unless one was asked for, and data prepared as for them."""
        weights = open_weights(str(self.weights.source), self.model if has_model else None)
        prepared = {name: value for name, value in weights.preprocess.items() if hasattr(self.data, name)}
        source = str(Path(str(self.weights.source)).expanduser().resolve())
        return dataclasses.replace(
            self,
            model=settled(self.model, like=weights.config) if has_model else weights.config,
            data=dataclasses.replace(self.data, **prepared),
            weights=dataclasses.replace(self.weights, source=source),
            reference=None,
        )

    def _set(self, key: str, value: Any) -> Recipe:
        if key == "model" and isinstance(value, str):
            model = preset(value)
            reference = self.reference if model == self.model else self._reference_of(value)
            return dataclasses.replace(self, model=model, reference=reference)
        if key == "task" and isinstance(value, str):
            return dataclasses.replace(self, task=TASKS.get(value)(), asked={})
        if key in FROM_DATA:
            raise ConfigError(f"{key!r} is decided by the data and cannot be set.{FROM_DATA[key]}")
        if key.split(".")[0] in self.NOT_SET:
            raise ConfigError(f"{key!r} describes the recipe and cannot be set.")
        recipe = override(self, key, value, owner=f"Recipe {self.recipe!r}")
        if not same_data(recipe.data.source, self.data.source):
            recipe = dataclasses.replace(recipe, reference=None)  # a number published for other data says nothing here
        if key.startswith("task."):
            asked = {name: was for name, was in recipe.asked.items() if key != f"task.{name}"}
            return dataclasses.replace(recipe, asked=asked)
        if key == "train.steps" and recipe.train.steps is not None:
            return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=None))
        if key == "train.epochs" and recipe.train.epochs is not None:
            return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=None))
        return recipe

    def _reference_of(self, model: str) -> Reference | None:
        """Return what was published of another model; None where nothing was."""
        if self.reference is None or model not in self.reference.of_models:
            return None
        published, source = self.reference.of_models[model]
        kept = {name: getattr(self.reference, name) for name in ("metric", "split", "of_models")}
        return Reference(**kept, published=published, source=source)

    def to_json(self) -> dict[str, Any]:
        """Return what `recipe.json` holds; `Recipe.from_json` reads it back, equal."""

        def kind_of(config: Any) -> str | None:
            if isinstance(config, Task):
                return config.kind
            return family_of(config)

        return dict(to_json(self, kind_of))

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_json`'s dict. Raises ConfigError for what does not fit."""
        values = dict(values)
        for key, registry in (("model", MODELS), ("task", TASKS)):
            if not isinstance(values.get(key), Mapping) or "kind" not in values[key]:
                raise ConfigError(f"A recipe's {key!r} needs a 'kind', one of: {', '.join(registry)}.")
        values["model"] = from_json(config_class(values["model"]["kind"]), values["model"], "model")
        values["task"] = from_json(TASKS.get(values["task"]["kind"]), values["task"], "task")
        return from_json(Recipe, values)


def same_data(one: str, other: str) -> bool:
    """Say whether two sources go by the same name."""
    return data_name(one) == data_name(other)


def data_name(source: str) -> str:
    """Return what data is called, be it by a name or by the last part of a path."""
    return Path(source).name.lower().removesuffix(".npz").replace("_", "-")
