"""TextCNN: padding, word vectors that are given, and the limit on the output layer."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.models import build, preset
from strata.models.textcnn import TINY, MaxNormLinear, TextCNN

TOKEN_BT = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(5))


def tiny(**changes: Any) -> TextCNN:
    torch.manual_seed(0)
    return TextCNN(dataclasses.replace(TINY, **changes)).double().eval()


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("head", ["class", "embedding", "none"])
def test_padding_changes_no_answer_wherever_it_stands(
    head: Any, start: int, length: int, close: Callable[[Tensor, Tensor], None]
) -> None:
    model, mask = tiny(head=head), torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        for layer in model.convolutions:
            layer.bias.fill_(0.5)  # type: ignore[operator]  # a filter on padding would answer
    mask[1] = False
    mask[1, start : start + length] = True
    close(model(TOKEN_BT, mask_BT=mask)[1:2], model(TOKEN_BT[1:2, start : start + length]))
    close(model(TOKEN_BT, mask_BT=mask)[2:], model(TOKEN_BT[2:]))


def test_it_is_convolution_and_the_greatest_answer_as_written_in_the_paper(
    close: Callable[[Tensor, Tensor], None],
) -> None:
    model: Any = tiny(embeddings="random", filter_widths=(2,), filters=1)
    vectors = [model.token_embedding.weight[token] for token in TOKEN_BT[0]]
    nothing = torch.zeros_like(vectors[0])
    padded, (layer,) = [nothing, *vectors, nothing], model.convolutions
    answers = [
        (layer.weight[0, :, 0] @ one + layer.weight[0, :, 1] @ two + layer.bias[0]).relu()
        for one, two in itertools.pairwise(padded)
    ]
    close(model.features(TOKEN_BT[:1])[0, 0], torch.stack(answers).max())


@pytest.mark.parametrize(
    ("embeddings", "trained"), [("random", 1), ("static", 0), ("non_static", 1), ("multichannel", 1)]
)
def test_given_vectors_are_held_still_where_they_should_be(embeddings: Any, trained: int) -> None:
    model, vectors = tiny(embeddings=embeddings), torch.randn(11, 8).double()
    model.load_vectors(vectors)
    held = [value for name, value in model.state_dict().items() if "static_VE" in name or "token_embedding" in name]
    assert len(held) == (2 if embeddings == "multichannel" else 1)
    assert all(torch.equal(value, vectors) for value in held)
    assert sum("embedding" in name for name, _ in model.named_parameters()) == trained
    with pytest.raises(ConfigError, match=r"shape \(3, 3\) do not fit a model of vocab_size=11"):
        model.load_vectors(torch.zeros(3, 3))


def test_no_row_of_the_output_layer_is_used_longer_than_its_limit() -> None:
    layer = MaxNormLinear(4, 2, 3.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[6.0, 0, 0, 8.0], [1.0, 0, 0, 0]]))
        layer.bias.zero_()
    used = layer(torch.eye(4)).T
    assert used.norm(dim=1).tolist() == pytest.approx([3.0, 1.0])
    assert torch.allclose(used[0], torch.tensor([1.8, 0, 0, 2.4]))


def test_the_default_is_kims_and_heads_for_each_token_are_refused() -> None:
    with torch.device("meta"):
        model = build(preset("textcnn_rand"))
    filters = sum(100 * (300 * width + 1) for width in (3, 4, 5))
    assert sum(p.numel() for p in model.parameters()) == 20000 * 300 + filters + 300 * 2 + 2
    with pytest.raises(ConfigError, match="head='token' is not among what textcnn has"):
        tiny(head="token")
