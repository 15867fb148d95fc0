"""Recurrent layers: the gates as written, torch's fused kernels, and padding that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strata.layers.recurrent import STATES, Cell, LockedDropout, Recurrent, RecurrentLayer, RecurrentState, turned

CELLS: tuple[Cell, ...] = ("elman", "lstm", "gru")
Close = Callable[[Tensor, Tensor], None]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def reference(layer: RecurrentLayer, **options: Any) -> nn.RNNBase:
    kind = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[layer.cell]
    made: nn.RNNBase = kind(layer.weight_input.shape[1], layer.width, batch_first=True, **options).double()
    ours = (layer.weight_input, layer.weight_hidden, layer.bias_input, layer.bias_hidden)
    made.load_state_dict(
        dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), ours, strict=True)), strict=True
    )
    return made


@pytest.mark.parametrize("path", ["fused", "unrolled"])
@pytest.mark.parametrize(
    ("cell", "activation"), [("elman", "tanh"), ("elman", "relu"), ("lstm", "tanh"), ("gru", "tanh")]
)
def test_both_paths_give_what_torchs_module_gives(cell: Cell, activation: Any, path: str, close: Close) -> None:
    layer = RecurrentLayer(cell, 5, 4, activation=activation).double()
    torchs = reference(layer, **({"nonlinearity": activation} if cell == "elman" else {}))
    x, state = torch.randn(3, 7, 5).double(), torch.randn(STATES[cell], 3, 4).double()
    expected, after = torchs(x, (state[:1], state[1:]) if cell == "lstm" else state)
    y, found = getattr(layer, path)(x, state)
    close(y, expected)
    close(found, torch.cat(after) if cell == "lstm" else after)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert layer.weight_hidden.grad is not None
    theirs = torchs.get_parameter("weight_hh_l0").grad
    assert theirs is not None
    close(layer.weight_hidden.grad, theirs)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_that_end_early_keep_the_state_that_they_ended_with(cell: Cell, close: Close) -> None:
    layer = RecurrentLayer(cell, 5, 4).double()
    x, state, length = torch.randn(3, 7, 5).double(), torch.randn(STATES[cell], 3, 4).double(), torch.tensor([3, 7, 0])
    _, found = layer(x, state, length)
    for row, end in enumerate(length.tolist()):
        one = state[:, row : row + 1]
        expected = layer(x[row : row + 1, :end], one)[1] if end else one
        close(found[:, row : row + 1], expected)
    close(layer.unrolled(x, state, length)[1], found)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_no_answer_wherever_it_stands(
    cell: Cell, layer_norm: bool, bidirectional: bool, close: Close
) -> None:
    net = Recurrent(cell, 5, [4, 3], bidirectional=bidirectional, layer_norm=layer_norm).double()
    short = torch.randn(1, 4, 5).double()
    expected, state = net(short)
    for before in (0, 3):
        x, mask = torch.randn(2, 7, 5).double(), torch.ones(2, 7, dtype=torch.bool)
        x[0, before : before + 4] = short
        mask[0] = False
        mask[0, before : before + 4] = True
        y, after = net(x, mask_BT=mask)
        close(y[:1, before : before + 4], expected)
        for found, wanted in zip(after, state, strict=True):
            close(found[:, :1], wanted)


@pytest.mark.parametrize("cell", CELLS)
def test_documents_in_one_row_are_read_as_if_alone(cell: Cell, close: Close) -> None:
    net = Recurrent(cell, 5, [4, 3]).double()
    x = torch.randn(2, 9, 5).double()
    document = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0]])
    y, _ = net(x, document_BT=document)
    pieces = [net(x[:1, start:end])[0] for start, end in ((0, 3), (3, 7), (7, 9))]
    close(y[:1], torch.cat(pieces, dim=1))
    close(y[1:], net(x[1:])[0])


def test_the_layer_norm_lstm_is_the_one_of_the_paper(close: Close) -> None:
    layer = RecurrentLayer("lstm", 5, 4, layer_norm=True).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x, h, c = torch.randn(1, 5).double(), torch.randn(1, 4).double(), torch.randn(1, 4).double()

    def norm(a: Tensor, module: Any) -> Tensor:
        centred = a - a.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * module.weight + module.bias

    gates = norm(layer.weight_input @ x[0], layer.norm_input) + norm(layer.weight_hidden @ h[0], layer.norm_hidden)
    i, f, g, o = gates.split(4)
    cell = f.sigmoid() * c[0] + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * norm(cell, layer.norm_cell).tanh()
    y, state = layer(x[None], torch.stack([h, c]))
    close(y[0, 0], hidden)
    close(state[1, 0], cell)


def test_an_lstms_forget_gates_begin_open() -> None:
    for layer_norm in (False, True):
        layer = RecurrentLayer("lstm", 5, 4, layer_norm=layer_norm)
        bias = layer.norm_input.bias if layer_norm else layer.bias_input + layer.bias_hidden  # type: ignore[operator]
        assert bias[4:8].tolist() == [1.0] * 4  # type: ignore[index]


def test_weight_drop_draws_once_a_pass_and_not_outside_training(close: Close) -> None:
    layer = RecurrentLayer("lstm", 5, 6, weight_drop=0.5).double()
    x = torch.randn(2, 4, 5).double()
    assert 0.2 < float((layer.hidden_weight() == 0).double().mean()) < 0.8
    torch.manual_seed(1)
    fused, _ = layer.fused(x, layer.zero_state(2))
    torch.manual_seed(1)
    close(fused, layer.unrolled(x, layer.zero_state(2))[0])
    fused.sum().backward()
    assert layer.weight_hidden.grad is not None and layer.weight_hidden.grad.abs().sum() > 0
    assert torch.equal(layer.eval().hidden_weight(), layer.weight_hidden)


def test_locked_dropout_drops_the_same_at_every_step() -> None:
    y = LockedDropout(0.5)(torch.ones(3, 5, 40))
    assert torch.equal(y, y[:, :1].expand_as(y)) and not torch.equal(y[0], y[1])
    assert set(y.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(LockedDropout(0.5).eval()(y), y)


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_under_bf16_autocast_the_fused_lstm_runs_in_bf16_and_its_state_stays_fp32() -> None:
    net = Recurrent("lstm", 16, [16, 16])
    with torch.autocast("cpu", torch.bfloat16):
        y, state = net(torch.randn(2, 3, 16))
        again, _ = net(torch.randn(2, 3, 16), state)
    assert y.dtype == again.dtype == torch.bfloat16
    assert [part.dtype for part in state] == [torch.float32] * 2
    again.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_rows_are_turned_within_their_length() -> None:
    x = torch.arange(8.0).view(2, 4, 1)
    assert turned(x, torch.tensor([3, 1]))[..., 0].tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
    assert torch.equal(turned(turned(x)), x)


def test_a_state_is_reordered_carried_and_begun_anew_by_row() -> None:
    state = RecurrentState([torch.arange(6.0).view(1, 3, 2), torch.arange(12.0).view(2, 3, 2)])
    state.reorder(torch.tensor([2, 0, 0, 1]))
    assert state.batch_size == 4 and state.state[0][0, :, 0].tolist() == [4, 0, 0, 2]
    fresh = RecurrentState([torch.zeros(1, 3, 2), torch.zeros(2, 3, 2)])
    fresh.take_up(state.carried(), torch.tensor([False, True, False]))
    assert fresh.state[0][0, :, 0].tolist() == [4, 0, 0] and fresh.state[1][1, :, 1].tolist() == [11, 0, 7]
