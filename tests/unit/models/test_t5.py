from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strata import models
from strata.errors import ConfigError
from strata.layers.position import t5_bucket
from strata.models.t5 import T5, TINY, DistanceBias

TOLERANCE = 1e-10
"""In float64."""
VARIANTS: dict[str, dict[str, Any]] = {"1.0": {"gated": False, "activation": "relu", "tied_head": True}, "1.1": {}}


def build(**changes: Any) -> T5:
    torch.manual_seed(0)
    return T5(dataclasses.replace(TINY, **changes)).double().eval()


@pytest.fixture
def source_BS() -> Tensor:
    return torch.randint(TINY.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def target_BT() -> Tensor:
    return torch.randint(TINY.vocab_size, (3, 18), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mask_BS() -> Tensor:
    return torch.arange(20) < torch.tensor([20, 11, 1])[:, None]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("t5_small", 60_506_624),
        ("t5_base", 222_903_552),
        ("t5_large", 737_668_096),
        ("t5_3b", 2_851_598_336),
        ("t5_11b", 11_307_321_344),
        ("t5_v1_1_small", 76_961_152),
        ("t5_v1_1_base", 247_577_856),
        ("t5_v1_1_large", 783_150_080),
        ("t5_v1_1_xl", 2_849_757_184),
        ("t5_v1_1_xxl", 11_135_332_352),
    ],
)
def test_the_presets_have_the_published_number_of_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = models.build(models.preset(name))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pieces", [[1] * 18, [4, 1, 1, 12], [18]])
def test_writing_piece_by_piece_with_a_cache_equals_reading_the_target_at_once(
    pieces: list[int], variant: str, source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor
) -> None:
    model = build(**VARIANTS[variant])
    with torch.no_grad():
        cache = model.new_cache(source_BS, mask_BS, length=18)
        found = torch.cat([model.decode(piece, cache) for piece in target_BT.split(pieces, dim=1)], dim=1)
        expected = model(source_BS, target_BT, mask_BS)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert cache.position == 18


def test_padding_of_the_source_changes_nothing(source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor) -> None:
    model = build()
    with torch.no_grad():
        together = model(source_BS, target_BT, mask_BS)
        for b in range(3):
            alone = model(source_BS[b : b + 1, : mask_BS[b].sum()], target_BT[b : b + 1])
            torch.testing.assert_close(together[b : b + 1], alone, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_target_token_never_sees_those_after_it(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build()
    changed = target_BT.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % TINY.vocab_size
    with torch.no_grad():
        before, after = model(source_BS, target_BT), model(source_BS, changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_rows_of_a_cache_can_be_repeated(source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor) -> None:
    model = build()
    row_B = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        cache = model.new_cache(source_BS, mask_BS)
        model.decode(target_BT[:, :4], cache)
        cache.reorder(row_B)
        found = model.decode(target_BT[row_B, 4:], cache)
        expected = model(source_BS, target_BT, mask_BS)[row_B, 4:]
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("T", "P"), [(1, 1), (1, 30), (5, 30), (30, 30)])
def test_the_bias_of_a_query_and_a_key_is_that_of_their_distance(T: int, P: int, is_causal: bool) -> None:
    torch.manual_seed(0)
    module = DistanceBias(TINY, is_causal=is_causal)
    bias_HTP = module(T, P)[0]
    for t in range(T):
        for key in range(P):
            distance = key - (P - T + t)
            if is_causal and distance > 0:
                assert (bias_HTP[:, t, key] == -math.inf).all()
                continue
            bucket = t5_bucket(torch.tensor(distance), 8, 12, is_causal=is_causal)
            assert torch.equal(bias_HTP[:, t, key], module.bias.weight[bucket])


def test_buckets_hold_one_distance_each_and_then_ever_more() -> None:
    found = t5_bucket(-torch.arange(140), 32, 128, is_causal=True)
    assert found[:16].tolist() == list(range(16))
    starts = [math.ceil(16 * (128 / 16) ** (k / 16)) for k in range(16)]
    assert (found[16:].diff().nonzero().flatten() + 17).tolist() == starts[1:]
    assert found[-1] == 31


def test_ahead_and_behind_have_buckets_of_their_own_in_the_encoder() -> None:
    distance = torch.arange(1, 200)
    behind, ahead = (t5_bucket(sign * distance, 32, 128, is_causal=False) for sign in (-1, 1))
    assert torch.equal(ahead, behind + 16)


def test_a_tied_head_reads_scaled_states_and_an_untied_one_does_not(source_BS: Tensor, target_BT: Tensor) -> None:
    for variant, factor in (("1.0", TINY.width**-0.5), ("1.1", 1.0)):
        model = build(**VARIANTS[variant])
        assert (model.head.weight is model.token_embedding.weight) == (variant == "1.0")
        with torch.no_grad():
            nn.init.ones_(model.decoder_norm.weight)
            size = model.features(source_BS, target_BT).square().mean().sqrt()
        assert size.item() == pytest.approx(factor, rel=1e-3)


def test_there_is_no_bias_but_that_of_distances_one_on_each_side() -> None:
    names = [name for name, _ in build().named_parameters() if "bias" in name]
    assert names == ["encoder_bias.bias.weight", "decoder_bias.bias.weight"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_the_start_scores_and_logits_are_of_moderate_size(variant: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 128, "head_width": 32, "hidden_width": 256, "vocab_size": 500}
    model = T5(dataclasses.replace(TINY, **VARIANTS[variant] | sizes)).eval()
    token_BT = torch.randint(500, (4, 30))
    with torch.no_grad():
        assert 0.5 < model(token_BT, token_BT).std() < 2
        attention: Any = model.encoder[0].get_submodule("attention")
        normed = torch.randn(4, 30, 128)
        q, k, _ = attention.qkv(normed).unflatten(2, (3, 2, 32)).unbind(2)
        assert 0.5 < (q.transpose(1, 2) @ k.transpose(1, 2).mT).std() < 2


def test_dropout_acts_in_training_only(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build(dropout=0.5)
    assert torch.equal(model(source_BS, target_BT), model(source_BS, target_BT))
    model.train()
    assert not torch.equal(model(source_BS, target_BT), model(source_BS, target_BT))


@pytest.mark.parametrize("wrong", [{"num_buckets": 7}, {"num_buckets": 2}, {"num_buckets": 32, "max_distance": 16}])
def test_buckets_that_cannot_sort_distances_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"leave no distances to sort.*such as 32 and 128"):
        build(**wrong)


def test_more_tokens_than_the_cache_holds_are_refused(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build()
    with pytest.raises(ConfigError, match="18 tokens do not fit into a cache of 4"):
        model.decode(target_BT, model.new_cache(source_BS, length=4))
