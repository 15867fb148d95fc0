"""Sequence to sequence: padding, decoding step by step, and attention as its papers write it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.models.seq2seq import TINY, Seq2Seq

Close = Callable[[Tensor, Tensor], None]
GENERATOR = torch.Generator().manual_seed(5)
SOURCE_BS = torch.randint(11, (3, 6), generator=GENERATOR)
TARGET_BT = torch.randint(11, (3, 5), generator=GENERATOR)
MASK_BS = torch.ones(3, 6, dtype=torch.bool)
MASK_BS[1, 4:] = False
SHAPES: tuple[dict[str, Any], ...] = (
    {"attention": "bahdanau", "cell": "gru"},
    {"attention": "bahdanau", "cell": "lstm", "num_layers": 1, "bidirectional": False},
    {"attention": "luong", "cell": "lstm"},
    {"attention": "luong", "cell": "gru", "bidirectional": False, "reverse_source": True},
    {"attention": "none", "cell": "lstm", "bidirectional": False, "reverse_source": True, "tied_head": False},
    {"attention": "none", "cell": "gru", "tied_head": False},
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['attention']} {s['cell']}")


def tiny(**changes: Any) -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(dataclasses.replace(TINY, **changes)).double().eval()


@shapes
def test_a_padded_source_gives_what_it_gives_alone(shape: dict[str, Any], close: Close) -> None:
    model = tiny(**shape)
    found = model(SOURCE_BS, TARGET_BT, source_mask_BS=MASK_BS)
    close(found[1:2], model(SOURCE_BS[1:2, :4], TARGET_BT[1:2]))
    close(found[2:], model(SOURCE_BS[2:], TARGET_BT[2:]))


@shapes
def test_decoding_step_by_step_equals_reading_the_target_at_once(shape: dict[str, Any], close: Close) -> None:
    model = tiny(**shape)
    cache = model.new_cache(SOURCE_BS, MASK_BS)
    parts = [model.decode(TARGET_BT[:, start:end], cache) for start, end in ((0, 1), (1, 4), (4, 5))]
    close(torch.cat(parts, dim=1), model(SOURCE_BS, TARGET_BT, MASK_BS))
    assert cache.position == 5


@shapes
def test_a_reordered_cache_goes_on_with_other_rows(shape: dict[str, Any], close: Close) -> None:
    model, index = tiny(**shape), torch.tensor([2, 1, 1, 0])
    cache = model.new_cache(SOURCE_BS, MASK_BS)
    model.decode(TARGET_BT[:, :2], cache)
    cache.reorder(index)
    whole = model(SOURCE_BS[index], TARGET_BT[index], MASK_BS[index])
    close(model.decode(TARGET_BT[index][:, 2:], cache), whole[:, 2:])


@shapes
def test_every_weight_learns(shape: dict[str, Any]) -> None:
    model = tiny(**shape)
    model(SOURCE_BS, TARGET_BT, MASK_BS).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("attention", ["bahdanau", "luong"])
def test_attention_looks_at_real_tokens_only_and_sums_to_one(attention: str, close: Close) -> None:
    model = tiny(attention=attention)
    weight = model.attention_weights(SOURCE_BS, TARGET_BT, MASK_BS)
    assert weight.shape == (1, 3, 1, 5, 6)
    close(weight.sum(-1), torch.ones(1, 3, 1, 5).double())
    assert not weight[0, 1, 0, :, 4:].any()
    close(weight[:, 1:2, :, :, :4], model.attention_weights(SOURCE_BS[1:2, :4], TARGET_BT[1:2]))


def test_a_reversed_source_is_looked_at_in_its_own_order(close: Close) -> None:
    """What the encoder read last stands first again, so that a picture of the attention needs no turning."""
    model = tiny(attention="luong", reverse_source=True, bidirectional=False)
    memory, _ = model.encode(SOURCE_BS)
    plain = tiny(attention="luong", reverse_source=False, bidirectional=False)
    close(memory, plain.encode(SOURCE_BS.flip(1))[0].flip(1))


def test_attention_is_what_the_papers_write(close: Close) -> None:
    model: Any = tiny(attention="bahdanau")
    memory, state = model.encode(SOURCE_BS)
    net = model.attention
    query, key = net.query(state[0][0]), memory @ net.keys.weight.T
    scores = [net.score.weight[0] @ torch.tanh(query[b] + key[b, s]) for b in range(3) for s in range(6)]
    expected = torch.stack(scores).view(3, 6).softmax(-1)
    close(model.attention_weights(SOURCE_BS, TARGET_BT)[0, :, 0, 0], expected)
    luong: Any = tiny(attention="luong", num_layers=1)
    memory, state = luong.encode(SOURCE_BS)
    hidden, _ = luong.decoder[0](luong.target_embedding(TARGET_BT), state[0])
    expected = torch.einsum("bth,mh,bsm->bts", hidden, luong.attention.query.weight, memory).softmax(-1)
    close(luong.attention_weights(SOURCE_BS, TARGET_BT)[0, :, 0], expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="tied_head=True needs readout_width=8, the embedding_width; it is 9"):
        tiny(readout_width=9)
    with pytest.raises(ConfigError, match="attention='none'"):
        tiny(attention="none", tied_head=False).attention_weights(SOURCE_BS, TARGET_BT)
