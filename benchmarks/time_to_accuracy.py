"""Seconds of training until pictures of CIFAR-10 are told apart well: recipe `cifar10-speed` against plain ResNet-18.

    python benchmarks/time_to_accuracy.py --data FOLDER --target 0.8 [--threads 2] [--rounds 1]

Both recipes run as they come, the second with what a plain recipe has (ResNet-18 with the CIFAR stem, Nesterov's
momentum, flip and crop), on the same training pictures, judged on the same validation pictures at evenly spaced points.
The clock stands still meanwhile. What counts is the clock at the first point where the accuracy is at least the target.
Round n uses seed n on both sides. A side that ends without reaching it counts with its whole time, as a bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import ours
import rounds

from strata.train.events import Evaluated, Event
from strata.train.loop import Training

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "cifar10-speed": ("cifar10-speed", {}),
    "ResNet-18": (
        "resnet",
        {
            "model": "resnet18",
            "data.augment.flip": 0.5,
            "data.augment.crop": 4,
            "data.augment.resized_crop": None,
            "train.batch_size": 128,
            "train.optimizer": "nesterov",
            "train.learning_rate": 0.05,
            "train.weight_decay": 5e-4,
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=1)
    rounds.add_training_arguments(parser)
    parser.add_argument("--data", required=True, help="CIFAR-10, as a folder or by name")
    parser.add_argument("--target", type=float, default=0.8, help="validation accuracy to reach")
    parser.add_argument("--epochs", type=float, help="of each recipe (default: its own)")
    parser.add_argument("--points", type=int, default=10, help="evaluations in an epoch's time")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    found = rounds.Measurement(
        "time_to_accuracy",
        f"seconds of training to {options.target:.0%}",
        False,
        device=options.device,
        quick=options.quick,
    )

    def train(side: str, seed: int) -> float:
        name, settings = SIDES[side]
        settings = {**settings, "data": options.data, "train.seed": seed, "train.device": options.device}
        if options.epochs or options.quick:
            settings["train.epochs"] = options.epochs or 1
        recipe, dataset = ours.recipe(name, settings)
        samples = len(dataset.splits["train"])
        every = max(1, samples // int(recipe.train.batch_size) // options.points)
        recipe = recipe.set({"train.evaluate_every": every, "train.save_every": ours.LONG})
        course: list[dict[str, float]] = []

        def watch(training: Training) -> Any:
            def observe(event: Event) -> None:
                if isinstance(event, Evaluated) and event.split == "validation":
                    seconds, accuracy = training.state.seconds, event.metrics["accuracy"]
                    course.append({"step": event.step, "seconds": round(seconds, 1), "accuracy": accuracy})
                    rounds.say(f"  {side:<14} step {event.step:>6}  {seconds:>8.1f} s  {accuracy:.2%}")
                    if accuracy >= options.target:
                        raise rounds.Enough

            return observe

        training = ours.train(recipe, dataset, watch)
        found.settings[side] = ours.choices(training) | {"epochs": recipe.train.epochs, "seed": seed}
        found.details.setdefault(side, []).append(course)
        return course[-1]["seconds"]

    found.alternate({side: lambda number, side=side: train(side, number) for side in SIDES}, options.rounds)
    missed = any(course[-1]["accuracy"] < options.target for course in found.details["ResNet-18"])
    for side in SIDES:
        for course in found.details[side]:
            if course[-1]["accuracy"] < options.target:
                found.notes.append(f"{side} ended at {course[-1]['accuracy']:.2%}, short of the target")
    found.compare("cifar10-speed", "ResNet-18", "both as they come", at_least=missed)
    found.show()
    found.write(options.logs)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
