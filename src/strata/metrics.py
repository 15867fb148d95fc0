"""Metrics in two halves: sums over a batch, which stay on the device and simply add up, and numbers from the sums.

The mean over batches of a batch's mean is wrong as soon as the last batch is smaller, so it does not occur here.
Where scikit-learn defines a metric, its definition holds, edge cases included. What ranks samples against each other
(AUROC, sensitivity at a specificity) has no sums and takes the scores of all samples.

B samples in a batch, N samples in all, K classes, M bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Sums = dict[str, Tensor]
CALIBRATION_BINS = 15
"""Guo et al. 2017, section 5."""


def add(sums: Mapping[str, Tensor] | None, more: Mapping[str, Tensor]) -> Sums:
    """Return the sums of two sets of samples together; None is none yet."""
    if sums is None:
        return dict(more)
    assert sums.keys() == more.keys(), f"sums of {sorted(sums)} and of {sorted(more)} do not add up"
    return {name: sums[name] + more[name] for name in sums}


def merit(value: float, loss: float | None, *, higher_is_better: bool) -> tuple[float, float]:
    """Return what the better of two evaluations has the greater of: by a metric and, where that is equal, by the loss.

    The earlier of two that are equal in both is the better one.
    """
    return (value if higher_is_better else -value), -(0.0 if loss is None else loss)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return class numbers from logits (B, K), or from one logit for the second of two classes, (B,) or (B, 1).

    Where a logit is NaN the number is -1: no class comes of that.
    """
    logits = logits[:, None] if logits.ndim == 1 else logits
    found_B = logits.argmax(-1) if logits.shape[-1] > 1 else (logits.squeeze(-1) > 0).long()
    return found_B.masked_fill(logits.isnan().any(-1), -1)


def confusion_counts(predicted_B: Tensor, target_B: Tensor, num_classes: int) -> Tensor:
    """Return how often each true class (row) was predicted as each class (column): int64 (K, K).

    A prediction of -1 is of no class and is not counted.
    """
    predicted_B = predicted_B.long().flatten()
    cell_B = target_B.long().flatten() * num_classes + predicted_B.clamp(min=0)
    # Not bincount, which waits for the device to learn how long its result is.
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=cell_B.device)
    return counts.scatter_add_(0, cell_B, (predicted_B >= 0).long()).view(num_classes, num_classes)


def top_k_correct(logits_BK: Tensor, target_B: Tensor, k: int) -> Tensor:
    """Return how many targets are among the k highest logits; a target's ties with others count in its favour."""
    own_B1 = logits_BK.gather(-1, target_B.long()[:, None])
    return ((logits_BK > own_B1).sum(-1) < k).sum()


def classification_sums(logits: Tensor, target_B: Tensor, num_classes: int, *, top_k: int | None = None) -> Sums:
    """Return what `classification_metrics` needs of a batch.

    Args:
        top_k: also count the targets among the k highest logits, as ``top_k``.
    """
    predicted_B = predicted_classes(logits)
    sums = {
        "confusion": confusion_counts(predicted_B, target_B, num_classes),
        "undecided": (predicted_B < 0).sum(),
    }
    if top_k is not None:
        sums[f"top_{top_k}"] = top_k_correct(logits, target_B, top_k)
    return sums


def classification_metrics(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return accuracy, macro precision, recall and F1, and every top-k accuracy that was counted.

    All are NaN where a sample's logits were: what says nothing of one sample has no measure over all.
    """
    confusion = sums["confusion"].cpu()
    if int(sums.get("undecided", 0)):
        confusion = torch.zeros_like(confusion)
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


class PerClass(NamedTuple):
    """How well each class is told from the others, float64 (K,) each; a ratio with nothing below it is zero."""

    precision_K: Tensor
    recall_K: Tensor
    f1_K: Tensor
    support_K: Tensor
    """Samples that are of the class."""
    occurs_K: Tensor
    """Whether any sample is of the class or was taken for it."""


def per_class(confusion_KK: Tensor) -> PerClass:
    """Return precision, recall and F1 of each class from counts by true class (row) and predicted class (column)."""
    counts_KK = confusion_KK.double()
    hits_K, true_K, predicted_K = counts_KK.diagonal(), counts_KK.sum(1), counts_KK.sum(0)
    # Where nothing is below, nothing is above either, so dividing by one gives the zero.
    return PerClass(
        hits_K / predicted_K.clamp(min=1),
        hits_K / true_K.clamp(min=1),
        2 * hits_K / (true_K + predicted_K).clamp(min=1),
        true_K,
        (true_K + predicted_K) > 0,
    )


def precision_recall_f1(confusion_KK: Tensor) -> tuple[float, float, float]:
    """Return the means over classes of precision, recall and F1, of the classes that occur, true or predicted."""
    found = per_class(confusion_KK)
    if not bool(found.occurs_K.any()):
        return math.nan, math.nan, math.nan
    scores = (found.precision_K, found.recall_K, found.f1_K)
    precision, recall, f1 = (float(score_K[found.occurs_K].mean()) for score_K in scores)
    return precision, recall, f1


def calibration_sums(confidence_B: Tensor, is_right_B: Tensor) -> Tensor:
    """Return a row for each of M equal bins of confidence: samples, sum of confidences, right ones; float64 (M, 3).

    Bin m holds confidences above (m - 1) / M, up to and with m / M (Guo et al. 2017, section 2).
    """
    confidence_B = confidence_B.double()
    bin_B = ((confidence_B * CALIBRATION_BINS).ceil() - 1).nan_to_num().clamp(0, CALIBRATION_BINS - 1).long()
    member_BM = F.one_hot(bin_B, CALIBRATION_BINS).double()
    return member_BM.T @ torch.stack([torch.ones_like(confidence_B), confidence_B, is_right_B.double()], 1)


def expected_calibration_error(bins_M3: Tensor) -> float:
    """Return the mean distance of confidence and accuracy, weighted by samples (Guo et al. 2017, equation 3)."""
    samples = float(bins_M3[:, 0].sum())
    return float((bins_M3[:, 1] - bins_M3[:, 2]).abs().sum()) / samples if samples else math.nan


def auroc(score_N: Tensor, is_positive_N: Tensor) -> float | None:
    """Return the area under the ROC curve; None where only one class occurs, or a score is not finite.

    It is the share of pairs, one positive and one not, in which the positive has the higher score; ties count half.
    """
    if not _ranks(score_N, is_positive_N):
        return None
    from sklearn.metrics import roc_auc_score  # slow to import

    return float(roc_auc_score(is_positive_N.cpu().numpy(), score_N.cpu().numpy()))


def macro_auroc(score_NK: Tensor, target_N: Tensor) -> float | None:
    """Return the mean over the classes that occur of each one's AUROC against the rest; None as in `auroc`."""
    found = [auroc(score_NK[:, k], target_N == k) for k in target_N.unique().tolist()]
    known = [area for area in found if area is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(found) else None


def _ranks(score_N: Tensor, is_positive_N: Tensor) -> bool:
    """Say whether there are two classes to rank, by scores that can be ranked."""
    both = bool(is_positive_N.any()) and not bool(is_positive_N.all())
    return both and bool(score_N.isfinite().all())


def auroc_interval(score_N: Tensor, is_positive_N: Tensor) -> tuple[float, float] | None:
    """Return the 95 % interval of the AUROC; None where `auroc` is None, or no pair of samples is out of order.

    The variance is that of DeLong, DeLong and Clarke-Pearson 1988; the interval is symmetric in the logit of the area,
    so that it stays between 0 and 1. Without a pair out of order the variance is 0, which says nothing.
    """
    if not _ranks(score_N, is_positive_N):
        return None
    is_positive_N = is_positive_N.bool()
    positive, negative = score_N[is_positive_N].double(), score_N[~is_positive_N].double()
    wins_of_positive = _share_below(positive, negative)
    losses_of_negative = 1 - _share_below(negative, positive)
    area = float(wins_of_positive.mean())
    if min(len(positive), len(negative)) < 2 or not 0 < area < 1:
        return None
    variance = float(wins_of_positive.var() / len(positive) + losses_of_negative.var() / len(negative))
    middle, half = math.log(area / (1 - area)), 1.959964 * math.sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-edge)) for edge in (middle - half, middle + half))
    return low, high


def _share_below(score_N: Tensor, others: Tensor) -> Tensor:
    """Return for each score the share of the others that lie below it; an equal one counts half."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, score_N, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(others))


def threshold_at_specificity(score_N: Tensor, is_positive_N: Tensor, specificity: float) -> float | None:
    """Return the lowest threshold at which at least that share of the others is below it; None as in `auroc`.

    A sample counts as found from the threshold on. With a share of 1 it lies just above the highest of the others.
    """
    if not _ranks(score_N, is_positive_N):
        return None
    others = score_N[~is_positive_N.bool()].double().sort().values
    wanted = math.ceil(specificity * len(others) - 1e-9)
    if wanted == 0:
        return float(score_N.min())
    return math.nextafter(float(others[wanted - 1]), math.inf)


def sensitivity_and_specificity(
    score_N: Tensor, is_positive_N: Tensor, threshold: float
) -> tuple[float | None, float | None]:
    """Return the shares of positives found and of the others left alone, from a threshold on; None of no samples."""
    found_N, is_positive_N = score_N.double() >= threshold, is_positive_N.bool()
    hits, rejected = found_N[is_positive_N], ~found_N[~is_positive_N]
    return tuple(float(share.double().mean()) if len(share) else None for share in (hits, rejected))  # type: ignore[return-value]


def roc_points(score_N: Tensor, is_positive_N: Tensor, most: int = 200) -> list[tuple[float, float]]:
    """Return (1 - specificity, sensitivity) along the ROC curve, at most about that many points; [] as in `auroc`."""
    if not _ranks(score_N, is_positive_N):
        return []
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(is_positive_N.cpu().numpy(), score_N.cpu().numpy())
    points = list(zip(false_rate.tolist(), true_rate.tolist(), strict=True))
    step = max(1, math.ceil(len(points) / most))
    return [*points[:-1:step], points[-1]]


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


def segmentation_metrics(confusion_KK: Tensor) -> dict[str, float]:
    """Return Dice, mean intersection over union and accuracy from counts of pixels, true classes in rows.

    Dice is that of the second of two classes, else the mean over the classes that occur, as the IoU is. A class that
    is nowhere, true or predicted, has neither: where that is the second of two, Dice is NaN.
    """
    found = per_class(confusion_KK.cpu())
    if not bool(found.occurs_K.any()):
        return {"dice": math.nan, "mean_iou": math.nan, "accuracy": math.nan}
    is_of_interest_K = found.occurs_K.clone()
    if len(is_of_interest_K) == 2:
        is_of_interest_K[0] = False
    iou_K = found.f1_K / (2 - found.f1_K)
    return {
        "dice": float(found.f1_K[is_of_interest_K].mean()),
        "mean_iou": float(iou_K[found.occurs_K].mean()),
        "accuracy": accuracy(confusion_KK),
    }


def auroc_of_counts(count_2M: Tensor) -> float | None:
    """Return the area under the ROC curve from how many of each class, the positive second, lie in each bin of score.

    Those of one bin count as equal; None where a class does not occur.
    """
    negative_M, positive_M = count_2M.double()
    pairs = float(negative_M.sum() * positive_M.sum())
    if pairs == 0:
        return None
    below_M = negative_M.cumsum(0) - negative_M / 2
    return float((positive_M * below_M).sum()) / pairs


SCORE_BITS = 18
"""Of a float32, by which scores are told apart when they are counted: the sign, the exponent, and 9 of the fraction."""


def score_counts(score_P: Tensor, is_positive_P: Tensor) -> Tensor:
    """Return how many scores of each class, the positive second, lie in each bin: int64 (2, M), for `auroc_of_counts`.

    A bin holds the numbers that begin with the same bits, so that it is at most 1/512 of its numbers wide wherever
    they lie, and none lies outside.
    """
    bits_P = (score_P.float() + 0.0).view(torch.int32)  # + 0.0: there is a negative zero
    ordered_P = bits_P ^ ((bits_P >> 31) & 0x7FFFFFFF)  # in the order of the numbers: of negative ones bits run down
    bin_P = (ordered_P >> (32 - SCORE_BITS)).long() + 2 ** (SCORE_BITS - 1)
    counts = torch.zeros(2 * 2**SCORE_BITS, dtype=torch.int64, device=score_P.device)
    place_P = is_positive_P.long() * 2**SCORE_BITS + bin_P
    return counts.scatter_add_(0, place_P, torch.ones_like(place_P)).view(2, -1)


PSNR_AT_MOST = 100.0
"""Decibels that equal pictures count as."""
SSIM_WINDOW, SSIM_DEVIATION, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
"""Wang et al. 2004, section III-B."""


def picture_sums(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Sums:
    """Return what `picture_metrics` needs of a batch of pictures whose pixels are 0 to 1."""
    error_BCHW = (prediction_BCHW - target_BCHW).double()
    square_B = error_BCHW.square().flatten(1).mean(1)
    psnr_B = (-10 * square_B.clamp(min=1e-30).log10()).clamp(max=PSNR_AT_MOST)
    return {
        "pictures": torch.tensor(len(square_B), device=square_B.device),
        "psnr": psnr_B.sum(),
        "ssim": ssim(prediction_BCHW, target_BCHW).double().sum(),
        "mae": error_BCHW.abs().flatten(1).mean(1).sum(),
    }


def picture_metrics(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the means over pictures of PSNR (decibels), SSIM, and absolute error."""
    n = int(sums["pictures"])
    return {name: float(sums[name]) / n if n else math.nan for name in ("psnr", "ssim", "mae")}


def ssim(one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """Return the structural similarity of pictures whose pixels are 0 to 1: (B,), the mean over channels and places.

    Wang, Bovik, Sheikh and Simoncelli 2004, equation 13, with its Gaussian window, at places where that lies wholly
    inside; of pictures smaller than the window, with the largest odd one that fits.
    """
    side = min(SSIM_WINDOW, *one_BCHW.shape[2:])
    side -= 1 - side % 2
    channels = one_BCHW.shape[1]
    place = torch.arange(side, device=one_BCHW.device, dtype=torch.float32) - (side - 1) / 2
    window = torch.exp(-place.square() / (2 * SSIM_DEVIATION**2))
    window = window / window.sum()
    down, across = window.view(1, 1, -1, 1), window.view(1, 1, 1, -1)

    def smooth(x_BCHW: Tensor) -> Tensor:
        x = F.conv2d(x_BCHW.float(), down.expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, across.expand(channels, 1, 1, -1), groups=channels)

    with torch.autocast(one_BCHW.device.type, enabled=False):
        mean_1, mean_2 = smooth(one_BCHW), smooth(other_BCHW)
        variance_1 = smooth(one_BCHW.float().square()) - mean_1.square()
        variance_2 = smooth(other_BCHW.float().square()) - mean_2.square()
        covariance = smooth(one_BCHW.float() * other_BCHW.float()) - mean_1 * mean_2
        alike = (2 * mean_1 * mean_2 + SSIM_K1**2) * (2 * covariance + SSIM_K2**2)
        apart = (mean_1.square() + mean_2.square() + SSIM_K1**2) * (variance_1 + variance_2 + SSIM_K2**2)
        return (alike / apart).flatten(1).mean(1)


def spearman(one_N: Tensor, other_N: Tensor) -> float:
    """Return the rank correlation of two rows of numbers (Spearman 1904), ties at their mean rank; NaN of constants."""
    ranks = []
    for value_N in (one_N, other_N):
        _, which_N, count_K = value_N.double().unique(return_inverse=True, return_counts=True)
        ranks.append((count_K.cumsum(0).double() - (count_K.double() - 1) / 2)[which_N])
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
