"""The Swin Transformer's tensors as Hugging Face (SwinForImageClassification, SwinModel) names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.errors import WeightsError
from strata.models.swin import SwinConfig, grid_of, patch_size_of, window_of
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table


def config_from(theirs: dict[str, Any]) -> SwinConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "Swin")
    settings.must("use_absolute_embeddings", False)
    settings.must("layer_norm_eps", 1e-5)
    return SwinConfig(
        depths=tuple(settings.take("depths", [2, 2, 6, 2])),
        width=settings.take("embed_dim", 96),
        num_heads=tuple(settings.take("num_heads", [3, 6, 12, 24])),
        window=settings.take("window_size", 7),
        patch_size=settings.side("patch_size", 4),
        mlp_ratio=settings.take("mlp_ratio", 4.0),
        qkv_bias=settings.take("qkv_bias", True),
        activation=settings.activation("hidden_act", "gelu"),
        dropout=settings.take("hidden_dropout_prob", 0.0),
        attention_dropout=settings.take("attention_probs_dropout_prob", 0.0),
        stochastic_depth=settings.take("drop_path_rate", 0.1),
        in_channels=settings.take("num_channels", 3),
        image_size=settings.side("image_size", 224),
        num_classes=settings.num_classes(),
    )


def config_to(ours: SwinConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config. Raises WeightsError for what theirs cannot run."""
    _must_fill_a_window(ours)
    return {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification"],
        "depths": list(ours.depths),
        "embed_dim": ours.width,
        "num_heads": list(ours.num_heads),
        "window_size": window_of(ours),
        "patch_size": patch_size_of(ours),
        "mlp_ratio": ours.mlp_ratio,
        "qkv_bias": ours.qkv_bias,
        "hidden_act": their_activation(ours.activation),
        "hidden_dropout_prob": ours.dropout,
        "attention_probs_dropout_prob": ours.attention_dropout,
        "drop_path_rate": ours.stochastic_depth,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "num_channels": ours.in_channels,
        "image_size": ours.image_size,
    }


def _must_fill_a_window(config: SwinConfig) -> None:
    """Refuse maps that are smaller than a window: theirs has no part of the relative positions for these."""
    window, side = window_of(config), grid_of(config)
    for _ in config.depths[1:]:
        side = (side + 1) // 2
    if side < window:
        raise WeightsError(
            f"In transformers, Swin cannot run with windows of {window} places and a last map of {side}, which it "
            f"has for pictures of {config.image_size} pixels. Train it with model.window={side}, or on larger pictures."
        )


def _huggingface(config: SwinConfig) -> Iterator[Pair]:
    yield "patches", "swin.embeddings.patch_embeddings.projection"
    yield "patch_norm", "swin.embeddings.norm"
    for s, depth in enumerate(config.depths):
        if s > 0:  # ours merges places as a stage begins, theirs as the one before ends
            yield f"stages.{s}.0", f"swin.encoder.layers.{s - 1}.downsample"
        for b in range(depth):
            ours, theirs = f"stages.{s}.{b + (s > 0)}", f"swin.encoder.layers.{s}.blocks.{b}"
            yield f"{ours}.norm1", f"{theirs}.layernorm_before"
            yield f"{ours}.attention.bias_RA", f"{theirs}.attention.self.relative_position_bias_table"
            for part in ("weight", "bias"):
                three = tuple(f"{theirs}.attention.self.{name}.{part}" for name in ("query", "key", "value"))
                yield f"{ours}.attention.qkv.{part}", three
            yield f"{ours}.attention.out", f"{theirs}.attention.output.dense"
            yield f"{ours}.norm2", f"{theirs}.layernorm_after"
            yield f"{ours}.mlp.up", f"{theirs}.intermediate.dense"
            yield f"{ours}.mlp.down", f"{theirs}.output.dense"
    yield "norm", "swin.layernorm"
    yield "head", "classifier"


HUGGINGFACE = Table(
    library="Hugging Face",
    pairs=_huggingface,
    trunk="swin.",
    dropped={
        "*.relative_position_index": "follows from the window's side; older files store it",
        "*.attn_mask": "follows from the map's size; older files store it",
        "swin.embeddings.mask_token": "stands for hidden patches in masked pre-training only",
    },
)
