"""GPT-2: a stack of Transformer blocks that reads tokens and gives the logits of the next one.

Paper: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3, on top of GPT (Radford
et al. 2018) and the Transformer (Vaswani et al. 2017). Layer norm stands before each part of a block and once more at
the end; the positions are learned; the output layer shares its weights with the token embedding.

B sequences, T tokens read now, S tokens read so far, D width, H heads, K width of a head, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.attention import attention


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of a GPT; the defaults are the smallest GPT-2's."""

    num_layers: Positive = 12
    num_heads: Positive = 12
    width: Positive = 768
    context: Positive = 1024
    """Tokens that one prediction can look back on."""
    vocab_size: Positive = 50257
    dropout: Probability = 0.0
    """Of embeddings, attention weights and each part's output; GPT (2018) trained with 0.1, GPT-2 names none."""
    bias: bool = True
    """In linear layers and layer norms."""
    tied_head: bool = True
    """The output layer is the token embedding."""
    activation: Activation = "gelu_tanh"


PRESETS = {
    "gpt2": GPTConfig(),
    "gpt2_medium": GPTConfig(num_layers=24, num_heads=16, width=1024),
    "gpt2_large": GPTConfig(num_layers=36, num_heads=20, width=1280),
    "gpt2_xl": GPTConfig(num_layers=48, num_heads=25, width=1600),
}
TINY = GPTConfig(num_layers=2, num_heads=2, width=16, context=12, vocab_size=11)


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019, section 2.3): tokens (B, T) to logits of each next token (B, T, V).

    Differs from the paper: no dropout unless asked for, and positions start from the same deviation as tokens.

    Raises ConfigError for a width that the heads do not divide, and for more tokens than the context holds.
    """

    config_class = GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        if config.width % config.num_heads:
            raise ConfigError(
                f"width={config.width} cannot be split among num_heads={config.num_heads}. Choose a multiple of "
                f"{config.num_heads}, such as width={math.ceil(config.width / config.num_heads) * config.num_heads}."
            )
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, bias=config.bias)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied_head:
            self.head.weight = self.token_embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # 2 L sums run through the residual stream; scaled like this it has the same size at any depth
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.num_layers))

    def features(self, token_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return what the head reads: (B, T, D). The arguments are those of `forward`."""
        past = 0 if cache is None else cache.position
        length = past + token_BT.shape[1]
        if length > self.config.context:
            raise ConfigError(
                f"{length} tokens do not fit into this model's context of {self.config.context}. "
                "Give it fewer, or train with a larger model.context."
            )
        position_T = torch.arange(past, length, device=token_BT.device)
        x_BTD = self.dropout(self.token_embedding(token_BT) + self.position_embedding(position_T))
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cache, layer)
        if cache is not None:
            cache.position = length
        return self.norm(x_BTD)

    def forward(self, token_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits (B, T, V).

        Args:
            token_BT: int64 (B, T); with a cache, the tokens that follow those read before.
            cache: of `new_cache`; holds keys and values of what was read, and takes those of ``token_BT``.
        """
        return self.head(self.features(token_BT, cache))

    def new_cache(
        self,
        batch_size: int,
        length: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> KVCache:
        """Return an empty cache for ``length`` tokens (the context, if None) of ``batch_size`` sequences.

        ``dtype`` and ``device`` are those of the weights if None; under autocast, its dtype.
        """
        weight = self.token_embedding.weight
        device = weight.device if device is None else torch.device(device)
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else weight.dtype
        return KVCache(self.config, batch_size, length or self.config.context, dtype, device)


class KVCache:
    """Keys and values of the tokens read so far, in memory that is set aside once."""

    def __init__(
        self, config: GPTConfig, batch_size: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, batch_size, config.num_heads, length, config.width // config.num_heads)
        self.key_LBHSK = torch.zeros(shape, dtype=dtype, device=device)
        self.value_LBHSK = torch.zeros(shape, dtype=dtype, device=device)
        self.position = 0
        """Tokens read. Set it back to forget the last ones; 0 empties the cache."""

    @property
    def length(self) -> int:
        """Tokens that there is room for."""
        return self.key_LBHSK.shape[3]

    def append(self, layer: int, key_BHTK: Tensor, value_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values at `position`; return all so far, (B, H, S, K) each."""
        end = self.position + key_BHTK.shape[2]
        if end > self.length:
            raise ConfigError(f"{end} tokens do not fit into a cache of {self.length}. Ask new_cache for a longer one.")
        self.key_LBHSK[layer, :, :, self.position : end] = key_BHTK
        self.value_LBHSK[layer, :, :, self.position : end] = value_BHTK
        return self.key_LBHSK[layer, :, :, :end], self.value_LBHSK[layer, :, :, :end]


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each added to what came in: (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, bias=config.bias)
        self.attention = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        """Return the residual stream after this block."""
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD), cache, layer)
        return x_BTD + self.mlp(self.norm2(x_BTD))


class CausalSelfAttention(nn.Module):
    """Each token looks at itself and those before it (Vaswani et al. 2017, eq. 1): (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)
        self.weight_dropout = config.dropout
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        """Return what each token read from those before it."""
        B, T, D = x_BTD.shape
        qkv_BTXHK = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads)
        q_BHTK, k_BHSK, v_BHSK = (part.transpose(1, 2) for part in qkv_BTXHK.unbind(2))
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(layer, k_BHSK, v_BHSK)
        S = k_BHSK.shape[2]
        # SDPA's is_causal counts from the top left corner: right for S == T only. A lone last token sees everything.
        mask_TS = None
        if 1 < T < S:
            mask_TS = torch.ones(T, S, dtype=torch.bool, device=x_BTD.device).tril(S - T)
        y_BHTK = attention(
            q_BHTK,
            k_BHSK,
            v_BHSK,
            mask=mask_TS,
            dropout=self.weight_dropout if self.training else 0.0,
            is_causal=T == S and T > 1,
        )
        return self.dropout(self.out(y_BHTK.transpose(1, 2).reshape(B, T, D)))


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between them: (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=config.bias)
        self.act = activation(config.activation)
        self.down = nn.Linear(4 * config.width, config.width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what each token makes of what it holds."""
        return self.dropout(self.down(self.act(self.up(x_BTD))))
