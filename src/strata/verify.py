"""Retrain a recipe with several seeds, and keep what was reached beside the published number.

A seed's run that was broken off goes on where it was. Seeds may be trained side by side, and further ones added later:
only to a result of equal settings.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strata import api, device, recipes
from strata.checkpoint.files import read_json, write_json
from strata.config import flat
from strata.data import open_data
from strata.errors import ConfigError
from strata.predict.run import Run
from strata.train.events import Event, Observer, Started
from strata.train.recipe import Recipe, data_name

logger = logging.getLogger(__name__)


def verify(
    name: str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    runs: Path | str = "runs",
    observers: Sequence[Observer] = (),
    note: str = "",
    record: Path | None = None,
    add: bool = False,
) -> dict[str, Any]:
    """Train a recipe once with each seed and return what was reached beside the published number.

    Broken off, it goes on where it was when it is asked for the same again in the same folder, by the same code.
    The result holds every seed's value, mean and standard deviation, seconds, machine, versions and commit, and the
    command that repeats it.

    Args:
        note: what a reader has to know to compare, kept with the result.
        record: a file in which the result is kept; `recipes.result_file` is a recipe's own.
        add: what the file holds when all seeds are done, whoever wrote it, stays and is joined with these seeds;
            machines and commits that differ are named both. Else the file is written anew.

    Raises ConfigError where a seed is given twice, where the file's result is of other settings or has one of the seeds
    already, and where no metric or no split is there to compare by; all before anything is trained.
    """
    changed = {key: str(value) for key, value in (settings or {}).items()}
    chosen, commit = api.recipe(name, changed), device.commit()  # of the code that is loaded now
    name, reference, resolved = chosen.recipe, chosen.reference, without_seed(chosen)
    if twice := [seed for seed in seeds if list(seeds).count(seed) > 1]:
        raise ConfigError(f"Seed {twice[0]} is given twice, and would count as two. Give each once.")
    held = functools.partial(_held, record if add else None, name, resolved, seeds)
    held()
    metric, split = _compared_by(chosen)
    begun = json.dumps([resolved, chosen.data.source], sort_keys=True)
    digest = hashlib.sha256(begun.encode()).hexdigest()[:16]
    notes = {seed: Path(runs) / ".verify" / f"{digest}-{seed}.json" for seed in seeds}
    words = [f"{key}={value}" for key, value in changed.items()]
    command = shlex.join(["strata", "verify", name, *words, f"seeds={','.join(map(str, seeds))}"])
    values, seconds, wall = [], [], []
    others: list[dict[str, float]] = []
    for seed in seeds:
        run = _begun(notes[seed], commit, observers)
        if run is None:
            remember = functools.partial(_remember, notes[seed], commit)
            of_seed = {**changed, "train.seed": seed}
            run = api.train(name, of_seed, runs=runs, observers=[remember, *observers], command=command)
        finished = run.finished
        assert finished is not None
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
    if (kept := held()) is not None:
        result = _joined(kept, result)
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, result)
    for note_file in notes.values():
        note_file.unlink(missing_ok=True)
    return result


def _compared_by(recipe: Recipe) -> tuple[str, str]:
    """Return the metric and the split that the seeds of a recipe are compared by.

    Raises ConfigError where the data has no such split, or the task no one metric that stands for it.
    """
    dataset = open_data(recipe.data)
    task, reference = recipe.task.resolve(dataset), recipe.reference
    metric = reference.metric if reference else task.main_metric
    if metric is None:
        raise ConfigError(
            f"Recipe {recipe.recipe!r} has no one metric that stands for it, so its seeds cannot be compared. "
            f"Train it: strata train {recipe.recipe}"
        )
    held_out = [name for name in ("test", "validation") if name in dataset.splits]
    split = reference.split if reference else next(iter(held_out), "test")
    if split not in held_out:
        asked = getattr(recipe.data, split)
        why = f" (data.{split}={asked})" if asked is not None else ""
        raise ConfigError(
            f"Seeds are compared on the {split} split, and the data has none{why}. "
            f"Give data.{split} as a path, or a share such as 0.15."
        )
    return metric, split


def refuse_to_replace(record: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError where changed settings would take the place of a result that is of others."""
    chosen = api.recipe(name, settings)
    if not record.is_file() or not recipes.changes(api.recipe(name), settings):
        return
    if other := difference(read_json(record).get("resolved"), without_seed(chosen)):
        raise ConfigError(
            f"The recorded result of {chosen.recipe} {other}. Leave --record out, or record this one in its place: "
            "--replace."
        )


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
    old, new = flat(before), flat(resolved)
    changed = next((key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)), None)
    return "" if changed is None else f"is of {changed}={old.get(changed)}, and this is {new.get(changed)}"


def _held(record: Path | None, name: str, resolved: Mapping[str, Any], seeds: Sequence[int]) -> Any:
    """Return the result that seeds are to be added to; None where there is none."""
    kept = read_json(record) if record is not None and record.is_file() else None
    if kept is None:
        return None
    if other := difference(kept.get("resolved"), resolved):
        raise ConfigError(f"The recorded result of {name} {other}. Record all seeds anew, without --add.")
    if twice := set(kept["seeds"]) & set(seeds):
        raise ConfigError(f"Seed {min(twice)} of {name} is recorded already. Choose others.")
    return kept


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
    return api.resume(folder, observers=observers)


def _joined(kept: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Return two results of equal settings as one, by seed."""
    seeds = kept["seeds"] + result["seeds"]
    order = sorted(range(len(seeds)), key=seeds.__getitem__)

    def both(one: list[Any], other: list[Any]) -> list[Any]:
        return [(one + other)[k] for k in order]

    lists = {key: both(kept[key], result[key]) for key in ("seeds", "values", "training_seconds", "total_seconds")}
    more, missing = result["other_metrics"], [None] * len(result["seeds"])
    texts = {key: _each_once(f"{kept[key]}; {result[key]}") for key in ("machine", "commit", "note")}
    return {
        **result,
        **lists,
        **texts,
        "mean": statistics.fmean(lists["values"]),
        "deviation": statistics.stdev(lists["values"]),
        "other_metrics": {key: both(old, more.get(key, missing)) for key, old in kept["other_metrics"].items()},
        "command": " ".join([*result["command"].split(" ")[:-1], f"seeds={','.join(map(str, lists['seeds']))}"]),
    }


def _each_once(texts: str) -> str:
    """Return parts that are divided by semicolons, none of them twice."""
    return "; ".join(dict.fromkeys(part for part in texts.split("; ") if part))
