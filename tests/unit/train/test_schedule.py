"""Learning-rate schedules, by their shapes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.errors import UnknownNameError
from strata.recipes import recipe
from strata.tasks import Stage
from strata.train.plan import make_plan
from strata.train.schedule import SCHEDULES, canonical, factor, warmup_steps

names = st.sampled_from(sorted(SCHEDULES))
totals = st.integers(1, 300)
warmups = st.one_of(st.just(0.0), st.floats(0, 0.99), st.integers(1, 400).map(float))
shares = st.floats(0, 1)


def _curve(name: str, total: int, **options: float) -> list[float]:
    return [factor(name, step, total, **options) for step in range(total)]


@settings(deadline=None, max_examples=200)
@given(names, totals, warmups, shares, shares)
def test_no_step_has_a_rate_of_zero_or_above_the_highest(
    name: str, total: int, warmup: float, decay: float, final: float
) -> None:
    curve = _curve(name, total, warmup=warmup, decay=decay, final=final)
    assert all(0 < value <= 1 + 1e-12 for value in curve)


@settings(deadline=None, max_examples=200)
@given(names, totals, warmups, shares, shares)
def test_a_rate_rises_to_the_end_of_the_warm_up_and_never_after(
    name: str, total: int, warmup: float, decay: float, final: float
) -> None:
    curve = _curve(name, total, warmup=warmup, decay=decay, final=final)
    rise = warmup_steps(name, total, warmup)
    if name != "step":
        assert curve[: rise + 1] == sorted(curve[: rise + 1]) or rise == 0
    assert all(later <= earlier + 1e-12 for earlier, later in zip(curve[rise:], curve[rise + 1 :], strict=False))
    if 1 <= rise <= total:
        assert curve[rise - 1] == pytest.approx(1)


@settings(deadline=None)
@given(st.sampled_from(["cosine", "linear", "one_cycle", "warmup_stable_decay"]), totals, shares)
def test_what_decays_arrives_at_final_when_the_run_is_over(name: str, total: int, final: float) -> None:
    assert factor(name, total, total, decay=1.0, final=final) == pytest.approx(final)
    assert factor(name, total + 50, total, decay=1.0, final=final) == pytest.approx(final)


@settings(deadline=None)
@given(names, st.integers(1, 50), st.integers(50, 100))
def test_a_warm_up_longer_than_the_run_is_all_there_is_of_it(name: str, total: int, warmup: int) -> None:
    curve = _curve(name, total, warmup=float(warmup))
    if name != "one_cycle":
        assert curve == pytest.approx([(step + 1) / warmup for step in range(total)])
    assert curve == sorted(curve)


def test_a_warm_up_below_one_is_a_share_of_the_run() -> None:
    assert _curve("constant", 10, warmup=0.4) == _curve("constant", 10, warmup=4)
    assert _curve("constant", 10, warmup=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_a_run_of_one_step_has_the_full_rate() -> None:
    assert {factor(name, 0, 1) for name in SCHEDULES} == {1.0}


def test_cosine_and_linear_are_half_way_down_in_the_middle() -> None:
    assert factor("cosine", 50, 100) == pytest.approx(0.5)
    assert factor("linear", 50, 100, final=0.2) == pytest.approx(0.6)
    assert factor("linear", 60, 100, warmup=20) == pytest.approx(0.5)


@pytest.mark.parametrize("total", [3, 90, 100_000])
def test_a_step_schedule_by_thirds_drops_twice(total: int) -> None:
    curve = _curve("step", total, step_every=0.3333, step_factor=0.1)
    assert sorted(set(curve), reverse=True) == pytest.approx([1, 0.1, 0.01])
    assert curve.count(1.0) == pytest.approx(total / 3, abs=10 + total * 1e-4)


def test_a_step_schedule_drops_by_its_factor_every_share_of_the_run() -> None:
    assert _curve("step", 8, step_every=0.25, step_factor=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert _curve("step", 5, step_every=0.4, step_factor=0.5) == [1, 1, 0.5, 0.5, 0.25]
    assert _curve("step", 4, step_every=0.0) == [1, 1, 1, 1]


def test_warmup_stable_decay_is_flat_and_then_falls_in_its_last_share() -> None:
    curve = _curve("wsd", 100, decay=0.2, final=0.1)
    assert set(curve[:81]) == {1.0}
    assert curve[90] == pytest.approx(0.55) and curve[99] == pytest.approx(0.145)
    assert set(_curve("wsd", 100, decay=0.0)) == {1.0}


def test_one_cycle_rises_for_three_tenths_unless_told_otherwise() -> None:
    assert _curve("one_cycle", 100).index(1.0) == 29
    assert _curve("one_cycle", 100, warmup=0.5).index(1.0) == 49
    assert _curve("one_cycle", 100)[0] == pytest.approx(1 / 25, abs=0.01)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("one-cycle", "one_cycle"),
        ("onecycle", "one_cycle"),
        ("One_Cycle", "one_cycle"),
        ("wsd", "warmup_stable_decay"),
        ("warm-up-stable-decay", "warmup_stable_decay"),
        ("warm-up", "warmup"),
    ],
)
def test_dashes_and_underscores_are_alike(spelling: str, name: str) -> None:
    assert canonical(spelling) == name


def test_an_unknown_schedule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        factor("cosin", 0, 1)


def test_a_rate_drops_where_it_is_told_to_as_in_the_papers_residual_networks() -> None:
    config = recipe("cifar10").train
    plan = make_plan(config, 50_000, (Stage(),))
    steps = (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    rates = [plan.rate(step) * config.learning_rate for step in steps]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])
