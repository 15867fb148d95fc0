"""Observers that write a run's history: metrics.jsonl for programs, log.txt for people."""

from __future__ import annotations

import time
from collections.abc import Callable

from strata.checkpoint.run_folder import RunFolder
from strata.errors import RunError
from strata.train import events


def recorder(folder: RunFolder) -> Callable[[events.Event], None]:
    """Return an observer that appends every event but single steps to metrics.jsonl."""

    def observe(event: events.Event) -> None:
        if not isinstance(event, events.Stepped):
            folder.append(event.record())

    return observe


def describe(event: events.Event) -> list[str]:
    """Return an event in words, a line each; nothing for events that only a bar shows."""
    if isinstance(event, events.Started):
        data = event.data
        splits = ", ".join(f"{n:,} {name}" for name, n in data["splits"].items())
        return [
            f"Run       {event.folder}",
            f"Recipe    {event.recipe}; task {event.task}",
            f"Data      {data['name']}: {splits}" + (f"; {len(data['labels'])} classes" if data["labels"] else ""),
            *(f"          {note}" for note in data["notes"]),
            f"Model     {event.model['name']}, {event.model['parameters']:,} parameters"
            + (f" ({event.model['from_data']} from the data)" if event.model["from_data"] else ""),
            *(f"{d['name'].capitalize():<14}{d['value']}: {d['reason']}" for d in event.decisions),
            f"Steps     {event.total_steps:,}, {event.batch_size:,} samples each, "
            f"{event.total_steps / event.steps_per_epoch:.3g} epochs",
        ]
    if isinstance(event, events.Resumed):
        return [f"Resumed {event.folder} at step {event.step:,} of {event.total_steps:,}"]
    if isinstance(event, events.Logged):
        rate = event.tokens_per_second or event.samples_per_second
        unit = "tokens/s" if event.tokens_per_second else "samples/s"
        several = ", ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
        loss = several if len(event.losses) > 1 else f"{event.loss:.4f}"
        return [f"step {event.step:,}: loss {loss}, {rate:,.0f} {unit}, waiting {event.waiting:.0%}"]
    if isinstance(event, events.Evaluated):
        return [f"step {event.step:,}: {event.split} " + shown(event.metrics)]
    if isinstance(event, events.Sampled):
        return [f"step {event.step:,}: sample in {event.file}"]
    if isinstance(event, events.Saved):
        return [f"step {event.step:,}: checkpoint saved"]
    if isinstance(event, events.Warned):
        return [f"Warning: {event.message}"]
    if isinstance(event, events.Failed):
        return [f"Failed at step {event.step:,}: {event.message}"]
    if isinstance(event, events.Finished):
        lines = [f"Finished at step {event.step:,} after {event.seconds:.1f} s of training"]
        return lines + [f"{split}: {shown(metrics)}" for split, metrics in event.metrics.items()]
    return []


DETAILS = ("precision", "recall", "f1", "sensitivity_at_specificity")
"""Metrics that a full line leaves to metrics.jsonl and the report."""
METRICS_ON_A_LINE = 4


def shown(metrics: dict[str, float]) -> str:
    """Return metrics as a person reads them: all of a few, the ones that matter of many."""
    names = [name for name in metrics if len(metrics) <= METRICS_ON_A_LINE or name not in DETAILS]
    return ", ".join(
        f"{name} {metrics[name]:.2%}"
        if name == "accuracy" or name.startswith("top_")
        else f"{name} {metrics[name]:.4g}"
        for name in names
    )


def writer(folder: RunFolder) -> Callable[[events.Event], None]:
    """Return an observer that writes log.txt."""

    def observe(event: events.Event) -> None:
        lines = describe(event)
        if not lines:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with folder.log.open("a", encoding="utf-8") as file:
                file.writelines(f"{now}  {line}\n" for line in lines)
        except OSError as error:
            raise RunError(f"Cannot write {folder.log}: {error.strerror or error}.") from error

    return observe
