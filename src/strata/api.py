"""The Python door: train, resume, load and create, as the command line does it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from strata import device, models, recipes, weights
from strata.checkpoint.files import read_json, write_json
from strata.config import override
from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError, RunError, suggest
from strata.predict.run import Predictor, Run
from strata.report import write_report
from strata.train import loop
from strata.train.events import Event, Interrupted, Observer, Started
from strata.train.recipe import Recipe, data_name

__all__ = ["Recipe", "Run", "create", "export", "load", "predictor", "recipe", "resume", "train", "verify"]

logger = logging.getLogger(__name__)


def recipe(name: str, settings: Mapping[str, Any] | None = None, /, **more: Any) -> Recipe:
    """Return a named recipe, changed by settings.

    Settings may be given dotted, ``recipe("mnist", {"train.epochs": 3})``, or nested,
    ``recipe("mnist", train={"epochs": 3}, data="./photos")``.
    Raises ConfigError for a name, key or value that does not exist or is not allowed.
    """
    found: Recipe = recipes.recipe(name, dict(settings or {}) | _flat(more))
    return found


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


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
    changed = dict(settings or {}) | _flat(more)
    chosen = what.set(changed) if isinstance(what, Recipe) else choose(what, changed)[0]
    try:
        folder = loop.train(chosen, runs=runs, observers=observers, command=command)
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
        folder = loop.resume(run, observers=observers, settings=dict(settings or {}))
    except Interrupted as stopped:
        _report(stopped.folder)
        raise
    _report(folder)
    return Run(folder)


def verify(
    name: str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    runs: Path | str = "runs",
    observers: Sequence[Observer] = (),
    note: str = "",
    kept: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a recipe once with each seed and return what was reached beside the published number.

    Broken off, it goes on where it was when it is asked for the same again in the same folder, by the same code.
    The result holds every seed's value, mean and standard deviation, seconds, machine, versions and commit, and the
    command that repeats it; `recipes.result_file` is where such results are kept.

    Args:
        kept: an earlier result, to which these seeds are added; machines and commits that differ are named both.

    Raises ConfigError where the earlier result is of other settings, or has one of the seeds already.
    """
    changed = {key: str(value) for key, value in (settings or {}).items()}
    chosen, commit = recipe(name, changed), device.commit()  # of the code that is loaded now
    reference, resolved = chosen.reference, without_seed(chosen)
    begun = json.dumps([resolved, chosen.data.source], sort_keys=True)
    digest = hashlib.sha256(begun.encode()).hexdigest()[:16]
    notes = {seed: Path(runs) / ".verify" / f"{digest}-{seed}.json" for seed in seeds}
    if kept and (other := difference(kept.get("resolved"), resolved)):
        raise ConfigError(f"The recorded result of {name} {other}. Record all seeds anew, without --add.")
    if kept and (twice := set(kept["seeds"]) & set(seeds)):
        raise ConfigError(f"Seed {min(twice)} of {name} is recorded already. Choose others.")
    words = [f"{key}={value}" for key, value in changed.items()]
    command = shlex.join(["strata", "verify", name, *words, f"seeds={','.join(map(str, seeds))}"])
    values, seconds, wall, metric, split = [], [], [], "", ""
    others: list[dict[str, float]] = []
    for seed in seeds:
        run = _begun(notes[seed], commit, observers)
        if run is None:
            remember = functools.partial(_remember, notes[seed], commit)
            of_seed = {**changed, "train.seed": seed}
            run = train(name, of_seed, runs=runs, observers=[remember, *observers], command=command)
        finished = run.finished
        assert finished is not None
        metric = reference.metric if reference else finished["main_metric"]
        split = reference.split if reference else ("test" if "test" in finished["metrics"] else "validation")
        values.append(finished["metrics"][split][metric])
        others.append({key: value for key, value in finished["metrics"][split].items() if key != metric})
        seconds.append(finished["seconds"])
        wall.append(finished["total_seconds"])
    result = {
        "recipe": name,
        "metric": metric,
        "split": split,
        "published": reference.published if reference else None,
        "source": reference.source if reference else "",
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        "seeds": list(seeds),
        "values": values,
        "other_metrics": {key: [found.get(key) for found in others] for key in others[0]},
        "training_seconds": [round(value, 2) for value in seconds],
        "total_seconds": [round(value, 2) for value in wall],
        "machine": f"{device.processor()}, {device.cores_in_words()}{device.gpu_name()}",
        "versions": device.versions(),
        "commit": commit,
        "command": command,
        "note": note,
        "resolved": resolved,
    }
    for note_file in notes.values():
        note_file.unlink(missing_ok=True)
    return _joined(kept, result) if kept else result


def _remember(note_file: Path, commit: str, event: Event) -> None:
    """Note which run a seed of a verification has, once it has begun."""
    if isinstance(event, Started):
        note_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(note_file, {"run": Path(event.folder).name, "commit": commit})


def _begun(note_file: Path, commit: str, observers: Sequence[Observer]) -> Run | None:
    """Return the run of a verification that was broken off, trained to its end; None where there is none."""
    noted = read_json(note_file) if note_file.is_file() else {}
    folder = note_file.parents[1] / str(noted.get("run"))
    if noted.get("commit") != commit or not (folder / "recipe.json").is_file():
        return None
    logger.info("Seed's run %s was begun before: it goes on.", folder)
    return resume(folder, observers=observers)


def without_seed(of: Recipe) -> dict[str, Any]:
    """Return all settings that two results have in common if they differ by nothing but their seeds."""
    values = {**of.to_json(), "name": "", "summary": "", "reference": None}
    values["train"] = {**values["train"], "seed": 0}
    # Where the data lie and what their classes are called changes no result.
    values["data"] = {**values["data"], "source": data_name(of.data.source), "labels": []}
    return values


def difference(recorded: Mapping[str, Any] | None, resolved: Mapping[str, Any]) -> str:
    """Return in words what differs from the settings of a recorded result, or nothing.

    A setting that did not exist when it was recorded had what is the default now.
    """
    if recorded is None:
        return "does not say all its settings"
    try:
        before = without_seed(Recipe.from_json(recorded))
    except ConfigError as error:
        return f"has settings that are no longer there: {error}"
    old, new = _flat(before), _flat(resolved)
    changed = next((key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)), None)
    return "" if changed is None else f"is of {changed}={old.get(changed)}, and this is {new.get(changed)}"


def _joined(kept: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    lists = {key: kept[key] + result[key] for key in ("seeds", "values", "training_seconds", "total_seconds")}
    others = {key: value + result["other_metrics"].get(key, []) for key, value in kept["other_metrics"].items()}
    texts = {
        key: "; ".join(dict.fromkeys((kept[key], result[key]))).strip("; ") for key in ("machine", "commit", "note")
    }
    seeds = ",".join(map(str, lists["seeds"]))
    return {
        **result,
        **lists,
        **texts,
        "mean": statistics.fmean(lists["values"]),
        "deviation": statistics.stdev(lists["values"]),
        "other_metrics": others,
        "command": " ".join([*result["command"].split(" ")[:-1], f"seeds={seeds}"]),
    }


def _report(folder: Path) -> None:
    """Write the report; a report that fails must not cost a run that succeeded, so it is logged as an error."""
    try:
        write_report(folder)
    except (OSError, RunError) as error:
        logger.error("The report of %s could not be written (%s); the run itself is whole.", folder, error)
    except Exception:
        logger.exception("The report of %s could not be written; the run itself is whole.", folder)


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

    Raises ConfigError for another layout, WeightsError for a model that has no counterpart there.
    """
    to = "huggingface" if to == "hf" else to
    if to not in LAYOUTS:
        raise ConfigError(f"There is no layout {to!r} to export to. There is: {', '.join(LAYOUTS)}.")
    trained = predictor(run)
    if to == "torchvision":
        return weights.write_torchvision(out, trained.model)
    text = getattr(trained.preprocess, "text", trained.preprocess)
    if isinstance(text, TextPreprocess):
        special = {"start": text.start, "end": text.end, "pad": text.pad}
        folder = weights.write_huggingface(out, trained.model, None, trained.context.labels, special=special)
        text.write_huggingface(folder)
        return folder
    prepared = {field.name: getattr(trained.preprocess, field.name) for field in dataclasses.fields(trained.preprocess)}
    return weights.write_huggingface(out, trained.model, prepared, trained.context.labels)


LAYOUTS = ("huggingface", "torchvision")
