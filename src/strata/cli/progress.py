"""What a person sees while a run trains, or answers many inputs: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from strata.train import events, history
from strata.train.events import Observer

T = TypeVar("T")


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
        elif isinstance(event, events.Saved | events.Sampled | events.Failed):  # a failure's error is shown in the end
            return
        elif isinstance(event, events.Evaluated) and event.main_metric in event.metrics:
            short = history.shown({event.main_metric: event.metrics[event.main_metric]})
            progress.update(bar, metric=f"{event.split} {short}")
        for line in history.describe(event):
            style = "yellow" if isinstance(event, events.Warned) else None
            console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    with progress:
        yield observe


@contextlib.contextmanager
def counting(console: Console, total: int | None) -> Iterator[Callable[[Iterable[T]], Iterator[T]]]:
    """Give a function that passes things on and counts them in a bar, where the things go elsewhere than a terminal.

    Things that a person sees pass by are their own progress, and a bar would be torn by them.
    """
    progress = Progress(
        TextColumn("[bold]answering"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=5,
        disable=not console.is_terminal or sys.stdout.isatty(),
        expand=True,
        transient=True,
        redirect_stdout=False,
    )
    bar = progress.add_task("answering", total=total)

    def counted(things: Iterable[T]) -> Iterator[T]:
        for thing in things:
            yield thing
            progress.advance(bar)

    with progress:
        yield counted
