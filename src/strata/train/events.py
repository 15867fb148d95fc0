"""What the loop tells whoever watches: a handful of typed events. The progress bar, the history in metrics.jsonl and
the log are observers; an observer is a function of one event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]
    step: int

    def record(self) -> dict[str, Any]:
        """Return the event as one line of metrics.jsonl; what is None is left out."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"event": self.kind} | {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A run begins: all that was decided, and why."""

    kind: ClassVar[str] = "started"
    folder: str
    time: str
    recipe: str
    task: str
    decisions: list[dict[str, str]]
    data: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    command: str
    total_steps: int
    steps_per_epoch: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """A run goes on from a checkpoint."""

    kind: ClassVar[str] = "resumed"
    folder: str
    time: str
    total_steps: int
    steps_per_epoch: float
    batch_size: int
    recipe: str


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """One step is done. Nothing in it needed the device to be waited for; it is not recorded."""

    kind: ClassVar[str] = "stepped"


@dataclass(frozen=True, kw_only=True)
class Logged(Event):
    """Means over the steps since the last such event."""

    kind: ClassVar[str] = "step"
    epoch: float
    loss: float
    losses: dict[str, float]
    learning_rate: float
    samples_per_second: float
    tokens_per_second: float | None = None
    waiting: float
    """Share of the time spent waiting for data."""
    gradient_norm: float | None = None
    seconds: float
    """Of training proper since the run began, over all its processes."""


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """A split was evaluated whole."""

    kind: ClassVar[str] = "evaluated"
    epoch: float
    split: str
    metrics: dict[str, float]
    seconds: float
    main_metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """A generative model drew a sample."""

    kind: ClassVar[str] = "sampled"
    file: str


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint is on disk, complete."""

    kind: ClassVar[str] = "saved"
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something a person should know, which does not stop the run."""

    kind: ClassVar[str] = "warned"
    message: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run cannot go on; the error is raised after this."""

    kind: ClassVar[str] = "failed"
    folder: str
    time: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The run is complete."""

    kind: ClassVar[str] = "finished"
    folder: str
    metrics: dict[str, dict[str, float]]
    seconds: float
    total_seconds: float
    samples_per_second: float
    tokens_per_second: float | None = None
    steps: int
    device: str
    precision: str
    main_metric: str | None = None
    stopped_early: bool = False
    confusion: dict[str, Any] | None = None
    classes: list[dict[str, Any]] | None = field(default=None)
    calibration: dict[str, Any] | None = None
    detection: dict[str, Any] | None = None
    mistakes: list[dict[str, Any]] | None = field(default=None)
    examples: dict[str, Any] | None = None
    texts: list[dict[str, Any]] | None = field(default=None)
    gradient_flow: list[list[float]] | None = field(default=None)


Observer = Callable[[Event], None]


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop by a signal; the step was finished and saved.

    Args:
        folder: the run, which `strata resume` continues.
        signal: the signal's number; a process ends with 128 + that.
    """

    def __init__(self, folder: Path, signal: int, step: int) -> None:
        super().__init__(f"Interrupted at step {step}; saved. Continue with: strata resume {folder}")
        self.folder, self.signal, self.step = folder, signal, step
