"""What weights trained before are worth: a tenth of one data set, learned from nothing and from another's weights.

    python benchmarks/transfer.py --weights RUN --data FOLDER [--share 0.1] [--seeds 0,1,2]

The same network learns the same pictures four ways: from nothing; the whole network from the weights (a new head
first); the head alone on features computed once (linear probe); the head and small additions (LoRA). Settings are the
recipes' own: `resnet` with the weights' architecture from nothing, `finetune` from the weights, equal epochs. The log
holds every run and is named after both data sets; the picture shows test accuracy against seconds of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rounds

import strata
from strata import models
from strata.checkpoint.files import read_json
from strata.data import open_data
from strata.weights import open_weights

WAYS = ("from nothing", "whole network", "linear probe", "LoRA")


def origin_of(weights: Path) -> str:
    """Return the name of the data that weights learned, where they are a run; else their own."""
    recipe = weights / "recipe.json"
    return Path(read_json(recipe)["data"]["source"]).name if recipe.is_file() else weights.stem


def changed(config: Any, preset: str) -> dict[str, Any]:
    """Return what a model's config has otherwise than its preset, besides what the data decide."""
    usual = models.preset(preset)
    names = {field.name for field in dataclasses.fields(config)} - {"in_channels", "image_size", "num_classes"}
    return {name: getattr(config, name) for name in sorted(names) if getattr(config, name) != getattr(usual, name)}


def settings_of(way: str, options: argparse.Namespace, samples: int) -> tuple[str, dict[str, Any]]:
    """Return the recipe and its settings."""
    weights = open_weights(options.weights)
    common: dict[str, Any] = {
        "data": options.data,
        "data.limit": samples,
        "data.augment.flip": 0.5,
        "data.augment.resized_crop": None,
        "data.augment.crop": 2,
        "train.epochs": options.epochs,
        "train.batch_size": 32,
    }
    if way == "from nothing":
        # The weights' own architecture and preparation of pictures, so that only the start differs.
        prepared = {f"data.{key}": value for key, value in weights.preprocess.items()}
        sizes = {f"model.{name}": value for name, value in changed(weights.config, options.preset).items()}
        return "resnet", prepared | common | {"model": options.preset} | sizes
    tune = {"whole network": "full", "linear probe": "probe", "LoRA": "lora"}[way]
    return "finetune", common | {"weights": options.weights, "weights.tune": tune}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print, log and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a run, a Hugging Face folder, or a file")
    parser.add_argument("--preset", required=True, help="the weights' architecture, by preset")
    parser.add_argument("--data", required=True)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--logs", type=Path, default=rounds.LOGS)
    parser.add_argument("--picture", type=Path, help="file of the picture, .png or .svg")
    options = parser.parse_args(arguments)
    seeds = [int(word) for word in options.seeds.split(",")]
    dataset = open_data(strata.recipe("resnet", {"data": options.data}).data)
    samples = round(options.share * len(dataset.splits["train"]))

    origin = origin_of(Path(options.weights))
    found = rounds.Measurement(f"transfer-{origin}-to-{dataset.name}", "test accuracy", True)
    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as runs:
        for seed in seeds:
            accuracy: dict[str, float] = {}
            for way in WAYS:
                name, settings = settings_of(way, options, samples)
                began = time.perf_counter()
                run = strata.train(name, settings | {"train.seed": seed}, runs=runs)
                finished = run.finished
                assert finished is not None
                accuracy[way] = finished["metrics"]["test"]["accuracy"]
                found.details.setdefault("test metrics", {}).setdefault(way, []).append(finished["metrics"]["test"])
                whole = time.perf_counter() - began
                found.details.setdefault("seconds", {}).setdefault(way, []).append(round(finished["seconds"], 1))
                found.details.setdefault("seconds with all else", {}).setdefault(way, []).append(round(whole, 1))
                found.settings[way] = {"recipe": name} | {k: v for k, v in settings.items() if "/" not in str(v)}
                rounds.say(f"seed {seed}  {way:<16} {accuracy[way]:.2%} in {finished['seconds']:.0f} s")
            found.rounds.append(accuracy)
    found.details |= {"training pictures": samples, "seeds": seeds, "data": dataset.name, "origin": origin}
    found.show()
    found.write(options.logs)
    if options.picture is not None:
        draw(found, options.picture)
    return dataclasses.asdict(found)


def draw(found: rounds.Measurement, path: Path) -> None:
    """Draw every run as a point: seconds of training across, test accuracy up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for way in WAYS:
        axes.scatter(found.details["seconds"][way], [100 * value for value in found.figures(way)], label=way, s=40)
    axes.set_xscale("log")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(
        f"{found.details['training pictures']:,} pictures of {found.details['data']}, {len(found.rounds)} seeds; "
        f"weights of {found.details['origin']}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
