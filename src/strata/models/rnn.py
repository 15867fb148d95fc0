"""Recurrent nets: the plain net, the LSTM and the GRU as language models, classifiers and taggers.

Paper: Zaremba et al. 2014, "Recurrent neural network regularization", section 4.1, whose medium LSTM the defaults are.
The cells are those of Elman 1990, of Hochreiter and Schmidhuber 1997 and of Cho et al. 2014; other sizes are those of
Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks", and of Merity et al. 2018, "Regularizing
and optimizing LSTM language models".

Unusual here: in training the state is carried from window to window, so `context` is how far gradients go back and not
how far the net remembers; and `gradient_flow` measures how they fade on the way.

B sequences, T tokens, D width of what the head reads, E embedding, V vocabulary, C classes, N tensors in a state, H
width of a layer, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.dropout import Dropout
from strata.layers.recurrent import Cell, LockedDropout, Recurrent, RecurrentState
from strata.layers.text_head import TextHead, read, text_head


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """Sizes of a recurrent net; the defaults are the medium LSTM of Zaremba et al. 2014."""

    cell: Cell = "lstm"
    activation: Literal["tanh", "relu"] = "tanh"
    """Of the Elman cell; the others have their own."""
    bidirectional: bool = False
    """Reads each text from its end too; not as a language model, which would see what it has to foretell."""
    num_layers: Positive = 2
    width: Positive = 650
    """Of the state in one direction."""
    embedding_width: Positive = 650
    context: Positive = 35
    """Tokens of a training window, through which gradients flow; the state is carried from one to the next."""
    vocab_size: Positive = 10000
    dropout: Probability = 0.5
    """Of what the head reads, and of all other places but those that say their own."""
    input_dropout: Probability | None = None
    """Of the embedded tokens."""
    hidden_dropout: Probability | None = None
    """Between layers."""
    word_dropout: Probability = 0.0
    """Share of the vocabulary whose embedding is zero in a pass (Gal and Ghahramani 2016)."""
    locked_dropout: bool = False
    """Each mask is the same at all steps of a window: variational dropout."""
    weight_drop: Probability = 0.0
    """Share of the hidden-to-hidden weights dropped in a pass (Merity et al. 2018, section 2)."""
    layer_norm: bool = False
    """Ba et al. 2016, section 3.1. It has no fused kernel: several times slower."""
    tied_head: bool = False
    """The output layer is the token embedding, and the last layer as wide as that."""
    head: TextHead = "token"
    num_classes: Positive = 2


PRESETS = {
    "elman": RNNConfig(cell="elman", num_layers=1),
    "lstm": RNNConfig(),
    "gru": RNNConfig(cell="gru"),
    "bilstm": RNNConfig(bidirectional=True, num_layers=1, width=300, embedding_width=300, head="class"),
    "lstm_layer_norm": RNNConfig(layer_norm=True),
    "awd_lstm": RNNConfig(
        num_layers=3,
        width=1150,
        embedding_width=400,
        context=70,
        dropout=0.4,
        input_dropout=0.4,
        hidden_dropout=0.25,
        word_dropout=0.1,
        locked_dropout=True,
        weight_drop=0.5,
        tied_head=True,
    ),
    "char_lstm": RNNConfig(width=512, embedding_width=128, context=50, vocab_size=65, dropout=0.0),
}
TINY = RNNConfig(num_layers=2, width=16, embedding_width=12, context=12, vocab_size=11, dropout=0.1)


class RNN(nn.Module):
    """A recurrent net (Elman 1990; Hochreiter and Schmidhuber 1997; Cho et al. 2014): tokens (B, T) to its head's.

    Those are logits of each next token (B, T, V), of classes (B, C), of each token's class (B, T, C), or other things
    that `strata.layers.text_head` lists. Class logits are read from the greatest and the mean hidden state over the
    text, side by side: the last state alone remembers long texts badly, and gradients reach each token at once.

    Differs from the papers: characters are embedded and not given as one-hot vectors, which is the same net but for a
    narrower first product; weights begin as `RecurrentLayer` says; ``awd_lstm`` lacks the two penalties of activations.

    Raises ConfigError for a bidirectional language model, and for heads that a recurrent net has not.
    """

    config_class = RNNConfig
    carries_state: ClassVar[bool] = True
    """As a language model it is trained on a text in its order, the state handed on from window to window."""

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        if config.head == "token" and config.bidirectional:
            raise ConfigError("A language model cannot be bidirectional: it would read the tokens it has to foretell.")
        if config.head == "span":
            raise ConfigError("head='span' is not among what rnn has: token, class, token_class, embedding, none.")
        if config.tied_head and config.head != "token":
            raise ConfigError(f"tied_head=True needs head='token'; head={config.head!r} gives no words.")
        p = config.dropout
        widths = [config.width] * config.num_layers
        if config.tied_head:
            widths[-1] = config.embedding_width
        dropout = LockedDropout if config.locked_dropout else Dropout
        self.token_embedding = nn.Embedding(config.vocab_size, config.embedding_width)
        if config.tied_head:  # as small as an output layer has to begin
            nn.init.uniform_(self.token_embedding.weight, -0.1, 0.1)
        self.input_dropout = dropout(p if config.input_dropout is None else config.input_dropout)
        self.recurrent = Recurrent(
            config.cell,
            config.embedding_width,
            widths,
            bidirectional=config.bidirectional,
            dropout=p if config.hidden_dropout is None else config.hidden_dropout,
            locked=config.locked_dropout,
            activation=config.activation,
            layer_norm=config.layer_norm,
            weight_drop=config.weight_drop,
        )
        self.dropout = dropout(p)
        self.head: nn.Module
        if config.head == "class":
            self.head = MaxAndMean(self.recurrent.out_width, config.num_classes)
        else:
            self.head = text_head(
                config.head,
                self.recurrent.out_width,
                vocab_size=config.vocab_size,
                num_classes=config.num_classes,
                pool="mean",
                embedding=self.token_embedding if config.tied_head else None,
            )

    def embed(self, token_BT: Tensor) -> Tensor:
        """Return the embedded tokens (B, T, E), some words left out in training."""
        weight_VE = self.token_embedding.weight
        if self.training and self.config.word_dropout > 0:
            weight_VE = weight_VE * F.dropout(torch.ones_like(weight_VE[:, :1]), self.config.word_dropout)
        return self.input_dropout(F.embedding(token_BT, weight_VE))

    def features(
        self,
        token_BT: Tensor,
        cache: RecurrentState | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the last layer's hidden states (B, T, D), dropout included. The arguments are those of `forward`."""
        before = None if cache is None else cache.state
        y_BTD, after = self.recurrent(self.embed(token_BT), before, mask_BT, document_BT)
        if cache is not None:
            cache.advance(token_BT.shape[1], after)
        return self.dropout(y_BTD)

    def forward(
        self,
        token_BT: Tensor,
        cache: RecurrentState | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        segment_BT: Tensor | None = None,
    ) -> Tensor:
        """Return what the head gives, such as logits (B, T, V).

        Args:
            token_BT: int64 (B, T); with a cache, the tokens that follow those read before.
            cache: of `new_cache`; holds the state after what was read, and takes the state after ``token_BT``.
            mask_BT: True where there is a token; None: everywhere.
            document_BT: a number for each token; where it changes, the state is forgotten.
            segment_BT: taken and not read: a recurrent net has no use for it.
        """
        hidden_BTD = self.features(token_BT, cache, mask_BT, document_BT)
        if isinstance(self.head, MaxAndMean):
            return self.head(hidden_BTD, mask_BT)
        return read(self.head, hidden_BTD, mask_BT)

    def new_cache(
        self,
        batch_size: int,
        length: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> RecurrentState:
        """Return the state before anything was read; ``length`` is without effect, for it does not grow."""
        if self.config.bidirectional:
            raise ConfigError("A bidirectional net reads whole texts; it has no state to go on from.")
        state = self.recurrent.zero_state(batch_size)
        return RecurrentState([state_NBH.to(device=device, dtype=dtype) for state_NBH in state])

    def gradient_flow(self, token_BT: Tensor) -> Tensor:
        """Return how strongly the loss at the last step depends on each step's hidden state: norms (L, T - 1).

        The loss is the cross-entropy of the last token, foretold from those before; norms of dL/dh_t are of one row's
        gradient, averaged over rows. Where they fall off towards the front, what happened there cannot be learned
        (Bengio et al. 1994). Gradients of the weights are not touched.

        Raises ConfigError for a net that is no language model.
        """
        if self.config.head != "token":
            raise ConfigError(f"gradient_flow needs a language model: head='token', not {self.config.head!r}.")
        states: list[list[Tensor]] = []
        with torch.enable_grad():
            y_BTD, _ = self.recurrent(self.embed(token_BT[:, :-1]), trace=states)
            logits_BV = self.head(self.dropout(y_BTD[:, -1:]))[:, 0]
            loss = F.cross_entropy(logits_BV.float(), token_BT[:, -1], reduction="sum")
            flat = torch.autograd.grad(loss, [state_NBH for steps in states for state_NBH in steps])
        norm = torch.stack([gradient_NBH[0].norm(dim=-1).mean() for gradient_NBH in flat])
        return norm.view(len(states), -1)


class MaxAndMean(nn.Module):
    """Class logits (B, C) from the greatest and the mean hidden state of each text's real tokens (B, T, D)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return logits; a text without a token counts as one hidden state of zeros."""
        if mask_BT is None:
            return self.classifier(torch.cat([hidden_BTD.amax(dim=1), hidden_BTD.mean(dim=1)], dim=-1))
        count_B1 = mask_BT.sum(dim=1, keepdim=True)
        greatest_BD = hidden_BTD.masked_fill(~mask_BT[..., None], -torch.inf).amax(dim=1)
        greatest_BD = greatest_BD.masked_fill(count_B1 == 0, 0.0)
        mean_BD = hidden_BTD.masked_fill(~mask_BT[..., None], 0.0).sum(dim=1) / count_B1.clamp(min=1)
        return self.classifier(torch.cat([greatest_BD, mean_BD], dim=-1))
