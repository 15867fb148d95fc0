"""The default job, from nothing to predictions: train on handwritten digits, answer for a few test pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def strata(*words: str) -> None:
    """Show a command and run it."""
    print(f"\n$ strata {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "strata", *words], check=True)


def main() -> None:
    """Train, predict, and say where the report lies."""
    strata("train", "digits")
    run = max(Path("runs").glob("digits-*"), key=lambda path: path.stat().st_mtime)
    pictures = write_test_pictures(run / "samples" / "test")
    strata("predict", str(run), *map(str, pictures))
    print(f"\nThe report: {(run / 'report.html').resolve()}")


def write_test_pictures(folder: Path, count: int = 5) -> list[Path]:
    """Write a few pictures of the test split, which training never saw, named after what they show."""
    import torch

    from strata.data import DataConfig, open_data
    from strata.train.finish import to_picture

    dataset = open_data(DataConfig(source="digits"))
    number_N = torch.arange(count)
    batch = dataset.splits["test"].gather(number_N, torch.zeros_like(number_N))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(count):
        path = folder / f"{k}-shows-a-{dataset.labels[int(batch['target'][k])]}.png"
        to_picture(batch["input"][k]).save(path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
