"""A run's report, section by section; the template beside this file says how it looks.

Each section is a function of the history that returns what the template shows, or None where it does not apply.
A sentence that holds a number says what the number is of: which split, how many samples, at which step.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from strata.checkpoint.files import write_text
from strata.report import detection
from strata.report.curves import curves
from strata.report.findings import confusion, examples, mistakes, samples, texts
from strata.report.headline import headline
from strata.report.history import History, Record, as_dict, as_list, inside, read_history
from strata.report.words import DASH, count, counted, duration, finite, median, millions, number, percent

_CLASSES_UNFOLDED = 20
_LAYERS_UNFOLDED = 12


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder from what lies there, and return its path.

    The run may be finished, still going, killed, or resumed. Raises RunError when the folder is not a run, or the
    file cannot be written.
    """
    folder = Path(run_folder)
    page = render(read_history(folder))
    path = folder / "report.html"
    write_text(path, page)
    return path


def render(history: History) -> str:
    """Return the report as one HTML page."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("strata.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"count": count, "percent": percent, "number": number}
    return environment.from_string(source).render(
        title=history.folder.resolve().name,
        headline=headline(history),
        samples=samples(history),
        examples=examples(history),
        texts=texts(history),
        curves=curves(history),
        confusion=confusion(history),
        mistakes=mistakes(history),
        squares=[chart for chart in (detection.roc(history), detection.calibration(history)) if chart is not None],
        before_use=detection.use(history),
        data=_data(history),
        model=_model(history),
        how=_how_it_ran(history),
        use=_how_to_use(history),
        recipe=_recipe(history),
    )


def _data(history: History) -> Record | None:
    data = history.data
    config = history.data_config
    splits = history.splits
    if not data and not config:
        return None
    labels = [str(label) for label in as_list(data.get("labels"))]
    counts = [finite(n) for n in as_list(data.get("class_counts"))]
    balance = None
    if labels and len(counts) == len(labels) and sum(n or 0 for n in counts):
        balance = _balance(labels, [n or 0.0 for n in counts])
    total = sum(splits.values())
    return {
        "name": history.data_name,
        "source": str(config.get("source") or DASH),
        "noun": history.nouns,
        "splits": [{"name": name, "n": n, "share": n / total if total else None} for name, n in splits.items()],
        "labels": len(labels),
        "balance": balance,
        "notes": [str(note) for note in as_list(data.get("notes"))],
    }


def _balance(labels: list[str], counts: list[float]) -> Record:
    most, least, total = max(counts), min(counts), sum(counts)
    even = most <= 1.5 * least
    if even:
        each = f"{count(least)} to {count(most)}" if most > least else count(most)
        says = f"The classes are about equally frequent in the training data: {each} each."
    else:
        common, rare = labels[counts.index(most)], labels[counts.index(least)]
        says = (
            f"Most frequent in the training data is “{common}” with {count(most)}, least “{rare}” with {count(least)}: "
            f"always saying “{common}” would be right {percent(most / total)} of the time there."
        )
    rows = [{"label": label, "n": n, "width": n / most} for label, n in zip(labels, counts, strict=True)]
    return {"says": says, "rows": rows, "folded": even or len(rows) > _CLASSES_UNFOLDED}


def _model(history: History) -> Record | None:
    model, config = history.model, history.model_config
    if not model and not config:
        return None
    layers = [layer for layer in as_list(model.get("layers")) if isinstance(layer, dict)]
    most = max((finite(layer.get("parameters")) or 0 for layer in layers), default=0)
    rows = [
        {
            "name": str(layer.get("name", DASH)),
            "kind": str(layer.get("kind", DASH)),
            "parameters": finite(layer.get("parameters")),
            "width": (finite(layer.get("parameters")) or 0) / most if most else 0,
        }
        for layer in layers
    ]
    parameters = finite(model.get("parameters"))
    settings = [(key, _setting(value)) for key, value in config.items() if key != "kind"]
    says = f"{history.model_name} has {millions(parameters)} parameters" if parameters else history.model_name
    if parameters and parameters >= 1e6:
        says += f" ({count(parameters)})"
    if parameters:
        says += f", {_bytes(4 * parameters)} in 32-bit numbers"
    if rows and most and parameters:
        largest = max(rows, key=lambda row: float(str(row["parameters"] or 0)))
        says += f"; {percent(most / parameters, places=0)} of them are in “{largest['name']}”" if len(rows) > 1 else ""
    return {
        "says": says + ".",
        "rows": rows,
        "folded": len(rows) > _LAYERS_UNFOLDED,
        "settings": settings,
        "from_data": str(model.get("from_data") or ""),
    }


def _bytes(n: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= size:
            return f"{number(n / size, 3)} {unit}"
    return f"{n:.0f} bytes"


def _how_it_ran(history: History) -> Record:
    started, finished, train = history.started, history.end, history.train
    decisions = [d for d in as_list(started.get("decisions")) if isinstance(d, dict)]
    decided = {str(d.get("name")): str(d.get("value", DASH)) for d in decisions}
    last = history.steps[-1] if history.steps else {}
    seconds = finished.get("seconds", last.get("seconds"))
    facts: list[tuple[str, str]] = [("training time", duration(seconds))]
    if finite(finished.get("total_seconds")) is not None:
        facts.append(("with evaluation and saving", duration(finished["total_seconds"])))
    steps = count(finished.get("steps", history.last_step))
    total = history.total_steps
    if history.finished is None and total:
        steps += f" of {count(total)}"
    facts.append(("steps", steps))
    per_epoch = history.steps_per_epoch
    if per_epoch:
        facts.append(("epochs", number(finite(finished.get("steps", history.last_step)) / per_epoch, 3)))  # type: ignore[operator]
    if finite(started.get("batch_size")) is not None:
        facts.append(("samples in a step", count(started["batch_size"])))
    for key, noun in (("tokens_per_second", "tokens"), ("samples_per_second", "samples")):
        value = finished.get(key) if history.finished else median(line.get(key) for line in history.steps)
        if finite(value) is not None and not (key == "samples_per_second" and facts[-1][0] == "tokens per second"):
            facts.append((f"{noun} per second", number(value, 3)))
    facts.append(("device", str(finished.get("device") or decided.get("device") or DASH)))
    facts.append(("precision", str(finished.get("precision") or decided.get("precision") or DASH)))
    facts.append(("seed", _setting(train.get("seed"))))
    if finished.get("stopped_early"):
        facts.append(
            ("stopped early", f"yes, after {counted(train.get('early_stopping'), 'evaluation')} without a better one")
        )
    if started.get("time"):
        facts.append(("started", str(started["time"]).replace("T", " ")[:19]))
    events = [{"step": step, "what": "Resumed from the checkpoint of this step."} for step in history.resumed]
    events += [{"step": step, "what": f"Warning: {message}"} for step, message in history.warnings]
    if history.unread:
        events.append({"step": None, "what": f"{counted(history.unread, 'line')} of metrics.jsonl could not be read."})
    return {
        "facts": facts,
        "decisions": [
            {
                "name": str(d.get("name", DASH)),
                "value": str(d.get("value", DASH)),
                "reason": str(d.get("reason") or DASH),
            }
            for d in decisions
        ],
        "versions": [(str(name), _setting(value)) for name, value in as_dict(started.get("versions")).items()],
        "command": str(started.get("command") or ""),
        "events": sorted(events, key=lambda event: -1 if event["step"] is None else event["step"]),
    }


def _how_to_use(history: History) -> Record:
    folder = history.folder.resolve()
    run = shlex.quote(f"runs/{folder.name}" if folder.parent.name == "runs" else folder.name)
    kind, commands, python = history.task_kind, [], ""
    has_weights = inside(history.folder, "model/model.safetensors") is not None
    if history.finished is None:
        commands.append(("Go on where it stopped, to the last bit as if it had not", f"strata resume {run}"))
    if not has_weights:
        pass
    elif kind == "next_token":
        prompt = "Once upon a time"
        if not set(prompt) <= set(history.preprocess.get("characters") or prompt):
            prompt = ""  # letters that the model never saw
        commands.append(
            ("Let it write", f"strata generate {run}" + (f" prompt={shlex.quote(prompt)}" if prompt else ""))
        )
        python = f'print(run.generate("{prompt}"))' if prompt else "print(run.generate())"
    elif kind == "adversarial":
        commands.append(("Let it draw", f"strata generate {run} count=16"))
        python = "run.generate(count=16)"
    else:
        what, raw, python = {
            "image": ("Ask it about a picture of your own", "photo.jpg", 'print(run.predict("photo.jpg"))'),
            "pairs": (
                "Give it a picture of your own",
                "photo.jpg",
                'run.predict("photo.jpg")["picture"].save("made.png")',
            ),
            "table": (
                "Ask it about rows of your own",
                "rows.csv",
                "print(run.predict(row))  # a dict of values by column name",
            ),
        }.get(history.data_kind, ("Ask it", "input", "print(run.predict(x))"))
        commands.append((what, f"strata predict {run} {raw}"))
    if has_weights:
        commands.append(("Measure it again on its data", f"strata evaluate {run}"))
    seed = as_dict(history.recipe.get("train")).get("seed")
    if isinstance(seed, int):
        commands.append(("Train it again, with another seed", f"strata train {run} train.seed={seed + 1}"))
    quoted = run.strip("'")
    return {
        "commands": commands,
        "python": python
        and f'import strata\n\nrun = strata.load("{quoted}")\n{python}\nmodel = run.model()  # a plain torch.nn.Module',
        "has_weights": has_weights,
    }


def _recipe(history: History) -> list[tuple[str, str]]:
    return list(_flat(history.recipe))


def _flat(values: Record, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _setting(value)


def _setting(value: Any) -> str:
    """Return a setting as one would type it; what is not set is a dash."""
    if value is None or value in ("", {}, []):
        return DASH
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}" if finite(value) is not None else DASH
    return str(value)
