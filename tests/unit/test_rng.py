"""Random numbers are functions of their key, and look random."""

from __future__ import annotations

import pytest
import torch

from strata import rng

SAMPLES = torch.arange(512)


def test_a_number_depends_on_its_key_and_not_on_its_neighbours() -> None:
    whole = rng.bits(3, "flip", 7, SAMPLES, 5)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rng.bits(3, "flip", 7, SAMPLES[order], 5), whole[order])
    assert torch.equal(rng.bits(3, "flip", 7, SAMPLES[40:41], 3), whole[40:41, :3])
    assert torch.equal(rng.bits(3, "flip", torch.full((512,), 7), SAMPLES, 5), whole)


@pytest.mark.parametrize("key", [(4, "flip", 7), (3, "crop", 7), (3, "flip", 8)])
def test_every_part_of_the_key_matters(key: tuple[int, str, int]) -> None:
    assert not bool((rng.bits(*key, SAMPLES, 5) == rng.bits(3, "flip", 7, SAMPLES, 5)).any())


def test_numbers_do_not_change_from_one_version_to_the_next() -> None:
    found = rng.bits(0, "test", 1, torch.tensor([0, 1]), 2)
    assert found.tolist() == [
        [-4379263168026480548, -3376415150214533174],
        [-8535046224606056594, -3716848428503062216],
    ]


def test_the_sample_numbers_handed_in_are_left_alone() -> None:
    samples = SAMPLES.clone()
    rng.normal(0, "test", 1, samples, 4)
    assert torch.equal(samples, SAMPLES)


def test_uniform_numbers_fill_zero_to_one_evenly() -> None:
    u = rng.uniform(0, "test", 1, torch.arange(4096), 64)
    assert u.dtype == torch.float32 and float(u.min()) >= 0 and float(u.max()) < 1
    counts = torch.histc(u, bins=256, min=0, max=1)
    chi_squared = float(((counts - 1024) ** 2 / 1024).sum())
    assert 180 < chi_squared < 340  # 255 degrees of freedom: 255 +- 22.6


@pytest.mark.parametrize("axis", ["step", "sample", "position"])
def test_consecutive_keys_are_uncorrelated(axis: str) -> None:
    samples = torch.arange(100_000)
    if axis == "step":
        a, b = rng.uniform(0, "test", samples, 5 + 0 * samples), rng.uniform(0, "test", samples + 1, 5 + 0 * samples)
    elif axis == "sample":
        a, b = rng.uniform(0, "test", 1, samples), rng.uniform(0, "test", 1, samples + 1)
    else:
        a, b = rng.uniform(0, "test", 1, samples, 2).chunk(2, dim=1)
    correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1]
    assert abs(float(correlation)) < 0.02


def test_every_bit_is_set_half_of_the_time() -> None:
    words = rng.bits(0, "test", 1, torch.arange(20_000))[:, 0]
    shares = torch.stack([((words >> place) & 1).double().mean() for place in range(64)])
    assert float((shares - 0.5).abs().max()) < 0.02


def test_normal_numbers_have_mean_zero_and_deviation_one() -> None:
    z = rng.normal(0, "test", 1, torch.arange(10_000), 10).double()
    assert bool(z.isfinite().all())
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02
    assert abs(float((z**4).mean()) - 3) < 0.2


def test_integers_take_every_value_below_the_bound() -> None:
    assert rng.integers(7, 0, "test", 1, SAMPLES).unique().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_permutation_is_a_function_of_its_key() -> None:
    assert torch.equal(rng.permutation(50, 0, "epoch", 3), rng.permutation(50, 0, "epoch", 3))
    assert not torch.equal(rng.permutation(50, 0, "epoch", 3), rng.permutation(50, 0, "epoch", 4))
    assert rng.permutation(50, 0, "epoch", 3).sort().values.tolist() == list(range(50))
