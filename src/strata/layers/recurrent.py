"""Recurrent cells and stacks of them: the plain net, the LSTM and the GRU, written out and by torch's fused kernels.

Papers: Elman 1990, "Finding structure in time"; Hochreiter and Schmidhuber 1997, "Long short-term memory", with the
forget gate of Gers et al. 2000; Cho et al. 2014, "Learning phrase representations", section 2.3; layer norm by Ba et
al. 2016, section 3.1; dropped hidden weights and masks that are locked over time by Merity et al. 2018, section 2.

Unusual here: the functions `elman`, `lstm` and `gru` are a cell's whole mathematics. They run where no fused kernel
does what is asked: layer norm, documents that begin within a row, gradients looked at step by step.

B sequences, T tokens, D input width, H width of a layer, G width of all gates side by side, N tensors in a state: the
hidden one first, then the LSTM's cell. The gates stand in torch's order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.layers.dropout import Dropout

Cell = Literal["elman", "lstm", "gru"]
GATES = {"elman": 1, "lstm": 4, "gru": 3}
STATES = {"elman": 1, "lstm": 2, "gru": 1}
SHUT = 1e4
"""What drives a gate all the way: far beyond where a sigmoid is 0 or 1 in float64, and a number in half precision."""


def elman(input_BG: Tensor, hidden_BG: Tensor, activation: Literal["tanh", "relu"] = "tanh") -> Tensor:
    """Return the next hidden state (B, H): h' = f(W x + U h).

    Args:
        input_BG: W x, with its bias.
        hidden_BG: U h, with its bias.
    """
    return torch.tanh(input_BG + hidden_BG) if activation == "tanh" else torch.relu(input_BG + hidden_BG)


def lstm(input_BG: Tensor, hidden_BG: Tensor, cell_BH: Tensor, norm: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell (B, H): c' = f c + i g and h' = o tanh(c') (Gers et al. 2000).

    Args:
        norm: of the cell, on its way out (Ba et al. 2016).
    """
    input_gate_BH, forget_gate_BH, new_BH, output_gate_BH = (input_BG + hidden_BG).chunk(4, dim=-1)
    cell_BH = forget_gate_BH.sigmoid() * cell_BH + input_gate_BH.sigmoid() * new_BH.tanh()
    out_BH = cell_BH if norm is None else norm(cell_BH)
    return output_gate_BH.sigmoid() * out_BH.tanh(), cell_BH


def gru(input_BG: Tensor, hidden_BG: Tensor, state_BH: Tensor) -> Tensor:
    """Return the next hidden state (B, H): h' = (1 - z) n + z h with n = tanh(W x + r (U h)).

    Differs from Cho et al. 2014: the reset gate r acts on U h and not on h, as in every fused kernel.
    """
    reset_x_BH, update_x_BH, new_x_BH = input_BG.chunk(3, dim=-1)
    reset_h_BH, update_h_BH, new_h_BH = hidden_BG.chunk(3, dim=-1)
    reset_BH, update_BH = (reset_x_BH + reset_h_BH).sigmoid(), (update_x_BH + update_h_BH).sigmoid()
    new_BH = torch.tanh(new_x_BH + reset_BH * new_h_BH)
    return (1 - update_BH) * new_BH + update_BH * state_BH


class RecurrentLayer(nn.Module):
    """One cell that goes over a sequence in one direction: (B, T, D) and a state (N, B, H) to (B, T, H) and the next.

    Weights begin uniform within 1 / sqrt(H), and an LSTM's forget gates open: their bias is 1 (Gers et al. 2000).

    Args:
        activation: of an Elman cell.
        layer_norm: over W x, over U h, and over an LSTM's cell; their shifts take the place of the biases.
        weight_drop: share of U that is zero during one pass in training, the same over all its steps.
    """

    def __init__(
        self,
        cell: Cell,
        in_width: int,
        width: int,
        *,
        activation: Literal["tanh", "relu"] = "tanh",
        layer_norm: bool = False,
        weight_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.cell, self.width, self.activation = cell, width, activation
        self.layer_norm, self.weight_drop = layer_norm, weight_drop
        gates = GATES[cell] * width
        self.weight_input = nn.Parameter(torch.empty(gates, in_width))
        self.weight_hidden = nn.Parameter(torch.empty(gates, width))
        self.bias_input = None if layer_norm else nn.Parameter(torch.empty(gates))
        self.bias_hidden = None if layer_norm else nn.Parameter(torch.empty(gates))
        self.norm_input = nn.LayerNorm(gates) if layer_norm else nn.Identity()
        self.norm_hidden = nn.LayerNorm(gates) if layer_norm else nn.Identity()
        self.norm_cell = nn.LayerNorm(width) if layer_norm and cell == "lstm" else None
        self._initialize()

    def _initialize(self) -> None:
        for parameter in (self.weight_input, self.weight_hidden, self.bias_input, self.bias_hidden):
            if parameter is not None:
                nn.init.uniform_(parameter, -1 / math.sqrt(self.width), 1 / math.sqrt(self.width))
        if self.cell == "lstm":
            forget = slice(self.width, 2 * self.width)
            with torch.no_grad():
                if self.bias_input is None or self.bias_hidden is None:
                    self.norm_input.bias[forget] = 1.0  # type: ignore[operator]
                else:
                    self.bias_input[forget], self.bias_hidden[forget] = 1.0, 0.0

    def zero_state(self, batch_size: int) -> Tensor:
        """Return the state before anything was read: (N, B, H)."""
        return self.weight_hidden.new_zeros(STATES[self.cell], batch_size, self.width)

    def hidden_weight(self) -> Tensor:
        """Return U (G, H) as it is for one pass."""
        return F.dropout(self.weight_hidden, self.weight_drop, self.training)

    def from_input(self, x: Tensor) -> Tensor:
        """Return W x with its bias or norm: (..., D) to (..., G)."""
        return self.norm_input(F.linear(x, self.weight_input, self.bias_input))

    def step(self, input_BG: Tensor, state_NBH: Tensor, hidden_weight_GH: Tensor) -> Tensor:
        """Return the state after one more token, of which `from_input` gave ``input_BG``."""
        hidden_BG = self.norm_hidden(F.linear(state_NBH[0], hidden_weight_GH, self.bias_hidden))
        if self.cell == "lstm":
            return torch.stack(lstm(input_BG, hidden_BG, state_NBH[1], self.norm_cell))
        if self.cell == "gru":
            return gru(input_BG, hidden_BG, state_NBH[0])[None]
        return elman(input_BG, hidden_BG, self.activation)[None]

    def forward(
        self,
        x_BTD: Tensor,
        state_NBH: Tensor | None = None,
        length_B: Tensor | None = None,
        begins_BT: Tensor | None = None,
        trace: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, T, H) and the state after each row's last token.

        Args:
            state_NBH: None is zero.
            length_B: tokens in each row, which stand at its front; what follows them means nothing.
            begins_BT: True where a row's state is forgotten before the token is read.
            trace: a list that the states after each step are appended to, (N, B, H) each, for their gradients.
        """
        # In the weights' type whatever came before: torch's fused LSTM then takes part in autocast, and a carried
        # state keeps its type.
        x_BTD = x_BTD.to(self.weight_input.dtype)
        state_NBH = self.zero_state(len(x_BTD)) if state_NBH is None else state_NBH.to(x_BTD.dtype)
        # The compiler cannot take in the CPU's fused LSTM whole; from the steps it makes kernels of its own.
        unfit = torch.compiler.is_compiling() and self.cell == "lstm" and x_BTD.device.type == "cpu"
        if self.layer_norm or begins_BT is not None or trace is not None or unfit:
            y_BTH, state_NBH = self.unrolled(x_BTD, state_NBH, length_B, begins_BT, trace)
        else:
            y_BTH, state_NBH = self.fused(x_BTD, state_NBH, length_B)
        return y_BTH, state_NBH.to(x_BTD.dtype)

    def unrolled(
        self,
        x_BTD: Tensor,
        state_NBH: Tensor,
        length_B: Tensor | None = None,
        begins_BT: Tensor | None = None,
        trace: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, step by step."""
        input_BTG, hidden_weight_GH = self.from_input(x_BTD), self.hidden_weight()
        hidden: list[Tensor] = []
        for t in range(x_BTD.shape[1]):
            if begins_BT is not None:
                state_NBH = state_NBH.masked_fill(begins_BT[:, t, None], 0.0)
            new_NBH = self.step(input_BTG[:, t], state_NBH, hidden_weight_GH)
            state_NBH = new_NBH if length_B is None else torch.where((t < length_B)[:, None], new_NBH, state_NBH)
            hidden.append(state_NBH[0])
            if trace is not None:
                trace.append(state_NBH)
        return torch.stack(hidden, dim=1), state_NBH

    def fused(self, x_BTD: Tensor, state_NBH: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `unrolled` does, by torch's kernels."""
        assert self.bias_input is not None and self.bias_hidden is not None
        weights = [self.weight_input, self.hidden_weight(), self.bias_input, self.bias_hidden]
        if length_B is not None and self.cell == "lstm":
            # No kernel stops a row where its text ends. One more input, 1 on padding, opens the forget gates and shuts
            # the input gates, so that the cell stays to the last bit what it was.
            ended_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) >= length_B[:, None]
            x_BTD = torch.cat([x_BTD, ended_BT[..., None].to(x_BTD.dtype)], dim=-1)
            gate_4 = x_BTD.new_tensor([-SHUT, SHUT, 0.0, 0.0])
            weights[0] = torch.cat([self.weight_input, gate_4.repeat_interleave(self.width)[:, None]], dim=-1)
        if x_BTD.device.type == "cuda":  # cuDNN wants them in one piece of memory, or warns and copies
            flat = torch.cat([weight.reshape(-1) for weight in weights])
            pieces = flat.split([weight.numel() for weight in weights])
            weights = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
        # has biases, layers, dropout, keeps what a backward pass needs, bidirectional, batch first
        options = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        if self.cell == "lstm":
            before = state_NBH[:1], state_NBH[1:]
            if _lacks_bf16_lstm(x_BTD):
                with torch.autocast("cpu", enabled=False):
                    y_BTH, hidden_1BH, cell_1BH = torch.lstm(x_BTD.float(), before, weights, *options)
                y_BTH = y_BTH.bfloat16()
            else:
                y_BTH, hidden_1BH, cell_1BH = torch.lstm(x_BTD, before, weights, *options)
        else:
            kernels = {"gru": torch.gru, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu}
            kernel = kernels["gru" if self.cell == "gru" else self.activation]
            y_BTH, hidden_1BH = kernel(x_BTD, state_NBH, weights, *options)
        if length_B is not None:
            last_BTH = (length_B - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.width)
            hidden_BH = torch.where((length_B > 0)[:, None], y_BTH.gather(1, last_BTH)[:, 0], state_NBH[0])
            hidden_1BH = hidden_BH[None]
        return y_BTH, torch.cat([hidden_1BH, cell_1BH]) if self.cell == "lstm" else hidden_1BH


def _lacks_bf16_lstm(x: Tensor) -> bool:
    """Say whether autocast would ask a CPU for an LSTM in bf16 that it has not: oneDNN's needs AVX-512, and raises."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


class LockedDropout(nn.Dropout):
    """Dropout whose mask is one and the same at all steps of a sequence (Gal and Ghahramani 2016): (B, T, D)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the sequence, less what was dropped from all its steps."""
        if not self.training or self.p == 0.0:
            return x_BTD
        return x_BTD * F.dropout(torch.ones_like(x_BTD[:, :1]), self.p)


class Recurrent(nn.Module):
    """Recurrent layers one upon the other: (B, T, D) to (B, T, H), or (B, T, 2 H) where they read both ways.

    Args:
        widths: of each layer's state in one direction.
        dropout: between layers; ``locked`` keeps its mask over time.
    """

    def __init__(
        self,
        cell: Cell,
        in_width: int,
        widths: Sequence[int],
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        locked: bool = False,
        activation: Literal["tanh", "relu"] = "tanh",
        layer_norm: bool = False,
        weight_drop: float = 0.0,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        self.layers = nn.ModuleList()
        for width in widths:
            layer = [
                RecurrentLayer(
                    cell, in_width, width, activation=activation, layer_norm=layer_norm, weight_drop=weight_drop
                )
                for _ in range(directions)
            ]
            self.layers.append(nn.ModuleList(layer))
            in_width = directions * width
        self.out_width = in_width
        self.dropout = LockedDropout(dropout) if locked else Dropout(dropout)

    def zero_state(self, batch_size: int) -> list[Tensor]:
        """Return each layer's state before anything was read: (N, B, H), both directions side by side."""
        return [
            torch.cat([direction.zero_state(batch_size) for direction in layer], dim=-1)  # type: ignore[attr-defined]
            for layer in self.layers
        ]

    def forward(
        self,
        x_BTD: Tensor,
        state: Sequence[Tensor] | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        trace: list[list[Tensor]] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last layer's hidden states, and each layer's state after each row's last token.

        Args:
            state: of each layer; None is zero.
            mask_BT: True where there is a token; the padding, wherever it stands, changes no token's answer.
            document_BT: a number for each token; where it changes, the state is forgotten.
            trace: takes, for each layer, the states after each step: see `RecurrentLayer.forward`.
        """
        order_BT = length_B = begins_BT = None
        if mask_BT is not None:  # tokens to the front of their row, in their order
            order_BT, length_B = (~mask_BT).to(torch.uint8).argsort(dim=1, stable=True), mask_BT.sum(dim=1)
            x_BTD = taken(x_BTD, order_BT)
            document_BT = None if document_BT is None else document_BT.gather(1, order_BT)
        if document_BT is not None:
            begins_BT = F.pad(document_BT[:, 1:] != document_BT[:, :-1], (1, 0))
        after: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x_BTD = self.dropout(x_BTD) if number else x_BTD
            steps: list[Tensor] | None = None if trace is None else []
            if trace is not None and steps is not None:
                trace.append(steps)
            before = [None] * len(layer) if state is None else state[number].chunk(len(layer), dim=-1)  # type: ignore[arg-type]
            y_BTH, state_NBH = layer[0](x_BTD, before[0], length_B, begins_BT, steps)  # type: ignore[index]
            if len(layer) == 2:  # type: ignore[arg-type]
                back_BTH, back_NBH = layer[1](turned(x_BTD, length_B), before[1], length_B)  # type: ignore[index]
                y_BTH = torch.cat([y_BTH, turned(back_BTH, length_B)], dim=-1)
                state_NBH = torch.cat([state_NBH, back_NBH], dim=-1)
            x_BTD = y_BTH
            after.append(state_NBH)
        return x_BTD if order_BT is None else taken(x_BTD, order_BT.argsort(dim=1)), after


def taken(x_BTD: Tensor, place_BT: Tensor) -> Tensor:
    """Return each row's vectors from the places given: (B, T, D)."""
    return x_BTD.gather(1, place_BT[..., None].expand(-1, -1, x_BTD.shape[2]))


def turned(x_BTD: Tensor, length_B: Tensor | None = None) -> Tensor:
    """Return each row with its first ``length_B`` vectors in the reverse order; turning twice changes nothing."""
    if length_B is None:
        return x_BTD.flip(1)
    place_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    last_B1 = length_B[:, None] - 1
    return taken(x_BTD, torch.where(place_T <= last_B1, last_B1 - place_T, place_T))


class RecurrentState:
    """What a recurrent net remembers of the tokens read so far: a cache whose size does not grow.

    Args:
        state: of each layer, (N, B, H).
    """

    can_rewind: ClassVar[bool] = False
    """What was read cannot be taken out again."""

    def __init__(self, state: Sequence[Tensor]) -> None:
        self.state = list(state)
        self.position = 0
        """Tokens read, padding among them."""

    @property
    def batch_size(self) -> int:
        """Sequences that are read side by side."""
        return self.state[0].shape[1]

    @property
    def length(self) -> int:
        """Tokens that there is room for: any number."""
        return sys.maxsize

    def advance(self, num_new: int, state: Sequence[Tensor]) -> None:
        """Take over the state after ``num_new`` more tokens."""
        self.state = list(state)
        self.position += num_new

    def reorder(self, index_B: Tensor) -> None:
        """Let row b be what row ``index_B[b]`` was, for beam search; more or fewer rows than before may be asked."""
        self.state = [state_NBH.index_select(1, index_B) for state_NBH in self.state]

    def carried(self) -> dict[str, Tensor]:
        """Return the state by layer, cut off from what led to it: gradients go no further back."""
        return {str(layer): state_NBH.detach() for layer, state_NBH in enumerate(self.state)}

    def take_up(self, carried: Mapping[str, Tensor], begins_B: Tensor) -> None:
        """Go on from what `carried` gave, but for rows whose text begins anew; rows that it has too many are over."""
        for name, state_NBH in carried.items():
            self.state[int(name)] = state_NBH[:, : len(begins_B)].masked_fill(begins_B[:, None], 0.0)
