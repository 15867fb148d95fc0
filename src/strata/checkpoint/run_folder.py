"""The folder of a run: what lies where, who may write, and its lines of history."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strata.checkpoint.files import read_json, write_bytes, write_json
from strata.errors import RunError


class RunFolder:
    """Paths in a run's folder, and the lock of the one process that may write there.

    Raises RunError when opened on something that is not a run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        if not self.path.exists():
            near = [file for file in self.path.parent.glob("*/recipe.json") if file.is_file()]
            newest = sorted(near, key=lambda file: file.stat().st_mtime_ns, reverse=True)[:8]
            more = ", ..." if len(near) > len(newest) else ""
            there = f" Runs there: {', '.join(file.parent.name for file in newest)}{more}." if near else ""
            raise RunError(f"There is no run at {self.path}.{there}")
        if not (self.path / "recipe.json").is_file():
            raise RunError(f"{self.path} is not a run: it holds no recipe.json.")

    @classmethod
    def create(cls, path: Path, recipe: dict[str, Any]) -> RunFolder:
        """Open a folder made by `create` as a run of this recipe, claimed for writing by this process."""
        try:
            write_json(path / "recipe.json", recipe)
        except RunError:
            path.rmdir()  # the disk is full: leave no folder that is not a run
            raise
        folder = cls(path)
        folder.lock()
        return folder

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the final model."""
        return self.path / "model"

    @property
    def samples(self) -> Path:
        """Folder of what a generative model made along the way."""
        return self.path / "samples"

    @property
    def log(self) -> Path:
        """The log, for people."""
        return self.path / "log.txt"

    def recipe(self) -> dict[str, Any]:
        """Return the resolved recipe as JSON."""
        values = read_json(self.path / "recipe.json")
        if not isinstance(values, dict):
            raise RunError(f"{self.path / 'recipe.json'} is damaged: it holds no recipe.")
        return values

    def lock(self) -> None:
        """Claim the folder for writing until this process ends. Raises RunError when another process has it."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error.strerror or error}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            by = f" (process {owner})" if owner else ""
            raise RunError(
                f"{self.path} is still being written by another process{by}. Wait for it or stop it."
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._lock = descriptor

    def unlock(self) -> None:
        """Give the claim back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; a last line that a crash cut short is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # texts may hold other line ends
            try:
                record = record_of(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "event" in record:
                found.append(record)
        return found

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(line_of(record) + "\n")
                if record["event"] == "started":  # without which a checkpoint says too little
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"Cannot write {self.path / 'metrics.jsonl'}: {error.strerror or error}.") from error

    def forget_after(self, step: int) -> None:
        """Drop lines of history past ``step``, which a resumed run will write again.

        At ``step`` itself a run saves first; what it does after that is done again too.
        """
        again = ("evaluated", "sampled", "failed", "finished")
        lines = [
            line_of(record)
            for record in self.records()
            if record.get("step", 0) < step or (record.get("step") == step and record["event"] not in again)
        ]
        write_bytes(self.path / "metrics.jsonl", ("\n".join(lines) + "\n" if lines else "").encode())


def line_of(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON, which knows no NaN and no infinity: such a number is written as null."""
    return json.dumps(_with_nulls(record), ensure_ascii=False, allow_nan=False)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_of(line: str) -> Any:
    """Return what a line holds, a measured number that was written as null as NaN: a loss, a metric, or the like.

    Raises ValueError for a line that is no JSON.
    """
    return _with_nan(json.loads(line))


def _with_nan(value: Any) -> Any:
    if not isinstance(value, dict):
        return math.nan if value is None else value
    measured = ("losses", "metrics", "validation", "test")
    return {k: _with_nan(inner) if inner is None or k in measured else inner for k, inner in value.items()}


def create(runs: Path, name: str) -> Path:
    """Make the next free folder ``NAME-K`` in ``runs``, also when several processes ask at once."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise RunError(f"name={name} is not allowed: use letters, digits, '.', '_' and '-'.")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        taken = [p.name.removeprefix(f"{name}-") for p in runs.glob(f"{name}-*")]
        number = max((int(n) for n in taken if n.isdigit()), default=0) + 1
        while True:
            try:
                (runs / f"{name}-{number}").mkdir()
                return runs / f"{name}-{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunError(f"Cannot make a run folder in {runs}: {error.strerror or error}.") from error
