"""What a run folder tells: its recipe, and its lines of history in the order in which they still hold.

A run may be going on, may have been killed in the middle of a line, or may have been resumed from a step before the
last line. So a line that cannot be read is counted, not fatal, and steps that were done again count once: the later
line wins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strata.checkpoint.run_folder import record_of
from strata.errors import RunError
from strata.metrics import merit
from strata.report.words import count, counted, finite, metric, number

Record = dict[str, Any]

_NOUNS = {
    "image": ("picture", "pictures"),
    "pairs": ("picture", "pictures"),
    "table": ("row", "rows"),
    "text": ("token", "tokens"),
}
_MAIN_METRICS = {"classify": "accuracy", "regress": "rmse", "next_token": "loss"}


@dataclass
class History:
    """A run, as its folder tells it."""

    folder: Path
    recipe: Record
    started: Record = field(default_factory=dict)
    steps: list[Record] = field(default_factory=list)
    """Logged steps, in order, each once."""
    evaluations: dict[str, list[Record]] = field(default_factory=dict)
    """By split, in order, each step once."""
    samples: list[tuple[int, Path]] = field(default_factory=list)
    """Step and file of what a generative model made, in order."""
    resumed: list[int] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    failed: Record | None = None
    """The line of a run that could not go on, and was not resumed since."""
    finished: Record | None = None
    preprocess: Record = field(default_factory=dict)
    """How raw input is treated, as it lies beside the final weights; empty before there are any."""
    saved: int = 0
    """The last step of which a checkpoint was saved."""
    unread: int = 0
    """Lines of metrics.jsonl that could not be read."""

    @property
    def task(self) -> Record:
        """Settings of the task."""
        return as_dict(self.recipe.get("task"))

    @property
    def task_kind(self) -> str:
        """What the model is trained for: "classify", "regress", ..."""
        return str(self.task.get("kind", self.started.get("task", "")))

    @property
    def train(self) -> Record:
        """Settings of training."""
        return as_dict(self.recipe.get("train"))

    @property
    def reference(self) -> Record:
        """The published number."""
        return as_dict(self.recipe.get("reference"))

    @property
    def model_config(self) -> Record:
        """Settings of the model."""
        return as_dict(self.recipe.get("model"))

    @property
    def model(self) -> Record:
        """What the first line tells of the model."""
        return as_dict(self.started.get("model"))

    @property
    def model_name(self) -> str:
        """The model's name, as one types it."""
        return str(self.model.get("name") or self.model_config.get("kind") or "model")

    @property
    def data_config(self) -> Record:
        """Settings of the data."""
        return as_dict(self.recipe.get("data"))

    @property
    def data(self) -> Record:
        """What the first line tells of the data."""
        return as_dict(self.started.get("data"))

    @property
    def data_kind(self) -> str:
        """Kind of the data: "image", "pairs", "table" or "text"; empty where nothing tells."""
        return str(self.data.get("kind") or {"next_token": "text", "adversarial": "image"}.get(self.task_kind, ""))

    @property
    def data_name(self) -> str:
        """The data's name; of a path, its last part."""
        name = str(self.data.get("name") or self.data_config.get("source") or "data")
        return Path(name).name or name

    @property
    def splits(self) -> dict[str, int]:
        """Samples of each split."""
        splits = as_dict(self.data.get("splits"))
        return {str(name): int(n) for name, n in splits.items() if finite(n) is not None}

    def is_new(self, split: str) -> bool:
        """Say whether a split was compared with the training data, and holds nothing of it."""
        return finite(as_dict(self.data.get("repeated")).get(split)) == 0

    @property
    def nouns(self) -> str:
        """What samples of this data are called: pictures, rows, tokens."""
        return _NOUNS.get(self.data_kind, ("sample", "samples"))[1]

    @property
    def token_word(self) -> str:
        """What a token of this data is: a character, a byte."""
        return str(self.data_config.get("tokens") or self.preprocess.get("tokens") or "token")

    @property
    def averages(self) -> bool:
        """Whether what is measured and kept is a moving average of the weights."""
        return finite(self.train.get("ema")) is not None

    @property
    def end(self) -> Record:
        """The last line of a finished run, else empty."""
        return self.finished or {}

    @property
    def main_metric(self) -> str | None:
        """The metric that stands for the run; None where no single one does."""
        evaluated = [line.get("main_metric") for line in self.evaluations.get("validation", [])]
        told = self.end.get("main_metric") or next((name for name in evaluated if name), None)
        return str(told) if told else _MAIN_METRICS.get(self.task_kind)

    @property
    def results(self) -> dict[str, Record]:
        """The metrics that stand for the run, by split: of the kept weights, else of the last evaluation."""
        if self.finished is not None:
            return {k: v for k, v in as_dict(self.end.get("metrics")).items() if isinstance(v, dict)}
        return {split: lines[-1]["metrics"] for split, lines in self.evaluations.items()}

    @property
    def last_step(self) -> int:
        """The last step that any line speaks of."""
        evaluated = [line["step"] for lines in self.evaluations.values() for line in lines]
        told = [line["step"] for line in self.steps] + evaluated
        return max([*told, *self.resumed, self.saved, self.end.get("step", 0)])

    @property
    def total_steps(self) -> int | None:
        """Steps that the run was meant to take."""
        known = finite(self.started.get("total_steps")) or finite(self.train.get("steps"))
        return None if known is None else int(known)

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps in one pass over the training data."""
        known = finite(self.started.get("steps_per_epoch"))
        if known:
            return known
        last = next((line for line in reversed(self.steps) if finite(line.get("epoch"))), None)
        return None if last is None else last["step"] / last["epoch"]

    def counted(self, n: Any) -> str:
        """Return a number of samples in words: 360 pictures."""
        return counted(n, *_NOUNS.get(self.data_kind, ("sample", "samples")))

    def when(self, step: int) -> str:
        """Return a step in words: epoch 3.5 (step 1,204)."""
        per_epoch = self.steps_per_epoch
        if not per_epoch or step < per_epoch:
            return f"step {count(step)}"
        return f"epoch {number(step / per_epoch, 3)} (step {count(step)})"

    def best(self, split: str, name: str) -> tuple[int, float] | None:
        """Return the step and value of a metric where it was best, by the rule that the training loop keeps weights."""
        best: tuple[tuple[float, float], int, float] | None = None
        for line in self.evaluations.get(split, []):
            value = finite(line["metrics"].get(name))
            if value is None:
                continue
            worth = merit(value, line["metrics"].get("loss"), higher_is_better=metric(name).higher_is_better)
            if best is None or worth > best[0]:
                best = worth, line["step"], value
        return None if best is None else best[1:]


def read_history(folder: Path) -> History:
    """Read a run folder. Raises RunError when it is not one or holds no history yet."""
    if not folder.is_dir():
        raise RunError(f"There is no run folder at {folder}.")
    if not (folder / "recipe.json").is_file():
        raise RunError(f"{folder} is not a run folder: it holds no recipe.json.")
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise RunError(
            f"{folder} holds no metrics.jsonl: the run has not begun, so there is nothing to report."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"Cannot read {folder}: {error}.") from error
    if not isinstance(recipe, dict):
        raise RunError(f"{folder / 'recipe.json'} does not hold a recipe.")
    history = History(folder, recipe, preprocess=_preprocess(folder))
    lines: list[Record] = []
    for written in text.split("\n"):
        line, is_whole = _line(written)
        history.unread += not is_whole
        if line is None:
            continue
        if line["event"] == "resumed":  # what came after the checkpoint is lost work that will be done again
            lines = [old for old in lines if _still_holds(old, line["step"])]
        lines.append(line)
    _sort(history, lines)
    return history


def _preprocess(folder: Path) -> Record:
    try:
        return as_dict(json.loads((folder / "model" / "preprocess.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # not written yet, or the model was taken away; the report can do without
        return {}


def _still_holds(line: Record, step: int) -> bool:
    """Say whether a line outlives a resumption at a step: a checkpoint is saved before its step is evaluated."""
    if line["event"] in ("evaluated", "failed", "finished"):
        return bool(line["step"] < step)
    return bool(line["step"] <= step)


def _line(written: str) -> tuple[Record | None, bool]:
    """Return the record that a line holds, and whether nothing of the line was lost."""
    if not written.strip("\x00 \r\t"):  # zeros: a line that a power cut left without its content
        return None, not written.strip()
    torn = written.rfind('{"event"')  # a whole line may follow one that a kill cut short
    for start in (0, torn) if torn > 0 else (0,):
        try:
            record = record_of(written[start:])
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("event"), str) and isinstance(record.get("step"), int):
            return record, start == 0
    return None, False


def _sort(history: History, lines: list[Record]) -> None:
    """Put each line where it belongs."""
    steps: dict[int, Record] = {}
    evaluations: dict[str, dict[int, list[Record]]] = {}
    samples: dict[int, Path] = {}
    for line in lines:
        event, step = line["event"], line["step"]
        if event == "started":
            history.started, history.finished, history.failed = line, None, None
        elif event == "resumed":
            history.finished = history.failed = None
            history.resumed.append(step)
            for key in ("total_steps", "steps_per_epoch", "batch_size"):
                if key in line:
                    history.started[key] = line[key]
        elif event == "step":
            steps[step] = line
        elif event == "evaluated" and isinstance(line.get("metrics"), dict):
            of_split = evaluations.setdefault(str(line.get("split", "validation")), {})
            of_split.setdefault(step, []).append(line)
        elif event == "saved":
            history.saved = max(history.saved, step)
        elif event == "sampled":
            path = inside(history.folder, line.get("file"))
            if path is not None:
                samples[step] = path
        elif event == "warned":
            history.warnings.append((step, str(line.get("message", ""))))
        elif event == "failed":
            history.failed = line
        elif event == "finished":
            history.finished = line
    history.steps = [steps[step] for step in sorted(steps)]
    # A finished run may have measured its last step once more, with the best weights put back or the probabilities
    # calibrated: the curve is of what training had there.
    twice = history.end.get("step")
    history.evaluations = {
        split: [by[step][0 if step == twice else -1] for step in sorted(by)] for split, by in evaluations.items()
    }
    history.samples = sorted(samples.items())


def inside(folder: Path, name: Any) -> Path | None:
    """Return a file of the run folder; None when it is not there or lies outside."""
    if not isinstance(name, str) or not name:
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def as_dict(value: Any) -> Record:
    """Return a dict, or an empty one for what is none: a line may lack any part."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list, or an empty one for what is none."""
    return value if isinstance(value, list) else []
