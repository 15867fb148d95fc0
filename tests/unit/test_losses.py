"""Losses: sums and counts that agree with torch and scikit-learn in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hinge_loss

from strata import losses
from strata.errors import UnknownNameError
from strata.losses import LOSSES, LossSum

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _classes(generator: torch.Generator, batch: int = 13, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_over_its_count_is_torchs_mean(
    generator: torch.Generator, smoothing: float, weighted: bool
) -> None:
    logits, target = _classes(generator)
    target[3] = -100
    weights = torch.rand(5, generator=generator, dtype=torch.float64) if weighted else None
    loss = losses.cross_entropy(logits, target, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(losses.mean(loss), expected, **EXACT)


def test_cross_entropy_of_tokens_counts_every_token_that_is_not_ignored(generator: torch.Generator) -> None:
    logits = torch.randn(3, 7, 11, generator=generator, dtype=torch.float64)
    target = torch.randint(11, (3, 7), generator=generator)
    target[0, :4] = -100
    loss = losses.cross_entropy(logits, target)
    assert int(loss.count) == 17
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
    torch.testing.assert_close(loss.total, expected, **EXACT)
    assert losses.per_sample("cross_entropy")(logits, target).loss.shape == (3, 7)


def test_binary_cross_entropy_of_one_logit_is_torchs(generator: torch.Generator) -> None:
    logits = torch.randn(9, 1, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (9,), generator=generator)
    loss = losses.binary_cross_entropy(logits, target)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    assert loss.count == 9
    torch.testing.assert_close(losses.mean(loss), expected, **EXACT)


def test_binary_cross_entropy_of_k_logits_is_one_against_all(generator: torch.Generator) -> None:
    logits, target = _classes(generator)
    expected = F.binary_cross_entropy_with_logits(logits, F.one_hot(target, 5).double())
    torch.testing.assert_close(losses.mean(losses.binary_cross_entropy(logits, target)), expected, **EXACT)
    several = F.one_hot(target, 5)
    torch.testing.assert_close(losses.mean(losses.binary_cross_entropy(logits, several)), expected, **EXACT)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mean_squared_error", F.mse_loss),
        ("mse", F.mse_loss),
        ("l1", F.l1_loss),
        ("huber", F.huber_loss),
    ],
)
def test_losses_of_numbers_are_torchs(generator: torch.Generator, name: str, reference: object) -> None:
    prediction = 3 * torch.randn(20, 1, generator=generator, dtype=torch.float64)
    target = torch.randn(20, generator=generator, dtype=torch.float64)
    loss = LOSSES.get(name)(prediction, target)
    assert loss.count == 20
    torch.testing.assert_close(losses.mean(loss), reference(prediction[:, 0], target), **EXACT)  # type: ignore[operator]


def test_huber_takes_its_delta(generator: torch.Generator) -> None:
    prediction = 3 * torch.randn(20, generator=generator, dtype=torch.float64)
    target = torch.zeros(20)
    expected = F.huber_loss(prediction, target.double(), delta=0.3, reduction="sum")
    torch.testing.assert_close(losses.huber(prediction, target, delta=0.3).total, expected, **EXACT)


def test_binary_hinge_is_scikit_learns(generator: torch.Generator) -> None:
    score = torch.randn(30, 1, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (30,), generator=generator)
    expected = hinge_loss(target.numpy(), score[:, 0].numpy())
    np.testing.assert_allclose(float(losses.mean(losses.hinge(score, target))), expected, rtol=1e-12)


def test_multiclass_hinge_is_scikit_learns(generator: torch.Generator) -> None:
    score, target = _classes(generator, batch=30)
    expected = hinge_loss(target.numpy(), score.numpy(), labels=np.arange(5))
    np.testing.assert_allclose(float(losses.mean(losses.hinge(score, target))), expected, rtol=1e-12)
    np.testing.assert_allclose(float(losses.mean(losses.multiclass_hinge(score, target))), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "hinge"])
def test_a_class_of_weight_two_counts_like_two_samples(generator: torch.Generator, name: str) -> None:
    score, target = _classes(generator)
    twice = torch.cat([torch.arange(13), torch.nonzero(target == 1)[:, 0]])
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])
    weighted = LOSSES.get(name)(score, target, class_weights=weights)
    repeated = LOSSES.get(name)(score[twice], target[twice])
    torch.testing.assert_close(weighted.total, repeated.total, **EXACT)
    assert float(weighted.count) == repeated.count


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "hinge"])
def test_micro_batches_add_up_to_the_large_batch(generator: torch.Generator, name: str) -> None:
    logits, target = _classes(generator)
    weights = torch.rand(5, generator=generator, dtype=torch.float64)
    function = LOSSES.get(name)
    whole = function(logits, target, class_weights=weights)
    parts: list[LossSum] = [
        function(logits[a:b], target[a:b], class_weights=weights) for a, b in ((0, 4), (4, 5), (5, 13))
    ]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, **EXACT)
    torch.testing.assert_close(sum(part.count for part in parts), whole.count, **EXACT)


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_is_float32_of_bfloat16_outputs_and_has_a_gradient(generator: torch.Generator, name: str) -> None:
    output = torch.randn(6, 1 if name in ("mean_squared_error", "mse", "l1", "huber") else 3, generator=generator)
    output = output.bfloat16().requires_grad_()
    target = torch.randint(3, (6,), generator=generator)
    loss = LOSSES.get(name)(output, target)
    assert loss.total.dtype == torch.float32 and loss.total.ndim == 0
    loss.total.backward()
    assert output.grad is not None and bool(output.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_parts_of_every_loss_add_up_to_it(generator: torch.Generator, name: str) -> None:
    output = torch.randn(6, 1 if name in ("mean_squared_error", "mse", "l1", "huber") else 3, generator=generator)
    target = torch.randint(3, (6,), generator=generator)
    parts = losses.per_sample(name)(output, target)
    assert len(parts.loss) == 6
    torch.testing.assert_close(parts.loss.sum(), LOSSES.get(name)(output, target).total)


def test_mixed_targets_weigh_both_losses(generator: torch.Generator) -> None:
    logits, target = _classes(generator)
    other = target.roll(1)
    share = torch.rand(13, generator=generator)
    each = losses.per_sample("cross_entropy")
    mixed = each(logits, target).mixed(each(logits, other), share).sum()
    soft = share[:, None] * F.one_hot(target, 5) + (1 - share[:, None]) * F.one_hot(other, 5)
    torch.testing.assert_close(losses.mean(mixed), F.cross_entropy(logits, soft.double()), rtol=1e-6, atol=1e-6)
    assert float(mixed.count) == pytest.approx(13)


def test_a_prediction_with_a_last_axis_of_one_is_not_broadcast_against_its_targets() -> None:
    prediction = torch.tensor([[1.0], [2.0], [3.0]])
    assert float(losses.mean_squared_error(prediction, torch.tensor([1.0, 2.0, 3.0])).total) == 0


def test_a_batch_in_which_all_targets_are_ignored_has_mean_zero() -> None:
    loss = losses.cross_entropy(torch.randn(2, 3), torch.full((2,), -100))
    assert float(losses.mean(loss)) == 0


def test_the_options_of_a_loss_are_known() -> None:
    assert losses.options("cross_entropy") == {"label_smoothing", "class_weights", "ignore_index"}
    assert losses.options("mse") == set()


def test_an_unknown_loss_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'huber'"):
        losses.per_sample("hubber")
