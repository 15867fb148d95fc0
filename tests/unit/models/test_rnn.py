"""Recurrent nets as models: heads, the cache, and how gradients fade."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.models import build, preset
from strata.models.rnn import RNN, TINY

Close = Callable[[Tensor, Tensor], None]
TOKEN_BT = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(5))


def tiny(**changes: Any) -> RNN:
    torch.manual_seed(0)
    return RNN(dataclasses.replace(TINY, **changes)).double().eval()


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_reading_bit_by_bit_equals_reading_at_once(cell: str, layer_norm: bool, close: Close) -> None:
    model = tiny(cell=cell, layer_norm=layer_norm)
    cache = model.new_cache(3)
    parts = [model(TOKEN_BT[:, start:end], cache=cache) for start, end in ((0, 4), (4, 5), (5, 9))]
    close(torch.cat(parts, dim=1), model(TOKEN_BT))
    assert cache.position == 9 and not cache.can_rewind


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_prompts_padded_on_the_left_go_on_as_if_alone(cell: str, close: Close) -> None:
    model, mask = tiny(cell=cell), torch.ones(3, 9, dtype=torch.bool)
    mask[0, :5], mask[1, :2] = False, False
    cache = model.new_cache(3)
    logits = model(TOKEN_BT, cache=cache, mask_BT=mask)
    more = model(TOKEN_BT[:, :2], cache=cache)
    for row, start in ((0, 5), (1, 2), (2, 0)):
        alone = model(torch.cat([TOKEN_BT[row : row + 1, start:], TOKEN_BT[row : row + 1, :2]], dim=1))
        close(logits[row : row + 1, start:], alone[:, :-2])
        close(more[row : row + 1], alone[:, -2:])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("head", ["class", "token_class", "embedding", "none"])
def test_no_head_sees_padding(head: Any, bidirectional: bool, close: Close) -> None:
    model = tiny(head=head, bidirectional=bidirectional, num_classes=4)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 4:] = False
    found, alone = model(TOKEN_BT, mask_BT=mask)[1:2], model(TOKEN_BT[1:2, :4])
    close(found[:, :4] if head in ("token_class", "none") else found, alone)


def test_a_text_without_a_token_gets_finite_class_logits() -> None:
    mask = torch.zeros(3, 9, dtype=torch.bool)
    assert tiny(head="class")(TOKEN_BT, mask_BT=mask).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bidirectional": True}, "cannot be bidirectional"),
        ({"head": "span"}, "head='span' is not among"),
        ({"head": "class", "tied_head": True}, "tied_head=True needs head='token'"),
    ],
)
def test_what_a_recurrent_net_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(**changes)
    with pytest.raises(ConfigError, match="no state to go on from"):
        tiny(head="class", bidirectional=True).new_cache(1)


def test_a_tied_head_makes_the_last_layer_as_wide_as_the_embedding() -> None:
    model: Any = tiny(tied_head=True)
    assert model.head.weight is model.token_embedding.weight
    assert model(TOKEN_BT).shape == (3, 9, 11)


@pytest.mark.parametrize(("name", "millions"), [("awd_lstm", 24), ("lstm", 20)])
def test_presets_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    """Merity et al. 2018, Table 1, give both."""
    with torch.device("meta"):
        model = build(preset(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_words_are_dropped_whole_and_in_training_only() -> None:
    model = tiny(word_dropout=0.5, dropout=0.0).train()
    x = model.embed(torch.arange(11)[None])[0]
    dropped = (x == 0).all(dim=1)
    assert 0 < int(dropped.sum()) < 11 and torch.equal((x == 0).any(dim=1), dropped)
    assert not (model.eval().embed(torch.arange(11)[None]) == 0).any()


def test_gradient_flow_is_the_derivative_of_the_last_loss() -> None:
    """Against a difference quotient: the first hidden state moved a little along its gradient."""
    model = tiny(cell="gru", num_layers=1)
    token_BT, moved = TOKEN_BT[:1, :5], 1e-6
    norm_LT = model.gradient_flow(token_BT)
    assert norm_LT.shape == (1, 4) and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        _, state = model.recurrent(model.embed(token_BT[:, :1]))
    state_NBH = state[0].requires_grad_()

    def loss(state_NBH: Tensor) -> Tensor:
        y, _ = model.recurrent(model.embed(token_BT[:, 1:-1]), [state_NBH])
        return torch.nn.functional.cross_entropy(model.head(y[:, -1]), token_BT[:, -1])

    (gradient,) = torch.autograd.grad(loss(state_NBH), state_NBH)
    with torch.no_grad():
        along = gradient / gradient.norm()
        slope = (loss(state_NBH + moved * along) - loss(state_NBH - moved * along)) / (2 * moved)
    assert float(norm_LT[0, 0]) == pytest.approx(float(slope), rel=1e-5)


def test_gradients_fade_in_an_elman_net_and_less_in_an_lstm() -> None:
    token_BT = torch.randint(11, (8, 41), generator=torch.Generator().manual_seed(1))
    kept = {}
    for cell in ("elman", "lstm"):
        norm_T = tiny(cell=cell, num_layers=1, width=32).gradient_flow(token_BT)[0]
        kept[cell] = float(norm_T[-31] / norm_T[-1])
    assert kept["elman"] < 1e-5
    assert kept["lstm"] > 100 * kept["elman"]
