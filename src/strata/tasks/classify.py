"""One of several classes for each sample.

B samples in a batch, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata import losses, metrics
from strata.config import NotNegativeFloat, Probability
from strata.data.dataset import Dataset
from strata.errors import ConfigError, DataError
from strata.losses import LossParts, LossSum
from strata.tasks.base import Answering, Draw, Findings, Measure, Sums, Task, sums_of
from strata.tasks.regress import Regress

MISTAKES_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """One of several classes.

    With two classes, binary cross-entropy, hinge and squared error train a single output; the others train one output
    for each class.
    """

    kind: ClassVar[str] = "classify"
    main_metric: ClassVar[str | None] = "accuracy"
    mixes: ClassVar[bool] = True

    loss: Literal["cross_entropy", "binary_cross_entropy", "hinge", "mean_squared_error"] = "cross_entropy"
    label_smoothing: Probability = 0.0
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7)."""
    class_weights: Literal["balanced"] | tuple[NotNegativeFloat, ...] | None = None
    """A weight for each class, or "balanced": in inverse proportion to the training counts."""

    def resolve(self, dataset: Dataset) -> Task:
        """Fill in balanced class weights, and check that the data has classes.

        Without settings of its own the task follows the target: of numbers it is a regression.
        """
        if dataset.target_kind == "number" and self == Classify():
            return Regress().resolve(dataset)
        if dataset.target_kind != "class":
            use = "task=regress" if dataset.target_kind == "number" else "another recipe"
            raise DataError(f"Data {dataset.name!r} has no classes to tell apart. Use {use}.")
        count = len(dataset.labels)
        taken = losses.options(self.loss)
        for option in ("label_smoothing", "class_weights"):
            if getattr(self, option) and option not in taken:
                raise ConfigError(f"task.{option} has no meaning for task.loss={self.loss}.")
        if self.class_weights == "balanced":
            total = sum(dataset.class_counts)
            weights = tuple(total / (count * max(1, n)) for n in dataset.class_counts)
            return dataclasses.replace(self, class_weights=weights)
        if self.class_weights is not None and len(self.class_weights) != count:
            raise ConfigError(f"task.class_weights has {len(self.class_weights)} weights for {count} classes.")
        if self.class_weights is not None and not any(self.class_weights):
            raise ConfigError("task.class_weights are all 0: nothing would be learned.")
        return self

    def sizes(self, dataset: Dataset) -> dict[str, int]:
        """Return the data's sizes, with a single output where the loss wants one."""
        single = len(dataset.labels) == 2 and self.loss != "cross_entropy"
        return dataset.sizes | {"num_classes": 1 if single else len(dataset.labels)}

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss; of mixed samples, the mixture of both targets' losses."""
        scores_BK = model(batch["input"])
        parts = self._parts(scores_BK, batch["target"])
        if "target_b" in batch:
            parts = parts.mixed(self._parts(scores_BK, batch["target_b"]), batch["weight"])
        return parts.sum()

    def _parts(self, scores_BK: Tensor, target_B: Tensor) -> LossParts:
        if self.loss == "mean_squared_error":
            wanted = F.one_hot(target_B, scores_BK.shape[1]) if scores_BK.shape[1] > 1 else target_B
            return losses.mean_squared_error_per_sample(scores_BK, wanted)
        options: dict[str, Any] = {}
        if self.class_weights is not None:
            assert self.class_weights != "balanced", "resolve() turns it into numbers"
            options["class_weights"] = torch.tensor(self.class_weights, device=scores_BK.device)
        if self.label_smoothing:
            options["label_smoothing"] = self.label_smoothing
        return losses.per_sample(self.loss)(scores_BK, target_B, **options)

    def probabilities(self, scores_BK: Tensor) -> Tensor:
        """Return class probabilities, float32 (B, K).

        Only cross-entropy and binary cross-entropy train them; for the others they order the classes as the scores do.
        """
        scores_BK = scores_BK.float()
        if scores_BK.shape[1] == 1:
            middle = 0.5 if self.loss == "mean_squared_error" else 0.0
            one_B = torch.sigmoid(scores_BK[:, 0] - middle)
            return torch.stack([1.0 - one_B, one_B], 1)
        if self.loss == "binary_cross_entropy":
            return F.normalize(torch.sigmoid(scores_BK), p=1.0, dim=1)
        return scores_BK.softmax(1)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss, the confusion counts and, for more than ten classes, the hits among the likeliest five."""
        scores_BK, target_B = model(batch["input"]), batch["target"]
        loss = self._parts(scores_BK, target_B).sum()
        probability_BK = self.probabilities(scores_BK)
        classes = probability_BK.shape[1]
        confidence_B, predicted_B = probability_BK.max(1)
        sums = metrics.classification_sums(probability_BK, target_B, classes, top_k=5 if classes > 10 else None)
        per_sample = {"predicted": predicted_B, "true": target_B, "confidence": confidence_B}
        return Measure(sums_of(loss=loss.total, count=loss.count, **sums), per_sample)

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Return accuracy, macro precision, recall and F1, the loss and, for more than ten classes, top-5 accuracy."""
        found = metrics.classification_metrics({k: v for k, v in sums.items() if k not in ("loss", "count")})
        count = float(sums["count"])  # of weights: 0 where only classes of no weight occur
        return found | {"loss": float(sums["loss"]) / count if count else math.nan}

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Return the confusion matrix and the mistakes that were made with the greatest confidence."""
        wrong_N = (per_sample["predicted"] != per_sample["true"]).nonzero()[:, 0]
        order = per_sample["confidence"][wrong_N].argsort(descending=True, stable=True)[:MISTAKES_SHOWN]
        mistakes = [
            {
                "sample": number,
                "true": labels[int(per_sample["true"][number])],
                "predicted": labels[int(per_sample["predicted"][number])],
                "confidence": float(per_sample["confidence"][number]),
            }
            for number in wrong_N[order].tolist()
        ]
        return Findings(sums["confusion"].tolist(), mistakes)

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return each sample's label, its probability, and the probabilities of the likeliest five."""
        probability_BK = self.probabilities(model(input_B))
        top = probability_BK.topk(min(5, probability_BK.shape[1]), 1)
        return [
            {
                "label": context.labels[classes[0]],
                "probability": values[0],
                "top": [{"label": context.labels[k], "probability": p} for k, p in zip(classes, values, strict=True)],
            }
            for classes, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
