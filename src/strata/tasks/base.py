"""A task says what a model is trained for: it turns (model, batch) into a loss, names the metrics, and answers.

The loop knows only this page. A task has *stages* in sequence, and in each stage *phases* that a step goes through;
most tasks have one of each and say nothing about either.

B samples in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from strata import rng
from strata.data.dataset import Dataset, Split
from strata.data.sequences import PAD_TO
from strata.errors import ConfigError
from strata.losses import LossSum
from strata.models import MODELS, Reading, family_of, model_class, preset, reading_of

Sums = dict[str, Tensor]
"""Metric sums by name: scalars or small tensors that add up over batches."""
NUMBERS_KEPT = 20_000_000
"""Numbers that an evaluation keeps for one name of `Measure.per_sample`; where there would be more it keeps none."""
_READS: Mapping[Reading, str] = {
    "forwards": "reads a text from left to right",
    "whole": "looks at all of a text at once",
    "pairs": "reads one text and writes another",
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One forward, backward and optimiser step inside a training step."""

    name: str = "train"
    parameters: tuple[str, ...] = ("",)
    """Prefixes of the names of the parameters that it trains; the others are held still."""
    repeats: int = 1
    """Times in a row, each on a fresh batch."""
    every: int = 1
    """Runs in every n-th step."""
    learning_rate_factor: float = 1.0
    first_layer_rate: float = 1.0
    """Learning rate of the first layer as a share of the last's; those between lie on a geometric line."""
    needs_data: bool = True
    """False where the batch is only sample numbers, as for a generator fed with noise."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the run with its own phases; a stage's optimisers start fresh."""

    name: str = "train"
    share: float = 1.0
    """Of the run's steps; the shares of all stages add up to 1."""
    phases: tuple[Phase, ...] = (Phase(),)


@dataclass(frozen=True)
class Draw:
    """The random numbers of one batch, each a function of (seed, step, sample); and what batches hand on."""

    seed: int
    step: int
    sample_B: Tensor
    carried: dict[str, Tensor] = field(default_factory=dict)
    """What the last batch left for this one, and this one leaves for the next: a part of the run's state. Rows may be
    fewer in the last batches of an evaluation, never in training."""

    def normal(self, stream: str, n: int) -> Tensor:
        """Return standard normal numbers, float32 (B, n)."""
        return rng.normal(self.seed, stream, self.step, self.sample_B, n)

    def uniform(self, stream: str, n: int) -> Tensor:
        """Return numbers in [0, 1), float32 (B, n)."""
        return rng.uniform(self.seed, stream, self.step, self.sample_B, n)


@dataclass(frozen=True)
class Measure:
    """What one evaluation batch adds to the metrics."""

    sums: Sums
    per_sample: dict[str, Tensor] = field(default_factory=dict)
    """(B,) or (B, K) each: kept for metrics that no sums give, and for the report's worst mistakes."""


@dataclass(frozen=True)
class Findings:
    """What a report shows beside the metrics."""

    confusion: list[list[int]] | None = None
    """Samples by true class (row) and predicted class (column)."""
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    """Worst first: sample number, "true", "predicted", and "confidence" of a class or "error" of a number."""
    classes: list[dict[str, Any]] = field(default_factory=list)
    """By class: "label", "support", "precision", "recall", "f1"; None for a ratio with nothing below it."""
    calibration: dict[str, Any] | None = None
    """How true the probabilities are: "bins" (samples, sum of confidences, right ones), "ece", "temperature", and the
    same two "before" where a temperature was fitted."""
    detection: dict[str, Any] | None = None
    """How well one class is found among the others: see `Classify.findings`."""
    examples: Tensor | None = None
    """Rows of pictures side by side, uint8 (N, 3, H, W): what went in, what came out, what should have."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split, and the sums and samples behind them."""

    metrics: dict[str, float]
    sums: Sums
    per_sample: dict[str, Tensor] = field(default_factory=dict)
    split: str = ""
    """Which it was, where it was chosen for the caller."""
    samples: int = 0
    """How many were measured, where it was chosen for the caller; windows of a text."""
    notes: tuple[str, ...] = ()
    """What another needs to know to get the same numbers; see `Task.signatures`."""


@dataclass(frozen=True)
class Sample:
    """Something a generative model made: pictures uint8 (N, C, H, W), a text, or several."""

    images: Tensor | None = None
    text: str | None = None
    texts: list[str] | None = None
    """Where several were asked for: by prompt, and for each prompt the best or first one first."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks: a frozen dataclass of settings whose methods hold no state."""

    kind: ClassVar[str]
    generates: ClassVar[bool] = False
    """The model makes things: `strata generate` works, and a run draws samples as it goes."""
    mixes: ClassVar[bool] = False
    """The loss knows samples that are mixed of two, ``target_b`` and ``weight``: mixup and cutmix are allowed."""
    model_fields: ClassVar[tuple[str, ...]] = ("num_classes",)
    """Fields of its config that tell a model which can serve this task from others."""
    reading: ClassVar[Reading | None] = None
    """How a model has to read texts to serve it; None where any way will do."""
    needs_reference: ClassVar[bool] = False
    """The loss looks at what the model said before it was trained: see `reference`."""

    @property
    def main_metric(self) -> str | None:
        """The metric that early stopping and a run's headline look at."""
        return None

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the main metric is better."""
        return True

    def resolve(self, dataset: Dataset) -> Task:
        """Return the task with every setting that depends on the data filled in.

        Raises DataError where the data cannot serve this task.
        """
        return self

    def notes(self, dataset: Dataset) -> list[str]:
        """Return in words what `resolve` decided from the data and a person should know."""
        return []

    def check_model(self, config: Any, dataset: Dataset) -> None:
        """Raise ConfigError for a model that cannot serve this task, or cannot take this kind of data."""

        def has_fields(config: Any) -> bool:
            return {field.name for field in dataclasses.fields(config)}.issuperset(self.model_fields)

        def reads(config: Any) -> bool:
            return self.reading is None or reading_of(str(family_of(config))) == self.reading

        def serves(config: Any) -> bool:
            return has_fields(config) and reads(config)

        def takes(config: Any) -> bool:
            inputs = dataset.sizes.keys() - {"num_classes"}
            return bool(inputs & {field.name for field in dataclasses.fields(config)})

        if serves(config) and takes(config):
            check_room(config, dataset)
            return
        problem = f"take data of kind {dataset.kind!r}" if serves(config) else f"do task {self.kind!r}"
        own = reading_of(str(family_of(config)))
        if self.reading is not None and own not in (None, self.reading):
            problem += f": it {_READS[own]}, and the task needs one that {_READS[self.reading]}"
        fit = [name for name in MODELS if serves(preset(name)) and takes(preset(name))]
        use = f"Models that can: {', '.join(fit)}." if fit else "None can do this task on that data."
        raise ConfigError(f"Model {family_of(config)!r} cannot {problem}. {use}")

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return what the model's config takes from the data, by field name, and the head that this task needs."""
        return dataset.sizes

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return the split as samples of what the model sees."""
        return dataset.splits[name]

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages, in order."""
        return (Stage(),)

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the modules whose forward the loss calls, which are what compiling compiles."""
        return (model,)

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss of a batch as sum and count, in fp32."""
        raise NotImplementedError

    def reference(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the loss has to know of each sample that the model says as it begins, (B,) or (B, K) by name.

        It is asked once, with the model in eval mode and gradients off, and then is in every batch.
        """
        raise NotImplementedError

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return what a batch adds to the metrics; the model is in eval mode, gradients are off."""
        raise NotImplementedError

    def written(self, model: nn.Module, batch: Mapping[str, Tensor], context: Answering) -> Measure:
        """Return what a batch adds to the metrics once the model has written its answers out, as in real use.

        For tasks whose answers are texts; most have none, and the metrics are all in `measure`.
        """
        return Measure({})

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Turn the sums over a whole split into metrics.

        Args:
            per_sample: what was kept of each sample; a name is missing where it would have been too much.
        """
        raise NotImplementedError

    def after_training(self, validation: Evaluation) -> Task:
        """Return the task with the settings filled in that are fitted to validation data, once the weights are final.

        The model is measured and saved with what this returns.
        """
        return self

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Turn an evaluation's sums and samples into what a report shows."""
        return Findings()

    def signatures(self, dataset: Dataset, split: str) -> list[str]:
        """Return what another needs to know to get the same numbers of a split; empty where they need no words."""
        return []

    def examples(self, model: nn.Module, dataset: Dataset, split: str, context: Answering) -> list[dict[str, Any]]:
        """Return texts of a split with what the model made of them, for the report: "source", "references", "written",
        and "attention" where there is one; none where a task has none to show."""
        return []

    def gradient_flow(self, model: nn.Module, dataset: Dataset, split: str, device: torch.device) -> list[list[float]]:
        """Return how strongly the loss at a text's last token depends on each step before it, for each layer of a net
        that goes through a text step by step; nothing for any other."""
        return []

    def read(self, raw: Any, preprocess: Any) -> Tensor:
        """Turn one raw input into one sample of what `answers` takes. Raises DataError for what cannot be read."""
        found: Tensor = preprocess.read(raw)
        return found

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Turn a batch of normalised input into one answer each."""
        raise NotImplementedError

    def answers_to(self, model: nn.Module, raws: Sequence[Any], context: Answering) -> list[dict[str, Any]] | None:
        """Answer raw inputs, each of which was read once, where an answer is a place in what was given.

        None: `answers` does, and needs no more than the input as the model sees it.
        """
        return None

    def sample(self, model: nn.Module, context: Answering, **options: Any) -> Sample:
        """Let a generative model make something, as a function of ``options["seed"]``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Answering:
    """What a task needs besides the model to answer: labels, preprocessing, a tokenizer."""

    labels: tuple[str, ...]
    preprocess: Any
    device: torch.device


def check_room(config: Any, dataset: Dataset) -> None:
    """Raise ConfigError where texts are longer than a model can read; those of running text are made to fit."""
    context, longest = getattr(config, "context", None), dataset.details.get("longest")
    if context is None or longest is None or getattr(model_class(str(family_of(config))), "carries_state", False):
        return  # a recurrent net's context is that of its training as a language model, and no limit
    needed = -(-longest // PAD_TO) * PAD_TO
    if needed > context:
        raise ConfigError(
            f"The longest text has {longest} tokens, more than go into model.context={context} with padding. "
            f"Set model.context={needed}, or cut texts: data.max_length={context // PAD_TO * PAD_TO}."
        )


def parts_below_head(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a model's `features` goes through, the blocks of a list one by one: what compiles."""
    parts = [part for name, part in model.named_children() if name != "head"]
    return [inner for part in parts for inner in (part if isinstance(part, nn.ModuleList) else (part,))]


def mask_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a model of texts is told beside the tokens: where there are some. Other models are told nothing."""
    return {"mask_BT": batch["mask"]} if "mask" in batch else {}


def sums_of(**values: Any) -> Sums:
    """Return metric sums as float64 tensors on their device (int64 where they were whole)."""
    found: Sums = {}
    for name, value in values.items():
        tensor = torch.as_tensor(value).detach()
        found[name] = tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64)
    return found
