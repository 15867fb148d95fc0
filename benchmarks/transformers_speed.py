"""Images per second at 224 x 224: our models against those of transformers, in one run.

    python benchmarks/transformers_speed.py --model resnet50 --mode inference [--device cuda] [--batch-size 8]

Models: resnet50, vit_base, convnext_tiny. Modes: inference, training. Both sides have the same sizes, random weights
and the same random pictures in memory. Theirs is run as it comes (fp32, eager) and at its best: in bf16 where the
hardware multiplies it, channels-last where that is faster, compiled on a GPU, fused AdamW. Ours is run as
`strata predict` and `strata train` run it. Every side has a process of its own in every round, because ours tells the
allocator of its process to keep memory. With --peak the share of the measured matrix peak is told too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import rounds
import torch
from torch import nn

from strata import models
from strata.device import decide, multiplies_bf16
from strata.predict.ready import in_bytes, ready

SIDE, CLASSES = 224, 1000
MODELS = ("convnext_tiny", "resnet50", "vit_base")


def theirs(name: str) -> nn.Module:
    """Return the model of transformers, of the same sizes, with random weights."""
    import transformers

    if name == "resnet50":
        config = transformers.ResNetConfig(num_labels=CLASSES)
        return transformers.ResNetForImageClassification(config)
    if name == "vit_base":
        return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=CLASSES))
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=CLASSES))


def count_flops(name: str, input: torch.Tensor) -> float:
    """Return the operations of one sample's forward, counted by torch.

    Args:
        input: the sample, (1, ...) on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = models.build(models.preset(name)).eval()
    with FlopCounterMode(display=False) as counter:
        model(input)
    return float(counter.get_total_flops())


def matrix_peak(device: str, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Return the most operations per second that a large matrix multiplication reached here."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        rounds.synchronize(device)
        start = time.perf_counter()
        a @ b
        rounds.synchronize(device)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def tell_share_of_peak(found: rounds.Measurement, flops: float, unit: str) -> None:
    """Measure the matrix peak in the precision that pays here; say and log the share of it that strata reaches.

    Args:
        flops: operations for one ``unit`` ("image", "token") of the figures.
    """
    bf16 = multiplies_bf16(torch.device(found.device))[0]
    peak = matrix_peak(found.device, torch.bfloat16 if bf16 else torch.float32)
    reached = rounds.summary(found.figures("strata"))["median"] * flops
    found.details["peak"] = {"matrix_peak_flops": peak, f"flops_per_{unit}": flops, "share": reached / peak}
    rounds.say(f"matrix peak {peak / 1e12:.3g} TFLOP/s measured; strata reaches {reached / peak:.1%} of it")


def in_int8(found: rounds.Measurement, model: nn.Module, input_B: torch.Tensor | None = None) -> nn.Module:
    """Return a model as `strata predict --precision int8` runs it; the log gets why."""
    setup = decide(device=found.device, precision="fp32", model=model, steps=1)
    fast, decision = in_bytes(setup.place(model), setup, input_B)
    found.settings["strata, int8"] = {decision.name: f"{decision.value}: {decision.reason}"}
    return fast


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    rounds.add_training_arguments(parser)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--mode", choices=("inference", "training"), default="inference")
    parser.add_argument("--batch-size", type=int, help="default 8, on cuda 128")
    parser.add_argument("--steps", type=int, help="timed steps of each side in a round (default 4, on cuda 50)")
    parser.add_argument("--peak", action="store_true", help="measure the matrix peak, and tell the share of it")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(words)
    rounds.settle(options)
    on_gpu, name = options.device == "cuda", options.model
    batch_size = options.batch_size or (2 if options.quick else 128 if on_gpu else 8)
    steps = options.steps or (1 if options.quick else 50 if on_gpu else 4)
    warmup = 1 if options.quick else 15 if on_gpu else 2
    is_conv = name != "vit_base"
    theirs_last = is_conv and (on_gpu or name != "convnext_tiny")  # on a CPU their ConvNeXt is 1.1 times slower for it
    bf16 = multiplies_bf16(torch.device(options.device))[0]

    found = rounds.Measurement(
        f"transformers_speed-{name}-{options.mode}",
        "images per second",
        True,
        device=options.device,
        quick=options.quick,
    )
    found.settings = {"batch_size": batch_size, "timed_steps": steps, "warmup_steps": warmup, "side": SIDE}

    def timed(step: Callable[[], Any]) -> float:
        return batch_size * rounds.steps_per_second(step, warmup=warmup, steps=steps, device=options.device)

    def picture() -> torch.Tensor:
        return torch.randn(batch_size, 3, SIDE, SIDE, device=options.device)

    def our_inference(number: int) -> float:
        model = models.build(models.preset(name)).eval()
        setup = decide(device=options.device, model=model, steps=1)
        model, image = setup.place(model), setup.arrange(picture())
        fast = ready(model, setup, image[:1])
        found.settings["strata"] = {d.name: f"{d.value}: {d.reason}" for d in setup.decisions}

        @torch.inference_mode()
        def step() -> None:
            with setup.autocast():
                fast(image)

        return timed(step)

    def our_bytes(number: int) -> float:
        image = picture().contiguous(memory_format=torch.channels_last if is_conv else torch.contiguous_format)
        fast = in_int8(found, models.build(models.preset(name)).eval(), image[:1])

        @torch.inference_mode()
        def step() -> None:
            fast(image)

        return timed(step)

    def their_inference(best: bool) -> float:
        model, image = theirs(name).eval().to(options.device), picture()
        if best:
            if theirs_last:
                model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
            if bf16:
                model, image = model.to(torch.bfloat16), image.to(torch.bfloat16)
            if on_gpu:
                model.compile()

        @torch.inference_mode()
        def step() -> None:
            model(image)

        return timed(step)

    def our_training(number: int) -> float:
        count = 4 * batch_size
        with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
            path = Path(folder) / "pictures.npz"
            generator = np.random.default_rng(0)
            pictures = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
            np.savez(path, x=pictures, y=np.arange(count) % 4)
            settings = {
                "model": name,
                "data": str(path),
                "data.target_kind": "class",
                "data.validation": 0.0,
                "data.test": 0.0,
                "data.augment.flip": 0.0,
                "data.augment.resized_crop": None,
                "task.label_smoothing": 0.0,
                "train.batch_size": batch_size,
                "train.optimizer": "adamw",
                "train.steps": ours.LONG,
                "train.log_every": 1000,
                "train.evaluate_every": ours.LONG,
                "train.save_every": ours.LONG,
                "train.device": options.device,
            }
            recipe, dataset = ours.recipe("resnet", settings)
            watch = rounds.StopWatch(warmup, steps, options.device)
            training = ours.time_steps(recipe, dataset, watch)
        found.settings["strata"] = ours.choices(training)
        del training
        rounds.clean(options.device)
        return steps * batch_size / watch.seconds

    def their_training(best: bool) -> float:
        model, image = theirs(name).train().to(options.device), picture()
        target = torch.arange(batch_size, device=options.device) % 4
        if best and theirs_last:
            model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **({"fused": True} if best else {}))
        if best and on_gpu:
            model.compile()

        def step() -> None:
            with torch.autocast(options.device, torch.bfloat16, enabled=best and bf16):
                loss = nn.functional.cross_entropy(model(image).logits, target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return timed(step)

    their = their_inference if options.mode == "inference" else their_training
    sides: dict[str, Callable[[int], float]] = {
        "strata": our_inference if options.mode == "inference" else our_training,
        "transformers": lambda number: their(False),
        "transformers, best": lambda number: their(True),
    }
    bytes_pay = options.mode == "inference" and not on_gpu
    if bytes_pay:
        sides["strata, int8"] = our_bytes
    if options.only:
        print(json.dumps({"rate": sides[options.only](0), "settings": found.settings}))
        return found

    def apart(side: str) -> float:
        command = [sys.executable, __file__, *words, "--only", side]
        said = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        found.settings |= said["settings"]
        return float(said["rate"])

    found.alternate({side: lambda number, side=side: apart(side) for side in sides}, options.rounds)
    found.compare("strata", "transformers", "both at their defaults")
    found.compare("strata", "transformers, best", "both at their best")
    if bytes_pay:
        found.compare("strata, int8", "transformers", "int8 against its default")
    if options.peak:
        flops = count_flops(name, torch.randn(1, 3, SIDE, SIDE, device="meta"))
        tell_share_of_peak(found, flops * (3 if options.mode == "training" else 1), "image")
    found.show()
    found.write(options.logs)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
