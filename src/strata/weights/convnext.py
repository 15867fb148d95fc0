"""ConvNeXt's tensors as Hugging Face (ConvNextForImageClassification, ConvNextModel) names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.models.convnext import ConvNeXtConfig, patch_size_of
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table


def config_from(theirs: dict[str, Any]) -> ConvNeXtConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "ConvNeXt")
    depths = tuple(settings.take("depths", [3, 3, 9, 3]))
    settings.must("num_stages", len(depths))
    return ConvNeXtConfig(
        depths=depths,
        widths=tuple(settings.take("hidden_sizes", [96, 192, 384, 768])),
        patch_size=settings.side("patch_size", 4),
        activation=settings.activation("hidden_act", "gelu"),
        layer_scale=settings.take("layer_scale_init_value", 1e-6),
        stochastic_depth=settings.take("drop_path_rate", 0.0),
        head_norm_eps=settings.take("layer_norm_eps", 1e-12),
        in_channels=settings.take("num_channels", 3),
        image_size=settings.side("image_size", 224),
        num_classes=settings.num_classes(),
    )


def config_to(ours: ConvNeXtConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config."""
    return {
        "model_type": "convnext",
        "architectures": ["ConvNextForImageClassification"],
        "num_stages": len(ours.depths),
        "depths": list(ours.depths),
        "hidden_sizes": list(ours.widths),
        "patch_size": patch_size_of(ours),
        "hidden_act": their_activation(ours.activation),
        "layer_scale_init_value": ours.layer_scale,
        "drop_path_rate": ours.stochastic_depth,
        "layer_norm_eps": ours.head_norm_eps,
        "num_channels": ours.in_channels,
        "image_size": ours.image_size,
    }


def _huggingface(config: ConvNeXtConfig) -> Iterator[Pair]:
    yield "stem.0", "convnext.embeddings.patch_embeddings"
    yield "stem.1", "convnext.embeddings.layernorm"
    for s, depth in enumerate(config.depths):
        if s > 0:
            yield f"stages.{s}.0", f"convnext.encoder.stages.{s}.downsampling_layer"
        for b in range(depth):
            ours, theirs = f"stages.{s}.{b + (s > 0)}", f"convnext.encoder.stages.{s}.layers.{b}"
            yield f"{ours}.scale_C", f"{theirs}.layer_scale_parameter"
            yield f"{ours}.conv", f"{theirs}.dwconv"
            yield f"{ours}.norm", f"{theirs}.layernorm"
            yield f"{ours}.up", f"{theirs}.pwconv1"
            yield f"{ours}.down", f"{theirs}.pwconv2"
    yield "norm", "convnext.layernorm"
    yield "head", "classifier"


HUGGINGFACE = Table(library="Hugging Face", pairs=_huggingface, trunk="convnext.")
