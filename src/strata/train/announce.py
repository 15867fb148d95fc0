"""What a run says of itself when it begins."""

from __future__ import annotations

import dataclasses
import datetime

from torch import nn

from strata.checkpoint.run_folder import RunFolder
from strata.data.dataset import Dataset
from strata.device import Setup, versions
from strata.models import family_of
from strata.train import events
from strata.train.plan import Plan
from strata.train.recipe import Recipe, TrainConfig


def started(
    recipe: Recipe,
    dataset: Dataset,
    model: nn.Module,
    setup: Setup,
    plan: Plan,
    folder: RunFolder,
    *,
    command: str,
    from_data: str,
) -> events.Started:
    """Return all that was decided, and why."""
    children = [
        {"name": name, "kind": type(module).__name__, "parameters": sum(p.numel() for p in module.parameters())}
        for name, module in model.named_children()
    ]
    return events.Started(
        step=0,
        folder=str(folder.path),
        time=now(),
        recipe=recipe.recipe,
        task=recipe.task.kind,
        decisions=[dataclasses.asdict(decision) for decision in setup.decisions],
        data={
            "name": dataset.name,
            "kind": dataset.kind,
            "splits": {name: len(split) for name, split in dataset.splits.items()},
            "labels": list(dataset.labels),
            "class_counts": list(dataset.class_counts),
            "notes": [*dataset.notes, *recipe.task.notes(dataset)],
            "repeated": dict(dataset.repeated),
            "fingerprint": dataset.fingerprint,
        },
        model={
            "name": family_of(recipe.model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "layers": children,
            "from_data": from_data,
        },
        versions=versions(),
        command=command,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=plan.samples_per_step,
    )


def resumed(recipe: Recipe, plan: Plan, folder: RunFolder, step: int) -> events.Resumed:
    """Return where a run goes on."""
    return events.Resumed(
        step=step,
        folder=str(folder.path),
        time=now(),
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=plan.samples_per_step,
        recipe=recipe.recipe,
    )


def without_effect(recipe: Recipe, dataset: Dataset, plan: Plan | None = None) -> list[str]:
    """Return a line for each setting that was changed and does nothing on this path."""
    lines = []  # data.* has been looked at where the data was read: those lines are among its notes
    train, usual = recipe.train, TrainConfig()
    for names, chosen, serve in (
        (("momentum",), "optimizer", ("momentum", "nesterov", "rmsprop", "muon")),
        (("betas",), "optimizer", ("adam", "adamw", "muon")),
        (("decay",), "schedule", ("warmup_stable_decay",)),
        (("final",), "schedule", ("cosine", "linear", "one_cycle", "warmup_stable_decay")),
        (("step_every", "step_factor"), "schedule", ("step",)),
    ):
        value = getattr(train, chosen)
        if value not in serve:
            changed = (name for name in names if getattr(train, name) != getattr(usual, name))
            lines += [f"train.{name} has no effect with train.{chosen}={value}." for name in changed]
    if train.early_stopping is not None and (recipe.task.main_metric is None or "validation" not in dataset.splits):
        lines.append("train.early_stopping has no effect: there is no validation metric to watch.")
    if plan is not None and train.batch_size != "full" and plan.batch_size < train.batch_size:
        lines.append(f"train.batch_size={train.batch_size} is more than all {plan.batch_size} samples.")
    return lines


def now() -> str:
    """Return the time as ISO 8601 with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
