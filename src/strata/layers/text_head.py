"""What stands on a text model's hidden states: logits of words, classes, tags or answers, or one vector a text.

Unusual here: the heads of BERT, RoBERTa and DistilBERT are one, for they differ in an activation only, and recurrent
nets have the same. A head that reads one vector a text pools over real tokens alone, wherever the padding is.

B texts, T tokens, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.layers.activations import Activation, activation
from strata.layers.dropout import Dropout

TextHead = Literal["none", "token", "class", "token_class", "span", "embedding"]
"""Hidden states (B, T, D); logits of the vocabulary (B, T, V), of classes (B, C), of each token's class (B, T, C), of
an answer's start and end (B, T, 2); a vector of length one for each text (B, D)."""
Pool = Literal["first", "last", "mean"]
"""Which of a text's hidden states are read as one: those of its first token, of its last, or the mean of all."""


def text_head(
    kind: TextHead,
    width: int,
    *,
    vocab_size: int,
    num_classes: int,
    pool: Pool,
    hidden: Activation | None = None,
    norm_eps: float | None = None,
    dropout: float = 0.0,
    embedding: nn.Embedding | None = None,
) -> nn.Module:
    """Return a new head; `read` calls it.

    Args:
        width: of the hidden states.
        vocab_size, num_classes: of the logits; each is without effect on the heads that give others.
        pool: what "class" and "embedding" read.
        hidden: activation of one more layer, as wide as the states, inside "class" and "token"; None: no such layer.
        norm_eps: of the layer norm after that layer in "token"; None: no norm.
        dropout: before the last layer of "class", "token_class" and "span".
        embedding: whose weights the last layer of "token" shares; None: it has its own.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "embedding":
        return Embed(pool)
    if kind == "class":
        return Classify(width, num_classes, pool=pool, hidden=hidden, dropout=dropout)
    if kind in ("token_class", "span"):
        return Classify(width, 2 if kind == "span" else num_classes, dropout=dropout)
    decoder = nn.Linear(width, vocab_size)
    if embedding is not None:
        decoder.weight = embedding.weight
    return decoder if hidden is None else Decode(width, decoder, hidden=hidden, norm_eps=norm_eps)


def read(head: nn.Module, hidden_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Return what a head of `text_head` makes of hidden states.

    Args:
        mask_BT: boolean, True where there is a token; None: everywhere.
    """
    return head(hidden_BTD, mask_BT) if isinstance(head, Classify | Embed) else head(hidden_BTD)


class Decode(nn.Module):
    """Linear, activation, norm, and the vocabulary's logits: (..., D) to (..., V) (Devlin et al. 2019, section 3.1).

    A loss that never holds all logits takes `transform` and the layer `decoder` apart.
    """

    def __init__(self, width: int, decoder: nn.Linear, *, hidden: Activation, norm_eps: float | None) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.act = activation(hidden)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)
        self.decoder = decoder

    def transform(self, hidden_BTD: Tensor) -> Tensor:
        """Return what the decoder reads, of the shape of the hidden states."""
        return self.norm(self.act(self.dense(hidden_BTD)))

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Return logits; any places, also some that were picked out, may be given."""
        return self.decoder(self.transform(hidden_BTD))


class Classify(nn.Module):
    """Class logits, of each text (B, C) or, without pooling, of each token (B, T, C)."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        pool: Pool | None = None,
        hidden: Activation | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.dense = nn.Identity() if hidden is None else nn.Linear(width, width)
        self.act = nn.Identity() if hidden is None else activation(hidden)
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return logits for hidden states, of which ``mask_BT`` says where there are tokens."""
        x = hidden_BTD if self.pool is None else pooled(hidden_BTD, mask_BT, self.pool)
        return self.classifier(self.dropout(self.act(self.dense(x))))


class Embed(nn.Module):
    """One vector of length one for each text (Reimers and Gurevych 2019, section 3): (B, T, D) to (B, D)."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return the vectors of hidden states, of which ``mask_BT`` says where there are tokens."""
        return F.normalize(pooled(hidden_BTD, mask_BT, self.pool), dim=-1)


def pooled(hidden_BTD: Tensor, mask_BT: Tensor | None, pool: Pool) -> Tensor:
    """Return one state a text (B, D), of its real tokens only.

    Args:
        mask_BT: boolean, True where there is a token; None: everywhere. The padding may be on either side.
    """
    if mask_BT is None:
        return hidden_BTD.mean(dim=1) if pool == "mean" else hidden_BTD[:, 0 if pool == "first" else -1]
    if pool == "mean":
        count_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        return hidden_BTD.masked_fill(~mask_BT[..., None], 0.0).sum(dim=1) / count_B1
    place_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    is_real_BT = mask_BT.to(place_T.dtype)
    place_B = is_real_BT.argmax(dim=1) if pool == "first" else (is_real_BT * place_T).argmax(dim=1)
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), place_B]
