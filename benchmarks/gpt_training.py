"""Training GPT-2 124M: tokens per second and peak memory, Strata against transformers, in one run.

    python benchmarks/gpt_training.py [--batch-size 4] [--context 256] [--rounds 5] [--threads 2]

Every side has a process of its own in every round, so that its peak of memory is its own; what the process held
before its model was built is told beside it and not taken off. Theirs is run as it comes (fp32, dropout, AdamW as
torch's default), the same under bf16 autocast, and at its best: without dropout, with fused AdamW, in bf16 where the
hardware multiplies it. Ours is run as `strata train` runs it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ours
import rounds
import torch
from text_speed import write_text

from strata.device import multiplies_bf16

VOCABULARY = 50257
SIDES = ("strata", "transformers", "transformers, bf16", "transformers, best")


def memory(field: str) -> int:
    """Return bytes of this process's resident memory: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement | None:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--context", type=int, help="tokens in a window (default 256)")
    parser.add_argument("--steps", type=int, help="timed steps of each side in a round (default 4)")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rounds.settle(options)
    options.context = options.context or (16 if options.quick else 256)
    options.steps = options.steps or (2 if options.quick else 4)
    if options.only:
        began_with = memory("VmRSS")
        rate, settings = one(options, options.only)
        said = {"rate": rate, "peak": memory("VmHWM"), "began_with": began_with, "settings": settings}
        print(json.dumps(said), flush=True)
        return None

    found = rounds.Measurement("gpt_training", "tokens per second", True, quick=options.quick)
    found.settings = {"batch_size": options.batch_size, "context": options.context, "timed_steps": options.steps}
    peaks: dict[str, list[dict[str, int]]] = {side: [] for side in SIDES}

    def measured(side: str) -> float:
        words = [sys.executable, __file__, "--only", side, "--batch-size", str(options.batch_size)]
        words += ["--context", str(options.context), "--steps", str(options.steps)]
        words += ["--quick"] if options.quick else []
        words += ["--threads", str(options.threads)] if options.threads else []
        printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        said = json.loads(printed.splitlines()[-1])
        found.settings[side] = said["settings"]
        peaks[side].append({"peak_bytes": said["peak"], "began_with_bytes": said["began_with"]})
        return float(said["rate"])

    found.alternate({side: lambda number, side=side: measured(side) for side in SIDES}, options.rounds)
    for side in SIDES[1:]:
        found.compare("strata", side, f"against {side}")
    middle = {side: statistics.median(one["peak_bytes"] for one in peaks[side]) for side in SIDES}
    found.details = {"peaks": peaks, "peak_of_theirs": {side: middle["strata"] / middle[side] for side in SIDES[1:]}}
    for side in SIDES:
        share = f", ours is {middle['strata'] / middle[side]:.0%} of it" if side != "strata" else ""
        rounds.say(f"{side:<28} peak of memory {middle[side] / 2**20:>8,.0f} MiB{share}")
    found.show()
    found.write(options.logs)
    return found


def one(options: argparse.Namespace, side: str) -> tuple[float, dict[str, Any]]:
    """Train one side in this process; return tokens per second, and what decided them."""
    watch = rounds.StopWatch(1, options.steps, "cpu")
    if side == "strata":
        settings = _strata(options, watch)
    else:
        settings = _transformers(options, watch, side)
    return options.steps * options.batch_size * options.context / watch.seconds, settings


def _strata(options: argparse.Namespace, watch: rounds.StopWatch) -> dict[str, Any]:
    small = {"model.num_layers": 2, "model.num_heads": 2, "model.width": 32} if options.quick else {}
    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
        path = Path(folder) / "characters.txt"
        write_text(path, 100_000)
        recipe, dataset = ours.recipe(
            "gpt",
            {
                "model": "gpt2",
                "model.context": options.context,
                "data": str(path),
                "data.tokens": "character",
                "data.validation": 0.0,
                "data.test": 0.0,
                "train.batch_size": options.batch_size,
                "train.steps": ours.LONG,
                "train.optimizer": "adamw",  # as theirs: the recipe's own, Muon, does more work in each step
                "train.learning_rate": 1e-4,
                "train.early_stopping": None,
                "train.log_every": 100,
                "train.evaluate_every": ours.LONG,
                "train.save_every": ours.LONG,
                "train.device": "cpu",
            }
            | small,
        )
        dataset = dataset.replace(sizes={**dataset.sizes, "vocab_size": VOCABULARY})
        training = ours.time_steps(recipe, dataset, watch)
    return ours.choices(training)


def _transformers(options: argparse.Namespace, watch: rounds.StopWatch, side: str) -> dict[str, Any]:
    import transformers

    best = side.endswith("best")
    bf16 = side.endswith("bf16") or (best and multiplies_bf16(torch.device("cpu"))[0])
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32} if options.quick else {}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if best else {}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_positions=options.context, **sizes, **dropout)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **({"fused": True} if best else {}))
    token_BT = torch.randint(0, VOCABULARY, (options.batch_size, options.context))
    try:
        while True:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(input_ids=token_BT, labels=token_BT).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.tick()
    except rounds.Enough:
        pass
    return {
        "version": transformers.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "bf16 autocast" if bf16 else "fp32",
        "dropout": 0.0 if best else model.config.resid_pdrop,
        "optimizer": "AdamW, fused" if best else "AdamW, torch's default implementation",
    }


if __name__ == "__main__":
    main(sys.argv[1:])
