"""BERT: padding and segments, the places that are counted, what each head reads, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.layers.text_head import read
from strata.models.bert import PRESETS, TINY, Bert

TOLERANCE = 1e-10


def build(**changes: object) -> Bert:
    torch.manual_seed(0)
    return Bert(dataclasses.replace(TINY, **changes)).double().eval()  # type: ignore[arg-type]


def tokens(*shape: int) -> Tensor:
    return torch.randint(TINY.vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", ["bert", "roberta"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("head", ["none", "token", "class", "token_class", "span", "embedding"])
def test_texts_of_unequal_length_in_one_batch_give_what_each_gives_alone(head: str, side: str, variant: str) -> None:
    model = build(head=head, variant=variant)
    long_BT, short_BT = tokens(1, 7), tokens(1, 4)
    padding_BT = torch.full((1, 3), 5)
    parts = (padding_BT, short_BT) if side == "left" else (short_BT, padding_BT)
    mask_BT = torch.ones(2, 7, dtype=torch.bool)
    real = slice(3, None) if side == "left" else slice(0, 4)
    mask_BT[1] = False
    mask_BT[1, real] = True
    with torch.no_grad():
        both = model(torch.cat([long_BT, torch.cat(parts, dim=1)]), mask_BT=mask_BT)
        alone = [model(long_BT)[0], model(short_BT)[0]]
    found = [both[0], both[1] if head in ("class", "embedding") else both[1, real]]
    for ours, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_every_token_sees_those_before_and_after_it() -> None:
    model, token_BT = build(head="none"), tokens(1, 5)
    with torch.no_grad():
        before_TD = model(token_BT)[0]
        token_BT[0, 2] = (token_BT[0, 2] + 1) % TINY.vocab_size
        assert ((model(token_BT)[0] - before_TD).abs().amax(dim=1) > 1e-6).all()


def test_a_text_is_all_of_the_first_segment_unless_told_otherwise() -> None:
    model, token_BT = build(head="none"), tokens(2, 5)
    first_BT = torch.zeros_like(token_BT)
    second_BT = torch.tensor([[0, 0, 0, 1, 1]]).expand(2, -1)
    torch.testing.assert_close(model(token_BT), model(token_BT, segment_BT=first_BT), rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(model(token_BT), model(token_BT, segment_BT=second_BT), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_segments", [0, 1])
def test_segments_are_refused_by_a_model_that_has_none(num_segments: int) -> None:
    with pytest.raises(ConfigError, match=rf"num_segments={num_segments} and cannot tell segments apart"):
        build(num_segments=num_segments)(tokens(1, 3), segment_BT=torch.zeros(1, 3, dtype=torch.int64))


def test_more_tokens_than_the_context_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="13 tokens do not fit into this model's context of 12"):
        build()(tokens(1, 13))
    assert build(variant="roberta")(tokens(1, 12)).shape == (1, 12, TINY.vocab_size)


def test_a_width_that_the_heads_do_not_divide_is_refused_with_one_that_they_do() -> None:
    with pytest.raises(ConfigError, match=r"width=17 cannot be split among num_heads=2.*width=16"):
        build(width=17)


@pytest.mark.parametrize("head", ["none", "token", "class", "token_class", "span", "embedding"])
def test_the_head_reads_the_features(head: str) -> None:
    model, token_BT = build(head=head), tokens(2, 6)
    mask_BT = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    hidden_BTD = model.features(token_BT, mask_BT)
    assert hidden_BTD.shape == (2, 6, TINY.width)
    assert torch.equal(read(model.head, hidden_BTD, mask_BT), model(token_BT, mask_BT))


def test_the_words_are_told_by_the_weights_that_read_them() -> None:
    model = build()
    assert model.head.decoder.weight is model.token_embedding.weight  # type: ignore[union-attr]


def test_dropout_is_of_training_alone() -> None:
    model, token_BT = build(dropout=0.5, attention_dropout=0.5, head="none"), tokens(2, 5)
    assert torch.equal(model(token_BT), model(token_BT))
    model.train()
    assert not torch.allclose(model(token_BT), model(token_BT))


def test_weights_start_with_a_deviation_of_zero_point_zero_two_and_no_bias() -> None:
    torch.manual_seed(0)
    model = Bert(dataclasses.replace(TINY, width=64, hidden_width=256, vocab_size=4000))
    for layer in (model.token_embedding, model.blocks[0].attention.qkv, model.blocks[0].mlp.up):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not model.blocks[0].attention.qkv.bias.any()


@pytest.mark.parametrize(
    ("name", "layers", "width"), [("bert_tiny", 2, 128), ("bert_mini", 4, 256), ("bert_small", 4, 512)]
)
def test_the_small_ones_have_heads_of_64_numbers_and_a_perceptron_four_times_as_wide(
    name: str, layers: int, width: int
) -> None:
    config = PRESETS[name]
    assert (config.num_layers, config.width, config.hidden_width) == (layers, width, 4 * width)
    assert config.width == 64 * config.num_heads
