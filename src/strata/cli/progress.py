"""What a person sees while a run trains: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from strata.train import events, history
from strata.train.events import Observer


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Observer]:
    """Give an observer that shows a run's events on ``console``."""
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("[cyan]{task.fields[metric]}"),
        TextColumn("[dim]{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=5,
        disable=not console.is_terminal,
        expand=True,
        transient=True,
    )
    bar = progress.add_task("training", total=None, loss="", metric="", rate="")

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Started | events.Resumed):
            progress.update(bar, total=event.total_steps, completed=event.step)
        elif isinstance(event, events.Stepped):
            progress.update(bar, completed=event.step)
            return
        elif isinstance(event, events.Logged):
            several = " ".join(f"{name[:1].upper()} {value:.3f}" for name, value in event.losses.items())
            rate = event.tokens_per_second or event.samples_per_second
            unit = "tok/s" if event.tokens_per_second else "samples/s"
            waiting = f", waits {event.waiting:.0%}" if event.waiting >= 0.05 else ""
            loss = several if len(event.losses) > 1 else f"loss {event.loss:.3f}"
            progress.update(bar, loss=loss, rate=f"{rate:,.0f} {unit}{waiting}")
            return
        elif isinstance(event, events.Saved | events.Sampled):
            return
        elif isinstance(event, events.Evaluated) and event.main_metric in event.metrics:
            short = history.shown({event.main_metric: event.metrics[event.main_metric]})
            progress.update(bar, metric=f"{event.split} {short}")
        for line in history.describe(event):
            style = "yellow" if isinstance(event, events.Warned) else None
            console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    with progress:
        yield observe
