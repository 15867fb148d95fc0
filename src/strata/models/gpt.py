"""Decoder-only Transformers: they read tokens and give the logits of the next one. GPT-2, Llama, Mistral and Qwen.

Paper: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3, on top of GPT (Radford
et al. 2018) and the Transformer (Vaswani et al. 2017). Layer norm stands before each part of a block and once more at
the end; the positions are learned; the output layer shares its weights with the token embedding.

The modern shape is the same stack with other parts, as Llama has them (Touvron et al. 2023, section 2.2): rotary
positions, root mean square norm, SwiGLU, no biases, and fewer heads of keys and values than of queries. A field of the
config chooses each part, so that any of them can be tried alone.

B sequences, T tokens read now, S tokens read so far, D width, H heads, K width of a head, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from strata.config import NotNegative, Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers import masks
from strata.layers.activations import Activation, activation
from strata.layers.attention import attention
from strata.layers.cache import KVCache
from strata.layers.dropout import Dropout
from strata.layers.norm import RMSNorm
from strata.layers.position import (
    RotaryScaling,
    alibi_bias,
    alibi_slopes,
    places_of_documents,
    places_of_real,
    rotary_angles,
    rotate,
    sinusoids,
)
from strata.layers.recompute import after_norm, made_again
from strata.layers.text_head import TextHead, pooled

HEADS = ("token", "class", "none")
"""Of `TextHead`, those that suit a model in which no token sees what follows."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes and parts of a GPT; the defaults are the smallest GPT-2's."""

    num_layers: Positive = 12
    num_heads: Positive = 12
    width: Positive = 768
    context: Positive = 1024
    """Tokens that one prediction can look back on; more are refused where positions are learned."""
    vocab_size: Positive = 50257
    dropout: Probability = 0.0
    """Of embeddings, attention weights and each part's output; GPT (2018) trained with 0.1, GPT-2 names none."""
    bias: bool = True
    """In linear layers and layer norms."""
    tied_head: bool = True
    """The output layer is the token embedding."""
    activation: Activation = "gelu_tanh"
    """Of the plain perceptron; SwiGLU has SiLU."""
    positions: Literal["learned", "rotary", "alibi", "sinusoidal"] = "learned"
    """Learned and sinusoidal ones are added to the embeddings, rotary and ALiBi act within attention."""
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: PositiveFloat = 1e-5
    mlp: Literal["plain", "swiglu"] = "plain"
    """SwiGLU (Shazeer 2020): a SiLU of one projection times another, instead of one activation."""
    hidden_width: Positive | None = None
    """Between the perceptron's layers; None is four times the width, and for SwiGLU, whose three matrices then have as
    many numbers as the plain one's two, 8/3 of it, rounded up to a multiple of 64."""
    num_kv_heads: Positive | None = None
    """Heads of keys and values, each read by as many heads of queries (Ainslie et al. 2023); None is one to one."""
    head_width: Positive | None = None
    """None is width / num_heads."""
    qkv_bias: bool | None = None
    """Of queries, keys and values; None is as `bias` says. Qwen2 has no other."""
    qk_norm: bool = False
    """Queries and keys of each head are normed by root mean square, as in Qwen3."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the wavelengths of rotary positions."""
    rope_scaling: RotaryScaling = RotaryScaling()
    window: Positive | None = None
    """Tokens that a layer looks back on, the reading one among them (sliding window, as in Mistral); None is all."""
    num_full_layers: NotNegative = 0
    """First layers that look back on everything in spite of the window."""
    head: TextHead = "token"
    """What is given: logits of the next token, class logits read off the last real token, or hidden states (none)."""
    num_classes: Positive = 2
    """Of the head "class"."""


_MODERN = GPTConfig(positions="rotary", norm="rms", mlp="swiglu", bias=False, tied_head=False)
_LLAMA3_SCALING = RotaryScaling(kind="llama3", factor=32.0)
_QWEN2 = replace(_MODERN, qkv_bias=True, norm_eps=1e-6, rope_theta=1e6, vocab_size=151_936, context=32_768)
_QWEN3 = replace(
    _MODERN, qk_norm=True, head_width=128, norm_eps=1e-6, rope_theta=1e6, vocab_size=151_936, context=40_960
)
_LLAMA2_7B = replace(
    _MODERN, num_layers=32, num_heads=32, width=4096, hidden_width=11_008, context=4096, vocab_size=32_000
)
_LLAMA3_8B = replace(
    _LLAMA2_7B, hidden_width=14_336, num_kv_heads=8, context=8192, vocab_size=128_256, rope_theta=500_000.0
)
PRESETS = {
    "gpt2": GPTConfig(),
    "gpt2_medium": GPTConfig(num_layers=24, num_heads=16, width=1024),
    "gpt2_large": GPTConfig(num_layers=36, num_heads=20, width=1280),
    "gpt2_xl": GPTConfig(num_layers=48, num_heads=25, width=1600),
    "llama_tiny": replace(
        _MODERN, num_layers=4, num_heads=4, num_kv_heads=2, width=128, context=256, vocab_size=8192, tied_head=True
    ),
    "llama2_7b": _LLAMA2_7B,
    "llama3_8b": _LLAMA3_8B,
    "llama3_2_1b": replace(
        _LLAMA3_8B,
        num_layers=16,
        width=2048,
        hidden_width=8192,
        context=131_072,
        tied_head=True,
        rope_scaling=_LLAMA3_SCALING,
    ),
    "smollm_135m": replace(
        _MODERN,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        width=576,
        hidden_width=1536,
        context=2048,
        vocab_size=49_152,
        tied_head=True,
    ),
    "mistral_7b": replace(_LLAMA3_8B, context=32_768, vocab_size=32_000, rope_theta=10_000.0, window=4096),
    "qwen2_0_5b": replace(
        _QWEN2,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        width=896,
        hidden_width=4864,
        context=131_072,
        tied_head=True,
    ),
    "qwen2_5_0_5b": replace(
        _QWEN2, num_layers=24, num_heads=14, num_kv_heads=2, width=896, hidden_width=4864, tied_head=True
    ),
    "qwen2_5_7b": replace(
        _QWEN2,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        width=3584,
        hidden_width=18_944,
        vocab_size=152_064,
        context=131_072,
    ),
    "qwen3_0_6b": replace(
        _QWEN3, num_layers=28, num_heads=16, num_kv_heads=8, width=1024, hidden_width=3072, tied_head=True
    ),
    "qwen3_8b": replace(_QWEN3, num_layers=36, num_heads=32, num_kv_heads=8, width=4096, hidden_width=12_288),
}
TINY = GPTConfig(num_layers=2, num_heads=2, width=16, context=12, vocab_size=11)
TINY_MODERN = replace(
    _MODERN, num_layers=2, num_heads=4, num_kv_heads=2, width=16, hidden_width=24, context=12, vocab_size=11
)
"""The smallest of the modern shape."""


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019, section 2.3) and its heirs: tokens (B, T) to logits of each next token (B, T, V).

    Differs from the paper: no dropout unless asked for, and positions start from the same deviation as tokens. The
    modern shapes start from the same deviations as GPT-2. Sinusoidal positions come with the factor sqrt(D) on the
    embeddings that Vaswani et al. 2017, section 3.4, give these.

    Raises ConfigError for heads that do not divide the width or each other, a head that suits no text read forwards,
    and more tokens than learned positions or the cache hold.
    """

    config_class = GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        _check(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context, config.width)
        if config.positions == "alibi":
            self.register_buffer("slope_H", alibi_slopes(config.num_heads), persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = _norm(config)
        self.head: nn.Module = nn.Identity()
        if config.head == "class":
            self.head = nn.Linear(config.width, config.num_classes, bias=False)
        elif config.head == "token":
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

    def features(
        self,
        token_BT: Tensor,
        cache: KVCache | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states that the head reads: (B, T, D). The arguments are those of `forward`."""
        T = token_BT.shape[1]
        past = 0 if cache is None else cache.position
        if self.config.positions == "learned" and past + T > self.config.context:
            raise ConfigError(
                f"{past + T} tokens do not fit into this model's context of {self.config.context}. "
                "Give it fewer, or train with a larger model.context."
            )
        if cache is not None and document_BT is not None:
            raise ConfigError("document_BT and a cache do not go together: with a cache, each row is one text.")
        if cache is not None:
            real_BS = cache.begin(T, mask_BT)
            place = cache.places(T)
        else:
            real_BS = mask_BT
            place = torch.arange(T, device=token_BT.device) if mask_BT is None else places_of_real(mask_BT)
            place = place if document_BT is None else places_of_documents(document_BT)
        x_BTD, angles = self._embed(token_BT, place)
        masks_of = self._masks(T, past + T, real_BS, document_BT, x_BTD.device)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, angles, masks_of[window_of(self.config, layer)], cache)
        if cache is not None:
            cache.advance(T)
        return self.norm(x_BTD)

    def _embed(self, token_BT: Tensor, place: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return embeddings (B, T, D) and, for rotary positions, the cosines and sines of all heads."""
        config = self.config
        x_BTD = self.token_embedding(token_BT)
        if config.positions == "learned":
            x_BTD = x_BTD + self.position_embedding(place)
        elif config.positions == "sinusoidal":
            x_BTD = x_BTD * math.sqrt(config.width) + sinusoids(place, config.width).to(x_BTD.dtype)
        if config.positions != "rotary":
            return self.dropout(x_BTD), None
        cos, sin = rotary_angles(place, head_width_of(config), config.rope_theta, config.rope_scaling)
        if place.ndim == 2:
            cos, sin = cos[:, None], sin[:, None]
        return self.dropout(x_BTD), (cos, sin)

    def _masks(
        self, T: int, S: int, real_BS: Tensor | None, document_BT: Tensor | None, device: torch.device
    ) -> dict[int | None, Tensor | None]:
        """Return, for each window that a layer has, what attention is to mask; None where `is_causal` says it all."""
        found: dict[int | None, Tensor | None] = {}
        is_plain = real_BS is None and document_BT is None and self.config.positions != "alibi"
        for window in {window_of(self.config, layer) for layer in range(self.config.num_layers)}:
            cuts = window is not None and window < S
            # A lone last query sees everything, or the last keys of its window, which are taken without a mask
            if is_plain and (T == 1 or (T == S and not cuts)):
                found[window] = None
                continue
            mask = masks.causal(T, S, device, window if cuts else None)
            if real_BS is not None:
                # Padding sees itself, so that no row of scores is empty, which some kernels answer with NaN
                mask = mask & masks.padding(real_BS) | masks.causal(T, S, device, window=1)
            if document_BT is not None:
                mask = mask & masks.documents(document_BT)
            if self.config.positions == "alibi":
                mask = torch.where(mask, alibi_bias(self.slope_H, T, S), -torch.inf)  # type: ignore[arg-type]
            found[window] = mask
        return found

    def forward(
        self,
        token_BT: Tensor,
        cache: KVCache | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Return logits of each next token (B, T, V); of the head "class", (B, C); of "none", hidden states (B, T, D).

        Args:
            token_BT: int64 (B, T); with a cache, the tokens that follow those read before.
            cache: of `new_cache`; holds keys and values of what was read, and takes those of ``token_BT``.
            mask_BT: True where there is a token, False for padding, which no token sees and no position counts. Rows
                padded on the right need none, save for the head "class": no token sees what follows it.
            document_BT: a number for each token, equal within a document. Packed documents do not see each other, and
                each begins at position 0.
        """
        x_BTD = self.features(token_BT, cache, mask_BT, document_BT)
        return self.head(pooled(x_BTD, mask_BT, "last") if self.config.head == "class" else x_BTD)

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
        return KVCache(
            num_layers=self.config.num_layers,
            batch_size=batch_size,
            num_heads=num_kv_heads_of(self.config),
            length=length or self.config.context,
            head_width=head_width_of(self.config),
            dtype=dtype,
            device=device,
        )


class Block(nn.Module):
    """Attention, then a perceptron, each on normed input and added to what came in: (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.window = window_of(config, layer)
        self.norm1 = _norm(config)
        self.attention = CausalSelfAttention(config)
        self.norm2 = _norm(config)
        self.mlp: nn.Module = SwiGLU(config) if config.mlp == "swiglu" else FeedForward(config)

    def forward(
        self, x_BTD: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Return the residual stream after this block."""
        x_BTD = x_BTD + after_norm(self.norm1, self.attention, x_BTD, angles, mask, cache, self.layer, self.window)
        return x_BTD + after_norm(self.norm2, self.mlp, x_BTD)


class CausalSelfAttention(nn.Module):
    """Each token looks at itself and those before it (Vaswani et al. 2017, eq. 1): (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, num_kv_heads_of(config), num_kv_heads_of(config))
        head_width = head_width_of(config)
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        self.qkv = nn.Linear(config.width, sum(self.heads) * head_width, bias=qkv_bias)
        self.query_norm = RMSNorm(head_width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(head_width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(config.num_heads * head_width, config.width, bias=config.bias)
        self.weight_dropout = config.dropout
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        window: int | None,
    ) -> Tensor:
        """Return what each token read from those before it.

        Args:
            angles: cosines and sines of rotary positions.
            mask: of attention; None where each token sees all before it, or a lone one those of the window.
        """
        B, T, _ = x_BTD.shape
        heads_BXTK = self.qkv(x_BTD).view(B, T, sum(self.heads), -1).transpose(1, 2)
        q_BHTK, k_BHSK, v_BHSK = heads_BXTK.split(self.heads, dim=1)
        q_BHTK, k_BHSK = self.query_norm(q_BHTK), self.key_norm(k_BHSK)
        if angles is not None:
            q_BHTK, k_BHSK = rotate(q_BHTK, *angles), rotate(k_BHSK, *angles)
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(layer, k_BHSK, v_BHSK)
            if window is not None and T == 1 and mask is None:
                k_BHSK, v_BHSK = k_BHSK[:, :, -window:], v_BHSK[:, :, -window:]
        y_BHTK = attention(
            q_BHTK,
            k_BHSK,
            v_BHSK,
            mask=mask,
            dropout=self.weight_dropout if self.training else 0.0,
            is_causal=mask is None and T > 1,
        )
        return self.dropout(self.out(y_BHTK.transpose(1, 2).reshape(B, T, -1)))


class FeedForward(nn.Module):
    """Two linear layers and an activation between them: (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, hidden_width_of(config), bias=config.bias)
        self.act = activation(config.activation)
        self.down = nn.Linear(hidden_width_of(config), config.width, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what each token makes of what it holds."""
        up_BTF = self.up(x_BTD)
        active_BTF = self.act(up_BTF)
        with made_again(active_BTF, lambda: self.act.forward(up_BTF)):
            return self.dropout(self.down(active_BTF))


class SwiGLU(nn.Module):
    """A projection gated by the SiLU of another, and one back (Shazeer 2020, eq. 6): (B, T, D) to (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(
            config.width, 2 * hidden_width_of(config), bias=config.bias
        )  # gate and value in one product
        self.act = activation("silu")
        self.down = nn.Linear(hidden_width_of(config), config.width, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what each token makes of what it holds."""
        gate_BTF, value_BTF = self.up(x_BTD).chunk(2, dim=-1)
        open_BTF = self.act(gate_BTF)
        gated_BTF = open_BTF * value_BTF
        with made_again(gated_BTF, lambda: open_BTF * value_BTF):
            return self.dropout(self.down(gated_BTF))


def window_of(config: GPTConfig, layer: int) -> int | None:
    """Return how many tokens a layer looks back on, the reading one among them; None is all."""
    return None if layer < config.num_full_layers else config.window


def num_kv_heads_of(config: GPTConfig) -> int:
    """Return how many heads keys and values have."""
    return config.num_heads if config.num_kv_heads is None else config.num_kv_heads


def head_width_of(config: GPTConfig) -> int:
    """Return how many numbers a head has."""
    return config.width // config.num_heads if config.head_width is None else config.head_width


def hidden_width_of(config: GPTConfig) -> int:
    """Return how many numbers there are between the perceptron's layers."""
    if config.hidden_width is not None:
        return config.hidden_width
    return 64 * math.ceil(8 * config.width / (3 * 64)) if config.mlp == "swiglu" else 4 * config.width


def _norm(config: GPTConfig) -> nn.Module:
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


def _check(config: GPTConfig) -> None:
    if config.head_width is None and config.width % config.num_heads:
        raise ConfigError(
            f"width={config.width} cannot be split among num_heads={config.num_heads}. Choose a multiple of "
            f"{config.num_heads}, such as width={math.ceil(config.width / config.num_heads) * config.num_heads}."
        )
    if config.num_heads % num_kv_heads_of(config):
        fit = [n for n in range(1, config.num_heads + 1) if config.num_heads % n == 0]
        raise ConfigError(
            f"num_heads={config.num_heads} cannot be shared out among num_kv_heads={config.num_kv_heads}. "
            f"Choose one of {', '.join(map(str, fit))}."
        )
    if config.positions == "rotary" and head_width_of(config) % 2:
        raise ConfigError(
            f"Rotary positions turn pairs of numbers, but heads of {head_width_of(config)} are odd: set head_width."
        )
    if config.head not in HEADS:
        raise ConfigError(
            f"A gpt has no head={config.head!r}: no token sees what follows it. It has: {', '.join(HEADS)}."
        )
