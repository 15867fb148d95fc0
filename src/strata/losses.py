"""Losses as a sum and a count, so that batches of any size add up to exactly what one large batch gives.

Every loss comes twice: ``name`` returns a `LossSum`, and ``name_per_sample`` the parts of that sum, for mixing two
targets and for finding the worst mistakes. All of it is computed in float32 at least, also under autocast.

B samples, T tokens, K classes, V vocabulary, D width, N tokens of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from strata.registry import Registry


class LossSum(NamedTuple):
    """A loss over some samples; the mean is ``total / count``, taken once over everything that makes a step."""

    total: Tensor
    """Scalar, float32 or wider, with its gradient."""
    count: Tensor | int  # type: ignore[assignment]  # tuples have a method of that name, which nobody needs here
    """Samples, tokens or numbers in the total; their weights' sum where classes are weighted."""


class LossParts(NamedTuple):
    """The terms of a `LossSum`, in the target's shape."""

    loss: Tensor
    """Each term, its weight included."""
    weight: Tensor | None = None
    """How often each term counts; None: once."""

    def sum(self) -> LossSum:
        """Add everything up."""
        count = self.loss.numel() if self.weight is None else self.weight.sum()
        return LossSum(self.loss.sum(), count)

    def mixed(self, other: LossParts, share_B: Tensor) -> LossParts:
        """Return ``share * self + (1 - share) * other``: the loss of samples mixed by mixup or cutmix."""
        share = share_B.view(-1, *[1] * (self.loss.ndim - 1)).to(self.loss.dtype)
        loss = share * self.loss + (1 - share) * other.loss
        if self.weight is None or other.weight is None:
            return LossParts(loss)
        return LossParts(loss, share * self.weight + (1 - share) * other.weight)


LOSSES = Registry("loss")
LOSSES.add("cross_entropy", "strata.losses:cross_entropy", "Classes or tokens, one right answer each")
LOSSES.add("binary_cross_entropy", "strata.losses:binary_cross_entropy", "One logit, or one against all for each class")
LOSSES.add("mean_squared_error", "strata.losses:mean_squared_error", "Numbers; large errors count most")
LOSSES.add("mse", "strata.losses:mean_squared_error", "mean_squared_error")
LOSSES.add("l1", "strata.losses:l1", "Numbers; absolute error")
LOSSES.add("huber", "strata.losses:huber", "Numbers; squared near zero, absolute beyond delta")
LOSSES.add("hinge", "strata.losses:hinge", "Classes; a margin of one, as support vector machines have it")


def per_sample(name: str) -> Callable[..., LossParts]:
    """Return the function of a loss's parts. Raises UnknownNameError for a name that is not in `LOSSES`."""
    found: Callable[..., LossParts] = globals()[f"{LOSSES.get(name).__name__}_per_sample"]
    return found


def options(name: str) -> frozenset[str]:
    """Return the keyword options that a loss takes, such as ``label_smoothing``."""
    parameters = inspect.signature(per_sample(name)).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def _aligned(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the prediction's last axis of one, where the target lacks it: (B, 1) against (B,) would become (B, B)."""
    if prediction.ndim == target.ndim + 1 and prediction.shape[-1] == 1:
        prediction = prediction.squeeze(-1)
    assert prediction.shape == target.shape, f"outputs {tuple(prediction.shape)}, targets {tuple(target.shape)}"
    prediction = _wide(prediction)
    return prediction, target.to(prediction.dtype)


def _weighted(loss: Tensor, class_B: Tensor, class_weights: Tensor | None) -> LossParts:
    if class_weights is None:
        return LossParts(loss)
    weight = class_weights.to(loss)[class_B.long()]
    weight = weight.view(*weight.shape, *[1] * (loss.ndim - weight.ndim)).expand_as(loss)
    return LossParts(loss * weight, weight)


def cross_entropy_per_sample(
    logits_BK: Tensor,
    target_B: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> LossParts:
    """Return the parts of `cross_entropy`, shape (B,) or (B, T); zero at ignored targets."""
    logits = _wide(logits_BK)
    weights = None if class_weights is None else class_weights.to(logits)
    loss = F.cross_entropy(
        logits.flatten(0, -2),
        target_B.flatten(),
        weight=weights,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(target_B.shape)
    kept = target_B != ignore_index
    if weights is None:
        return LossParts(loss, kept)
    return LossParts(loss, weights[target_B.where(kept, 0)] * kept)


def cross_entropy(
    logits_BK: Tensor,
    target_B: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> LossSum:
    """Cross-entropy of classes (B, K) against (B,), or of tokens (B, T, V) against (B, T), in nats.

    Args:
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
        class_weights: (K,); the count is then the sum of the targets' weights, so that the mean is torch's.
        ignore_index: target that neither adds to the total nor counts.
    """
    return cross_entropy_per_sample(
        logits_BK, target_B, label_smoothing=label_smoothing, class_weights=class_weights, ignore_index=ignore_index
    ).sum()


CHUNK_NUMBERS = 2**24
"""Logits that `linear_cross_entropy` holds at once. With fewer, the gradient of the weights, which is as large as they
are, is read and written so often that it shows; with more, only memory is lost."""


def linear_cross_entropy(
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    target_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    target_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> LossSum:
    """Cross-entropy of the logits ``hidden @ weight.T + bias``, which are never all there at once, in nats.

    Tokens are taken some at a time, and the gradient is found along with the loss, so that no logits are kept or
    calculated twice: it takes as many operations as a linear layer and `cross_entropy`. Products are in autocast's
    type; all else, and the sums of gradients, in float32 at least. It has no second derivative.

    Args:
        hidden_BTD: (..., D), what the output layer reads.
        target_BT: (...) of 0 to V - 1, or ``ignore_index``, which neither adds to the total nor counts.
        target_weights: (...), how often each target counts; None: once.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
        z_loss: times the squared logarithm of the sum of exponentials, added for each target; keeps logits from
            drifting (Chowdhery et al. 2022, section 5: 1e-4).
    """
    hidden_ND, target_N = hidden_BTD.flatten(0, -2), target_BT.flatten()
    kept_N = target_N != ignore_index
    weight_N = kept_N.to(_wide(hidden_ND).dtype)
    if target_weights is not None:
        weight_N = weight_N * target_weights.flatten()
    if hidden_ND.device.type == "cpu":  # where looking at numbers costs nothing: what does not count is left out
        place_N = weight_N.nonzero()[:, 0]
        if place_N.numel() < target_N.numel():
            hidden_ND, target_N, weight_N = hidden_ND[place_N], target_N[place_N], weight_N[place_N]
    total = _LinearCrossEntropy.apply(
        hidden_ND, weight_VD, bias_V, target_N.clamp(min=0), weight_N, label_smoothing, z_loss
    )
    return LossSum(total, kept_N.sum() if target_weights is None else weight_N.sum())


def token_chunks(num_tokens: int, vocab_size: int) -> range:
    """Return where the chunks begin whose logits are calculated together; its step is their length."""
    parts = max(1, -(-num_tokens * vocab_size // CHUNK_NUMBERS))
    return range(0, num_tokens, max(1, -(-num_tokens // parts)))


class _LinearCrossEntropy(torch.autograd.Function):
    """The sum of `linear_cross_entropy`, with targets that are all in range."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        weight_N: Tensor,
        smoothing: float,
        z_loss: float,
    ) -> Tensor:
        device = hidden_ND.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        N, V = hidden_ND.shape[0], weight_VD.shape[0]
        with torch.autocast(device, enabled=False):
            matrix_VD = weight_VD.to(narrow)
            grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
            grad_VD = torch.zeros_like(weight_VD, dtype=weight_N.dtype) if wants_weight else None
            grad_V = torch.zeros_like(bias_V, dtype=weight_N.dtype) if wants_bias and bias_V is not None else None
            total = weight_N.new_zeros(())
            chunks = token_chunks(N, V)
            for begin in chunks:
                part = slice(begin, begin + chunks.step)
                read_ND, wanted_N1 = hidden_ND[part].to(narrow), target_N[part, None]
                logit_NV = (read_ND @ matrix_VD.T).to(weight_N.dtype)
                if bias_V is not None:
                    logit_NV += bias_V
                right_N1 = logit_NV.gather(1, wanted_N1)
                mean_N1 = logit_NV.mean(1, keepdim=True) if smoothing else 0.0
                greatest_N1 = logit_NV.amax(1, keepdim=True)
                chance_NV = logit_NV.sub_(greatest_N1).exp_()
                sum_N1 = chance_NV.sum(1, keepdim=True)
                log_sum_N1 = greatest_N1 + sum_N1.log()
                loss_N1 = log_sum_N1 - (1 - smoothing) * right_N1 - smoothing * mean_N1 + z_loss * log_sum_N1.square()
                counts_N1 = weight_N[part, None]
                total += (loss_N1 * counts_N1).sum()
                if not any(ctx.needs_input_grad):
                    continue
                scale_N1 = counts_N1 * (1 + 2 * z_loss * log_sum_N1) / sum_N1
                grad_NV = chance_NV.mul_(scale_N1).scatter_add_(1, wanted_N1, counts_N1 * (smoothing - 1))
                if smoothing:
                    grad_NV -= counts_N1 * (smoothing / V)
                if grad_V is not None:
                    grad_V += grad_NV.sum(0)
                grad_NV = grad_NV.to(narrow)
                if grad_ND is not None:
                    grad_ND[part] = grad_NV @ matrix_VD
                if grad_VD is not None and grad_VD.dtype == narrow:
                    grad_VD.addmm_(grad_NV.T, read_ND)
                elif grad_VD is not None:
                    grad_VD += grad_NV.T @ read_ND
                del logit_NV, chance_NV, grad_NV  # before the next chunk's are made
        ctx.grads = grad_ND, grad_VD, grad_V
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if torch._C._autograd._get_current_graph_task_keep_graph():
            scaled = [None if grad is None else grad * scale for grad in ctx.grads]
        else:  # the gradient of the weights is the largest tensor of all: no second one
            scaled = [None if grad is None else grad.mul_(scale) for grad in ctx.grads]
            ctx.grads = ()
        found = (None if grad is None else grad.to(dtype) for grad, dtype in zip(scaled, ctx.dtypes, strict=True))
        return *found, None, None, None, None


def binary_cross_entropy_per_sample(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> LossParts:
    """Return the parts of `binary_cross_entropy`: (B,) for one logit, (B, K) for K."""
    class_B = target
    if logits.ndim == target.ndim + 1 and logits.shape[-1] > 1:
        target = F.one_hot(target.long(), logits.shape[-1])
    logits, target = _aligned(logits, target)
    soft = target * (1 - label_smoothing) + label_smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    return _weighted(loss, class_B, class_weights)


def binary_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> LossSum:
    """Binary cross-entropy; each logit counts once, so the mean is torch's.

    Args:
        logits: (B,) or (B, 1) for one question; (B, K) for one classifier against all others for each class.
        target: (B,) of 0 and 1, or of class numbers where there are K logits, or (B, K) of 0 and 1.
        class_weights: (2,) or (K,): how often a sample counts, by its class.
    """
    return binary_cross_entropy_per_sample(
        logits, target, label_smoothing=label_smoothing, class_weights=class_weights
    ).sum()


def mean_squared_error_per_sample(prediction: Tensor, target: Tensor) -> LossParts:
    """Return the squared errors, in the target's shape."""
    prediction, target = _aligned(prediction, target)
    return LossParts(F.mse_loss(prediction, target, reduction="none"))


def mean_squared_error(prediction: Tensor, target: Tensor) -> LossSum:
    """Squared error of predictions (B,), (B, 1) or any shape against targets of (almost) that shape."""
    return mean_squared_error_per_sample(prediction, target).sum()


def l1_per_sample(prediction: Tensor, target: Tensor) -> LossParts:
    """Return the absolute errors, in the target's shape."""
    prediction, target = _aligned(prediction, target)
    return LossParts(F.l1_loss(prediction, target, reduction="none"))


def l1(prediction: Tensor, target: Tensor) -> LossSum:
    """Absolute error; shapes as in `mean_squared_error`."""
    return l1_per_sample(prediction, target).sum()


def huber_per_sample(prediction: Tensor, target: Tensor, *, delta: float = 1.0) -> LossParts:
    """Return the parts of `huber`, in the target's shape."""
    prediction, target = _aligned(prediction, target)
    return LossParts(F.huber_loss(prediction, target, delta=delta, reduction="none"))


def huber(prediction: Tensor, target: Tensor, *, delta: float = 1.0) -> LossSum:
    """Half the squared error up to ``delta``, linear beyond (Huber 1964); shapes as in `mean_squared_error`."""
    return huber_per_sample(prediction, target, delta=delta).sum()


def hinge_per_sample(score: Tensor, target_B: Tensor, *, class_weights: Tensor | None = None) -> LossParts:
    """Return the parts of `hinge`, shape (B,)."""
    if score.ndim == target_B.ndim + 1 and score.shape[-1] > 1:
        return multiclass_hinge_per_sample(score, target_B, class_weights=class_weights)
    score, sign = _aligned(score, target_B)
    return _weighted(F.relu(1 - (2 * sign - 1) * score), target_B, class_weights)


def hinge(score: Tensor, target_B: Tensor, *, class_weights: Tensor | None = None) -> LossSum:
    """Hinge loss: max(0, 1 - y s) with y = -1 or +1 for scores (B,) or (B, 1); `multiclass_hinge` for (B, K).

    Args:
        target_B: 0 or 1, or class numbers.
        class_weights: (2,) or (K,): how often a sample counts, by its class.
    """
    return hinge_per_sample(score, target_B, class_weights=class_weights).sum()


def multiclass_hinge_per_sample(
    score_BK: Tensor, target_B: Tensor, *, class_weights: Tensor | None = None
) -> LossParts:
    """Return the parts of `multiclass_hinge`, shape (B,)."""
    score = _wide(score_BK)
    own = score.gather(-1, target_B.long().unsqueeze(-1))
    best_other = score.scatter(-1, target_B.long().unsqueeze(-1), -torch.inf).amax(-1)
    return _weighted(F.relu(1 + best_other - own.squeeze(-1)), target_B, class_weights)


def multiclass_hinge(score_BK: Tensor, target_B: Tensor, *, class_weights: Tensor | None = None) -> LossSum:
    """max(0, 1 + max over other classes of s_j - s_y) (Crammer and Singer 2001)."""
    return multiclass_hinge_per_sample(score_BK, target_B, class_weights=class_weights).sum()


def mean(loss: LossSum) -> Tensor:
    """Return ``total / count``; a batch in which nothing counts gives zero and not NaN."""
    count: Any = loss.count
    return loss.total / (count.clamp(min=1e-12) if isinstance(count, Tensor) else max(count, 1))


def segmentation_per_sample(
    logits_BKHW: Tensor, target_BHW: Tensor, *, cross_entropy: bool = True, dice: bool = True
) -> LossParts:
    """Return each picture's mean cross-entropy over its pixels, one minus its soft Dice, or their sum, shape (B,).

    Dice is the mean over the classes but the first, which is the background (Milletari et al. 2016, section 3, with 1
    added above and below, so that a class which a picture lacks is not an error). Pixels of class -1 do not count, nor
    does a picture of none but them.
    """
    logits_BKHW = _wide(logits_BKHW)
    counted_BHW = target_BHW >= 0
    counted_B = counted_BHW.flatten(1).sum(1)
    loss_B = torch.zeros_like(logits_BKHW[:, 0, 0, 0])
    if cross_entropy:
        entropy_BHW = F.cross_entropy(logits_BKHW, target_BHW, ignore_index=-1, reduction="none")
        loss_B = loss_B + entropy_BHW.flatten(1).sum(1) / counted_B.clamp(min=1)
    if dice:
        chance_BKP = (logits_BKHW.softmax(1) * counted_BHW[:, None]).flatten(2)
        true_BKP = torch.zeros_like(chance_BKP).scatter_(1, target_BHW.clamp(min=0).flatten(1)[:, None], 1.0)
        true_BKP = true_BKP * counted_BHW.flatten(1)[:, None]
        both_BK = (chance_BKP * true_BKP).sum(2)
        either_BK = chance_BKP.square().sum(2) + true_BKP.sum(2)
        loss_B = loss_B + (1 - (2 * both_BK + 1) / (either_BK + 1))[:, 1:].mean(1)
    return LossParts(loss_B * (counted_B > 0), counted_B > 0)
