"""Images per second of a ResNet-18 on pictures of 32x32: Strata's loop against a textbook loop, in one run.

    python benchmarks/vision_speed.py [--device cuda] [--threads 2] [--compile]

Both train the same network with the same batch on the same random pictures in memory, mirrored and cropped at random.
Strata runs recipe `resnet` as it comes, its moving average of the weights included, which the textbook loop has not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import rounds
import textbook
import torch

from strata.device import multiplies_bf16, usable_cores

CLASSES = 10
SIDE = 32


def write_pictures(path: Path, count: int) -> None:
    """Write random pictures of ten classes as an npz archive."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    np.savez(path, x=images, y=labels)


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    rounds.add_training_arguments(parser)
    parser.add_argument("--batch-size", type=int, help="default 128")
    parser.add_argument("--steps", type=int, help="timed steps of each side in a round (default 8, on cuda 200)")
    parser.add_argument("--warmup", type=int, help="steps before them (default 3, on cuda 30)")
    parser.add_argument("--pictures", type=int, help="default 50,000, as CIFAR-10 has")
    parser.add_argument("--workers", type=int, help="of the textbook DataLoader (default 0, on cuda 2; tuned 8 there)")
    parser.add_argument(
        "--compile", action="store_true", help="compile both sides at their best on the CPU too, as on cuda by default"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of Strata's")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    on_gpu, quick = options.device == "cuda", options.quick
    batch_size = options.batch_size or (8 if quick else 128)
    steps = options.steps or (2 if quick else 200 if on_gpu else 8)
    warmup = options.warmup or (1 if quick else 30 if on_gpu else 3)
    count = options.pictures or (80 if quick else 50_000)
    width = 8 if quick else 64
    compiling = on_gpu or options.compile

    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
        path = Path(folder) / "pictures.npz"
        write_pictures(path, count)
        recipe, dataset = ours.recipe(
            "resnet",
            {
                "model": "resnet18",
                "model.stem": "cifar",
                "model.width": width,
                "data": str(path),
                "data.target_kind": "class",
                "data.validation": 0.0,
                "data.test": 0.0,
                "data.augment.flip": 0.5,
                "data.augment.crop": 4,
                "data.augment.resized_crop": None,
                "train.batch_size": batch_size,
                "train.optimizer": "nesterov",  # the peer's kind, so that steps are compared and not methods
                "train.learning_rate": 0.05,
                "train.weight_decay": 5e-4,
                "train.ema": 0.998,
                "train.steps": ours.LONG,
                "train.log_every": 100,
                "train.evaluate_every": ours.LONG,
                "train.save_every": ours.LONG,
                "train.device": options.device,
            }
            | dict(setting.split("=", 1) for setting in options.set),
        )
        with np.load(path) as archive:
            pictures = textbook.Pictures(archive["x"], archive["y"])

    found = rounds.Measurement("vision_speed", "images per second", True, device=options.device, quick=quick)
    cores = usable_cores()
    workers = (min(2, cores) if on_gpu else 0) if options.workers is None else options.workers
    plain = textbook.Way(device=options.device, workers=workers)
    tuned = textbook.Way(
        device=options.device,
        tuned=True,
        bf16=multiplies_bf16(torch.device(options.device))[0],
        compile=compiling,
        workers=min(8, cores) if on_gpu and options.workers is None else workers,
    )
    found.settings = {
        "batch_size": batch_size,
        "timed_steps": steps,
        "warmup_steps": warmup,
        "pictures": count,
        "side": SIDE,
        "augmentation": "mirror with probability 0.5, crop with 4 pixels of padding",
        "textbook": _told(plain, width),
        "textbook, tuned": _told(tuned, width),
    }

    def strata(name: str, settings: dict[str, Any]) -> float:
        watch = rounds.StopWatch(warmup, steps, options.device)
        training = ours.time_steps(recipe.set(settings), dataset, watch)
        found.settings[name] = ours.choices(training)
        del training
        rounds.clean(options.device)
        return steps * batch_size / watch.seconds

    def peer(way: textbook.Way) -> float:
        watch = rounds.StopWatch(warmup, steps, options.device)
        with contextlib.suppress(rounds.Enough):
            textbook.train_resnet(
                pictures, batch_size=batch_size, way=way, on_step=watch.tick, width=width, num_classes=CLASSES
            )
        rounds.clean(options.device)
        return steps * batch_size / watch.seconds

    sides = {
        "strata": lambda number: strata("strata", {}),
        "textbook": lambda number: peer(plain),
        "textbook, tuned": lambda number: peer(tuned),
    }
    best = "strata"
    if compiling and not on_gpu:
        best = "strata, compiled"
        sides[best] = lambda number: strata(best, {"train.compile": True})
    found.alternate(sides, options.rounds)
    found.compare("strata", "textbook", "both at their defaults")
    found.compare(best, "textbook, tuned", "both at their best")
    found.show()
    found.write(options.logs)
    return found


def _told(way: textbook.Way, width: int) -> dict[str, Any]:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in textbook.ResNet18(CLASSES, width).parameters())
    return {
        "parameters": parameters,
        "precision": "bf16" if way.bf16 else "fp32",
        "memory_format": "channels last" if way.tuned else "contiguous",
        "optimizer": "SGD, Nesterov" + (", fused" if way.tuned else ", torch's default implementation"),
        "compile": way.compile,
        "loader_workers": way.workers,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
