"""The Transformer of 2017: an encoder reads a text, a decoder writes another, and both are made of attention alone.

Paper: Vaswani et al. 2017, "Attention is all you need", sections 3 and 5.4 and Table 3. The small sizes are Wu et al.
2021's, "Good for misconceived reasons", for the 29,000 sentences of Multi30k, and the one that is customary for IWSLT's
160,000. Norms stand after each sum as in 2017; ``pre_norm`` puts them before each part, which trains without warm-up
(Xiong et al. 2020, "On layer normalization in the Transformer architecture").

B pairs, S source tokens, T target tokens read now, P target tokens read so far, D width, X the three of query, key and
value (or the two of key and value), H heads, K width of a head, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation
from strata.layers.attention import attention, attention_weights
from strata.layers.dropout import Dropout
from strata.layers.feed_forward import FeedForward
from strata.layers.masks import causal, padding
from strata.layers.position import sinusoidal
from strata.layers.source_cache import SourceCache


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a Transformer; the defaults are the paper's base model's."""

    num_layers: Positive = 6
    """Blocks of the encoder, and of the decoder where `num_decoder_layers` does not say otherwise."""
    num_decoder_layers: Positive | None = None
    num_heads: Positive = 8
    width: Positive = 512
    hidden_width: Positive = 2048
    """Of each block's perceptron."""
    activation: Activation = "relu"
    pre_norm: bool = False
    """Norms before each part and once at the end, not after each sum."""
    dropout: Probability = 0.1
    """Of each part's output, and of embeddings with positions; section 5.4."""
    attention_dropout: Probability = 0.0
    """Of the attention's weights, which the paper leaves whole."""
    tied_head: bool = True
    """The output layer is the token embedding, which both sides share in any case; section 3.4."""
    head_bias: bool = False
    """A number of its own for each token's logit, as Marian's models have it."""
    context: Positive = 1024
    """Tokens of a source or a target that the table of positions has room for."""
    vocab_size: Positive = 37000
    """Shared by both languages; section 5.1."""


PRESETS = {
    "transformer_base": TransformerConfig(),
    "transformer_big": TransformerConfig(num_heads=16, width=1024, hidden_width=4096, dropout=0.3),
    "transformer_iwslt": TransformerConfig(num_heads=4, hidden_width=1024, dropout=0.3, vocab_size=10000),
    "transformer_tiny": TransformerConfig(
        num_layers=4, num_heads=4, width=128, hidden_width=256, dropout=0.3, vocab_size=10000
    ),
}
TINY = TransformerConfig(num_layers=2, num_heads=2, width=16, hidden_width=24, context=12, vocab_size=11)


class Transformer(nn.Module):
    """The Transformer (Vaswani et al. 2017, Figure 1): source (B, S) and target (B, T) to logits (B, T, V).

    The logits at a target token are of the token after it. Label smoothing belongs to what the model is trained for.

    With 37,000 tokens base has 63,082,496 parameters and big 214,245,376, the shared embedding counted once. Table 3
    says 65 and 213 million, which no one vocabulary gives: 40,700 tokens make the first, 35,800 the second.

    Differs from the paper: the embeddings start with deviation D ** -0.5, so that with their factor of D ** 0.5 they
    are as large as the positions, and all other matrices as in Glorot and Bengio 2010, of which the paper says nothing.

    Raises ConfigError for a width that the heads do not divide or that is odd, and for more tokens than the context.
    """

    config_class = TransformerConfig
    is_encoder_decoder: ClassVar[bool] = True
    positions_TD: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        if config.width % config.num_heads or config.width % 2:
            step = math.lcm(config.num_heads, 2)
            raise ConfigError(
                f"width={config.width} cannot be split among num_heads={config.num_heads} and into sines and cosines. "
                f"Take a multiple of {step}, such as width={math.ceil(config.width / step) * step}."
            )
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.register_buffer("positions_TD", sinusoidal(config.context, config.width), persistent=False)
        self.dropout = Dropout(config.dropout)
        num_decoder_layers = config.num_decoder_layers or config.num_layers
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(num_decoder_layers))
        self.encoder_norm = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()
        self.head = nn.Linear(config.width, config.vocab_size, bias=config.head_bias)
        if config.tied_head:
            self.head.weight = self.token_embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if name in ("token_embedding.weight", "head.weight"):
                nn.init.normal_(parameter, std=self.config.width**-0.5)
            elif parameter.ndim == 2:
                for weight_DD in parameter.split(self.config.width) if "kv." in name else (parameter,):
                    nn.init.xavier_uniform_(weight_DD)  # each its own layer in the paper
            elif ".norm" not in name and name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def _embed(self, token_BT: Tensor, past: int = 0) -> Tensor:
        length = past + token_BT.shape[1]
        if length > self.config.context:
            raise ConfigError(
                f"{length} tokens do not fit into this model's context of {self.config.context}. "
                "Give it fewer, or train with a larger model.context."
            )
        x_BTD = self.token_embedding(token_BT) * math.sqrt(self.config.width)
        return self.dropout(x_BTD + self.positions_TD[past:length])

    def encode(self, source_BS: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return what the encoder makes of a source: (B, S, D)."""
        mask_B11S = None if source_mask_BS is None else padding(source_mask_BS)
        x_BSD = self._embed(source_BS)
        for block in self.encoder:
            x_BSD = block(x_BSD, mask_B11S)
        return self.encoder_norm(x_BSD)

    def _sources(self, memory_BSD: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values that each of the decoder's blocks finds in a source, (B, H, S, K) each."""
        found = []
        for block in self.decoder:
            assert isinstance(block, DecoderBlock)
            found.append(block.cross.keys_and_values(memory_BSD))
        return found

    def _read(
        self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None, weights: list[Tensor] | None = None
    ) -> Tensor:
        sources_L = self._sources(self.encode(source_BS, source_mask_BS))
        mask_B11S = None if source_mask_BS is None else padding(source_mask_BS)
        x_BTD = self._embed(target_BT)
        for block, source in zip(self.decoder, sources_L, strict=True):
            x_BTD = block(x_BTD, *source, mask_B11S, weights=weights)
        return self.decoder_norm(x_BTD)

    def features(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return what the head reads: (B, T, D). The arguments are those of `forward`."""
        return self._read(source_BS, target_BT, source_mask_BS)

    def forward(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V).

        Args:
            source_BS: int64 (B, S), the text to be read.
            target_BT: int64 (B, T), the start token and what follows it; padding belongs to its right.
            source_mask_BS: boolean (B, S), True where there is a token; None where all are.
        """
        return self.head(self.features(source_BS, target_BT, source_mask_BS))

    def attention_weights(self, source_BS: Tensor, target_BT: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return which source tokens each target token reads in each layer and head: (L, B, H, T, S), summing to 1."""
        weights_L: list[Tensor] = []
        self._read(source_BS, target_BT, source_mask_BS, weights_L)
        return torch.stack(weights_L)

    def new_cache(
        self,
        source_BS: Tensor,
        source_mask_BS: Tensor | None = None,
        length: int | None = None,
    ) -> SourceCache:
        """Read a source once; return the cache from which `decode` writes up to ``length`` tokens, or the context."""
        return SourceCache(
            self._sources(self.encode(source_BS, source_mask_BS)),
            source_mask_BS,
            length=length or self.config.context,
        )

    def decode(self, token_BT: Tensor, cache: SourceCache) -> Tensor:
        """Return logits (B, T, V) for the target tokens that follow those in the cache, which takes them too."""
        cache.begin(token_BT.shape[1])
        x_BTD = self._embed(token_BT, cache.position)
        for layer, block in enumerate(self.decoder):
            x_BTD = block(x_BTD, *cache.source(layer), cache.mask_B11S, cache, layer)
        cache.advance(token_BT.shape[1])
        return self.head(self.decoder_norm(x_BTD))


class Residual(nn.Module):
    """Adds what a part of a block makes of its input, with the norm where the config says: (B, T, D) to (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Return norm(x + part(x)), or x + part(norm(x)) with ``pre_norm``."""
        if self.pre_norm:
            return x_BTD + self.dropout(part(self.norm(x_BTD)))
        return self.norm(x_BTD + self.dropout(part(x_BTD)))


class EncoderBlock(nn.Module):
    """Attention among all source tokens, then a perceptron (section 3.1): (B, S, D) to (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual1 = Residual(config)
        self.mlp = FeedForward(config.width, config.hidden_width, kind=config.activation)
        self.residual2 = Residual(config)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return the residual stream after this block."""
        x_BSD = self.residual1(x_BSD, lambda y_BSD: self.attention(y_BSD, mask_B11S))
        return self.residual2(x_BSD, self.mlp)


class DecoderBlock(nn.Module):
    """Attention to the target so far, then to the source, then a perceptron (section 3.1): (B, T, D) to (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual1 = Residual(config)
        self.cross = CrossAttention(config)
        self.residual2 = Residual(config)
        self.mlp = FeedForward(config.width, config.hidden_width, kind=config.activation)
        self.residual3 = Residual(config)

    def forward(
        self,
        x_BTD: Tensor,
        key_BHSK: Tensor,
        value_BHSK: Tensor,
        mask_B11S: Tensor | None,
        cache: SourceCache | None = None,
        layer: int = 0,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the residual stream after this block.

        Args:
            key_BHSK: of the source, as ``cross.keys_and_values`` gives it, and its values.
            cache: of the target's tokens read before, and this block's place in it.
            weights: takes the cross-attention's weights (B, H, T, S), where they are wanted.
        """

        def look_at_source(y_BTD: Tensor) -> Tensor:
            if weights is not None:
                weights.append(self.cross.weights(y_BTD, key_BHSK, mask_B11S))
            return self.cross(y_BTD, key_BHSK, value_BHSK, mask_B11S)

        x_BTD = self.residual1(x_BTD, lambda y_BTD: self.attention.look_back(y_BTD, cache, layer))
        x_BTD = self.residual2(x_BTD, look_at_source)
        return self.residual3(x_BTD, self.mlp)


class SelfAttention(nn.Module):
    """Attention among the tokens of one side (section 3.2): (B, T, D) to (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def _split(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv_BTXHK = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1))
        q_BHTK, k_BHTK, v_BHTK = (part.transpose(1, 2) for part in qkv_BTXHK.unbind(2))
        return q_BHTK, k_BHTK, v_BHTK

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return what each token read from all that the mask allows."""
        dropout = self.weight_dropout if self.training else 0.0
        y_BHSK = attention(*self._split(x_BSD), mask=mask_B11S, dropout=dropout)
        return self.out(y_BHSK.transpose(1, 2).flatten(2))

    def look_back(self, x_BTD: Tensor, cache: SourceCache | None, layer: int) -> Tensor:
        """Return what each token read from itself and those before it, also those in the cache."""
        q_BHTK, k_BHPK, v_BHPK = self._split(x_BTD)
        if cache is not None:
            k_BHPK, v_BHPK = cache.append(layer, k_BHPK, v_BHPK)
        T, P = q_BHTK.shape[2], k_BHPK.shape[2]
        y_BHTK = attention(
            q_BHTK,
            k_BHPK,
            v_BHPK,
            mask=causal(T, P, x_BTD.device) if 1 < T < P else None,
            dropout=self.weight_dropout if self.training else 0.0,
            is_causal=T == P and T > 1,
        )
        return self.out(y_BHTK.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Each target token looks at the source (section 3.2.3): (B, T, D) to (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.attention_dropout
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def _query(self, x_BTD: Tensor) -> Tensor:
        return self.q(x_BTD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the target looks at, (B, H, S, K) each; computed once for a source."""
        kv_BSXHK = self.kv(memory_BSD).unflatten(2, (2, self.num_heads, -1))
        k_BHSK, v_BHSK = (part.transpose(1, 2) for part in kv_BSXHK.unbind(2))
        return k_BHSK, v_BHSK

    def forward(self, x_BTD: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return what each target token read from the source."""
        dropout = self.weight_dropout if self.training else 0.0
        y_BHTK = attention(self._query(x_BTD), key_BHSK, value_BHSK, mask=mask_B11S, dropout=dropout)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))

    def weights(self, x_BTD: Tensor, key_BHSK: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return the share of each source token in what each target token reads: (B, H, T, S)."""
        return attention_weights(self._query(x_BTD), key_BHSK, mask=mask_B11S)
