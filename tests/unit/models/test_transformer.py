from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from strata import models
from strata.errors import ConfigError
from strata.models.transformer import TINY, Transformer

TOLERANCE = 1e-10
"""In float64."""


def build(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(dataclasses.replace(TINY, **changes)).double().eval()


@pytest.fixture
def source_BS() -> Tensor:
    return torch.randint(TINY.vocab_size, (3, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def target_BT() -> Tensor:
    return torch.randint(TINY.vocab_size, (3, 10), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mask_BS() -> Tensor:
    return torch.arange(8) < torch.tensor([8, 5, 1])[:, None]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("transformer_base", 63_082_496),
        ("transformer_big", 214_245_376),
        ("transformer_iwslt", 36_663_296),
        ("transformer_tiny", 2_605_056),
    ],
)
def test_the_presets_have_the_number_of_parameters_that_the_sizes_make(name: str, count: int) -> None:
    config = models.preset(name)
    D, F = config.width, config.hidden_width
    attention, mlp, norm = 4 * (D * D + D), 2 * D * F + D + F, 2 * D
    encoder, decoder = attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm
    assert config.vocab_size * D + config.num_layers * (encoder + decoder) == count
    with torch.device("meta"):
        model = models.build(config)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("pieces", [[1] * 10, [4, 1, 1, 4], [10], [1, 9]])
def test_writing_piece_by_piece_with_a_cache_equals_reading_the_target_at_once(
    pieces: list[int], pre_norm: bool, source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor
) -> None:
    model = build(pre_norm=pre_norm)
    with torch.no_grad():
        cache = model.new_cache(source_BS, mask_BS, length=10)
        found = torch.cat([model.decode(piece, cache) for piece in target_BT.split(pieces, dim=1)], dim=1)
        expected = model(source_BS, target_BT, mask_BS)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert cache.position == 10


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


def test_every_target_token_sees_the_whole_source(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build()
    changed = source_BS.clone()
    changed[:, -1] = (changed[:, -1] + 1) % TINY.vocab_size
    with torch.no_grad():
        difference = (model(source_BS, target_BT) - model(changed, target_BT)).abs().amax(dim=2)
    assert (difference > 1e-6).all()


def test_rows_of_a_cache_can_be_repeated_and_exchanged(source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor) -> None:
    model = build()
    row_B = torch.tensor([2, 0, 0, 1, 1])
    with torch.no_grad():
        cache = model.new_cache(source_BS, mask_BS, length=10)
        model.decode(target_BT[:, :4], cache)
        cache.reorder(row_B)
        repeated = model.decode(target_BT[row_B, 4:7], cache)
        cache.reorder(torch.tensor([4, 3, 2, 1, 0]))
        exchanged = model.decode(target_BT[row_B.flip(0), 7:], cache)
        expected = model(source_BS, target_BT, mask_BS)
    torch.testing.assert_close(repeated, expected[row_B, 4:7], rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(exchanged, expected[row_B.flip(0), 7:], rtol=TOLERANCE, atol=TOLERANCE)


def test_a_cache_set_back_forgets_the_target_and_keeps_the_source(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build()
    with torch.no_grad():
        cache = model.new_cache(source_BS)
        first = model.decode(target_BT, cache)
        cache.position = 0
        torch.testing.assert_close(model.decode(target_BT, cache), first, rtol=0, atol=0)


def test_a_cache_follows_autocast_in_dtype(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build().float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = model.new_cache(source_BS)
        assert cache.key_LBHSK.dtype is cache.source_key_LBHSK.dtype is torch.bfloat16
        assert model.decode(target_BT, cache).isfinite().all()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention_weights_sum_to_one_and_explain_what_was_read(
    pre_norm: bool, source_BS: Tensor, target_BT: Tensor, mask_BS: Tensor
) -> None:
    model = build(pre_norm=pre_norm, num_decoder_layers=1)
    read: list[Tensor] = []
    cross: Any = model.decoder[0].get_submodule("cross")
    cross.out.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        weights_LBHTS = model.attention_weights(source_BS, target_BT, mask_BS)
        _, value_BHSK = cross.keys_and_values(model.encode(source_BS, mask_BS))
    assert weights_LBHTS.shape == (1, 3, 2, 10, 8)
    torch.testing.assert_close(weights_LBHTS.sum(-1), torch.ones(1, 3, 2, 10).double())
    assert (weights_LBHTS.movedim(1, -2)[..., ~mask_BS] == 0).all()
    expected = (weights_LBHTS[0] @ value_BHSK).transpose(1, 2).flatten(2)
    torch.testing.assert_close(read[0], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_both_sides_and_the_head_share_one_embedding() -> None:
    tied, untied = build(), build(tied_head=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.head.weight is not untied.token_embedding.weight
    assert [name for name, _ in tied.named_parameters() if "embedding" in name] == ["token_embedding.weight"]


def test_embeddings_come_in_as_large_as_positions() -> None:
    model = build(width=256, vocab_size=1000, context=64)
    token_BT = torch.randint(1000, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model._embed(token_BT) - model.positions_TD
        assert tokens.std().item() == pytest.approx(1, rel=0.05)
    assert model.positions_TD.square().mean().item() == pytest.approx(0.5, rel=1e-5)


def test_query_key_and_value_start_as_three_layers_of_glorot_and_bengio() -> None:
    model = build(width=64)
    weight = model.encoder[0].get_parameter("attention.qkv.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 64)), rel=0.05)


def test_more_tokens_than_the_context_are_refused_with_both_numbers(target_BT: Tensor) -> None:
    with pytest.raises(ConfigError, match="13 tokens do not fit into this model's context of 12"):
        build()(torch.zeros(1, 13, dtype=torch.int64), target_BT[:1])


def test_more_tokens_than_the_cache_holds_are_refused(source_BS: Tensor, target_BT: Tensor) -> None:
    model = build()
    with pytest.raises(ConfigError, match="10 tokens do not fit into a cache of 4"):
        model.decode(target_BT, model.new_cache(source_BS, length=4))


@pytest.mark.parametrize(("width", "num_heads", "taken"), [(130, 4, 132), (15, 3, 18)])
def test_a_width_that_cannot_be_split_is_refused_with_one_that_can(width: int, num_heads: int, taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"width={width} cannot be split.*width={taken}\."):
        build(width=width, num_heads=num_heads)
