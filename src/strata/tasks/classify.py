"""One of several classes for each sample.

Two things are fitted after training, on validation data and never on test data: the temperature that makes the
probabilities true (Guo et al. 2017, section 4.2), and the threshold at which a class that must not be missed counts as
found. Both are settings of the task that is saved with the model.

B samples in a batch, N samples in all, K classes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata import losses, metrics
from strata.config import Fraction, NotNegative, NotNegativeFloat, PositiveFloat, Probability
from strata.data.dataset import Dataset
from strata.errors import ConfigError, DataError, suggest
from strata.losses import LossParts, LossSum
from strata.tasks.base import NUMBERS_KEPT, Answering, Draw, Evaluation, Findings, Measure, Sums, Task, mask_of, sums_of
from strata.tasks.regress import Regress

logger = logging.getLogger(__name__)

MISTAKES_SHOWN = 24
COUNTED = ("confusion", "undecided")
"""Sums that the metrics of classes come from, beside the top-k hits."""
TEMPERATURES = (0.01, 100.0)
"""Between which the one that calibrates is sought."""
LOOKED_FOR = frozenset(
    ("positive", "pos", "abnormal", "malignant", "diseased", "disease", "present", "yes", "true", "1")
)
UNREMARKABLE = frozenset(
    ("negative", "neg", "normal", "benign", "healthy", "control", "absent", "no", "none", "false", "0")
)
"""Names of classes that tell which of two is the one to be found."""
OUT_OF_SCOPE = frozenset(("oos", "out of scope", "out-of-scope", "out_of_scope"))
"""Names of the class of what belongs to no other."""


@dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """One of several classes.

    With two classes, binary cross-entropy, hinge and squared error train a single output; the others train one output
    for each class.
    """

    kind: ClassVar[str] = "classify"
    mixes: ClassVar[bool] = True

    loss: Literal["cross_entropy", "binary_cross_entropy", "hinge", "mean_squared_error"] = "cross_entropy"
    label_smoothing: Probability = 0.0
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7)."""
    class_weights: Literal["balanced"] | tuple[NotNegativeFloat, ...] | None = None
    """A weight for each class, or "balanced": in inverse proportion to the training counts."""
    auxiliary_weight: NotNegativeFloat = 0.3
    """Weight of the loss of each further head that a model has in training (Szegedy et al. 2015, section 5)."""
    main: Literal["accuracy", "f1", "auroc", "loss"] = "accuracy"
    """The metric that early stopping and the run's headline look at."""
    positive: str | None = None
    """The class that is to be found; of two classes one is taken if None, and which is said."""
    specificity: Fraction | None = None
    """Share of the other samples that must be left alone: the sensitivity at it is measured, and the threshold that
    keeps it on validation data is saved with the model."""
    out_of_scope: str | None = None
    """The class of what belongs to no other; one that is called so is taken if None, and which is said."""
    calibrate: bool = False
    """Fit a temperature to validation data after training, so that probabilities are true (Guo et al. 2017)."""
    flip_test: bool = False
    """Outside training, answer with the mean of the scores of a picture and of its mirror image."""
    positive_class: NotNegative | None = None
    """Number of the class that is to be found; filled in from the data."""
    out_of_scope_class: NotNegative | None = None
    """Number of the class of what belongs to no other; filled in from the data."""
    temperature: PositiveFloat = 1.0
    """What scores are divided by to become probabilities; filled in by `calibrate`."""
    threshold: NotNegativeFloat | None = None
    """Probability from which the class that is to be found counts as found; filled in by `specificity`."""
    threshold_log_odds: float | None = None
    """The threshold as log-odds, which still tell apart what as a probability would round to 0 or 1; filled in with it,
    and passed over where it is not those of `threshold`."""

    @property
    def main_metric(self) -> str | None:
        """The metric that early stopping and a run's headline look at."""
        return self.main

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the main metric is better."""
        return self.main != "loss"

    def resolve(self, dataset: Dataset) -> Task:
        """Fill in balanced class weights and the class to be found, and check that the data can serve each setting.

        Without settings of its own, but for the smoothing that recipes give it, the task follows the target: of
        numbers it is a regression.
        """
        if dataset.target_kind == "number" and dataclasses.replace(self, label_smoothing=0.0) == Classify():
            return Regress().resolve(dataset)
        if dataset.target_kind != "class":
            of_pictures = "recipe unet" if dataset.kind in ("image", "pairs") else "another recipe"
            use = "task=regress" if dataset.target_kind == "number" else of_pictures
            raise DataError(f"Data {dataset.name!r} has no classes to tell apart. Use {use}.")
        count = len(dataset.labels)
        taken = losses.options(self.loss)
        for option in ("label_smoothing", "class_weights"):
            if getattr(self, option) and option not in taken:
                off = {"label_smoothing": 0, "class_weights": "none"}[option]
                raise ConfigError(f"task.{option} has no meaning for task.loss={self.loss}. Set task.{option}={off}.")
        self._check_measures(dataset)
        positive = self._positive(dataset.labels)
        if self.specificity is not None and positive is None:
            raise ConfigError(f"task.specificity is of one class among {count}: name it with task.positive.")
        weights = self.class_weights
        if weights is not None and dataset.balance:
            raise ConfigError("data.balance and task.class_weights both make up for unequal classes. Leave one out.")
        if weights == "balanced":
            total = sum(dataset.class_counts)
            weights = tuple(total / (count * max(1, n)) for n in dataset.class_counts)
        elif weights is not None and len(weights) != count:
            raise ConfigError(f"task.class_weights has {len(weights)} weights for {count} classes.")
        if weights is not None and not any(weights):
            raise ConfigError("task.class_weights are all 0: nothing would be learned.")
        outside = self._outside(dataset.labels)
        return dataclasses.replace(self, class_weights=weights, positive_class=positive, out_of_scope_class=outside)

    def _check_measures(self, dataset: Dataset) -> None:
        """Raise ConfigError for a setting that this data, or the loss, leaves without what it needs."""
        if self.flip_test and dataset.kind != "image":
            raise ConfigError(f"task.flip_test mirrors pictures; data {dataset.name!r} is of kind {dataset.kind!r}.")
        if self.calibrate and not self._trains_probabilities:
            raise ConfigError(
                f"task.calibrate has no meaning for task.loss={self.loss}, which trains no probabilities."
            )
        needs = {"calibrate": self.calibrate, "specificity": self.specificity is not None}
        for name in (name for name, is_set in needs.items() if is_set):
            if "validation" not in dataset.splits:
                raise ConfigError(f"task.{name} is fitted to validation data, and there is none: data.validation=0.1.")
            if self._is_too_much(dataset, "validation"):
                raise ConfigError(
                    f"task.{name} needs the scores of all validation samples at once, and "
                    f"{len(dataset.splits['validation']):,} x {len(dataset.labels):,} classes are more than the "
                    f"{NUMBERS_KEPT:,} that are kept. Hold out fewer with data.validation."
                )
        if self.main == "auroc" and self._is_too_much(dataset, "validation"):
            raise ConfigError(
                "task.main=auroc cannot be measured on so many samples and classes. Use task.main=accuracy."
            )

    @staticmethod
    def _is_too_much(dataset: Dataset, split: str) -> bool:
        return split in dataset.splits and len(dataset.splits[split]) * len(dataset.labels) > NUMBERS_KEPT

    def _positive(self, labels: Sequence[str]) -> int | None:
        names = [label.strip().lower() for label in labels]
        if self.positive is not None:
            if self.positive.strip().lower() not in names:
                raise ConfigError(
                    f"task.positive={self.positive} is no class of this data.{suggest(self.positive, labels)}"
                )
            return names.index(self.positive.strip().lower())
        if len(names) != 2:
            return None
        told = {name: k for k, name in enumerate(names) if name in LOOKED_FOR}
        told |= {name: 1 - k for k, name in enumerate(names) if name in UNREMARKABLE}
        return told.popitem()[1] if len(set(told.values())) == 1 else 1

    def _outside(self, labels: Sequence[str]) -> int | None:
        names = [label.strip().lower() for label in labels]
        if self.out_of_scope is None:
            return next((k for k, name in enumerate(names) if name in OUT_OF_SCOPE and len(names) > 2), None)
        if self.out_of_scope.strip().lower() not in names:
            raise ConfigError(
                f"task.out_of_scope={self.out_of_scope} is no class of this data.{suggest(self.out_of_scope, labels)}"
            )
        return names.index(self.out_of_scope.strip().lower())

    def notes(self, dataset: Dataset) -> list[str]:
        """Return which class is to be found, and what is not measured."""
        said = []
        if self.out_of_scope_class is not None and self.out_of_scope is None:
            outside = dataset.labels[self.out_of_scope_class]
            said.append(f"class {outside!r} is of what belongs to no other (task.out_of_scope chooses)")
        if self.positive_class is not None and self.positive is None:
            said.append(f"the class to be found is {dataset.labels[self.positive_class]!r} (task.positive chooses)")
        left_out = [name for name in dataset.splits if name != "train" and self._is_too_much(dataset, name)]
        if left_out:
            said.append(
                f"AUROC is left out on {' and '.join(left_out)}: too many samples and classes to keep all scores"
            )
        return said

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, with a single output where the loss wants one."""
        single = len(dataset.labels) == 2 and self.loss != "cross_entropy"
        return dataset.sizes | {"num_classes": 1 if single else len(dataset.labels), "head": "class"}

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss; of mixed samples, the mixture of both targets' losses.

        A model may give a tuple in training: its scores, and those of heads that only help it to learn.
        """
        scores = model(batch["input"], **mask_of(batch))
        heads: Sequence[Tensor] = scores if isinstance(scores, tuple) else (scores,)
        parts = self._of_heads(heads, batch["target"])
        if "target_b" in batch:
            parts = parts.mixed(self._of_heads(heads, batch["target_b"]), batch["weight"])
        return parts.sum()

    def _of_heads(self, heads: Sequence[Tensor], target_B: Tensor) -> LossParts:
        """Return the main head's parts with the others' losses added; the samples count once."""
        parts = self._parts(heads[0], target_B)
        for scores_BK in heads[1:]:
            more = self.auxiliary_weight * self._parts(scores_BK, target_B).loss
            parts = parts._replace(loss=parts.loss + more)
        return parts

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
        """Return class probabilities, float32 (float64 of float64), (B, K).

        Only cross-entropy and binary cross-entropy train them; for the others they order the classes as the scores do.
        """
        return self._log_probabilities(scores_BK).exp()

    def _log_probabilities(self, scores_BK: Tensor) -> Tensor:
        return self._log_weights(scores_BK).log_softmax(1)

    def _log_weights(self, scores_BK: Tensor) -> Tensor:
        """Return logarithms of what is in proportion to the probabilities, (B, K) also of a single output."""
        scores_BK = (scores_BK if scores_BK.dtype == torch.float64 else scores_BK.float()) / self.temperature
        if scores_BK.shape[1] == 1:
            middle = 0.5 if self.loss == "mean_squared_error" else 0.0
            return torch.cat([torch.zeros_like(scores_BK), scores_BK - middle], 1)
        return F.logsigmoid(scores_BK) if self.loss == "binary_cross_entropy" else scores_BK

    def log_odds(self, scores_BK: Tensor) -> Tensor:
        """Return the log-odds of each class against all others, float64 (B, K).

        They lie in the order of the probabilities, and apart also where those round to 0 or 1.
        """
        weight_BK = self._log_weights(scores_BK.double())
        log_BK = weight_BK.log_softmax(1)
        odds_BK = log_BK - torch.log1p(-log_BK.exp())  # exact up to a probability of a half
        top_B1 = weight_BK.argmax(1, keepdim=True)
        others_B1 = weight_BK.scatter(1, top_B1, -math.inf).logsumexp(1, keepdim=True)
        return odds_BK.scatter(1, top_B1, weight_BK.gather(1, top_B1) - others_B1)

    @property
    def _least_log_odds(self) -> float | None:
        """Log-odds from which the class that is to be found counts as found; None where no threshold is set."""
        if self.threshold is None:
            return None
        fine = self.threshold_log_odds
        if fine is not None and _probability(fine) == self.threshold:
            return fine
        if not 0 < self.threshold < 1:
            return math.inf if self.threshold >= 1 else -math.inf
        return math.log(self.threshold / (1 - self.threshold))

    @property
    def _trains_probabilities(self) -> bool:
        return self.loss in ("cross_entropy", "binary_cross_entropy")

    def _scores(self, model: nn.Module, input_B: Tensor, **mask: Tensor) -> Tensor:
        """Return what a model in eval mode says of samples, before it becomes probabilities."""
        scores_BK: Tensor = model(input_B, **mask).float()
        if self.flip_test and input_B.ndim == 4:  # features computed beforehand are of both already
            scores_BK = (scores_BK + model(input_B.flip(-1)).float()) / 2
        return scores_BK

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss, confusion counts, bins of confidence and, of more than ten classes, the top-5 hits."""
        scores_BK, target_B = self._scores(model, batch["input"], **mask_of(batch)), batch["target"]
        loss = self._parts(scores_BK / self.temperature, target_B).sum()
        log_BK = self._log_probabilities(scores_BK)
        classes = log_BK.shape[1]
        confidence_B, predicted_B = log_BK.amax(1).exp(), metrics.predicted_classes(log_BK)
        sums = metrics.classification_sums(log_BK, target_B, classes, top_k=5 if classes > 10 else None)
        if self._trains_probabilities:
            sums["calibration"] = metrics.calibration_sums(confidence_B, predicted_B == target_B)
        per_sample = {"predicted": predicted_B, "true": target_B, "confidence": confidence_B, "scores": scores_BK}
        return Measure(sums_of(loss=loss.total, count=loss.count, **sums), per_sample)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracy, macro precision, recall and F1, ECE, the loss, and what needs the scores of all samples.

        Of more than ten classes also top-5 accuracy. AUROC is that of the class to be found, else the mean over the
        classes that occur, each against the rest; it is left out where only one class occurs. With a specificity asked
        for, ``sensitivity_at_specificity`` is read from this split's own ROC curve, so no threshold chosen elsewhere
        has a part in it; ``sensitivity`` and ``specificity`` are those at the threshold that validation data chose.
        """
        found = metrics.classification_metrics(
            {name: value for name, value in sums.items() if name in COUNTED or name.startswith("top_")}
        )
        if "scores" in per_sample:
            found |= self._ranking_metrics(per_sample)
        if self.out_of_scope_class is not None:
            found |= self._scope_metrics(sums["confusion"])
        if "calibration" in sums:
            found["ece"] = metrics.expected_calibration_error(sums["calibration"])
        count = float(sums["count"])  # of weights: 0 where only classes of no weight occur
        return found | {"loss": float(sums["loss"]) / count if count else math.nan}

    def _scope_metrics(self, confusion_KK: Tensor) -> dict[str, float]:
        """Return accuracy on what is in scope, and the share of the rest that is known as such (Larson et al. 2019)."""
        hits_K, support_K, outside = confusion_KK.diagonal(), confusion_KK.sum(1), self.out_of_scope_class
        assert outside is not None
        inside, of_outside = int(support_K.sum() - support_K[outside]), int(support_K[outside])
        return _known(
            in_scope_accuracy=int(hits_K.sum() - hits_K[outside]) / inside if inside else None,
            out_of_scope_recall=int(hits_K[outside]) / of_outside if of_outside else None,
        )

    def _ranking_metrics(self, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        odds_NK, true_N = self.log_odds(per_sample["scores"]), per_sample["true"]
        if self.positive_class is None:
            return _known(auroc=metrics.macro_auroc(odds_NK, true_N))
        score_N, is_positive_N = odds_NK[:, self.positive_class], true_N == self.positive_class
        found = _known(auroc=metrics.auroc(score_N, is_positive_N))
        if self.specificity is not None:
            own = metrics.threshold_at_specificity(score_N, is_positive_N, self.specificity)
            if own is not None:
                sensitivity, _ = metrics.sensitivity_and_specificity(score_N, is_positive_N, own)
                found |= _known(sensitivity_at_specificity=sensitivity)
        if self._least_log_odds is not None:
            pair = metrics.sensitivity_and_specificity(score_N, is_positive_N, self._least_log_odds)
            found |= _known(sensitivity=pair[0], specificity=pair[1])
        return found

    def after_training(self, validation: Evaluation) -> Task:
        """Return the task with the temperature and the threshold that validation data gives, where they are wanted."""
        if not self.calibrate and self.specificity is None:
            return self
        fitted = self
        scores_NK, true_N = validation.per_sample["scores"].double(), validation.per_sample["true"]
        if self.calibrate:
            fitted = dataclasses.replace(fitted, temperature=self._fit_temperature(scores_NK, true_N))
        if self.specificity is not None:
            assert self.positive_class is not None, "resolve() fills it in"
            score_N = fitted.log_odds(scores_NK)[:, self.positive_class]
            least = metrics.threshold_at_specificity(score_N, true_N == self.positive_class, self.specificity)
            threshold = None if least is None else _probability(least)
            fitted = dataclasses.replace(fitted, threshold=threshold, threshold_log_odds=least)
        return fitted

    def _fit_temperature(self, scores_NK: Tensor, true_N: Tensor) -> float:
        """Return the temperature of the lowest log loss; 1, with a warning, where every temperature has a better one.

        The log loss is convex in 1 / temperature, so its slope tells on which side the minimum lies.
        """

        def slope(log_temperature: float) -> float:
            inverse = torch.tensor(math.exp(-log_temperature), dtype=torch.float64, requires_grad=True)
            plain = dataclasses.replace(self, temperature=1.0)
            with torch.enable_grad():
                loss = -plain._log_probabilities(scores_NK * inverse).gather(1, true_N[:, None]).sum()
            return -float(torch.autograd.grad(loss, inverse)[0])

        low, high = (math.log(edge) for edge in TEMPERATURES)
        if not slope(low) < 0 < slope(high):
            logger.warning(
                "No temperature calibrates the probabilities: on validation data the model is always right, or knows "
                "nothing. They stay as they are."
            )
            return 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        return math.exp((low + high) / 2)

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Return confusions, class by class scores, calibration, the ROC curve, and the most confident mistakes.

        Of the class to be found (``detection``): "positive" is its label; "positives" and "negatives" are counts;
        "auroc" with its 95 % "interval"; "roc" points (1 - specificity, sensitivity); and how many of each are "found"
        and "left_alone" from the "threshold" on, which is None where the likeliest class was taken.
        """
        predicted_N = per_sample["predicted"]
        wrong_N = ((predicted_N != per_sample["true"]) & (predicted_N >= 0)).nonzero()[:, 0]
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
        scored = "scores" in per_sample
        return Findings(
            sums["confusion"].tolist(),
            mistakes,
            classes=_class_rows(sums["confusion"], labels),
            calibration=self._calibration(per_sample) if scored and "calibration" in sums else None,
            detection=self._detection(per_sample, labels) if scored and self.positive_class is not None else None,
        )

    def _calibration(self, per_sample: Mapping[str, Tensor]) -> dict[str, Any]:
        def of(task: Classify) -> dict[str, Any]:
            confidence_N, predicted_N = task.probabilities(per_sample["scores"]).max(1)
            bins_M3 = metrics.calibration_sums(confidence_N, predicted_N == per_sample["true"])
            return {"bins": bins_M3.tolist(), "ece": metrics.expected_calibration_error(bins_M3)}

        found = of(self) | {"temperature": self.temperature}
        before = {"before": of(dataclasses.replace(self, temperature=1.0))} if self.temperature != 1 else {}
        return found | before

    def _detection(self, per_sample: Mapping[str, Tensor], labels: Sequence[str]) -> dict[str, Any]:
        assert self.positive_class is not None
        score_N, least = self.log_odds(per_sample["scores"])[:, self.positive_class], self._least_log_odds
        is_positive_N = per_sample["true"] == self.positive_class
        said_N = per_sample["predicted"] == self.positive_class if least is None else score_N >= least
        interval = metrics.auroc_interval(score_N, is_positive_N)
        return {
            "positive": labels[self.positive_class],
            "positives": int(is_positive_N.sum()),
            "negatives": int((~is_positive_N).sum()),
            "found": int((said_N & is_positive_N).sum()),
            "left_alone": int((~said_N & ~is_positive_N).sum()),
            "threshold": self.threshold,
            "asked_specificity": self.specificity,
            "auroc": metrics.auroc(score_N, is_positive_N),
            "interval": None if interval is None else list(interval),
            "roc": [list(point) for point in metrics.roc_points(score_N, is_positive_N)],
        }

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return each sample's label, its probability, and the probabilities of the likeliest five.

        Where a threshold was chosen, "positive" says whether the class to be found counts as found, which the likeliest
        label may contradict.
        """
        scores_BK = self._scores(model, input_B)
        probability_BK = self.probabilities(scores_BK.double())
        top = probability_BK.topk(min(5, probability_BK.shape[1]), 1)
        found: list[dict[str, Any]] = [
            {
                "label": context.labels[classes[0]],
                "probability": values[0],
                "top": [{"label": context.labels[k], "probability": p} for k, p in zip(classes, values, strict=True)],
            }
            for classes, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        if self.out_of_scope_class is not None:
            for answer, chance in zip(found, probability_BK[:, self.out_of_scope_class].tolist(), strict=True):
                answer["out_of_scope"] = chance
        if self._least_log_odds is not None and self.positive_class is not None:
            is_found_B = self.log_odds(scores_BK)[:, self.positive_class] >= self._least_log_odds
            chances = probability_BK[:, self.positive_class].tolist()
            for answer, chance, is_found in zip(found, chances, is_found_B.tolist(), strict=True):
                answer["positive"] = {
                    "label": context.labels[self.positive_class],
                    "probability": chance,
                    "threshold": self.threshold,
                    "found": is_found,
                }
        return found


def _probability(log_odds: float) -> float:
    """Return the probability of log-odds, in double precision."""
    return float(torch.tensor(log_odds, dtype=torch.float64).sigmoid())


def _known(**values: float | None) -> dict[str, float]:
    """Return the metrics that are defined."""
    return {name: value for name, value in values.items() if value is not None}


def _class_rows(confusion_KK: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return each class's support and scores; None for a ratio with nothing below it."""
    found = metrics.per_class(confusion_KK)
    said_K = confusion_KK.sum(0)
    return [
        {
            "label": label,
            "support": int(found.support_K[k]),
            "precision": float(found.precision_K[k]) if said_K[k] else None,
            "recall": float(found.recall_K[k]) if found.support_K[k] else None,
            "f1": float(found.f1_K[k]) if found.occurs_K[k] else None,
        }
        for k, label in enumerate(labels)
    ]
