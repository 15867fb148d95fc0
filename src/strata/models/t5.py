"""T5: an encoder-decoder to which every job is a text to read and a text to write.

Paper: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text Transformer", section
2.1; the sizes are section 3.7's, those of version 1.1 its authors' later release ("gated" after Shazeer 2020, "GLU
variants improve Transformer"), which Flan-T5 (Chung et al. 2022) has too. Unusual: no positions are added to tokens.
Instead each head learns how much it likes each distance, distances are sorted into buckets, and all layers of a side
share what is learned. The scores are not divided by the root of their width; the start of the weights allows for that.

B pairs, S source tokens, T target tokens read now, P target tokens read so far, D width, X the three of query, key and
value (or the two of key and value), H heads, K width of a head, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from strata.config import Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.attention import attention, attention_weights
from strata.layers.dropout import Dropout
from strata.layers.masks import causal, padding
from strata.layers.norm import RMSNorm
from strata.layers.position import t5_bucket
from strata.layers.source_cache import SourceCache

GREATEST_LENGTH = 512
"""Tokens that a cache has room for where nobody says: the longest that the paper trained on."""


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Sizes of a T5; the defaults are the paper's baseline, T5-Base."""

    num_layers: Positive = 12
    """Blocks of the encoder, and of the decoder where `num_decoder_layers` does not say otherwise."""
    num_decoder_layers: Positive | None = None
    num_heads: Positive = 12
    width: Positive = 768
    head_width: Positive = 64
    """All heads together may be wider than the model, or narrower."""
    hidden_width: Positive = 3072
    """Of each block's perceptron."""
    activation: Activation = "relu"
    gated: bool = False
    """The perceptron's hidden units are multiplied by a second linear layer's (version 1.1)."""
    tied_head: bool = True
    """The output layer is the token embedding, and what it reads is scaled by width ** -0.5; not so in version 1.1."""
    num_buckets: Positive = 32
    max_distance: Positive = 128
    """In tokens; all that lie farther share a bucket."""
    norm_eps: PositiveFloat = 1e-6
    dropout: Probability = 0.1
    """Of embeddings, attention weights, hidden units, and each part's output; section 3.1.2."""
    vocab_size: Positive = 32128
    """SentencePiece's 32,000 and 100 sentinels, rounded up."""


_SMALL = T5Config(num_layers=6, num_heads=8, width=512, hidden_width=2048)
_LARGE = T5Config(num_layers=24, num_heads=16, width=1024, hidden_width=4096)
_V1_1 = T5Config(hidden_width=2048, activation="gelu_tanh", gated=True, tied_head=False)
PRESETS = {
    "t5_small": _SMALL,
    "t5_base": T5Config(),
    "t5_large": _LARGE,
    "t5_3b": replace(_LARGE, num_heads=32, head_width=128, hidden_width=16384),
    "t5_11b": replace(_LARGE, num_heads=128, head_width=128, hidden_width=65536),
    "t5_v1_1_small": replace(_V1_1, num_layers=8, num_heads=6, width=512, hidden_width=1024),
    "t5_v1_1_base": _V1_1,
    "t5_v1_1_large": replace(_V1_1, num_layers=24, num_heads=16, width=1024, hidden_width=2816),
    "t5_v1_1_xl": replace(_V1_1, num_layers=24, num_heads=32, width=2048, hidden_width=5120),
    "t5_v1_1_xxl": replace(_V1_1, num_layers=24, num_heads=64, width=4096, hidden_width=10240),
    "t5_tiny": replace(_V1_1, num_layers=4, num_heads=4, width=256, hidden_width=512, vocab_size=8000),
}
TINY = T5Config(
    num_layers=2,
    num_heads=2,
    width=16,
    head_width=6,
    hidden_width=24,
    num_buckets=8,
    max_distance=12,
    gated=True,
    activation="gelu_tanh",
    tied_head=False,
    dropout=0.0,
    vocab_size=11,
)


class T5(nn.Module):
    """T5 (Raffel et al. 2020, section 2.1): source (B, S) and target (B, T) to logits (B, T, V).

    The logits at a target token are of the token after it; the first target token is padding's, 0 in T5's vocabulary.

    Differs from the paper: an untied head starts from deviation D ** -0.5, so that at first all tokens are about
    equally likely.

    Raises ConfigError for an odd number of buckets, or for more of them than distances.
    """

    config_class = T5Config
    is_encoder_decoder: ClassVar[bool] = True

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        if config.num_buckets % 2 or config.num_buckets < 4 or config.max_distance <= config.num_buckets // 2:
            raise ConfigError(
                f"num_buckets={config.num_buckets} and max_distance={config.max_distance} leave no distances to sort. "
                "Take an even number of at least 4 buckets, and a distance greater than half of it, such as 32 and 128."
            )
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = Dropout(config.dropout)
        self.encoder_bias = DistanceBias(config, is_causal=False)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.encoder_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.decoder_bias = DistanceBias(config, is_causal=True)
        num_decoder_layers = config.num_decoder_layers or config.num_layers
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(num_decoder_layers))
        self.decoder_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied_head:
            self.head.weight = self.token_embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        """Set weights as the paper's code does: scores are as large as if they were divided by K ** 0.5."""
        D, K = self.config.width, self.config.head_width
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        if not self.config.tied_head:
            nn.init.normal_(self.head.weight, std=D**-0.5)
        for module in self.modules():
            if isinstance(module, DistanceBias):
                nn.init.normal_(module.bias.weight, std=D**-0.5)
            elif isinstance(module, SelfAttention):
                for part, weight_ND in enumerate(module.qkv.weight.chunk(3)):
                    nn.init.normal_(weight_ND, std=D**-0.5 * (K**-0.5 if part == 0 else 1))
                nn.init.normal_(module.out.weight, std=module.out.in_features**-0.5)
            elif isinstance(module, CrossAttention):
                nn.init.normal_(module.q.weight, std=(D * K) ** -0.5)
                nn.init.normal_(module.kv.weight, std=D**-0.5)
                nn.init.normal_(module.out.weight, std=module.out.in_features**-0.5)
            elif isinstance(module, FeedForward):
                for layer in (module.gate, module.up, module.down):
                    if isinstance(layer, nn.Linear):
                        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def encode(self, source_BS: Tensor, source_mask_BS: Tensor | None = None) -> Tensor:
        """Return what the encoder makes of a source: (B, S, D)."""
        S = source_BS.shape[1]
        bias_1HSS = self.encoder_bias(S, S)
        if source_mask_BS is not None:
            bias_1HSS = bias_1HSS.masked_fill(~padding(source_mask_BS), -math.inf)
        x_BSD = self.dropout(self.token_embedding(source_BS))
        for block in self.encoder:
            x_BSD = block(x_BSD, bias_1HSS)
        return self.dropout(self.encoder_norm(x_BSD))

    def _for_head(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.dropout(self.decoder_norm(x_BTD))
        return x_BTD * self.config.width**-0.5 if self.config.tied_head else x_BTD

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
        T = target_BT.shape[1]
        bias_1HTT = self.decoder_bias(T, T)
        x_BTD = self.dropout(self.token_embedding(target_BT))
        for block, source in zip(self.decoder, sources_L, strict=True):
            x_BTD = block(x_BTD, bias_1HTT, *source, mask_B11S, weights=weights)
        return self._for_head(x_BTD)

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
        self, source_BS: Tensor, source_mask_BS: Tensor | None = None, length: int | None = None
    ) -> SourceCache:
        """Read a source once; return the cache from which `decode` writes up to ``length`` tokens, or 512."""
        return SourceCache(
            self._sources(self.encode(source_BS, source_mask_BS)),
            source_mask_BS,
            length=length or GREATEST_LENGTH,
        )

    def decode(self, token_BT: Tensor, cache: SourceCache) -> Tensor:
        """Return logits (B, T, V) for the target tokens that follow those in the cache, which takes them too."""
        T = token_BT.shape[1]
        cache.begin(T)
        bias_1HTP = self.decoder_bias(T, cache.position + T)
        x_BTD = self.dropout(self.token_embedding(token_BT))
        for layer, block in enumerate(self.decoder):
            x_BTD = block(x_BTD, bias_1HTP, *cache.source(layer), cache.mask_B11S, cache, layer)
        cache.advance(T)
        return self.head(self._for_head(x_BTD))


class DistanceBias(nn.Module):
    """What each head adds to a score because of the distance alone (section 2.1): lengths to (1, H, T, P).

    Args:
        is_causal: queries look back only; all buckets are for the distances behind them.
    """

    def __init__(self, config: T5Config, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.bias = nn.Embedding(config.num_buckets, config.num_heads)

    def forward(self, T: int, P: int) -> Tensor:
        """Return a bias for T queries, the last of P keys; -inf where a causal one may not look."""
        distance = torch.arange(1 - P, T, device=self.bias.weight.device)
        bucket = t5_bucket(distance, self.num_buckets, self.max_distance, is_causal=self.is_causal)
        # T + P - 1 distances are looked up, not T * P pairs; query t reads the window that ends where it stands
        bias_HTP = self.bias(bucket).T.unfold(1, P, 1).flip(1)
        if self.is_causal and T > 1:
            bias_HTP = bias_HTP.masked_fill(~causal(T, P, distance.device), -math.inf)
        return bias_HTP[None]


class Residual(nn.Module):
    """Adds to x what a part of a block makes of normed x: (B, T, D) to (B, T, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + part(norm(x))."""
        return x_BTD + self.dropout(part(self.norm(x_BTD)))


class EncoderBlock(nn.Module):
    """Attention among all source tokens, then a perceptron: (B, S, D) to (B, S, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual1 = Residual(config)
        self.mlp = FeedForward(config)
        self.residual2 = Residual(config)

    def forward(self, x_BSD: Tensor, bias_BHSS: Tensor) -> Tensor:
        """Return the residual stream after this block."""
        x_BSD = self.residual1(x_BSD, lambda y_BSD: self.attention(y_BSD, bias_BHSS))
        return self.residual2(x_BSD, self.mlp)


class DecoderBlock(nn.Module):
    """Attention to the target so far, then to the source, then a perceptron: (B, T, D) to (B, T, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual1 = Residual(config)
        self.cross = CrossAttention(config)
        self.residual2 = Residual(config)
        self.mlp = FeedForward(config)
        self.residual3 = Residual(config)

    def forward(
        self,
        x_BTD: Tensor,
        bias_1HTP: Tensor,
        key_BHSK: Tensor,
        value_BHSK: Tensor,
        mask_B11S: Tensor | None,
        cache: SourceCache | None = None,
        layer: int = 0,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the residual stream after this block.

        Args:
            bias_1HTP: for the distances among target tokens.
            key_BHSK: of the source, as ``cross.keys_and_values`` gives it, and its values.
            cache: of the target's tokens read before, and this block's place in it.
            weights: takes the cross-attention's weights (B, H, T, S), where they are wanted.
        """

        def look_at_source(y_BTD: Tensor) -> Tensor:
            if weights is not None:
                weights.append(self.cross.weights(y_BTD, key_BHSK, mask_B11S))
            return self.cross(y_BTD, key_BHSK, value_BHSK, mask_B11S)

        x_BTD = self.residual1(x_BTD, lambda y_BTD: self.attention(y_BTD, bias_1HTP, cache, layer))
        x_BTD = self.residual2(x_BTD, look_at_source)
        return self.residual3(x_BTD, self.mlp)


class SelfAttention(nn.Module):
    """Attention among the tokens of one side, by content and distance: (B, T, D) to (B, T, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.dropout
        all_heads = config.num_heads * config.head_width
        self.qkv = nn.Linear(config.width, 3 * all_heads, bias=False)
        self.out = nn.Linear(all_heads, config.width, bias=False)

    def forward(self, x_BTD: Tensor, bias_BHTP: Tensor, cache: SourceCache | None = None, layer: int = 0) -> Tensor:
        """Return what each token read, the bias deciding where it may look."""
        qkv_BTXHK = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1))
        q_BHTK, k_BHPK, v_BHPK = (part.transpose(1, 2) for part in qkv_BTXHK.unbind(2))
        if cache is not None:
            k_BHPK, v_BHPK = cache.append(layer, k_BHPK, v_BHPK)
        dropout = self.weight_dropout if self.training else 0.0
        y_BHTK = attention(q_BHTK, k_BHPK, v_BHPK, mask=bias_BHTP, dropout=dropout, scale=1.0)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Each target token looks at the source, whose distance it cannot tell: (B, T, D) to (B, T, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.weight_dropout = config.dropout
        all_heads = config.num_heads * config.head_width
        self.q = nn.Linear(config.width, all_heads, bias=False)
        self.kv = nn.Linear(config.width, 2 * all_heads, bias=False)
        self.out = nn.Linear(all_heads, config.width, bias=False)

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
        y_BHTK = attention(self._query(x_BTD), key_BHSK, value_BHSK, mask=mask_B11S, dropout=dropout, scale=1.0)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))

    def weights(self, x_BTD: Tensor, key_BHSK: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """Return the share of each source token in what each target token reads: (B, H, T, S)."""
        return attention_weights(self._query(x_BTD), key_BHSK, mask=mask_B11S, scale=1.0)


class FeedForward(nn.Module):
    """Two linear layers without biases, or (Shazeer 2020) three, one of which gates another: (B, T, D) to (B, T, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden_width, bias=False) if config.gated else None
        self.up = nn.Linear(config.width, config.hidden_width, bias=False)
        self.act = activation(config.activation)
        self.dropout = Dropout(config.dropout)
        self.down = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what each token makes of what it holds."""
        if self.gate is None:
            return self.down(self.dropout(self.act(self.up(x_BTD))))
        return self.down(self.dropout(self.act(self.gate(x_BTD)) * self.up(x_BTD)))
