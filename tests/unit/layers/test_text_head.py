"""The heads of text models give the shapes that they say, and read real tokens only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from strata.layers.text_head import Decode, Pool, TextHead, pooled, read, text_head

WIDTH, VOCABULARY, CLASSES = 6, 11, 3


def head(kind: TextHead, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "num_classes": CLASSES, "pool": "mean"}
    return text_head(kind, WIDTH, **(sizes | changes)).double().eval()  # type: ignore[arg-type]


def states(*, left: int = 0, right: int = 0) -> tuple[Tensor, Tensor]:
    """Return two texts of three tokens, with padding that holds numbers too, and their mask."""
    generator = torch.Generator().manual_seed(1)
    real_BTD = torch.randn(2, 3, WIDTH, generator=generator, dtype=torch.float64)
    padding = [torch.full((2, n, WIDTH), 1e6, dtype=torch.float64) for n in (left, right)]
    mask_BT = torch.tensor([False] * left + [True] * 3 + [False] * right).expand(2, -1)
    return torch.cat([padding[0], real_BTD, padding[1]], dim=1), mask_BT


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("none", (2, 3, WIDTH)),
        ("token", (2, 3, VOCABULARY)),
        ("class", (2, CLASSES)),
        ("token_class", (2, 3, CLASSES)),
        ("span", (2, 3, 2)),
        ("embedding", (2, WIDTH)),
    ],
)
@pytest.mark.parametrize("hidden", [None, "tanh"])
def test_a_head_gives_the_shape_of_its_kind(kind: TextHead, shape: tuple[int, ...], hidden: str | None) -> None:
    hidden_BTD, mask_BT = states()
    assert read(head(kind, hidden=hidden), hidden_BTD, mask_BT).shape == shape


@pytest.mark.parametrize("kind", ["class", "embedding"])
@pytest.mark.parametrize("pool", ["first", "last", "mean"])
@pytest.mark.parametrize(("left", "right"), [(0, 2), (2, 0), (1, 1), (0, 0)])
def test_padding_on_either_side_changes_nothing(kind: TextHead, pool: Pool, left: int, right: int) -> None:
    layer = head(kind, pool=pool, hidden="relu")
    alone_BTD, _ = states()
    padded_BTD, mask_BT = states(left=left, right=right)
    torch.testing.assert_close(read(layer, padded_BTD, mask_BT), read(layer, alone_BTD), rtol=1e-12, atol=1e-12)


def test_texts_of_unequal_length_are_pooled_each_by_its_own() -> None:
    hidden_BTD = torch.arange(8.0).view(2, 4, 1)
    mask_BT = torch.tensor([[True, True, False, False], [False, True, True, True]])
    assert pooled(hidden_BTD, mask_BT, "first").flatten().tolist() == [0.0, 5.0]
    assert pooled(hidden_BTD, mask_BT, "last").flatten().tolist() == [1.0, 7.0]
    assert pooled(hidden_BTD, mask_BT, "mean").flatten().tolist() == [0.5, 6.0]


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
def test_a_text_without_any_token_gives_a_number(pool: Pool) -> None:
    hidden_BTD, mask_BT = states()
    assert read(head("embedding", pool=pool), hidden_BTD, torch.zeros_like(mask_BT)).isfinite().all()


def test_an_embedding_has_length_one() -> None:
    vector_BD = read(head("embedding"), *states(right=1))
    torch.testing.assert_close(vector_BD.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_the_last_layer_over_words_shares_the_weights_that_it_is_given() -> None:
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    plain, deep = (
        text_head(
            "token", WIDTH, vocab_size=VOCABULARY, num_classes=2, pool="first", hidden=hidden, embedding=embedding
        )
        for hidden in (None, "gelu")
    )
    assert isinstance(plain, nn.Linear) and plain.weight is embedding.weight
    assert isinstance(deep, Decode) and deep.decoder.weight is embedding.weight


def test_words_may_be_told_at_some_places_only_and_in_two_parts() -> None:
    layer = head("token", hidden="gelu", norm_eps=1e-5)
    assert isinstance(layer, Decode)
    hidden_BTD, _ = states()
    picked_BT = torch.tensor([[True, False, False], [False, True, True]])
    logits_BTV = layer(hidden_BTD)
    torch.testing.assert_close(layer(hidden_BTD[picked_BT]), logits_BTV[picked_BT])
    torch.testing.assert_close(layer.decoder(layer.transform(hidden_BTD)), logits_BTV)


@pytest.mark.parametrize("kind", ["class", "token_class", "span"])
def test_heads_that_classify_drop_out_in_training_only(kind: TextHead) -> None:
    layer, (hidden_BTD, mask_BT) = head(kind, dropout=0.5), states()
    assert torch.equal(read(layer, hidden_BTD, mask_BT), read(layer, hidden_BTD, mask_BT))
    layer.train()
    assert not torch.equal(read(layer, hidden_BTD, mask_BT), read(layer, hidden_BTD, mask_BT))
