"""TextCNN: convolutions over a sentence's word vectors, the greatest answer of each filter, and one linear layer.

Paper: Kim 2014, "Convolutional neural networks for sentence classification". Unusual here: a text may be padded on
either side by any amount without its answer changing, and the limit on the output layer's rows is part of the layer.

B texts, T tokens, E embedding, F filters of all widths, K width of a filter, V vocabulary, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.config import Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers.dropout import Dropout
from strata.layers.text_head import TextHead


@dataclass(frozen=True, kw_only=True)
class TextCNNConfig:
    """Sizes of a TextCNN; the defaults are Kim's, with random word vectors."""

    embeddings: Literal["random", "static", "non_static", "multichannel"] = "random"
    """Word vectors: trained from random ones; given and held still; given and trained; or both of the last, whose
    answers add up. Those given are set with `TextCNN.load_vectors`."""
    embedding_width: Positive = 300
    filter_widths: tuple[Positive, ...] = (3, 4, 5)
    filters: Positive = 100
    """Of each width."""
    dropout: Probability = 0.5
    max_norm: PositiveFloat | None = 3.0
    """Greatest length of a row of the output layer's weights."""
    vocab_size: Positive = 20000
    num_classes: Positive = 2
    head: TextHead = "class"


PRESETS = {
    "textcnn_rand": TextCNNConfig(),
    "textcnn_static": TextCNNConfig(embeddings="static"),
    "textcnn_non_static": TextCNNConfig(embeddings="non_static"),
    "textcnn_multichannel": TextCNNConfig(embeddings="multichannel"),
}
TINY = TextCNNConfig(
    embeddings="multichannel", embedding_width=8, filter_widths=(2, 3), filters=6, vocab_size=11, num_classes=3
)


class TextCNN(nn.Module):
    """A convolution net for sentences (Kim 2014, section 2): tokens (B, T) to class logits (B, C).

    With ``head="embedding"`` to one vector of length one a text (B, F), with ``"none"`` to the filters' answers (B, F).

    Differs from the paper: the limit on the output layer's rows is part of its forward pass and not a correction after
    each step; the weights used are the same set, and training needs to know nothing of it.

    Raises ConfigError for heads that give an answer for each token.
    """

    config_class = TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__()
        self.config = config
        if config.head not in ("class", "embedding", "none"):
            raise ConfigError(f"head={config.head!r} is not among what textcnn has: class, embedding, none.")
        vectors_VE = torch.empty(config.vocab_size, config.embedding_width).uniform_(-0.25, 0.25)
        trained, given = config.embeddings != "static", config.embeddings in ("static", "multichannel")
        self.token_embedding = nn.Embedding.from_pretrained(vectors_VE, freeze=False) if trained else None
        # A buffer, so that nothing that trains "all parameters" trains it
        self.register_buffer("static_VE", vectors_VE.clone() if given else None)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_width, config.filters, width) for width in config.filter_widths
        )
        self.dropout = Dropout(config.dropout)
        width = config.filters * len(config.filter_widths)
        self.head: nn.Module = nn.Identity()
        if config.head == "class":
            self.head = MaxNormLinear(width, config.num_classes, config.max_norm)

    @torch.no_grad()
    def load_vectors(self, vectors_VE: Tensor) -> None:
        """Set the word vectors, (V, E), trained elsewhere. Raises ConfigError for others than (V, E)."""
        config = self.config
        if tuple(vectors_VE.shape) != (config.vocab_size, config.embedding_width):
            raise ConfigError(
                f"Word vectors of shape {tuple(vectors_VE.shape)} do not fit a model of vocab_size={config.vocab_size} "
                f"and embedding_width={config.embedding_width}."
            )
        for held in (self.static_VE, None if self.token_embedding is None else self.token_embedding.weight):
            if isinstance(held, Tensor):
                held.copy_(vectors_VE)

    def features(self, token_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return the greatest answer of each filter: (B, F), dropout included. The arguments are those of `forward`."""
        channels = [] if self.token_embedding is None else [self.token_embedding(token_BT)]
        if isinstance(self.static_VE, Tensor):
            channels.append(F.embedding(token_BT, self.static_VE))
        is_real_B1T = None if mask_BT is None else mask_BT[:, None].to(channels[0].dtype)
        if is_real_B1T is not None:
            channels = [x_BTE * is_real_B1T.transpose(1, 2) for x_BTE in channels]
        found = []
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv1d)
            reach = layer.kernel_size[0] - 1
            # Zeros on both sides, so that a text shorter than a filter has an answer, and each word all its places.
            # Channels share their filters (Kim 2014, section 2.1), so their vectors may as well be added first.
            x_BET = F.pad(sum(channels[1:], channels[0]).transpose(1, 2), (reach, reach))
            answer_BFT = layer(x_BET).relu()
            if is_real_B1T is not None:  # zero, the least that relu gives, where a filter lies on padding only
                touches_B1T = F.max_pool1d(F.pad(is_real_B1T, (reach, reach)), reach + 1, stride=1)
                answer_BFT = answer_BFT * touches_B1T
            found.append(answer_BFT.amax(dim=2))
        return self.dropout(torch.cat(found, dim=1))

    def forward(self, token_BT: Tensor, mask_BT: Tensor | None = None, segment_BT: Tensor | None = None) -> Tensor:
        """Return class logits (B, C), or what another head gives.

        Args:
            token_BT: int64 (B, T).
            mask_BT: True where there is a token; None: everywhere.
            segment_BT: taken and not read: a convolution net has no use for it.
        """
        y_BF = self.head(self.features(token_BT, mask_BT))
        return F.normalize(y_BF, dim=-1) if self.config.head == "embedding" else y_BF


class MaxNormLinear(nn.Linear):
    """A linear layer whose rows are used no longer than ``max_norm``: (B, F) to (B, C).

    Where a row of the stored weights is longer, it is shortened on its way into the product.
    """

    def __init__(self, in_features: int, out_features: int, max_norm: float | None) -> None:
        super().__init__(in_features, out_features)
        self.max_norm = max_norm

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return the logits."""
        weight_CF = self.weight
        if self.max_norm is not None:
            length_C1 = weight_CF.norm(dim=1, keepdim=True).clamp(min=1e-12)
            weight_CF = weight_CF * (self.max_norm / length_C1).clamp(max=1.0)
        return F.linear(x_BF, weight_CF, self.bias)
