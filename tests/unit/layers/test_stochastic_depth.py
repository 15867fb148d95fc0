"""Stochastic depth."""

from __future__ import annotations

import pytest
import torch

from strata.layers.stochastic_depth import StochasticDepth, linear_rates


def test_in_training_whole_samples_are_dropped_and_the_others_scaled_up() -> None:
    torch.manual_seed(0)
    out = StochasticDepth(0.25)(torch.ones(400, 3, 2, 2))
    of_sample = out.flatten(1)
    assert torch.equal(of_sample.amin(1), of_sample.amax(1))
    assert sorted(set(of_sample[:, 0].tolist())) == [0.0, pytest.approx(1 / 0.75)]
    assert out.mean().item() == pytest.approx(1.0, abs=0.1)


def test_in_eval_it_does_nothing() -> None:
    x = torch.randn(4, 3)
    assert StochasticDepth(0.9).eval()(x) is x


def test_the_rates_rise_linearly_from_zero() -> None:
    assert linear_rates(0.2, 3) == [0.0, pytest.approx(0.1), pytest.approx(0.2)]
    assert linear_rates(0.2, 1) == [0.0]
