"""The Vision Transformer's tensors as Hugging Face (ViTForImageClassification, ViTModel) and torchvision name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from strata.errors import WeightsError
from strata.models.vit import ViTConfig, grid_of, patch_size_of, resize_positions
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table


def config_from(theirs: dict[str, Any]) -> ViTConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "ViT")
    width, num_heads = settings.take("hidden_size", 768), settings.take("num_attention_heads", 12)
    settings.must("head_dim", width // num_heads)
    return ViTConfig(
        depth=settings.take("num_hidden_layers", 12),
        width=width,
        num_heads=num_heads,
        mlp_ratio=settings.take("intermediate_size", 3072) / width,
        patch_size=settings.side("patch_size", 16),
        qkv_bias=settings.take("qkv_bias", True),
        activation=settings.activation("hidden_act", "gelu"),
        norm_eps=settings.take("layer_norm_eps", 1e-12),
        dropout=settings.take("hidden_dropout_prob", 0.0),
        attention_dropout=settings.take("attention_probs_dropout_prob", 0.0),
        in_channels=settings.take("num_channels", 3),
        image_size=settings.side("image_size", 224),
        num_classes=settings.num_classes(),
    )


def config_to(ours: ViTConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config; they have no stochastic depth, which only trains.

    Raises WeightsError for a model without class token, which they lack.
    """
    _has_class_token(ours, "transformers")
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "num_hidden_layers": ours.depth,
        "hidden_size": ours.width,
        "num_attention_heads": ours.num_heads,
        "intermediate_size": round(ours.mlp_ratio * ours.width),
        "patch_size": patch_size_of(ours),
        "qkv_bias": ours.qkv_bias,
        "hidden_act": their_activation(ours.activation),
        "layer_norm_eps": ours.norm_eps,
        "hidden_dropout_prob": ours.dropout,
        "attention_probs_dropout_prob": ours.attention_dropout,
        "num_channels": ours.in_channels,
        "image_size": ours.image_size,
    }


def fit_positions(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> dict[str, Tensor]:
    """Return a model's tensors, by our names, with the positions that a model for pictures of another size needs."""
    before, after = grid_of(old), grid_of(new)
    num_prefix_tokens = 1 if old.pool == "class" else 0
    position_1TD = resize_positions(state["positions_1TD"], (before, before), (after, after), num_prefix_tokens)
    return state | {"positions_1TD": position_1TD}


def _has_class_token(config: ViTConfig, library: str) -> None:
    if config.pool != "class":
        raise WeightsError(f"{library} has no ViT with pool={config.pool!r}; only pool='class' can be written.")


def _huggingface(config: ViTConfig) -> Iterator[Pair]:
    yield "class_token_11D", "vit.embeddings.cls_token"
    yield "positions_1TD", "vit.embeddings.position_embeddings"
    yield "patches", "vit.embeddings.patch_embeddings.projection"
    for b in range(config.depth):
        ours, theirs = f"blocks.{b}", f"vit.encoder.layer.{b}"
        yield f"{ours}.norm1", f"{theirs}.layernorm_before"
        for part in ("weight", "bias"):
            three = tuple(f"{theirs}.attention.attention.{name}.{part}" for name in ("query", "key", "value"))
            yield f"{ours}.attention.qkv.{part}", three
        yield f"{ours}.attention.out", f"{theirs}.attention.output.dense"
        yield f"{ours}.norm2", f"{theirs}.layernorm_after"
        yield f"{ours}.mlp.up", f"{theirs}.intermediate.dense"
        yield f"{ours}.mlp.down", f"{theirs}.output.dense"
    yield "norm", "vit.layernorm"
    yield "head", "classifier"


def _torchvision(config: ViTConfig) -> Iterator[Pair]:
    _has_class_token(config, "torchvision")
    yield "class_token_11D", "class_token"
    yield "positions_1TD", "encoder.pos_embedding"
    yield "patches", "conv_proj"
    for b in range(config.depth):
        ours, theirs = f"blocks.{b}", f"encoder.layers.encoder_layer_{b}"
        yield f"{ours}.norm1", f"{theirs}.ln_1"
        yield f"{ours}.attention.qkv.weight", f"{theirs}.self_attention.in_proj_weight"
        yield f"{ours}.attention.qkv.bias", f"{theirs}.self_attention.in_proj_bias"
        yield f"{ours}.attention.out", f"{theirs}.self_attention.out_proj"
        yield f"{ours}.norm2", f"{theirs}.ln_2"
        yield f"{ours}.mlp.up", f"{theirs}.mlp.0"
        yield f"{ours}.mlp.down", f"{theirs}.mlp.3"
    yield "norm", "encoder.ln"
    yield "head", "heads.head"


HUGGINGFACE = Table(
    library="Hugging Face",
    pairs=_huggingface,
    trunk="vit.",
    dropped={
        "vit.pooler.*": "a layer after the class token that no head of theirs reads",
        "vit.embeddings.mask_token": "stands for hidden patches in masked pre-training only",
    },
)
TORCHVISION = Table(
    library="torchvision",
    pairs=_torchvision,
    renamed={".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."},
)
