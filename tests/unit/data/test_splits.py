"""Who learns, who validates, who tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strata.data import DataConfig, splits
from strata.errors import ConfigError, DataError


def config(**settings: object) -> DataConfig:
    return DataConfig(**settings)  # type: ignore[arg-type]


@given(
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    validation=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
    seed=st.integers(0, 5),
)
def test_a_division_is_a_partition_and_stratified(
    classes: list[int], validation: float, test: float, seed: int
) -> None:
    class_N = torch.tensor(classes)
    index, _ = splits.divide(splits.plan(config(validation=validation, test=test), ()), len(classes), class_N, seed)
    assert sorted(torch.cat(list(index.values())).tolist()) == list(range(len(classes)))
    sizes = torch.bincount(class_N)
    for name, share in (("validation", validation), ("test", test)):
        if name in index:
            held = torch.bincount(class_N[index[name]], minlength=len(sizes))
            total = len(index[name])
            assert total <= max(1, round(share * len(classes)))
            if sizes[sizes > 0].min() >= 10:
                assert (held - total * sizes / sizes.sum()).abs().max() <= 1
    train = torch.bincount(class_N[index["train"]], minlength=len(sizes))
    assert (train[sizes > 0] > 0).all()  # no class is without a sample to train on


def test_a_seed_decides_who_is_held_out() -> None:
    plan, class_N = splits.plan(config(), ()), torch.arange(100) % 2
    first, _ = splits.divide(plan, 100, class_N, 0)
    again, _ = splits.divide(plan, 100, class_N, 0)
    other, _ = splits.divide(plan, 100, class_N, 1)
    assert torch.equal(first["test"], again["test"]) and not torch.equal(first["test"], other["test"])


def test_without_any_given_split_fifteen_percent_are_held_out_twice() -> None:
    index, notes = splits.divide(splits.plan(config(), ()), 1000, None, 0)
    assert {name: len(found) for name, found in index.items()} == {"train": 700, "validation": 150, "test": 150}
    assert notes[1] == "no test split given: held out 15 % (150 samples), at random, split_seed=0"
    assert "(1 sample)" in splits.divide(splits.plan(config(), ()), 7, None, 0)[1][0]


@pytest.mark.parametrize(("n", "held"), [(1000, 100), (60_000, 5000)])
def test_beside_a_given_test_split_a_tenth_at_most_five_thousand_validate(n: int, held: int) -> None:
    index, _ = splits.divide(splits.plan(config(), ["test"]), n, None, 0)
    assert len(index["validation"]) == held and "test" not in index


def test_zero_means_none() -> None:
    index, notes = splits.divide(splits.plan(config(validation=0, test=0), ()), 50, None, 0)
    assert list(index) == ["train"] and notes == []


def test_a_share_that_was_asked_for_replaces_the_given_split_and_says_so() -> None:
    plan = splits.plan(config(test=0.2), ["test"])
    assert plan.unused == ("test",) and plan.shares["test"] == 0.2
    assert plan.notes == ["the data's own test split is left unused, since data.test=0.2"]


def test_a_share_may_be_a_string_as_it_was_typed() -> None:
    assert splits.setting(config(test="0.25"), "test") == 0.25


@pytest.mark.parametrize("share", ["1.5", "-0.1", "nan", 1.0])
def test_a_share_out_of_range_is_refused(share: object) -> None:
    with pytest.raises(ConfigError, match=r"data.test=.* is not allowed: a share has to be at least 0 and less than 1"):
        splits.plan(config(test=share), ())


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.validation=0.5 and data.test=0.5 leave nothing to train on"):
        splits.plan(config(validation=0.5, test=0.5), ())


def test_a_path_that_is_missing_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.test=no/such/folder does not exist"):
        splits.plan(config(test="no/such/folder"), ())


def test_limit_keeps_every_classs_share() -> None:
    class_N = torch.tensor([0] * 80 + [1] * 20)
    kept_N, notes = splits.limit(torch.arange(100), class_N, 10, 0)
    assert torch.bincount(class_N[kept_N]).tolist() == [8, 2]
    assert notes == ["data.limit: 10 of 100 training samples are used"]
    assert len(splits.limit(torch.arange(100), class_N, 1000, 0)[0]) == 100
