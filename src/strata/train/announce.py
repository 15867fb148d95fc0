"""What a run says of itself when it begins."""

from __future__ import annotations

import dataclasses
import datetime

import torch
from torch import nn

from strata.checkpoint.run_folder import RunFolder
from strata.data.augment import AugmentConfig
from strata.data.dataset import Dataset
from strata.data.files import NAMED
from strata.data.splits import HELD_OUT
from strata.device import Setup, versions
from strata.models import family_of
from strata.train import events
from strata.train.plan import Plan
from strata.train.recipe import Recipe, TrainConfig
from strata.train.transfer import TransferConfig


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
            "notes": [*dataset.notes, *recipe.task.notes(dataset), *absent_classes(recipe, dataset)],
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
        (("step_every", "step_at", "step_factor"), "schedule", ("step",)),
    ):
        value = getattr(train, chosen)
        if value not in serve:
            changed = (name for name in names if getattr(train, name) != getattr(usual, name))
            lines += [f"train.{name} has no effect with train.{chosen}={value}." for name in changed]
    if train.early_stopping is not None and (recipe.task.main_metric is None or "validation" not in dataset.splits):
        lines.append("train.early_stopping has no effect: there is no validation metric to watch.")
    if plan is not None and train.batch_size != "full" and plan.batch_size < train.batch_size:
        lines.append(
            f"Each step takes all {plan.batch_size} samples, which are fewer than train.batch_size={train.batch_size}."
        )
    if train.grow_from == 1:
        changed = (name for name in ("grow_until", "grow_step") if getattr(train, name) != getattr(usual, name))
        lines += [f"train.{name} has no effect with train.grow_from=1." for name in changed]
    augment, weights = recipe.data.augment, recipe.weights
    serving = {"rank": ("lora",), "alpha": ("lora",), "frozen": ("full", "lora")}
    for name, tunes in serving.items():
        is_changed = getattr(weights, name) != getattr(TransferConfig(), name)
        if is_changed and weights.source is not None and weights.tune not in tunes:
            lines.append(f"weights.{name} has no effect with weights.tune={weights.tune}.")
    if weights.source is None and weights.tune != "full":
        lines.append(f"weights.tune={weights.tune} has no effect without weights=, from which a model begins.")
    if weights.source is not None and weights.tune == "probe" and augment != AugmentConfig():
        lines.append("data.augment has no effect with weights.tune=probe: features are of the pictures as they are.")
    if plan is not None and plan.samples_per_step == 1 and (augment.mixup or augment.cutmix):
        lines.append("data.augment.mixup and cutmix have no effect with train.batch_size=1: there is no other to mix.")
    return lines


def absent_classes(recipe: Recipe, dataset: Dataset) -> list[str]:
    """Return a note for each held-out split in which classes are missing, and what is therefore not measured."""
    notes = []
    positive = getattr(recipe.task, "positive_class", None)
    for name in HELD_OUT:
        target_N = getattr(dataset.splits.get(name), "target", None)
        if dataset.target_kind != "class" or target_N is None or target_N.ndim != 1:
            continue
        counts = torch.bincount(target_N.cpu(), minlength=len(dataset.labels)).tolist()
        absent = [label for label, count in zip(dataset.labels, counts, strict=True) if count == 0]
        if absent:
            listed = ", ".join(map(repr, absent[:NAMED])) + (", ..." if len(absent) > NAMED else "")
            found = positive is not None and counts[positive] == 0
            left_out = ", and how well it is found (AUROC, sensitivity) is left out" if found else ""
            notes.append(
                f"the {name} split holds no sample of {listed}, of which it measures nothing{left_out}; "
                f"a greater data.{name} may hold some"
            )
    return notes


def now() -> str:
    """Return the time as ISO 8601 with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
