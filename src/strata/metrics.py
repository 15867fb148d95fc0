"""Metrics in two halves: sums over a batch, which stay on the device and simply add up, and numbers from the sums.

The mean over batches of a batch's mean is wrong as soon as the last batch is smaller, so it does not occur here.
Where scikit-learn defines a metric, its definition holds, edge cases included.

B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Sums = dict[str, Tensor]


def add(sums: Mapping[str, Tensor] | None, more: Mapping[str, Tensor]) -> Sums:
    """Return the sums of two sets of samples together; None is none yet."""
    if sums is None:
        return dict(more)
    assert sums.keys() == more.keys(), f"sums of {sorted(sums)} and of {sorted(more)} do not add up"
    return {name: sums[name] + more[name] for name in sums}


def predicted_classes(logits: Tensor) -> Tensor:
    """Return class numbers from logits (B, K), or from one logit for the second of two classes, (B,) or (B, 1)."""
    if logits.ndim == 1:
        return (logits > 0).long()
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) > 0).long()
    return logits.argmax(-1)


def confusion_counts(predicted_B: Tensor, target_B: Tensor, num_classes: int) -> Tensor:
    """Return how often each true class (row) was predicted as each class (column): int64 (K, K)."""
    cell_B = target_B.long().flatten() * num_classes + predicted_B.long().flatten()
    # Not bincount, which waits for the device to learn how long its result is.
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=cell_B.device)
    return counts.scatter_add_(0, cell_B, torch.ones_like(cell_B)).view(num_classes, num_classes)


def top_k_correct(logits_BK: Tensor, target_B: Tensor, k: int) -> Tensor:
    """Return how many targets are among the k highest logits; a target's ties with others count in its favour."""
    own_B1 = logits_BK.gather(-1, target_B.long()[:, None])
    return ((logits_BK > own_B1).sum(-1) < k).sum()


def classification_sums(logits: Tensor, target_B: Tensor, num_classes: int, *, top_k: int | None = None) -> Sums:
    """Return what `classification_metrics` needs of a batch.

    Args:
        top_k: also count the targets among the k highest logits, as ``top_k``.
    """
    sums = {"confusion": confusion_counts(predicted_classes(logits), target_B, num_classes)}
    if top_k is not None:
        sums[f"top_{top_k}"] = top_k_correct(logits, target_B, top_k)
    return sums


def classification_metrics(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return accuracy, macro precision, recall and F1, and every top-k accuracy that was counted."""
    confusion = sums["confusion"].cpu()
    metrics = {"accuracy": accuracy(confusion)}
    samples = int(confusion.sum())
    for name, value in sums.items():
        if name.startswith("top_"):
            metrics[f"{name}_accuracy"] = int(value) / samples if samples else math.nan
    precision, recall, f1 = precision_recall_f1(confusion)
    return metrics | {"precision": precision, "recall": recall, "f1": f1}


def accuracy(confusion_KK: Tensor) -> float:
    """Return the share of samples on the diagonal; NaN of no samples."""
    samples = int(confusion_KK.sum())
    return int(confusion_KK.diagonal().sum()) / samples if samples else math.nan


def precision_recall_f1(confusion_KK: Tensor) -> tuple[float, float, float]:
    """Return the means over classes of precision, recall and F1, of the classes that occur, true or predicted.

    A ratio with nothing below it is zero.
    """
    counts_KK = confusion_KK.double()
    hits_K, true_K, predicted_K = counts_KK.diagonal(), counts_KK.sum(1), counts_KK.sum(0)
    occurs_K = (true_K + predicted_K) > 0
    if not bool(occurs_K.any()):
        return math.nan, math.nan, math.nan
    # Where nothing is below, nothing is above either, so dividing by one gives the zero.
    precision_K = hits_K / predicted_K.clamp(min=1)
    recall_K = hits_K / true_K.clamp(min=1)
    f1_K = 2 * hits_K / (true_K + predicted_K).clamp(min=1)
    precision, recall, f1 = (float(score_K[occurs_K].mean()) for score_K in (precision_K, recall_K, f1_K))
    return precision, recall, f1


def regression_sums(prediction: Tensor, target: Tensor) -> Sums:
    """Return what `regression_metrics` needs of a batch, in float64; predictions (B,) or (B, 1), targets (B,)."""
    prediction, target = prediction.double(), target.double()
    if prediction.ndim == target.ndim + 1:
        prediction = prediction.squeeze(-1)
    assert prediction.shape == target.shape, f"outputs {tuple(prediction.shape)}, targets {tuple(target.shape)}"
    error = prediction - target
    return {
        "samples": torch.tensor(target.numel(), dtype=torch.float64, device=target.device),
        "target": target.sum(),
        "target_squared": target.square().sum(),
        "squared_error": error.square().sum(),
        "absolute_error": error.abs().sum(),
    }


def regression_metrics(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return R2, root mean squared error and mean absolute error.

    R2 is NaN of fewer than two samples, and of a constant target 1 where it is met and 0 where not.
    """
    n, target, target_squared, squared_error, absolute_error = (
        float(sums[name]) for name in ("samples", "target", "target_squared", "squared_error", "absolute_error")
    )
    if n == 0:
        return {"r2": math.nan, "rmse": math.nan, "mae": math.nan}
    spread = target_squared - target * target / n
    # What two nearly equal sums of squares leave is rounding, not spread.
    is_constant = spread <= 4 * n * torch.finfo(torch.float64).eps * target_squared
    if n < 2:
        r2 = math.nan
    elif is_constant:
        r2 = 1.0 if squared_error == 0 else 0.0
    else:
        r2 = 1 - squared_error / spread
    return {"r2": r2, "rmse": math.sqrt(squared_error / n), "mae": absolute_error / n}


def perplexity(total_nats: float, tokens: float) -> float:
    """Return exp of the mean loss; infinity where that is too large for a float."""
    if tokens == 0:
        return math.nan
    try:
        return math.exp(total_nats / tokens)
    except OverflowError:
        return math.inf


def bits_per_token(total_nats: float, tokens: float) -> float:
    """Return the loss in bits for each token."""
    return total_nats / math.log(2) / tokens if tokens else math.nan
