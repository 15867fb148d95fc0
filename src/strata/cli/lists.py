"""What there is: recipes, models, data, hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from strata.errors import ConfigError

Answer = Callable[[dict[str, Any]], None] | None


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in ("published", "ours", "parameters", "samples")
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=column == columns[0])
    return table


def recipes(console: Console, answer: Answer, name: str | None) -> None:
    """List the recipes, or all settings of one."""
    from strata.config import keys
    from strata.recipes import RECIPES, recipe

    if name is not None:
        found = recipe(name)
        table = _table("setting", "value")
        settings = {k: v for k, v in keys(found).items() if k.split(".")[0] not in ("reference", "recipe", "summary")}
        for key, value in settings.items():
            table.add_row(key, str(value))
        console.print(table, highlight=False)
        if answer:
            answer({"recipe": found.to_json()})
        return
    table, listed = _table("recipe", "what it does", "published", "ours"), []
    for name in RECIPES:
        reference = recipe(name).reference
        row = {"recipe": name, "summary": RECIPES.summary(name)}
        if reference is not None:
            row |= dataclasses.asdict(reference)
        listed.append(row)
        values = (reference.published, reference.measured) if reference else ()
        shown = [_number(value, str(row["metric"])) for value in values]
        if reference is not None and reference.changed:
            shown[-1] += f" with {reference.changed}"
        table.add_row(name, RECIPES.summary(name), *shown)
    console.print(table, highlight=False)
    if answer:
        answer({"recipes": listed})


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    is_share = metric.endswith(("accuracy", "f1"))
    return f"{value:.2%}" if is_share else f"{value:.4g} {metric.partition('_')[0]}"


def numbers(text: str, key: str) -> list[int]:
    """Return 1,2,3 as a list. Raises ConfigError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{key}={text} is not allowed: it has to be whole numbers, such as 0,1,2.") from None


def verified(console: Console, result: dict[str, Any]) -> None:
    """Show what several seeds reached beside the published number."""
    table, metric = _table("seed", result["metric"], "training"), result["metric"]
    for seed, value, seconds in zip(result["seeds"], result["values"], result["training_seconds"], strict=True):
        table.add_row(str(seed), _number(value, metric), f"{seconds:.1f} s")
    console.print(table, highlight=False)
    mean = _number(result["mean"], metric)
    spread = f" ± {_number(result['deviation'], metric)}" if len(result["seeds"]) > 1 else ", one seed"
    published = f"published {_number(result['published'], metric)}" if result["published"] else "no published number"
    console.print(f"{result['recipe']}: {result['split']} {metric} {mean}{spread}; {published}", highlight=False)


def models(console: Console, answer: Answer, name: str | None) -> None:
    """List the architectures, or the sizes of one."""
    from strata.models import MODELS, build, names, preset, presets_of

    if name is not None:
        import torch

        config = preset(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build(config).parameters())
        table = _table("setting", "value")
        for field in dataclasses.fields(config):
            table.add_row(f"model.{field.name}", str(getattr(config, field.name)))
        console.print(table, f"{parameters:,} parameters", highlight=False)
        if answer:
            answer({"model": name, "parameters": parameters, "config": dataclasses.asdict(config)})
        return
    table = _table("model", "what it is", "presets")
    for family in MODELS:
        table.add_row(family, MODELS.summary(family), " ".join(presets_of(family)))
    console.print(table, highlight=False)
    if answer:
        answer({"models": names()})


def data(console: Console, answer: Answer, path: str | None, settings: dict[str, str]) -> None:
    """List named data, or say what a path holds."""
    from strata.data import DATASETS

    if path is not None:
        from strata.config import override
        from strata.data import open_data
        from strata.data.dataset import DataConfig

        config = DataConfig(source=path)
        for key, value in settings.items():
            config = override(config, key.removeprefix("data."), value, owner="Data")
        found = open_data(config)
        lines = {name: len(split) for name, split in found.splits.items()}
        console.print(
            f"{found.name}: {found.kind}; " + ", ".join(f"{n:,} {k}" for k, n in lines.items()),
            highlight=False,
            markup=False,
        )
        for note in found.notes:
            console.print(f"  {note}", highlight=False, markup=False)
        if found.labels:
            counted = [f"{label} ({n})" for label, n in zip(found.labels, found.class_counts, strict=False)]
            shown = ", ".join((counted or found.labels)[:20])
            console.print(
                f"  classes: {shown}" + (", ..." if len(found.labels) > 20 else ""), highlight=False, markup=False
            )
        if answer:
            kept = {"data": path, "kind": found.kind, "splits": lines, "labels": found.labels, "notes": found.notes}
            answer(kept | {"sizes": found.sizes})
        return
    table = _table("data", "kind", "samples", "what it is", "from")
    listed = []
    for entry in DATASETS.values():
        here = "bundled" if entry.bundled else f"download, {entry.size / 1e6:.0f} MB"
        table.add_row(entry.name, entry.kind, entry.samples, entry.summary, here)
        listed.append(
            {"name": entry.name, "kind": entry.kind, "samples": entry.samples, "from": here, "origin": entry.origin}
        )
    console.print(table, highlight=False)
    if answer:
        answer({"data": listed})


def info(console: Console, answer: Answer) -> None:
    """Say what hardware was found and what is decided because of it."""
    import os

    import torch

    from strata.device import available_memory_bytes, decide, processor, versions
    from strata.predict.packed import usual_weights

    setup = decide()
    decisions = [*setup.decisions, usual_weights(setup)]
    gpus = (
        [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory free": f"{available_memory_bytes() / 2**30:.1f} GiB",
        "GPUs": ", ".join(gpus) or "none",
    } | versions()
    table = _table("found", "")
    for key, value in facts.items():
        table.add_row(key, str(value))
    console.print(table, highlight=False)
    console.print()
    table = _table("decided", "", "because")
    for decision in decisions:
        table.add_row(decision.name, decision.value, decision.reason)
    console.print(table, highlight=False)
    console.print(
        "A run may differ: recipe.json and log.txt say what it did. No convolutions: contiguous memory format."
    )
    if answer:
        answer({"found": facts, "decided": [dataclasses.asdict(decision) for decision in decisions]})
