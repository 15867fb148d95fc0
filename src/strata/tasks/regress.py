"""Prediction of a number: trained on standardised targets, measured and answered in the target's own units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from strata import losses, metrics
from strata.config import PositiveFloat
from strata.data.dataset import Dataset
from strata.errors import DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Findings, Measure, Sums, Task, mask_of

MISTAKES_SHOWN = 12
AUXILIARY_WEIGHT = 0.3
"""Of the loss of each further head that a model has in training (Szegedy et al. 2015, section 5)."""


@dataclass(frozen=True, kw_only=True)
class Regress(Task):
    """One number for each sample."""

    kind: ClassVar[str] = "regress"
    main_metric: ClassVar[str | None] = "rmse"
    higher_is_better: ClassVar[bool] = False

    loss: Literal["mean_squared_error", "l1", "huber"] = "mean_squared_error"
    huber_delta: PositiveFloat = 1.0
    """Where the Huber loss turns from square to straight, in standard deviations of the target."""
    target_mean: float = 0.0
    """Of the training targets; filled in from the data."""
    target_std: float = 1.0

    def resolve(self, dataset: Dataset) -> Regress:
        """Fill in the target's mean and deviation."""
        if dataset.target_kind != "number":
            use = "task=classify" if dataset.target_kind == "class" else "another recipe"
            raise DataError(f"Data {dataset.name!r} has no numbers to predict. Use {use}.")
        scale = dataset.preprocess
        return dataclasses.replace(
            self,
            target_mean=float(getattr(scale, "target_mean", 0.0)),
            target_std=float(getattr(scale, "target_std", 1.0)) or 1.0,
        )

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, with a single output."""
        return dataset.sizes | {"num_classes": 1, "head": "class"}

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss over standardised targets."""
        # In float64 until it is standardised: far from zero, float32 would round away what is to be learned.
        target_B = ((batch["target"].double() - self.target_mean) / self.target_std).float()
        options = {"delta": self.huber_delta} if self.loss == "huber" else {}
        numbers = model(batch["input"], **mask_of(batch))
        first, *others = numbers if isinstance(numbers, tuple) else (numbers,)
        parts = losses.per_sample(self.loss)(first, target_B, **options)
        for of_head in others:  # of a model that has further ones in training, as in `Classify`
            more = AUXILIARY_WEIGHT * losses.per_sample(self.loss)(of_head, target_B, **options).loss
            parts = parts._replace(loss=parts.loss + more)
        return parts.sum()

    def _answer(self, model: nn.Module, input_B: Tensor, **mask: Tensor) -> Tensor:
        return model(input_B, **mask).double().squeeze(-1) * self.target_std + self.target_mean

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return sums of errors in the target's units."""
        target_B, predicted_B = batch["target"].double(), self._answer(model, batch["input"], **mask_of(batch))
        # About the training mean: for targets far from zero, raw sums of squares would leave only rounding.
        sums = metrics.regression_sums(predicted_B - self.target_mean, target_B - self.target_mean)
        return Measure(sums, {"predicted": predicted_B, "true": target_B})

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return rmse and mae in the target's units, and r2."""
        return metrics.regression_metrics(sums)

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Return the samples that were missed by most; ``error`` is by how much, in the target's units."""
        error_N = (per_sample["predicted"].double() - per_sample["true"].double()).abs()
        return Findings(
            mistakes=[
                {
                    "sample": number,
                    "true": float(per_sample["true"][number]),
                    "predicted": float(per_sample["predicted"][number]),
                    "error": float(error_N[number]),
                }
                for number in error_N.argsort(descending=True, stable=True)[:MISTAKES_SHOWN].tolist()
            ]
        )

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return ``{"value": number}`` for each sample, in the target's units."""
        return [{"value": value} for value in self._answer(model, input_B).tolist()]
