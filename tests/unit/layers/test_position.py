from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.layers.position import (
    RotaryScaling,
    alibi_bias,
    alibi_slopes,
    places_of_documents,
    places_of_real,
    rotary_angles,
    rotate,
    sinusoidal,
    sinusoids,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def test_sinusoids_are_those_of_the_paper() -> None:
    found_TD = sinusoidal(50, 6)
    for t in (0, 1, 49):
        for d in range(6):
            angle = t / 10_000 ** (2 * (d // 2) / 6)
            assert found_TD[t, d].item() == pytest.approx(math.cos(angle) if d % 2 else math.sin(angle), abs=1e-5)
    assert sinusoids(torch.tensor([[3], [49]]), 6).equal(found_TD[[3, 49]][:, None])
    assert sinusoidal(4, 5).shape == (4, 5)


@settings(deadline=None, max_examples=30)
@given(query=st.integers(0, 500), key=st.integers(0, 500), shift=st.integers(0, 500))
def test_rotated_queries_and_keys_meet_by_their_distance_alone(query: int, key: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(query)
    q_K, k_K = torch.randn(2, 8, generator=generator, dtype=torch.float64)

    def score(at: int, of: int) -> float:
        cos, sin = rotary_angles(torch.tensor([at, of]), 8)
        return float(rotate(q_K[None], cos[:1], sin[:1])[0] @ rotate(k_K[None], cos[1:], sin[1:])[0])

    # The angles are in float32, and up to 1000 in size
    assert score(query, key) == pytest.approx(score(query + shift, key + shift), abs=2e-3)


def test_rotation_keeps_lengths_and_place_zero_as_it_is() -> None:
    x_HTK = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    turned_HTK = rotate(x_HTK, *rotary_angles(torch.arange(5), 8))
    tolerance = TOLERANCE[torch.float32]
    torch.testing.assert_close(turned_HTK.norm(dim=-1), x_HTK.norm(dim=-1), rtol=tolerance, atol=tolerance)
    assert turned_HTK[:, 0].equal(x_HTK[:, 0]) and not turned_HTK[:, 1].equal(x_HTK[:, 1])


def test_far_places_stay_apart_in_bf16_models() -> None:
    cos, _ = rotary_angles(torch.tensor([1000, 1001]), 8)
    assert cos.dtype is torch.float32 and (cos[0] - cos[1]).abs().max() > 0.1


def test_linear_scaling_divides_every_place() -> None:
    scaled, _ = rotary_angles(torch.tensor([12]), 8, scaling=RotaryScaling(kind="linear", factor=4.0))
    plain, _ = rotary_angles(torch.tensor([3]), 8)
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-6)


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    scaling = RotaryScaling(kind="llama3", factor=8.0, low=1.0, high=4.0, original_context=64)
    wave_K = 2 * math.pi * 10_000 ** (torch.arange(0, 16, 2) / 16)
    scaled_K, plain_K = (
        rotary_angles(torch.tensor([1]), 16, scaling=kind)[1][0, :8].asin() for kind in (scaling, RotaryScaling())
    )
    ratio_K = scaled_K / plain_K
    short, long = wave_K < 16, wave_K > 64
    between_K = ratio_K[~short & ~long]
    assert short.any() and long.any() and len(between_K)
    assert ratio_K[short].tolist() == pytest.approx([1.0] * int(short.sum()), rel=1e-5)
    assert ratio_K[long].tolist() == pytest.approx([1 / 8] * int(long.sum()), rel=1e-5)
    assert ((between_K > 1 / 8) & (between_K < 1)).all()


def test_alibi_slopes_are_the_papers() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-h for h in range(1, 9)]))
    torch.testing.assert_close(alibi_slopes(3), torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))
    assert len(alibi_slopes(12)) == len(set(alibi_slopes(12).tolist())) == 12


def test_alibi_takes_more_away_the_farther_a_key_is() -> None:
    bias_HTS = alibi_bias(torch.tensor([1.0, 0.5]), 2, 4)
    assert bias_HTS[1].tolist() == [[-1.0, -0.5, 0.0, -0.5], [-1.5, -1.0, -0.5, 0.0]]
    assert bias_HTS[0].equal(2 * bias_HTS[1])


def test_places_begin_anew_in_each_document() -> None:
    document_BT = torch.tensor([[7, 7, 7, 2, 2, 7], [1, 2, 3, 3, 3, 3]])
    assert places_of_documents(document_BT).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


def test_places_count_real_tokens_only() -> None:
    mask_BT = torch.tensor([[False, False, True, True], [True, True, True, False]])
    found = places_of_real(mask_BT)
    assert found[0, 2:].tolist() == [0, 1] and found[1, :3].tolist() == [0, 1, 2]
    assert (found >= 0).all()
