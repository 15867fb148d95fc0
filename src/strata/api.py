"""The Python door: train, resume, load and create, as the command line does it."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strata import models, recipes, weights
from strata.checkpoint.files import read_json
from strata.config import flat, override
from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError, RunError, WeightsError, suggest
from strata.predict.run import Predictor, Run
from strata.report import write_report
from strata.tasks import Task
from strata.tasks.classify import Classify
from strata.tasks.regress import Regress
from strata.train import loop
from strata.train.events import Event, Failed, Interrupted, Observer
from strata.train.recipe import Recipe

__all__ = ["Recipe", "Run", "create", "export", "load", "predictor", "recipe", "resume", "train"]

logger = logging.getLogger(__name__)


def recipe(name: str, settings: Mapping[str, Any] | None = None, /, **more: Any) -> Recipe:
    """Return a named recipe, changed by settings.

    Settings may be given dotted, ``recipe("mnist", {"train.epochs": 3})``, or nested,
    ``recipe("mnist", train={"epochs": 3}, data="./photos")``.
    Raises ConfigError for a name, key or value that does not exist or is not allowed.
    """
    found: Recipe = recipes.recipe(name, dict(settings or {}) | flat(more))
    return found


def train(
    what: Recipe | str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    runs: Path | str = "runs",
    observers: Sequence[Observer] = (),
    command: str = "",
    **more: Any,
) -> Run:
    """Train a recipe, or what a recipe's name, a run or a path of data stands for, and return the run.

    Raises ConfigError, DataError, TrainingError; `strata.train.events.Interrupted` after a signal, with all saved.
    """
    changed = dict(settings or {}) | flat(more)
    chosen = what.set(changed) if isinstance(what, Recipe) else choose(what, changed)[0]
    try:
        folder = loop.train(chosen, runs=runs, observers=[_report_failure, *observers], command=command)
    except Interrupted as stopped:
        _report(stopped.folder)
        raise
    _report(folder)
    return Run(folder)


def choose(what: str, settings: Mapping[str, Any]) -> tuple[Recipe, str]:
    """Return the recipe for a name, a run or a path of data, and the reason for the choice in words."""
    from strata.data import DATASETS, recognize

    if what.replace("_", "-") in recipes.RECIPES:
        return recipe(what, settings), ""
    if (kept := _kept_recipe(Path(what).expanduser())) is not None:
        return kept.set(settings), f"{what} is of a run: its recipe, {kept.recipe!r}, with all its settings"
    if not Path(what).expanduser().exists() and what not in DATASETS:
        if os.sep in what or Path(what).suffix:
            raise DataError(f"There is nothing at {what}. Give a path of data, or the name of a recipe.")
        names = {*recipes.RECIPES, *DATASETS}
        raise ConfigError(f"{what!r} is neither a recipe nor a path of data.{suggest(what, names)}")
    kind = recognize(what)
    begins = any(key.split(".")[0] == "weights" for key in settings)
    name = recipes.FOR_KIND_FROM_WEIGHTS.get(kind, recipes.FOR_KIND[kind]) if begins else recipes.FOR_KIND[kind]
    return recipe(name, {"data": what} | dict(settings)), f"{what} holds data of kind {kind!r}: recipe {name!r}"


def _kept_recipe(path: Path) -> Recipe | None:
    """Return the recipe that a run's folder holds, or that is such a file; None for anything else."""
    file = path if path.name == "recipe.json" else path / "recipe.json"
    values = read_json(file) if file.is_file() else None
    if isinstance(values, dict) and {"recipe", "model", "data", "task", "train"} <= values.keys():
        return Recipe.from_json(values)
    return None


def resume(run: Path | str, settings: Mapping[str, Any] | None = None, *, observers: Sequence[Observer] = ()) -> Run:
    """Continue a run from its newest whole checkpoint, as if it had never stopped.

    A finished run is returned as it is, unless ``train.steps`` or ``train.epochs`` in ``settings`` makes it longer.
    """
    try:
        folder = loop.resume(run, observers=[_report_failure, *observers], settings=dict(settings or {}))
    except Interrupted as stopped:
        _report(stopped.folder)
        raise
    _report(folder)
    return Run(folder)


def _report_failure(event: Event) -> None:
    """Write the report of a run that cannot go on."""
    if isinstance(event, Failed):
        _report(Path(event.folder))


def _report(folder: Path) -> None:
    """Write the report; a report that fails must not cost a run, so it is logged as an error."""
    try:
        write_report(folder)
    except (OSError, RunError) as error:
        logger.error("The report of %s could not be written (%s); what lies in it is whole.", folder, error)
    except Exception:
        logger.exception("The report of %s could not be written; what lies in it is whole.", folder)


def create(name: str, **sizes: Any) -> nn.Module:
    """Return a freshly initialised model by family or preset name.

    Args:
        sizes: fields of the model's config: ``create("resnet50", num_classes=10)``.

    Raises UnknownNameError for the name, ConfigError for a field.
    """
    config = models.preset(name)
    for key, value in sizes.items():
        config = override(config, key, tuple(value) if isinstance(value, list) else value, owner=f"Model {name!r}")
    model: nn.Module = models.build(config)
    return model


def load(folder: Path | str, **options: Any) -> Any:
    """Open what a folder holds: a run gives a `Run`, a run's ``model/`` folder gives its nn.Module in eval mode.

    So does a Hugging Face folder, or a file in torchvision's layout that is called after its model.
    Raises RunError when it is none of these, WeightsError for foreign weights that Strata cannot take.
    """
    folder = Path(folder).expanduser()
    if (folder / "recipe.json").is_file():
        return Run(folder)
    if (folder / "config.json").is_file() and (folder / "preprocess.json").is_file():
        return Predictor(folder, **options).model
    if not folder.exists():
        raise RunError(f"There is nothing at {folder}.")
    return weights.model_of(weights.open_weights(folder)).eval()


def predictor(path: Path | str, **options: Any) -> Predictor:
    """Return what answers, of a run, of a run's ``model/`` folder or of a Hugging Face folder.

    Args:
        options: ``device`` and ``precision``, see `Predictor`.

    Raises RunError, or WeightsError, when there is none.
    """
    folder = Path(path).expanduser()
    return Predictor(folder, **options) if (folder / "config.json").is_file() else Run(folder).predictor(**options)


def export(run: Path | str, to: str, out: Path | str) -> Path:
    """Write a trained model as others read it and return where.

    Args:
        to: "huggingface" (or "hf"), a folder that transformers opens with ``from_pretrained``, or "torchvision", a
            safetensors file of a state dict.

    A calibrated classifier's temperature goes into the head of what is written, so that its probabilities are the
    run's; so does the scale of a number to predict. What cannot go along, a threshold and answers from mirrored
    pictures, is logged as a warning.
    Raises ConfigError for another layout, WeightsError for a model that has no counterpart there.
    """
    to = "huggingface" if to == "hf" else to
    if to not in LAYOUTS:
        raise ConfigError(f"There is no layout {to!r} to export to. There is: {', '.join(LAYOUTS)}.")
    trained = predictor(run)
    model = _answering(trained.model, trained.task, trained.context.labels)
    stays = _beside_scores(trained.task, trained.context.labels)
    if to == "torchvision":
        written = weights.write_torchvision(out, model, _fields_of(trained.preprocess))
    else:
        written = _export_huggingface(trained, model, out)
    if stays:
        logger.warning("Not in the exported model, which answers without: %s.", ", ".join(stays))
    return written


def _fields_of(preprocess: Any) -> dict[str, Any]:
    return {field.name: getattr(preprocess, field.name) for field in dataclasses.fields(preprocess)}


def _export_huggingface(trained: Predictor, model: nn.Module, out: Path | str) -> Path:
    text = getattr(trained.preprocess, "text", trained.preprocess)
    if not isinstance(text, TextPreprocess):
        return weights.write_huggingface(out, model, _fields_of(trained.preprocess), trained.context.labels)
    special = {"start": text.start, "end": text.end, "pad": text.pad}
    folder = weights.write_huggingface(out, model, None, trained.context.labels, special=special)
    first, last = (None if role is None else getattr(text, role) for role in weights.marks_of(model))
    text.write_huggingface(folder, first=first, last=last, segments=getattr(model.config, "num_segments", 0))
    return folder


def _beside_scores(task: Task, labels: Sequence[str]) -> list[str]:
    """Return the settings of a task that change answers after the model has given its scores."""
    if not isinstance(task, Classify):
        return []
    said = ["task.flip_test"] if task.flip_test else []
    if task.threshold is not None:
        said.append(f"task.specificity, whose threshold is {task.threshold:.4g}")
    if task.loss == "binary_cross_entropy" and len(labels) > 2:
        said.append("task.loss=binary_cross_entropy, whose probabilities are not a softmax of the scores")
    return said


def _answering(model: nn.Module, task: Task, labels: Sequence[str]) -> nn.Module:
    """Return a model whose head gives what others make answers of.

    These are scores over the temperature, one for each class, and numbers in the target's units.

    Raises WeightsError where the head ends in no linear layer, or has no bias and needs one.
    """
    scale, shift, is_single = 1.0, 0.0, False
    if isinstance(task, Regress):
        scale, shift = task.target_std, task.target_mean
    elif isinstance(task, Classify):
        is_single = len(labels) == 2 and getattr(model.config, "num_classes", 2) == 1
        scale = 1 / task.temperature
        shift = -0.5 if is_single and task.loss == "mean_squared_error" else 0.0
    if (scale, shift, is_single) == (1.0, 0.0, False):
        return model
    model = copy.deepcopy(model)
    name, last = [(name, layer) for name, layer in model.named_modules() if name.split(".")[0] == "head"][-1]
    if not isinstance(last, nn.Linear):
        raise WeightsError(f"What the task makes of scores cannot go into a head that ends in {type(last).__name__}.")
    if last.bias is None and shift:
        raise WeightsError("What the task makes of scores cannot go into a head without bias.")
    with torch.no_grad():
        last.weight.mul_(scale)
        if last.bias is not None:
            last.bias.mul_(scale).add_(shift)
        if is_single:
            two = nn.Linear(last.in_features, 2, bias=last.bias is not None).to(last.weight)
            for new, old in zip(two.parameters(), last.parameters(), strict=True):
                new.copy_(torch.cat([torch.zeros_like(old), old]))
            model.set_submodule(name, two)
            config: Any = model.config
            model.config = dataclasses.replace(config, num_classes=2)
    return model


LAYOUTS = ("huggingface", "torchvision")
