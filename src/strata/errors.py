"""Everything that a user can cause to go wrong, as one tree of exceptions.

    StrataError
    ├── ConfigError          a recipe, model, key or value that does not exist or is not allowed
    │   └── UnknownNameError a name that no registry holds; carries the nearest right ones
    ├── DataError            data that is missing, unreadable, or unfit for the task
    ├── RunError             a run folder that is not one, is in use, or does not fit what is asked of it
    │   └── CheckpointError  no checkpoint that verifies, or one that could not be written
    ├── WeightsError         foreign weights that are unreadable, unsafe, or of another model
    ├── TrainingError        training that cannot go on: a loss that is no longer finite
    └── UnavailableError     something this machine or this installation lacks; says what to install

The command line prints any of them in red on one or two lines, without a traceback, and exits with code 2.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StrataError(Exception):
    """Base of every error that a user can cause."""


class ConfigError(StrataError):
    """A recipe, model, key or value that does not exist or is not allowed."""


class UnknownNameError(ConfigError):
    """A name that is not known; the message holds the nearest right ones."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"Unknown {what} {name!r}.{suggest(name, known)}")


class DataError(StrataError):
    """Data that is missing, unreadable, or unfit for the task."""


class RunError(StrataError):
    """A run folder that is not one, is in use, or does not fit what is asked of it."""


class CheckpointError(RunError):
    """No checkpoint that verifies, or one that could not be written."""


class WeightsError(StrataError):
    """Foreign weights that are unreadable, unsafe, or of another model."""


class TrainingError(StrataError):
    """Training that cannot go on."""


class UnavailableError(StrataError):
    """Something this machine or this installation lacks."""


def suggest(name: str, known: Iterable[str], limit: int = 12) -> str:
    """Return ``" Did you mean 'x'? It takes: ..."`` for a wrong name, with the nearest right one first."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not near:  # 'epoch' for 'train.epochs'
        last = {other.rsplit(".", 1)[-1]: other for other in reversed(names)}
        near = [last[word] for word in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.8)]
    listed = ", ".join(names[:limit]) + (", ..." if len(names) > limit else ".")
    question = f" Did you mean {near[0]!r}?" if near else ""
    return f"{question} Known: {listed}" if names else question
