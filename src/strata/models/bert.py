"""BERT: a stack of Transformer blocks in which every token looks at all others, learned by filling in hidden words.

Paper: Devlin, Chang, Lee and Toutanova 2019, "BERT: Pre-training of deep bidirectional transformers for language
understanding", section 3. In the same shape: RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019), MiniLM (Wang et
al. 2020), and the small ones of Turc et al. 2019, Table 1. Unusual here: a token's position is counted among the real
tokens of its text, so that padding on either side changes nothing.

B texts, T tokens, S tokens looked at, D width, X the three of query, key and value, H heads of K numbers, V vocabulary,
C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from strata.config import NotNegative, Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers import masks
from strata.layers.activations import Activation
from strata.layers.attention import attention
from strata.layers.dropout import Dropout
from strata.layers.feed_forward import FeedForward
from strata.layers.text_head import TextHead, read, text_head


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of a BERT; the defaults are BERT-Base's, uncased."""

    variant: Literal["bert", "roberta", "distilbert"] = "bert"
    """Whose details: RoBERTa leaves its first two rows of positions unused and has "gelu" in the head "token";
    DistilBERT has "relu" in the head "class", where the others have "tanh"."""
    num_layers: Positive = 12
    num_heads: Positive = 12
    width: Positive = 768
    hidden_width: Positive = 3072
    """Of each block's perceptron."""
    context: Positive = 512
    """Tokens of the longest text, for the positions are learned."""
    num_segments: NotNegative = 2
    """Parts that a text may have, such as question and passage; RoBERTa has one, DistilBERT none."""
    vocab_size: Positive = 30522
    """Uncased English; cased: 28,996, several languages: 119,547."""
    activation: Activation = "gelu"
    norm_eps: PositiveFloat = 1e-12
    dropout: Probability = 0.1
    """Of the embeddings, of each part's output, and before the last layer of a head that classifies."""
    attention_dropout: Probability = 0.1
    """Of the attention's weights."""
    head: TextHead = "none"
    embedding_pool: Literal["mean", "first"] = "mean"
    """What the head "embedding" reads: the mean of all real tokens' states, or the first token's."""
    num_classes: Positive = 2


def _turc(num_layers: int, width: int) -> BertConfig:
    return BertConfig(num_layers=num_layers, width=width, num_heads=width // 64, hidden_width=4 * width)


def _roberta(num_layers: int, width: int) -> BertConfig:
    return BertConfig(
        variant="roberta",
        num_layers=num_layers,
        width=width,
        num_heads=width // 64,
        hidden_width=4 * width,
        num_segments=1,
        vocab_size=50265,
        norm_eps=1e-5,
    )


PRESETS = {
    "bert_tiny": _turc(2, 128),
    "bert_mini": _turc(4, 256),
    "bert_small": _turc(4, 512),
    "bert_base": BertConfig(),
    "bert_large": BertConfig(num_layers=24, num_heads=16, width=1024, hidden_width=4096),
    "roberta_base": _roberta(12, 768),
    "roberta_large": _roberta(24, 1024),
    "distilbert_base": BertConfig(variant="distilbert", num_layers=6, num_segments=0),
    "minilm_l6": BertConfig(num_layers=6, width=384, hidden_width=1536),
}
TINY = BertConfig(
    num_layers=2,
    num_heads=2,
    width=16,
    hidden_width=24,
    context=12,
    vocab_size=11,
    dropout=0.0,
    attention_dropout=0.0,
    head="token",
)


class Bert(nn.Module):
    """BERT (Devlin et al. 2019, section 3): tokens (B, T) to the last hidden states (B, T, D), or what a head gives.

    The heads: "token" (B, T, V), "class" (B, C), "token_class" (B, T, C), "span" (B, T, 2), "embedding" (B, D).

    Differs from the paper: the "pooler" over the first token is a part of the head "class" and is nowhere else, and
    nothing predicts whether one sentence follows another (RoBERTa, section 4.2, is no worse without).

    Raises ConfigError for a width that the heads do not divide, for more tokens than the context holds, and for
    segments given to a model that has none.
    """

    config_class = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        if config.width % config.num_heads:
            nearest = max(1, round(config.width / config.num_heads)) * config.num_heads
            raise ConfigError(
                f"width={config.width} cannot be split among num_heads={config.num_heads}. "
                f"Take a multiple of {config.num_heads}, such as width={nearest}."
            )
        self.first_position = 2 if config.variant == "roberta" else 0
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(self.first_position + config.context, config.width)
        if config.num_segments:
            self.segment_embedding = nn.Embedding(config.num_segments, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = _head(config, self.token_embedding)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def features(self, token_BT: Tensor, mask_BT: Tensor | None = None, segment_BT: Tensor | None = None) -> Tensor:
        """Return the last hidden states (B, T, D), which every head reads. The arguments are those of `forward`."""
        x_BTD = self.dropout(self.norm(self._embed(token_BT, mask_BT, segment_BT)))
        mask_B11S = None if mask_BT is None else masks.padding(mask_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_B11S)
        return x_BTD

    def _embed(self, token_BT: Tensor, mask_BT: Tensor | None, segment_BT: Tensor | None) -> Tensor:
        """Return the sum of what a token's word, place and segment are embedded as."""
        length, first = token_BT.shape[1], self.first_position
        if length > self.config.context:
            raise ConfigError(
                f"{length} tokens do not fit into this model's context of {self.config.context}. "
                "Give it fewer, or train with a larger model.context."
            )
        if mask_BT is None:
            place = self.position_embedding.weight[first : first + length]
        else:
            place = self.position_embedding((mask_BT.cumsum(dim=1) - 1).clamp(min=0) + first)
        if segment_BT is not None:
            if self.config.num_segments < 2:
                raise ConfigError(
                    f"This model has num_segments={self.config.num_segments} and cannot tell segments apart. "
                    "Leave segment_BT out, or take a model that has two, such as bert_base."
                )
            place = place + self.segment_embedding(segment_BT)
        elif self.config.num_segments:
            place = place + self.segment_embedding.weight[0]
        return self.token_embedding(token_BT) + place

    def forward(self, token_BT: Tensor, mask_BT: Tensor | None = None, segment_BT: Tensor | None = None) -> Tensor:
        """Return what the head makes of the hidden states.

        Args:
            token_BT: int64 (B, T).
            mask_BT: boolean (B, T), True where there is a token, False for padding; None: no padding.
            segment_BT: int64 (B, T), the part of the text that each token belongs to; None: all to the first.
        """
        return read(self.head, self.features(token_BT, mask_BT, segment_BT), mask_BT)


class Block(nn.Module):
    """Attention, then a perceptron, each added to what came in and normed after: (B, T, D) to (B, T, D)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = FeedForward(config.width, config.hidden_width, kind=config.activation)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return the states after this block."""
        x_BTD = self.norm1(x_BTD + self.dropout(self.attention(x_BTD, mask_B11S)))
        return self.norm2(x_BTD + self.dropout(self.mlp(x_BTD)))


class SelfAttention(nn.Module):
    """Every token looks at all real tokens (Vaswani et al. 2017, eq. 1): (B, T, D) to (B, T, D)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_BTD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return what each token reads."""
        B, T, D = x_BTD.shape
        qkv_BTXHK = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads)
        q_BHTK, k_BHSK, v_BHSK = (part.transpose(1, 2) for part in qkv_BTXHK.unbind(2))
        dropout = self.weight_dropout if self.training else 0.0
        y_BHTK = attention(q_BHTK, k_BHSK, v_BHSK, mask=mask_B11S, dropout=dropout)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))


def _head(config: BertConfig, embedding: nn.Embedding) -> nn.Module:
    hidden: Activation | None = None
    if config.head == "token":
        hidden = "gelu" if config.variant == "roberta" else config.activation
    elif config.head == "class":
        hidden = "relu" if config.variant == "distilbert" else "tanh"
    return text_head(
        config.head,
        config.width,
        vocab_size=config.vocab_size,
        num_classes=config.num_classes,
        pool=config.embedding_pool if config.head == "embedding" else "first",
        hidden=hidden,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
        embedding=embedding,
    )
