"""Seconds of training until a small GPT predicts Shakespeare's characters well: our recipe against nanoGPT's settings.

    python benchmarks/time_to_loss.py --text input.txt [--threads 2] [--tuned] [--device cuda]

(a) the textbook loop with nanoGPT's settings for a CPU: 4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps;
(b) Strata's recipe `gpt-shakespeare-cpu` as it comes.

Both hold out the same last tenth of the text, and one judge, in fp32, measures the loss of both over the whole of it,
in windows that do not overlap, at evenly spaced points of each run. The clock stands still meanwhile. What counts is
the clock at the first of these points where the loss is at most the target. Round n uses seed n on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ours
import rounds
import textbook
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.device import multiplies_bf16
from strata.train.events import Evaluated, Event, Stepped
from strata.train.loop import Training

WARMUP_STEPS = 10
"""Of a run that is thrown away before the first round, so that no side pays for torch's first use of a kernel."""


@dataclass
class Course:
    """How one run went: the clock and the loss at each point that was judged."""

    target: float
    points: list[dict[str, float]] = field(default_factory=list)

    def add(self, step: int, seconds: float, loss: float) -> None:
        """Note a point. Raises Enough when the target is reached."""
        self.points.append({"step": step, "seconds": round(seconds, 3), "loss": loss})
        if loss <= self.target:
            raise rounds.Enough

    @property
    def reached(self) -> bool:
        """Whether the last point is at the target."""
        return bool(self.points) and self.points[-1]["loss"] <= self.target

    @property
    def seconds(self) -> float:
        """The clock at the last point."""
        return self.points[-1]["seconds"]


def read_tokens(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the tokens of the first nine tenths of a text and of the rest, and how many characters there are."""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    number = {character: k for k, character in enumerate(sorted(set(text)))}
    token_N = np.array([number[character] for character in text], dtype=np.uint16)
    cut = int(len(token_N) * 0.9)
    return token_N[:cut], token_N[cut:], len(number)


class Judge:
    """Measures any model's loss over a whole split, in nats for each token."""

    def __init__(self, token_N: np.ndarray, context: int, device: str) -> None:
        whole_N = torch.from_numpy(token_N.astype(np.int64)).to(device)
        count = (len(whole_N) - 1) // context
        self.input_NT = whole_N[: count * context].view(count, context)
        self.target_NT = whole_N[1 : 1 + count * context].view(count, context)

    @torch.no_grad()
    def loss(self, model: Callable[[Tensor], Tensor]) -> float:
        """Return the mean over all tokens."""
        total = 0.0
        for x_BT, y_BT in zip(self.input_NT.split(256), self.target_NT.split(256), strict=True):
            logits_BTV = model(x_BT)
            total += float(F.cross_entropy(logits_BTV.flatten(0, 1).float(), y_BT.flatten(), reduction="sum"))
        return total / self.target_NT.numel()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Any:
    """Put a model into eval mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=3)
    rounds.add_training_arguments(parser)
    parser.add_argument("--text", type=Path, help="tiny Shakespeare's input.txt (quick: made up where it is not given)")
    parser.add_argument("--target", type=float, help="validation loss to reach (default 1.88)")
    parser.add_argument("--evaluations", type=int, help="points of a whole run at which it is judged (default 40)")
    parser.add_argument("--tuned", action="store_true", help="also the textbook loop in bf16 with fused AdamW")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of Strata's")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    quick = options.quick
    if options.text is None and not quick:
        parser.error("--text is needed: the path of tiny Shakespeare's input.txt")
    target = (2.8 if quick else 1.88) if options.target is None else options.target
    evaluations = options.evaluations or (8 if quick else 40)

    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
        if options.text is None:
            options.text = Path(folder) / "made-up.txt"
            write_made_up(options.text)
        train_N, validation_N, vocab_size = read_tokens(options.text)
        settings: dict[str, Any] = {"data": str(options.text), "train.device": options.device}
        if quick:
            small = {"num_layers": 1, "num_heads": 2, "width": 16, "context": 8}
            settings |= {f"model.{key}": value for key, value in small.items()} | {
                "train.steps": 40,
                "train.warmup": 5,
                "train.learning_rate": 1e-2,
            }
        recipe, dataset = ours.recipe(
            "gpt-shakespeare-cpu", settings | dict(setting.split("=", 1) for setting in options.set)
        )
        fingerprint = torch.from_numpy(validation_N.astype(np.int64))
        split: Any = dataset.splits["validation"]
        assert torch.equal(split.token_N.to(torch.int64), fingerprint), "the sides hold out different text"

    shape = textbook.GPTShape(num_layers=4, num_heads=4, width=128, context=64, vocab_size=vocab_size)
    training = textbook.GPTTraining(batch_size=12, steps=2000)
    if quick:
        shape = dataclasses.replace(shape, **small)
        training = dataclasses.replace(training, steps=40, warmup=5, learning_rate=1e-2)
    plain = textbook.Way(device=options.device)
    bf16, _ = multiplies_bf16(torch.device(options.device))
    tuned = textbook.Way(device=options.device, tuned=True, bf16=bf16)

    found = rounds.Measurement("time_to_loss", f"seconds to loss {target:g}", False, device=options.device, quick=quick)
    found.settings = {
        "target": target,
        "evaluations": evaluations,
        "text": {"name": options.text.name, "train": len(train_N), "validation": len(validation_N)},
        "textbook": _told(plain, shape, training),
    }
    if options.tuned:
        found.settings["textbook, tuned"] = _told(tuned, shape, training)
    courses: dict[str, list[Course]] = {}

    def peer(side: str, way: textbook.Way, seed: int) -> float:
        course = Course(target)
        courses.setdefault(side, []).append(course)
        judge = Judge(validation_N, shape.context, options.device)
        every = max(1, round(training.steps / evaluations))
        seconds, began = 0.0, 0.0

        def on_step(step: int, model: nn.Module) -> None:
            nonlocal seconds, began
            if step % every and step != training.steps:
                return
            rounds.synchronize(options.device)
            seconds += time.perf_counter() - began
            with evaluating(model):
                course.add(step, seconds, judge.loss(model))
            began = time.perf_counter()

        torch.manual_seed(seed)
        began = time.perf_counter()
        with contextlib.suppress(rounds.Enough):
            textbook.train_gpt(shape, train_N, training, way=way, on_step=on_step)
        rounds.clean(options.device)
        return course.seconds

    def strata(seed: int) -> float:
        course = Course(target)
        courses.setdefault("strata", []).append(course)

        def watch(run: Training) -> Callable[[Event], None]:
            every = max(1, round(run.plan.total_steps / evaluations))
            run.plan = dataclasses.replace(run.plan, evaluate_every=every)
            judge = Judge(validation_N, run.recipe.model.context, options.device)
            found.settings["strata"] = ours.choices(run) | {
                "learning_rate": run.config.learning_rate,
                "schedule": run.config.schedule,
                "steps": run.plan.total_steps,
            }

            def observe(event: Event) -> None:
                if isinstance(event, Evaluated) and event.split == "validation":
                    state = run.state  # its seconds stand still while a run evaluates
                    kept = state.average.swapped_in() if state.average is not None else contextlib.nullcontext()
                    with kept, evaluating(state.model):
                        course.add(event.step, state.seconds, judge.loss(state.model))

            return observe

        ours.train(recipe.set({"train.seed": seed}), dataset, watch)
        rounds.clean(options.device)
        return course.seconds

    def warm_up() -> None:
        def enough(event: Event) -> None:
            if isinstance(event, Stepped) and event.step == WARMUP_STEPS:
                raise rounds.Enough

        ours.train(recipe, dataset, lambda run: enough)
        for way in [plain, tuned] if options.tuned else [plain]:
            brief = dataclasses.replace(training, steps=WARMUP_STEPS)
            textbook.train_gpt(shape, train_N, brief, way=way, on_step=lambda step, model: None)

    warm_up()
    sides = {"strata": strata, "textbook": lambda number: peer("textbook", plain, number)}
    if options.tuned:
        sides["textbook, tuned"] = lambda number: peer("textbook, tuned", tuned, number)
    found.alternate(sides, options.rounds)
    missed = {side: [k + 1 for k, course in enumerate(runs) if not course.reached] for side, runs in courses.items()}
    for side, numbers in missed.items():
        if numbers:
            best = min(point["loss"] for k in numbers for point in courses[side][k - 1].points)
            says = "no ratio is told" if side == "strata" else "its time, and with it the ratio, is a lower bound"
            where = ", ".join(map(str, numbers))
            found.notes.append(f"{side} did not reach {target:g} in round {where} (best loss {best:.4f}): {says}")
    for theirs in sides:
        if theirs != "strata" and not missed["strata"]:
            found.compare("strata", theirs, "time to the target", at_least=bool(missed[theirs]))
    found.details = {"courses": {side: [course.points for course in runs] for side, runs in courses.items()}}
    found.show()
    found.write(options.logs)
    return found


def write_made_up(path: Path, words: int = 1500) -> None:
    """Write a few kilobytes of words that can be learned, for a quick run."""
    chance = random.Random(0)
    known = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind", "suffer"]
    path.write_text(" ".join(chance.choice(known) for _ in range(words)) + "\n", encoding="utf-8", newline="")


def _told(way: textbook.Way, shape: textbook.GPTShape, training: textbook.GPTTraining) -> dict[str, Any]:
    return {
        "shape": dataclasses.asdict(shape),
        "training": dataclasses.asdict(training),
        "precision": "bf16" if way.bf16 else "fp32",
        "optimizer": "AdamW" + (", fused" if way.tuned else ", torch's default implementation"),
        "compile": way.compile,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
