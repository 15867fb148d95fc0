"""Tokens per second of a GPT of 6 layers, 384 wide: Strata's loop against a textbook loop, in one run.

    python benchmarks/text_speed.py [--device cuda] [--threads 2] [--compile] [--dropout 0.2] [--manual-attention]

Both train the same shape with AdamW on the same random characters, gradients clipped to 1. Strata runs recipe
`gpt-shakespeare`, whose shape and settings these are, with the batch and the dropout given here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import string
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
from torch import nn

from strata.device import multiplies_bf16

CHARACTERS = string.ascii_letters + string.digits + " .\n"


def write_text(path: Path, length: int) -> np.ndarray:
    """Write a text of random characters, and return its tokens: each character's place among all, sorted."""
    generator = np.random.default_rng(0)
    token_N = generator.integers(0, len(CHARACTERS), length).astype(np.uint16)
    token_N[: len(CHARACTERS)] = np.arange(len(CHARACTERS))
    characters = np.array(sorted(CHARACTERS))
    path.write_text("".join(characters[token_N]), encoding="utf-8", newline="")
    return token_N


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    rounds.add_training_arguments(parser)
    parser.add_argument("--batch-size", type=int, help="windows in a batch (default 16)")
    parser.add_argument("--context", type=int, help="tokens in a window (default 256)")
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="on both sides (default 0; nanoGPT's for a GPU: 0.2)"
    )
    parser.add_argument("--steps", type=int, help="timed steps of each side in a round (default 8, on cuda 200)")
    parser.add_argument("--warmup", type=int, help="steps before them (default 3, on cuda 30)")
    parser.add_argument("--characters", type=int, help="length of the text (default 1,000,000)")
    parser.add_argument(
        "--manual-attention", action="store_true", help="also measure the textbook loop with attention written out"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile both sides at their best on the CPU too, as on cuda by default"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of Strata's")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    on_gpu, quick = options.device == "cuda", options.quick
    batch_size = options.batch_size or (2 if quick else 16)
    context = options.context or (16 if quick else 256)
    steps = options.steps or (2 if quick else 200 if on_gpu else 8)
    warmup = options.warmup or (1 if quick else 30 if on_gpu else 3)
    length = options.characters or (4_000 if quick else 1_000_000)
    num_layers, num_heads, width = (2, 2, 16) if quick else (6, 6, 384)
    compiling = on_gpu or options.compile

    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
        path = Path(folder) / "characters.txt"
        token_N = write_text(path, length)
        recipe, dataset = ours.recipe(
            "gpt-shakespeare",
            {
                "model.num_layers": num_layers,
                "model.num_heads": num_heads,
                "model.width": width,
                "model.context": context,
                "model.dropout": options.dropout,
                "data": str(path),
                "data.tokens": "character",
                "data.validation": 0.0,
                "data.test": 0.0,
                "train.batch_size": batch_size,
                "train.steps": ours.LONG,
                "train.early_stopping": None,
                "train.log_every": 100,
                "train.evaluate_every": ours.LONG,
                "train.save_every": ours.LONG,
                "train.device": options.device,
            }
            | dict(setting.split("=", 1) for setting in options.set),
        )
    assert dataset.sizes["vocab_size"] == len(CHARACTERS)

    shape = textbook.GPTShape(
        num_layers=num_layers,
        num_heads=num_heads,
        width=width,
        context=context,
        vocab_size=len(CHARACTERS),
        dropout=options.dropout,
    )
    manual = dataclasses.replace(shape, sdpa=False)
    settings = textbook.GPTTraining(batch_size=batch_size, steps=ours.LONG)
    plain = textbook.Way(device=options.device)
    tuned = textbook.Way(
        device=options.device, tuned=True, bf16=multiplies_bf16(torch.device(options.device))[0], compile=compiling
    )
    found = rounds.Measurement("text_speed", "tokens per second", True, device=options.device, quick=quick)
    found.settings = {
        "batch_size": batch_size,
        "context": context,
        "dropout": options.dropout,
        "vocabulary": len(CHARACTERS),
        "timed_steps": steps,
        "warmup_steps": warmup,
        "textbook": _told(plain, shape),
        "textbook, tuned": _told(tuned, shape),
    }

    def strata(name: str, changes: dict[str, Any]) -> float:
        watch = rounds.StopWatch(warmup, steps, options.device)
        training = ours.time_steps(recipe.set(changes), dataset, watch)
        found.settings[name] = ours.choices(training)
        del training
        rounds.clean(options.device)
        return steps * batch_size * context / watch.seconds

    def peer(way: textbook.Way, shape: textbook.GPTShape) -> float:
        watch = rounds.StopWatch(warmup, steps, options.device)

        def on_step(step: int, model: nn.Module) -> None:
            watch.tick()

        with contextlib.suppress(rounds.Enough):
            textbook.train_gpt(shape, token_N, settings, way=way, on_step=on_step)
        rounds.clean(options.device)
        return steps * batch_size * context / watch.seconds

    sides = {
        "strata": lambda number: strata("strata", {}),
        "textbook": lambda number: peer(plain, shape),
        "textbook, tuned": lambda number: peer(tuned, shape),
    }
    best = "strata"
    if compiling and not on_gpu:
        best = "strata, compiled"
        sides[best] = lambda number: strata(best, {"train.compile": True})
    if options.manual_attention:
        found.settings["textbook, manual attention"] = _told(plain, manual)
        sides["textbook, manual attention"] = lambda number: peer(plain, manual)
    found.alternate(sides, options.rounds)
    found.compare("strata", "textbook", "both at their defaults")
    found.compare(best, "textbook, tuned", "both at their best")
    if options.manual_attention:
        found.compare("strata", "textbook, manual attention", "an older tutorial's attention, not the peer")
    found.show()
    found.write(options.logs)
    return found


def _told(way: textbook.Way, shape: textbook.GPTShape) -> dict[str, Any]:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in textbook.GPT(shape).parameters())
    return {
        "shape": dataclasses.asdict(shape),
        "parameters": parameters,
        "precision": "bf16" if way.bf16 else "fp32",
        "attention": "scaled_dot_product_attention" if shape.sdpa else "written out",
        "optimizer": "AdamW" + (", fused" if way.tuned else ", torch's default implementation"),
        "compile": way.compile,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
