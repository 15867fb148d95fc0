"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from strata.report.words import count, duration, metric, millions, number, percent, wilson


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (0.0507, "0.0507"),
        (3.2e-6, "3.2 × 10⁻⁶"),
        (1e-6, "10⁻⁶"),
        (-1.5, "−1.5"),
        (0.0, "0"),
        (math.inf, "∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_a_number_has_four_digits_and_a_missing_one_is_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "840 ms"), (12.31, "12.3 s"), (184, "3 min 04 s"), (7500, "2 h 05 min"), (100800, "1 d 04 h"), (None, "–")],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float | None, text: str) -> None:
    assert duration(seconds).replace("\u202f", " ") == text


def test_a_percentage_has_no_more_places_than_its_samples_can_tell_apart() -> None:
    assert percent(0.98765, samples=360) == "98.8\u202f%"
    assert percent(0.98765, samples=10_000) == "98.77\u202f%"
    assert percent(None) == percent(math.nan) == "–"


def test_large_counts_are_said_in_words() -> None:
    assert (count(60000), millions(804096), millions(11_173_962)) == ("60,000", "804,096", "11.17 million")


@pytest.mark.parametrize(("hits", "samples"), [(0, 20), (346, 360), (9912, 10_000), (27, 27)])
def test_the_interval_is_that_of_scipy(hits: int, samples: int) -> None:
    expected = binomtest(hits, samples).proportion_ci(0.95, method="wilson")
    assert wilson(hits, samples) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_metric_that_nobody_described_is_shown_under_its_own_name() -> None:
    assert metric("word_error_rate").label == "word error rate"
    assert not metric("word_error_rate").higher_is_better
    assert metric("top_5_accuracy").show(0.9) == "90.0\u202f%"


def test_an_area_reads_as_one_only_where_it_is_one() -> None:
    assert [metric("auroc").show(value) for value in (0.99997, 1.0, 0.9512)] == ["0.99997", "1", "0.9512"]
