"""GPT's tensors as Hugging Face names them, in the layouts of GPT-2 and of Llama, Mistral, Qwen2 and Qwen3.

GPT-2's linear layers are stored transposed there. The modern models keep queries, keys and values apart, and the two
projections of SwiGLU; ours are one each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.errors import WeightsError
from strata.layers.position import RotaryScaling
from strata.models.gpt import GPTConfig, head_width_of, hidden_width_of, num_kv_heads_of
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table, Theirs

ARCHITECTURES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2Model"),
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralForSequenceClassification", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"),
}
"""Their classes of each model_type, in the order of `HEADS`."""
HEADS = ("token", "class", "none")


def config_from(theirs: dict[str, Any]) -> GPTConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    kind = str(theirs.get("model_type", "gpt2"))
    settings = Settings(theirs, kind)
    return _gpt2_from(settings) if kind == "gpt2" else _llama_from(settings, kind)


def _gpt2_from(settings: Settings) -> GPTConfig:
    for key, only in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        settings.must(key, only)
    return GPTConfig(
        num_layers=settings.take("n_layer", 12),
        num_heads=settings.take("n_head", 12),
        width=settings.take("n_embd", 768),
        context=settings.take("n_positions", settings.take("n_ctx", 1024)),
        vocab_size=settings.take("vocab_size", 50257),
        dropout=settings.take("resid_pdrop", 0.1),  # theirs may differ for embeddings and weights, in training only
        hidden_width=settings.take("n_inner", None),
        activation=settings.activation("activation_function", "gelu_new"),
        norm_eps=settings.take("layer_norm_epsilon", 1e-5),
        tied_head=settings.take("tie_word_embeddings", True),
        head=_head(settings, "gpt2"),
        num_classes=settings.num_classes(),
    )


def _llama_from(settings: Settings, kind: str) -> GPTConfig:
    for key, only in (("mlp_bias", False), ("attention_bias", False), ("attention_dropout", 0.0)):
        settings.must(key, only)
    if settings.take("hidden_act", "silu") not in ("silu", "swish"):
        settings.must("hidden_act", "silu")
    window, num_full_layers = _window(settings, kind)
    num_heads = settings.take("num_attention_heads", 32)
    width = settings.take("hidden_size", 4096)
    head_width = settings.take("head_dim", 128 if kind == "qwen3" else width // num_heads)
    num_kv_heads = settings.take("num_key_value_heads", 8 if kind == "mistral" else num_heads)
    theta, scaling = _rope(settings)
    return GPTConfig(
        num_layers=settings.take("num_hidden_layers", 32),
        num_heads=num_heads,
        width=width,
        context=settings.take("max_position_embeddings", {"llama": 2048, "mistral": 131_072}.get(kind, 32_768)),
        vocab_size=settings.take("vocab_size", 151_936 if kind.startswith("qwen") else 32_000),
        dropout=0.0,
        bias=False,
        tied_head=settings.take("tie_word_embeddings", False),
        positions="rotary",
        norm="rms",
        norm_eps=settings.take("rms_norm_eps", 1e-6),
        mlp="swiglu",
        hidden_width=settings.take("intermediate_size", {"llama": 11_008, "mistral": 14_336}.get(kind, 22_016)),
        num_kv_heads=None if num_kv_heads == num_heads else num_kv_heads,
        head_width=None if head_width * num_heads == width else head_width,
        qkv_bias=True if kind == "qwen2" else None,
        qk_norm=kind == "qwen3",
        rope_theta=theta,
        rope_scaling=scaling,
        window=window,
        num_full_layers=num_full_layers,
        head=_head(settings, kind),
        num_classes=settings.num_classes(),
    )


def _head(settings: Settings, kind: str) -> Any:
    """Return the head that their class has; a language model's where the file names none or a class of its own."""
    named = settings.take("architectures", [""])
    return dict(zip(ARCHITECTURES[kind], HEADS, strict=True)).get(str(named[0]) if named else "", "token")


def _window(settings: Settings, kind: str) -> tuple[int | None, int]:
    """Return the sliding window and how many of the first layers go without."""
    num_layers = settings.take("num_hidden_layers", 32)
    if kind == "llama" or (kind.startswith("qwen") and not settings.take("use_sliding_window", False)):
        return None, 0
    if kind == "mistral":
        return settings.values.get("sliding_window", 4096), 0
    num_full = min(settings.take("max_window_layers", 28), num_layers)
    layers = settings.take(
        "layer_types", ["full_attention"] * num_full + ["sliding_attention"] * (num_layers - num_full)
    )
    num_full = layers.index("sliding_attention") if "sliding_attention" in layers else num_layers
    if layers != ["full_attention"] * num_full + ["sliding_attention"] * (num_layers - num_full):
        raise WeightsError(
            f"{kind} with layer_types={layers!r} is not supported; sliding layers have to follow full ones."
        )
    window = settings.values.get("sliding_window", 4096)
    return (None, 0) if window is None or num_full == num_layers else (window, num_full)


def _rope(settings: Settings) -> tuple[float, RotaryScaling]:
    """Return base and scaling: "rope_parameters" of today's files, "rope_theta" and "rope_scaling" of older ones."""
    given: dict[str, Any] = settings.take("rope_scaling", {}) | settings.take("rope_parameters", {})
    theta = float(given.get("rope_theta", settings.take("rope_theta", 10_000.0)))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return theta, RotaryScaling()
    if kind == "linear":
        return theta, RotaryScaling(kind="linear", factor=given["factor"])
    if kind == "llama3":
        return theta, RotaryScaling(
            kind="llama3",
            factor=given["factor"],
            low=given["low_freq_factor"],
            high=given["high_freq_factor"],
            original_context=given["original_max_position_embeddings"],
        )
    raise WeightsError(
        f"{settings.model} with rope_type={kind!r} is not supported; these are: 'default', 'linear', 'llama3'."
    )


def kind_of(config: GPTConfig) -> str:
    """Return the model_type in transformers that computes what ours does.

    Raises WeightsError where none has this combination of parts, naming the parts.
    """
    is_gpt2 = (config.positions, config.norm, config.mlp) == ("learned", "layer", "plain")
    is_modern = (config.positions, config.norm, config.mlp) == ("rotary", "rms", "swiglu")
    has_window = config.window is not None and config.num_full_layers < config.num_layers
    if is_gpt2 and not (config.qk_norm or has_window):
        has_full_heads = num_kv_heads_of(config) == config.num_heads
        if has_full_heads and head_width_of(config) * config.num_heads == config.width:
            return "gpt2"
    if is_modern and not config.bias:
        if not config.qkv_bias and config.qk_norm:
            return "qwen3"
        if config.qkv_bias and not config.qk_norm:
            return "qwen2"
        if not config.qkv_bias and not (has_window and config.num_full_layers):
            return "mistral" if has_window else "llama"
    raise WeightsError(
        f"transformers has no model with positions={config.positions!r}, norm={config.norm!r}, mlp={config.mlp!r}, "
        f"bias={config.bias}, qkv_bias={config.qkv_bias}, qk_norm={config.qk_norm}, num_kv_heads="
        f"{num_kv_heads_of(config)} of {config.num_heads}, window={config.window} together. What can be written is of "
        "the parts of a preset: gpt2, llama3_8b, mistral_7b, qwen2_0_5b, qwen3_0_6b."
    )


def config_to(ours: GPTConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config.

    A Mistral without a window is a Llama, and written as one; a GPT-2 without biases is written with zeros.
    Raises WeightsError where they have no such model.
    """
    kind = kind_of(ours)
    content: dict[str, Any] = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind][HEADS.index(ours.head)]],
        # Left out, they would be the numbers of tokens that the published vocabularies have, and stop a text at random
        "bos_token_id": None,
        "eos_token_id": None,
        "vocab_size": ours.vocab_size,
        "tie_word_embeddings": ours.tied_head,
    }
    if kind == "gpt2":
        return content | {
            "n_layer": ours.num_layers,
            "n_head": ours.num_heads,
            "n_embd": ours.width,
            "n_positions": ours.context,
            "n_inner": ours.hidden_width,
            "activation_function": their_activation(ours.activation),
            "layer_norm_epsilon": ours.norm_eps,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), ours.dropout),
        }
    content |= {
        "num_hidden_layers": ours.num_layers,
        "num_attention_heads": ours.num_heads,
        "num_key_value_heads": num_kv_heads_of(ours),
        "head_dim": head_width_of(ours),
        "hidden_size": ours.width,
        "intermediate_size": hidden_width_of(ours),
        "hidden_act": "silu",
        "max_position_embeddings": ours.context,
        "rms_norm_eps": ours.norm_eps,
        "rope_parameters": _rope_to(ours),
    }
    if kind == "mistral":
        content |= {"sliding_window": ours.window}
    if kind.startswith("qwen") and ours.window is not None:
        content |= {
            "use_sliding_window": True,
            "sliding_window": ours.window,
            "max_window_layers": ours.num_full_layers,
        }
    return content


def _rope_to(ours: GPTConfig) -> dict[str, Any]:
    scaling = ours.rope_scaling
    content: dict[str, Any] = {"rope_theta": ours.rope_theta, "rope_type": "default"}
    if scaling.kind != "none":
        content |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        content |= {
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original_context,
        }
    return content


def _pairs(config: GPTConfig) -> Iterator[Pair]:
    yield from _gpt2(config) if kind_of(config) == "gpt2" else _llama(config)
    yield "head", "score" if config.head == "class" else "lm_head"


def _gpt2(config: GPTConfig) -> Iterator[Pair]:
    yield "token_embedding", "transformer.wte"
    yield "position_embedding", "transformer.wpe"
    for b in range(config.num_layers):
        ours, theirs = f"blocks.{b}", f"transformer.h.{b}"
        yield f"{ours}.norm1", f"{theirs}.ln_1"
        yield f"{ours}.norm2", f"{theirs}.ln_2"
        for layer, name in (
            ("attention.qkv", "attn.c_attn"),
            ("attention.out", "attn.c_proj"),
            ("mlp.up", "mlp.c_fc"),
            ("mlp.down", "mlp.c_proj"),
        ):
            yield f"{ours}.{layer}", Theirs(names=(f"{theirs}.{name}",), is_transposed=True)
    yield "norm", "transformer.ln_f"


def _llama(config: GPTConfig) -> Iterator[Pair]:
    head_width = head_width_of(config)
    rows = tuple(n * head_width for n in (config.num_heads, num_kv_heads_of(config), num_kv_heads_of(config)))
    yield "token_embedding", "model.embed_tokens"
    for b in range(config.num_layers):
        ours, theirs = f"blocks.{b}", f"model.layers.{b}"
        yield f"{ours}.norm1", f"{theirs}.input_layernorm"
        names = tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        yield f"{ours}.attention.qkv", Theirs(names=names, rows=rows)
        yield f"{ours}.attention.query_norm", f"{theirs}.self_attn.q_norm"
        yield f"{ours}.attention.key_norm", f"{theirs}.self_attn.k_norm"
        yield f"{ours}.attention.out", f"{theirs}.self_attn.o_proj"
        yield f"{ours}.norm2", f"{theirs}.post_attention_layernorm"
        yield f"{ours}.mlp.up", (f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
        yield f"{ours}.mlp.down", f"{theirs}.mlp.down_proj"
    yield "norm", "model.norm"


def _zeros(config: GPTConfig) -> dict[str, int]:
    """Return the biases that a GPT-2 of theirs always has, where ours has none."""
    if kind_of(config) != "gpt2":
        return {}
    width = config.width
    found: dict[str, int] = {}
    for b in range(config.num_layers):
        theirs = f"transformer.h.{b}"
        if not config.bias:
            found |= {f"{theirs}.{layer}.bias": width for layer in ("ln_1", "ln_2", "attn.c_proj", "mlp.c_proj")}
            found |= {f"{theirs}.mlp.c_fc.bias": hidden_width_of(config)}
        if not (config.bias if config.qkv_bias is None else config.qkv_bias):
            found |= {f"{theirs}.attn.c_attn.bias": 3 * width}
    return found if config.bias else found | {"transformer.ln_f.bias": width}


HUGGINGFACE = Table(
    library="Hugging Face",
    pairs=_pairs,
    trunk=lambda config: "transformer." if kind_of(config) == "gpt2" else "model.",
    zeros=_zeros,
    tied=lambda config: (
        {"head.weight": "token_embedding.weight"} if config.head == "token" and config.tied_head else {}
    ),
    dropped={
        "transformer.h.*.attn.bias": "the causal mask, which older files hold and everyone builds",
        "transformer.h.*.attn.masked_bias": "what masked scores were set to; older files hold it",
        "*.rotary_emb.inv_freq": "the wavelengths of rotary positions, which the config gives",
    },
)
