"""Metrics: batches add up, and the numbers are scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as reference

from strata import metrics


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _in_batches(function: object, *tensors: torch.Tensor) -> metrics.Sums:
    sums = None
    for start, stop in ((0, 7), (7, 8), (8, len(tensors[0]))):
        sums = metrics.add(sums, function(*(t[start:stop] for t in tensors)))  # type: ignore[operator]
    assert sums is not None
    return sums


def test_classification_in_batches_of_any_size_is_scikit_learns(generator: torch.Generator) -> None:
    logits, target = torch.randn(50, 4, generator=generator), torch.randint(4, (50,), generator=generator)
    sums = _in_batches(lambda a, b: metrics.classification_sums(a, b, 4, top_k=2), logits, target)
    found = metrics.classification_metrics(sums)
    true, predicted = target.numpy(), logits.argmax(1).numpy()
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0
    )
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted), abs=1e-12)
    assert found["top_2_accuracy"] == pytest.approx(
        reference.top_k_accuracy_score(true, logits.numpy(), k=2), abs=1e-12
    )
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1), abs=1e-12)
    assert sums["confusion"].tolist() == reference.confusion_matrix(true, predicted).tolist()


def test_macro_means_leave_out_classes_that_do_not_occur_and_count_empty_ratios_as_zero() -> None:
    true, predicted = torch.tensor([0, 0, 2, 2, 3]), torch.tensor([0, 0, 2, 4, 2])
    found = metrics.precision_recall_f1(metrics.confusion_counts(predicted, true, 6))
    expected = reference.precision_recall_fscore_support(
        true.numpy(), predicted.numpy(), average="macro", zero_division=0
    )
    assert found == pytest.approx(expected[:3], abs=1e-12)


def test_one_logit_predicts_the_second_of_two_classes_when_positive() -> None:
    assert metrics.predicted_classes(torch.tensor([[-1.0], [2.0]])).tolist() == [0, 1]
    assert metrics.predicted_classes(torch.tensor([-1.0, 2.0])).tolist() == [0, 1]


def test_metrics_of_nothing_are_nan_and_no_error() -> None:
    empty = torch.zeros(3, 3, dtype=torch.int64)
    found = metrics.classification_metrics({"confusion": empty, "top_2": torch.tensor(0)})
    assert all(math.isnan(value) for value in found.values())
    none = metrics.regression_metrics(metrics.regression_sums(torch.empty(0), torch.empty(0)))
    assert all(math.isnan(value) for value in none.values())
    assert math.isnan(metrics.perplexity(0.0, 0)) and math.isnan(metrics.bits_per_token(0.0, 0))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_regression_in_batches_of_any_size_is_scikit_learns(generator: torch.Generator, offset: float) -> None:
    target = torch.randn(40, generator=generator, dtype=torch.float64) + offset
    prediction = target[:, None] + 0.5 * torch.randn(40, 1, generator=generator, dtype=torch.float64)
    found = metrics.regression_metrics(_in_batches(metrics.regression_sums, prediction, target))
    true, predicted = target.numpy(), prediction[:, 0].numpy()
    assert found["r2"] == pytest.approx(reference.r2_score(true, predicted), abs=1e-6)
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(true, predicted), rel=1e-9)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted), rel=1e-9)


def test_r2_of_a_constant_target_is_one_where_met_and_zero_where_not() -> None:
    target = torch.full((5,), 0.1)
    assert metrics.regression_metrics(metrics.regression_sums(target, target))["r2"] == 1
    assert metrics.regression_metrics(metrics.regression_sums(target + 1, target))["r2"] == 0


def test_perplexity_and_bits_come_from_the_summed_loss() -> None:
    assert metrics.perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert metrics.perplexity(1e9, 1) == math.inf
    assert metrics.bits_per_token(12 * math.log(2), 4) == pytest.approx(3)
