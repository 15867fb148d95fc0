"""Sequence to sequence: a recurrent encoder, a recurrent decoder, and attention between them or none.

Paper: Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", appendix A
(attention before the recurrent step). Also Sutskever et al. 2014, "Sequence to sequence learning with neural networks"
(no attention), and Luong et al. 2015, "Effective approaches to attention-based neural machine translation" (after it).

Unusual here: in training, everything that does not wait for the decoder's own last step runs once for the whole target.
Without attention and with Luong's that is all of it; with Bahdanau's, all but the first layer.

B sequences, S source tokens, T target tokens, E embedding, H width of the decoder, M of the encoder's states, A of the
alignment, R of what the head reads, V vocabulary, N tensors in a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.dropout import Dropout
from strata.layers.recurrent import Cell, Recurrent, RecurrentLayer, RecurrentState, turned


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Sizes of an encoder and a decoder; the defaults are RNNsearch-50's of Bahdanau et al. 2015."""

    attention: Literal["none", "bahdanau", "luong"] = "bahdanau"
    """None: the decoder begins from the encoder's last state and sees nothing else. Bahdanau: an alignment net of one
    hidden layer, asked with the state before the step. Luong: a bilinear form, asked with the state after it."""
    cell: Cell = "gru"
    width: Positive = 1000
    """Of the decoder's state, and of the encoder's in each direction."""
    embedding_width: Positive = 620
    num_layers: Positive = 1
    bidirectional: bool = True
    """The encoder reads both ways; else the decoder's layers begin from the encoder's last states as they are."""
    reverse_source: bool = False
    """The encoder reads the source from its end (Sutskever et al. 2014, section 3.3)."""
    align_width: Positive = 1000
    """Hidden units of Bahdanau's alignment net."""
    readout_width: Positive = 500
    """Of what the head reads where there is attention: units of a maxout (Bahdanau) or tanh layer (Luong)."""
    dropout: Probability = 0.0
    """Of embedded tokens, between layers, and of what the head reads."""
    tied_embeddings: bool = False
    """Source and target share one token embedding."""
    tied_head: bool = False
    """The output layer is the target's token embedding."""
    vocab_size: Positive = 30000


PRESETS = {
    "seq2seq_sutskever": Seq2SeqConfig(
        attention="none",
        cell="lstm",
        embedding_width=1000,
        num_layers=4,
        bidirectional=False,
        reverse_source=True,
        vocab_size=80000,
    ),
    "seq2seq_bahdanau": Seq2SeqConfig(),
    "seq2seq_luong": Seq2SeqConfig(
        attention="luong",
        cell="lstm",
        embedding_width=1000,
        num_layers=4,
        bidirectional=False,
        reverse_source=True,
        readout_width=1000,
        dropout=0.2,
        vocab_size=50000,
    ),
}
TINY = Seq2SeqConfig(
    width=10,
    embedding_width=8,
    num_layers=2,
    align_width=6,
    readout_width=8,
    dropout=0.1,
    tied_head=True,
    vocab_size=11,
)


class Seq2Seq(nn.Module):
    """An encoder and a decoder (Bahdanau et al. 2015): source (B, S) and target so far (B, T) to logits (B, T, V).

    Logits at t foretell what follows the t-th token of the target, which begins with a start token.

    Differs from the papers: where the encoder reads both ways, the decoder begins from its last states in both
    directions, not the backward one's alone; Bahdanau's attention feeds the decoder's first layer where it has several;
    Luong's attention does not feed its answer into the next step, so that the decoder runs once for the whole target;
    one vocabulary serves both sides.

    Raises ConfigError where a tied output layer would not fit.
    """

    config_class = Seq2SeqConfig
    is_encoder_decoder: ClassVar[bool] = True

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        W, E = config.width, config.embedding_width
        memory_width = 2 * W if config.bidirectional else W
        out_width = W if config.attention == "none" else config.readout_width
        if config.tied_head and out_width != E:
            name = "width" if config.attention == "none" else "readout_width"
            raise ConfigError(f"tied_head=True needs {name}={E}, the embedding_width; it is {out_width}.")
        self.source_embedding = nn.Embedding(config.vocab_size, E)
        self.encoder = Recurrent(
            config.cell, E, [W] * config.num_layers, bidirectional=config.bidirectional, dropout=config.dropout
        )
        self.bridges = nn.ModuleList(nn.Linear(2 * W, W) for _ in range(config.num_layers * config.bidirectional))
        self.target_embedding = self.source_embedding if config.tied_embeddings else nn.Embedding(config.vocab_size, E)
        read_width = E + memory_width if config.attention == "bahdanau" else E
        self.decoder = nn.ModuleList(
            RecurrentLayer(config.cell, W if number else read_width, W) for number in range(config.num_layers)
        )
        self.attention: nn.Module | None = None
        if config.attention == "bahdanau":
            self.attention = AdditiveAttention(W, memory_width, config.align_width)
            self.readout: nn.Module = nn.Linear(W + E + memory_width, 2 * config.readout_width)
        elif config.attention == "luong":
            self.attention = BilinearAttention(W, memory_width)
            self.readout = nn.Linear(memory_width + W, config.readout_width, bias=False)
        else:
            self.readout = nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(out_width, config.vocab_size)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=1 / math.sqrt(E))
        if config.tied_head:
            self.head.weight = self.target_embedding.weight

    def encode(self, source_BS: Tensor, source_mask_BS: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the encoder's states (B, S, M), and the states from which the decoder's layers begin: (N, B, H)."""
        x_BSE = self.dropout(self.source_embedding(source_BS))
        if self.config.reverse_source:  # the first token last, and the padding on the other side
            source_mask_BS = None if source_mask_BS is None else source_mask_BS.flip(1)
            memory_BSM, last = self.encoder(turned(x_BSE), mask_BT=source_mask_BS)
            memory_BSM = turned(memory_BSM)
        else:
            memory_BSM, last = self.encoder(x_BSE, mask_BT=source_mask_BS)
        if self.config.bidirectional:
            last = [bridge(state_NBX).tanh() for bridge, state_NBX in zip(self.bridges, last, strict=True)]
        return memory_BSM, last

    def new_cache(
        self, source_BS: Tensor, source_mask_BS: Tensor | None = None, length: int | None = None
    ) -> Seq2SeqCache:
        """Encode a source and return what `decode` needs of it; ``length`` is without effect, for it does not grow.

        Args:
            source_BS: int64 (B, S).
            source_mask_BS: True where there is a token; None: everywhere.
        """
        memory_BSM, state = self.encode(source_BS, source_mask_BS)
        return Seq2SeqCache(state, memory_BSM, self._keys(memory_BSM), source_mask_BS)

    def _keys(self, memory_BSM: Tensor) -> Tensor:
        return self.attention.keys(memory_BSM) if isinstance(self.attention, AdditiveAttention) else memory_BSM

    def decode(self, token_BT: Tensor, cache: Seq2SeqCache) -> Tensor:
        """Return the logits (B, T, V) of what follows each of the next target tokens (B, T)."""
        return self.head(self._decode(token_BT, cache)[0])

    def features(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return what the head reads: (B, T, R). The arguments are those of `forward`."""
        return self._decode(target_BT, self.new_cache(source_BS, source_mask_BS))[0]

    def forward(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V).

        Args:
            source_BS: int64 (B, S).
            target_BT: int64 (B, T): the start token and what follows it, up to the token before the last.
            source_mask_BS: True where the source has a token; None: everywhere.
        """
        return self.head(self.features(source_BS, target_BT, source_mask_BS))

    def attention_weights(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return where each step of the decoder looked: (1, B, 1, T, S), rows that sum to 1.

        Raises ConfigError for a net without attention.
        """
        weight_BTS = self._decode(target_BT, self.new_cache(source_BS, source_mask_BS))[1]
        if weight_BTS is None:
            raise ConfigError("This net has attention='none': it looks at nothing but its own state.")
        return weight_BTS[None, :, None]

    def _decode(self, token_BT: Tensor, cache: Seq2SeqCache) -> tuple[Tensor, Tensor | None]:
        """Return what the head reads (B, T, R) and the attention (B, T, S), and advance the cache."""
        x_BTE = self.dropout(self.target_embedding(token_BT))
        after: list[Tensor] = []
        weight_BTS = context_BTM = None
        y_BTH = x_BTE
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, RecurrentLayer)
            y_BTH = self.dropout(y_BTH) if number else y_BTH
            if number == 0 and isinstance(self.attention, AdditiveAttention):
                y_BTH, context_BTM, weight_BTS, state_NBH = self._align(layer, self.attention, x_BTE, cache)
            else:
                y_BTH, state_NBH = layer(y_BTH, cache.state[number])
            after.append(state_NBH)
        if isinstance(self.attention, AdditiveAttention):
            assert context_BTM is not None
            pieces_BTR2 = self.readout(torch.cat([y_BTH, x_BTE, context_BTM], dim=-1)).unflatten(-1, (-1, 2))
            y_BTH = pieces_BTR2.amax(dim=-1)
        elif isinstance(self.attention, BilinearAttention):
            context_BTM, weight_BTS = self.attention(y_BTH, cache.memory_BSM, cache.mask_BS)
            y_BTH = self.readout(torch.cat([context_BTM, y_BTH.to(context_BTM.dtype)], dim=-1)).tanh()
        cache.advance(token_BT.shape[1], after)
        return self.dropout(y_BTH), weight_BTS

    def _align(
        self, layer: RecurrentLayer, attention: AdditiveAttention, x_BTE: Tensor, cache: Seq2SeqCache
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the first layer step by step, each reading what its last state asked for.

        Returns hidden states (B, T, H), contexts (B, T, M), weights (B, T, S) and the state after.
        """
        E = x_BTE.shape[2]
        # The tokens' share of the gates for all steps at once; the context's follows as it becomes known.
        from_token_BTG = F.linear(x_BTE, layer.weight_input[:, :E], layer.bias_input)
        from_context_GM, hidden_weight_GH = layer.weight_input[:, E:], layer.hidden_weight()
        state_NBH = cache.state[0]
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(x_BTE.shape[1]):
            context_BM, weight_BS = attention(state_NBH[0], cache.key_BSA, cache.memory_BSM, cache.mask_BS)
            input_BG = from_token_BTG[:, t] + F.linear(context_BM, from_context_GM)
            state_NBH = layer.step(input_BG, state_NBH, hidden_weight_GH)
            steps.append((state_NBH[0], context_BM, weight_BS))
        hidden, context, weight = zip(*steps, strict=True)
        return torch.stack(hidden, dim=1), torch.stack(context, dim=1), torch.stack(weight, dim=1), state_NBH


class AdditiveAttention(nn.Module):
    """An alignment net with one hidden layer (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, query_width: int, memory_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, width)
        self.keys = nn.Linear(memory_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(
        self, query_BH: Tensor, key_BSA: Tensor, memory_BSM: Tensor, mask_BS: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what was read (B, M), and the weights (B, S)."""
        score_BS = self.score(torch.tanh(self.query(query_BH)[:, None] + key_BSA))[..., 0]
        weight_BS = _softmax(score_BS, mask_BS)
        return (weight_BS.to(memory_BSM.dtype)[:, None] @ memory_BSM)[:, 0], weight_BS


class BilinearAttention(nn.Module):
    """The "general" score of Luong et al. 2015, equation 8: a query's product with each state through one matrix."""

    def __init__(self, query_width: int, memory_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, memory_width, bias=False)

    def forward(self, query_BTH: Tensor, memory_BSM: Tensor, mask_BS: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what each query read (B, T, M), and the weights (B, T, S)."""
        score_BTS = self.query(query_BTH) @ memory_BSM.transpose(1, 2)
        weight_BTS = _softmax(score_BTS, None if mask_BS is None else mask_BS[:, None])
        return weight_BTS.to(memory_BSM.dtype) @ memory_BSM, weight_BTS


def _softmax(score: Tensor, mask: Tensor | None) -> Tensor:
    # Not minus infinity: a source without a token would make everything NaN.
    return (score if mask is None else score.masked_fill(~mask, torch.finfo(score.dtype).min)).softmax(dim=-1)


class Seq2SeqCache(RecurrentState):
    """The decoder's state, and the encoded source that it looks at."""

    def __init__(self, state: Sequence[Tensor], memory_BSM: Tensor, key_BSA: Tensor, mask_BS: Tensor | None) -> None:
        super().__init__(state)
        self.memory_BSM, self.key_BSA, self.mask_BS = memory_BSM, key_BSA, mask_BS

    def reorder(self, index_B: Tensor) -> None:
        """Let row b be what row ``index_B[b]`` was, source included."""
        super().reorder(index_B)
        self.memory_BSM, self.key_BSA = self.memory_BSM[index_B], self.key_BSA[index_B]
        self.mask_BS = None if self.mask_BS is None else self.mask_BS[index_B]
