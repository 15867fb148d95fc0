"""Checkpoints that are whole or absent, and reading back the newest that verifies.

A checkpoint is a folder ``step-N`` with ``state.safetensors`` (every tensor of the training state), ``state.json``
(its numbers) and ``manifest.json`` (size and SHA-256 of both). It is written under another name, synced, and renamed,
so that ``step-N`` exists only when it is complete; what a kill leaves behind is swept up by the next save.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from strata.checkpoint.files import read_json, read_tensors, sha256, sync_folder, write_json, write_tensors
from strata.errors import CheckpointError, RunError

_ASIDE = ".writing-"
_FILES = ("state.safetensors", "state.json")


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], *, keep: int) -> Path:
    """Write checkpoint ``step-N`` into ``folder`` and remove all but the newest ``keep``, and any of a later step.

    Raises CheckpointError when it could not be written; earlier checkpoints are untouched then.
    """
    aside, final = folder / f"{_ASIDE}step-{step}-{os.getpid()}", folder / f"step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        write_tensors(aside / "state.safetensors", tensors)
        write_json(aside / "state.json", numbers)
        manifest = {name: {"bytes": (aside / name).stat().st_size, "sha256": sha256(aside / name)} for name in _FILES}
        write_json(aside / "manifest.json", {"step": step, "files": manifest})
        sync_folder(aside)
        if final.exists():  # the same step again: a save asked for by a signal right after a regular one
            shutil.rmtree(final)
        aside.rename(final)
        sync_folder(folder)
    except (OSError, RunError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        last = steps(folder)
        kept = f"The last good one is step-{last[-1]}" if last else "There is no earlier one"
        raise CheckpointError(f"Checkpoint step-{step} could not be written: {_why(error)} {kept}.") from error
    found = steps(folder)
    # Those of later steps did not verify, or this step would not have been taken again; they would crowd out good ones.
    for old in [*[k for k in found if k <= step][:-keep], *[k for k in found if k > step]]:
        shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    return final


def _why(error: Exception) -> str:
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return text.rstrip(".") + "."


def steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints in ``folder``, oldest first."""
    found = (path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(number) for number in found if number.isdigit())


def verify(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every byte is as it was written."""
    try:
        files = read_json(checkpoint / "manifest.json")["files"]
        for name in _FILES:
            path, expected = checkpoint / name, files[name]
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes and not {expected['bytes']}"
            if sha256(path) != expected["sha256"]:
                return f"{name} was changed after it was written"
    except (RunError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json is of no use: {error}"
    return None


Loaded = tuple[int, dict[str, Tensor], dict[str, Any], list[str]]
"""A checkpoint's step, tensors and numbers, and warnings about newer ones that were not whole."""


def load_newest(folder: Path) -> Loaded | None:
    """Read the newest checkpoint that verifies.

    Returns step, tensors, numbers, and a line for each newer checkpoint that did not verify; None when there are no
    checkpoints. Raises CheckpointError when there are some and none verifies.
    """
    warnings: list[str] = []
    for step in reversed(steps(folder)):
        checkpoint = folder / f"step-{step}"
        problem = verify(checkpoint)
        if problem is None:
            tensors = read_tensors(checkpoint / "state.safetensors")
            return step, tensors, read_json(checkpoint / "state.json"), warnings
        warnings.append(f"Checkpoint {checkpoint.name} is damaged ({problem}); the one before it is used.")
    if warnings:
        raise CheckpointError(f"No checkpoint in {folder} verifies: {' '.join(warnings)}")
    return None
