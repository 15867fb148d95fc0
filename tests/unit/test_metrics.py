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


def test_rank_correlation_of_many_numbers_is_scipys(generator: torch.Generator) -> None:
    from scipy.stats import spearmanr

    one, other = (torch.randn(200_000, generator=generator) for _ in range(2))
    assert metrics.spearman(one, other) == pytest.approx(float(spearmanr(one.numpy(), other.numpy())[0]), abs=1e-12)


def test_perplexity_and_bits_come_from_the_summed_loss() -> None:
    assert metrics.perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert metrics.perplexity(1e9, 1) == math.inf
    assert metrics.bits_per_token(12 * math.log(2), 4) == pytest.approx(3)


def _scored(n: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores of which positives tend to have higher ones, rounded so that some tie, and who is positive."""
    generator = torch.Generator().manual_seed(seed)
    is_positive = torch.rand(n, generator=generator) < 0.3
    return ((torch.randn(n, generator=generator) + 1.2 * is_positive) * 8).round() / 8, is_positive


def test_per_class_scores_are_scikit_learns(generator: torch.Generator) -> None:
    true, predicted = torch.randint(4, (60,), generator=generator), torch.randint(4, (60,), generator=generator)
    found = metrics.per_class(metrics.confusion_counts(predicted, true, 4))
    expected = reference.precision_recall_fscore_support(true.numpy(), predicted.numpy(), zero_division=0)
    for ours, theirs in zip(found[:4], expected, strict=True):
        assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-12)


def test_calibration_in_batches_is_that_of_a_loop_over_bins(generator: torch.Generator) -> None:
    confidence = torch.rand(300, generator=generator)
    confidence[:4] = torch.tensor([0.0, 1.0, 1 / 15, 1 / 15 + 1e-6])
    is_right = torch.rand(300, generator=generator) < confidence
    bins = metrics.calibration_sums(confidence[:111], is_right[:111])
    bins = bins + metrics.calibration_sums(confidence[111:], is_right[111:])
    error = 0.0
    for low in range(15):
        inside = (confidence.double() > low / 15) & (confidence.double() <= (low + 1) / 15)
        inside |= (confidence == 0) & (low == 0)
        assert bins[low, 0] == inside.sum()
        error += abs(float(confidence[inside].double().sum() - is_right[inside].double().sum())) / 300
    assert metrics.expected_calibration_error(bins) == pytest.approx(error, abs=1e-6)


def test_confidence_that_is_always_true_has_no_calibration_error_and_boasting_has_its_size() -> None:
    half = torch.tensor([True, False] * 10)
    assert metrics.expected_calibration_error(metrics.calibration_sums(torch.full((20,), 0.5), half)) == 0
    boast = metrics.calibration_sums(torch.full((20,), 0.9), half)
    assert metrics.expected_calibration_error(boast) == pytest.approx(0.4, abs=1e-6)
    assert math.isnan(metrics.expected_calibration_error(metrics.calibration_sums(torch.empty(0), torch.empty(0))))


def test_auroc_is_scikit_learns_and_undefined_of_one_class() -> None:
    score, is_positive = _scored()
    assert metrics.auroc(score, is_positive) == pytest.approx(reference.roc_auc_score(is_positive, score), abs=1e-12)
    assert metrics.auroc(score, torch.ones_like(is_positive)) is None
    assert metrics.auroc(torch.full_like(score, math.nan), is_positive) is None


def test_macro_auroc_is_over_the_classes_that_occur(generator: torch.Generator) -> None:
    score, target = torch.rand(80, 3, generator=generator), torch.randint(3, (80,), generator=generator)
    probability = score / score.sum(1, keepdim=True)
    expected = reference.roc_auc_score(target, probability, multi_class="ovr")
    assert metrics.macro_auroc(probability, target) == pytest.approx(expected, abs=1e-12)
    with_a_fourth = torch.cat([probability, torch.zeros(80, 1)], 1)
    assert metrics.macro_auroc(with_a_fourth, target) == pytest.approx(expected, abs=1e-12)
    assert metrics.macro_auroc(probability, torch.zeros_like(target)) is None


def test_delong_s_variance_is_that_of_its_definition_over_all_pairs() -> None:
    score, is_positive = _scored(120)
    positive, negative = score[is_positive].double(), score[~is_positive].double()
    wins = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    area = float(wins.mean())
    variance = float(wins.mean(1).var() / len(positive) + wins.mean(0).var() / len(negative))
    found = metrics.auroc_interval(score, is_positive)
    assert found is not None and found[0] < area < found[1]
    logit = [math.log(edge / (1 - edge)) for edge in found]
    assert (logit[1] - logit[0]) / 2 * area * (1 - area) / 1.959964 == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_classes_that_separate_perfectly_have_no_interval() -> None:
    score, is_positive = torch.arange(10.0), torch.arange(10) > 4
    assert metrics.auroc(score, is_positive) == 1 and metrics.auroc_interval(score, is_positive) is None


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 1.0])
def test_the_threshold_is_the_lowest_that_keeps_the_specificity(specificity: float) -> None:
    score, is_positive = _scored()
    threshold = metrics.threshold_at_specificity(score, is_positive, specificity)
    assert threshold is not None
    sensitivity, kept = metrics.sensitivity_and_specificity(score, is_positive, threshold)
    assert kept is not None and kept >= specificity
    false_rate, true_rate, _ = reference.roc_curve(is_positive, score, drop_intermediate=False)
    assert sensitivity == pytest.approx(max(true_rate[false_rate <= 1 - specificity + 1e-12]), abs=1e-12)


def test_a_roc_curve_is_thinned_but_keeps_its_ends() -> None:
    score, is_positive = _scored(3000)
    points = metrics.roc_points(score + torch.rand(3000, generator=torch.Generator().manual_seed(1)), is_positive, 50)
    assert len(points) <= 51 and points[0] == (0, 0) and points[-1] == (1, 1)
    assert metrics.roc_points(score, torch.zeros_like(is_positive)) == []
