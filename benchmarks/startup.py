"""Seconds until `strata --help` has answered and until `import strata` is done, each in a fresh process.

    python benchmarks/startup.py [--rounds 20]

Beside them, in the same rounds: the interpreter alone, which nobody can go below, and `import torch`, which is what a
command costs at least that imports torch before it answers. Every process reads files that the one before has already
brought into memory; the first round, which has not, is thrown away.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rounds

BARS = {"strata --help": 0.3, "import strata": 0.1}
"""Seconds that the median may take at most."""


def commands() -> dict[str, list[str]]:
    """Return what is timed."""
    script = Path(sys.executable).with_name("strata")
    strata = [str(script)] if script.exists() else [sys.executable, "-m", "strata"]
    return {
        "strata --help": [*strata, "--help"],
        "import strata": [sys.executable, "-c", "import strata"],
        "python, nothing": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
    }


def seconds_of(command: Sequence[str]) -> float:
    """Run a command to its end and return the wall time. Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=20)
    options = parser.parse_args(arguments)
    rounds.settle(options)
    found = rounds.Measurement("startup", "seconds", False, quick=options.quick)
    found.settings = {"bars": BARS, "commands": list(commands())}
    if not options.quick:
        for command in commands().values():
            seconds_of(command)
    found.alternate(
        {name: lambda number, command=command: seconds_of(command) for name, command in commands().items()},
        options.rounds,
    )
    for name, bar in BARS.items():
        median = statistics.median(found.figures(name))
        kept = "within" if median <= bar else "OVER"
        found.notes.append(f"{name}: median {median:.3f} s is {median / bar:.2f} of the bar of {bar:g} s: {kept}")
        found.compare(name, "import torch", "against importing torch")
    found.show()
    found.write(options.logs)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
