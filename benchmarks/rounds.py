"""Measuring two or more sides in turn, and what is kept of it: a table on the screen and a log that says everything.

A round measures every side once, one after the other, so that whatever else the machine does falls on all of them. A
ratio is told twice: of the medians, and round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOGS = Path(__file__).parent / "logs"


class Enough(Exception):
    """Raised from inside a training loop when all that was to be measured has been."""


class StopWatch:
    """Times ``steps`` steps after ``warmup`` steps, on a device that may run behind the program.

    Args:
        warmup: steps that are not timed; at least one.
        device: "cpu", "cuda", ...
    """

    def __init__(self, warmup: int, steps: int, device: str) -> None:
        assert warmup >= 1 and steps >= 1
        self.warmup, self.steps, self.device = warmup, steps, device
        self.ticks = 0
        self.began = 0.0
        self.seconds = 0.0

    def tick(self) -> None:
        """Count a step that is done. Raises Enough after the last."""
        self.ticks += 1
        if self.ticks == self.warmup:
            synchronize(self.device)
            self.began = time.perf_counter()
        elif self.ticks == self.warmup + self.steps:
            synchronize(self.device)
            self.seconds = time.perf_counter() - self.began
            raise Enough


def steps_per_second(step: Callable[[], Any], *, warmup: int, steps: int, device: str) -> float:
    """Return how many steps a second takes after a warm-up, and leave nothing behind on the device."""
    for _ in range(warmup):
        step()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    found = steps / (time.perf_counter() - began)
    clean(device)
    return found


def synchronize(device: str) -> None:
    """Wait until a device has done all that was asked of it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def clean(device: str) -> None:
    """Leave nothing of one side to the next: no memory, no compiled code."""
    import torch

    torch.compiler.reset()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def add_arguments(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Add the options that all benchmarks share."""
    parser.add_argument("--rounds", type=int, help=f"how often each side is measured (default {rounds}, quick 2)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; the figures mean nothing"
    )
    parser.add_argument("--logs", type=Path, help="folder of the log (default benchmarks/logs; quick: none is written)")
    parser.set_defaults(usual_rounds=rounds)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of benchmarks that train."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")


def settle(options: argparse.Namespace) -> None:
    """Fill in what depends on other options, and set torch's threads."""
    if options.rounds is None:
        options.rounds = 2 if options.quick else options.usual_rounds
    if options.logs is None and not options.quick:
        options.logs = LOGS
    if getattr(options, "threads", None):
        import torch

        torch.set_num_threads(options.threads)
    if getattr(options, "device", "cpu") == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("--device cuda: torch sees no GPU here.")


@dataclass
class Measurement:
    """What a benchmark finds.

    Args:
        name: of the benchmark's file.
        unit: of the figures, such as "images per second".
        more_is_faster: whether the figures are rates; else they are times.
        settings: everything that decides the figures; for each side under its name.
    """

    name: str
    unit: str
    more_is_faster: bool
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    quick: bool = False
    rounds: list[dict[str, float]] = field(default_factory=list)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """What else the log is to hold."""
    load: dict[str, Sequence[float]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def alternate(self, sides: Mapping[str, Callable[[int], float]], rounds: int) -> None:
        """Measure every side once in each round: A B A B ... A side is called with the round's number."""
        self.load["start"] = _load()
        busy = self.load["start"][0] if self.load["start"] else 0.0
        if busy > 0.5 and not self.quick:
            self.notes.append(f"the machine was not quiet at the start: load average {busy:.2f}")
            say(f"Note: {self.notes[-1]}")
        for number in range(rounds):
            found: dict[str, float] = {}
            for side, measure in sides.items():
                found[side] = measure(number)
                say(f"round {number + 1} of {rounds}  {side:<28} {found[side]:>12,.4g} {self.unit}")
            self.rounds.append(found)
        self.load["end"] = _load()

    def figures(self, side: str) -> list[float]:
        """Return a side's figures, round by round."""
        return [found[side] for found in self.rounds]

    def compare(self, ours: str, theirs: str, what: str, *, at_least: bool = False) -> float:
        """Note how many times as fast ``ours`` is as ``theirs``, and return the ratio of the medians.

        Args:
            at_least: the ratio is a lower bound, because ``theirs`` was not followed to its end.
        """
        a, b = (ours, theirs) if self.more_is_faster else (theirs, ours)
        of_medians = statistics.median(self.figures(a)) / statistics.median(self.figures(b))
        per_round = [found[a] / found[b] for found in self.rounds]
        told = {"what": what, "ours": ours, "theirs": theirs, "of_medians": of_medians, "per_round": per_round}
        self.ratios.append(told | {"at_least": at_least})
        return of_medians

    def show(self) -> None:
        """Print the table."""
        sides = list(self.rounds[0])
        wide = max(28, *(len(side) for side in sides))
        say(f"\n{self.unit:<{wide}}{'median':>12}{'min':>12}{'max':>12}{'spread':>9}   n = {len(self.rounds)}")
        for side in sides:
            found = summary(self.figures(side))
            say(
                f"{side:<{wide}}{found['median']:>12,.4g}{found['min']:>12,.4g}{found['max']:>12,.4g}"
                f"{found['spread']:>9.1%}"
            )
        for ratio in self.ratios:
            least = "at least " if ratio["at_least"] else ""
            each = " ".join(f"{value:.2f}" for value in ratio["per_round"])
            say(
                f"ratio, {ratio['what']}: {ratio['ours']} is {least}{ratio['of_medians']:.2f} times as fast as "
                f"{ratio['theirs']} (round by round {each})"
            )
        for note in self.notes:
            say(f"note: {note}")
        if self.quick:
            say("A quick run: it shows that the benchmark works, and its figures mean nothing.")

    def write(self, folder: Path | None) -> Path | None:
        """Write the log as ``NAME-YYYYMMDD.json``, never over another one, and return its path."""
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}-cuda" if self.device == "cuda" else self.name
        stem = f"{stem}-{datetime.date.today():%Y%m%d}"
        path, number = folder / f"{stem}.json", 1
        while path.exists():
            number += 1
            path = folder / f"{stem}-{number}.json"
        path.write_text(json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"log: {path.name}")
        return path

    def record(self) -> dict[str, Any]:
        """Return everything as the log holds it."""
        commit, changed = _commit()
        return {
            "benchmark": self.name,
            "quick": self.quick,
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began, 1),
            "commit": commit,
            "commit_has_changes": changed,
            "machine": machine(self.device),
            "versions": _versions(),
            "load_average": self.load,
            "settings": self.settings,
            "unit": self.unit,
            "more_is_faster": self.more_is_faster,
            "summary": {side: summary(self.figures(side)) for side in self.rounds[0]},
            "ratios": self.ratios,
            "notes": self.notes,
            "rounds": self.rounds,
            "details": self.details,
        }


def summary(figures: Sequence[float]) -> dict[str, float]:
    """Return median, least, greatest, and spread: their distance as a share of the median."""
    middle = statistics.median(figures)
    spread = (max(figures) - min(figures)) / middle if middle else 0.0
    return {"median": middle, "min": min(figures), "max": max(figures), "spread": spread}


def machine(device: str) -> dict[str, Any]:
    """Describe the machine: what a figure depends on, and nothing that names the machine."""
    import torch

    from strata.device import cpu_name, usable_cores
    from strata.kernels import WIDEST, cpu_flags

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "features": sorted(cpu_flags() & WIDEST.keys()),
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name(0)
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _versions() -> dict[str, str]:
    from strata.device import versions

    return versions()


def _load() -> Sequence[float]:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit that the files are at, and whether they differ from it; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "../src", "."))
    except (OSError, subprocess.SubprocessError):
        return None, None


def say(text: str) -> None:
    """Print a line at once."""
    print(text, file=sys.stdout, flush=True)
