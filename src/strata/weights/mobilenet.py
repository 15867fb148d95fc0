"""MobileNetV2's tensors as Hugging Face (MobileNetV2ForImageClassification) names them.

Google's checkpoints tell 1001 classes apart, the first of which is "background": they are read as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from strata.errors import WeightsError
from strata.layers.stem import resolve
from strata.models.mobilenet import MobileNetConfig, round_channels
from strata.weights.settings import Settings
from strata.weights.table import Pair, Table

STAGES = MobileNetConfig().stages


def config_from(theirs: dict[str, Any]) -> MobileNetConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "MobileNetV2")
    only = {"expand_ratio": 6, "depth_divisible_by": 8, "min_depth": 8, "hidden_act": "relu6"}
    for key, value in {**only, "output_stride": 32, "first_layer_is_expansion": True}.items():
        settings.must(key, value)
    multiplier = float(settings.take("depth_multiplier", 1.0))
    if multiplier < 1:
        settings.must("finegrained_output", True)
    _must_be_equally_wide(multiplier)
    return MobileNetConfig(
        width_multiplier=multiplier,
        stem="imagenet",
        padding="tensorflow" if settings.take("tf_padding", True) else "symmetric",
        norm_epsilon=settings.take("layer_norm_eps", 0.001),
        dropout=settings.take("classifier_dropout_prob", 0.8),
        in_channels=settings.take("num_channels", 3),
        image_size=settings.side("image_size", 224),
        num_classes=settings.num_classes(),
    )


def config_to(ours: MobileNetConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config. Raises WeightsError for a setting that theirs lacks."""
    settings = Settings(asdict(ours) | {"stem": resolve(ours.stem, ours.image_size)}, "In transformers, MobileNetV2")
    for key, only in {"stem": "imagenet", "stages": STAGES, "stem_width": 32, "last_width": 1280}.items():
        settings.must(key, only)
    _must_be_equally_wide(ours.width_multiplier)
    return {
        "model_type": "mobilenet_v2",
        "architectures": ["MobileNetV2ForImageClassification"],
        "num_channels": ours.in_channels,
        "image_size": ours.image_size,
        "depth_multiplier": ours.width_multiplier,
        "depth_divisible_by": 8,
        "min_depth": 8,
        "expand_ratio": 6,
        "output_stride": 32,
        "first_layer_is_expansion": True,
        "finegrained_output": True,
        "hidden_act": "relu6",
        "tf_padding": ours.padding == "tensorflow",
        "layer_norm_eps": ours.norm_epsilon,
        "classifier_dropout_prob": ours.dropout,
    }


def _must_be_equally_wide(multiplier: float) -> None:
    """Refuse a multiplier of which transformers makes another network.

    It rounds channels to whole numbers before it rounds them to eights, and its first block never has a shortcut.
    """
    channels = [32, *(c for _, c, _, _ in STAGES), 1280]
    stem, first, *_ = [round_channels(c * multiplier) for c in channels]
    if stem == first or any(round_channels(c * multiplier) != round_channels(round(c * multiplier)) for c in channels):
        raise WeightsError(
            f"MobileNetV2 with a width multiplier of {multiplier:g} is another network in transformers than here. "
            "These are the same: 0.35, 0.5, 0.75, 1, 1.3, 1.4."
        )


def _layer(ours: str, theirs: str) -> Iterator[Pair]:
    yield f"{ours}.conv", f"{theirs}.convolution"
    yield f"{ours}.norm", f"{theirs}.normalization"


def _huggingface(config: MobileNetConfig) -> Iterator[Pair]:
    yield from _layer("stem", "mobilenet_v2.conv_stem.first_conv")
    for k in range(sum(depth for _, _, depth, _ in config.stages)):
        theirs = "mobilenet_v2.conv_stem" if k == 0 else f"mobilenet_v2.layer.{k - 1}"
        for name, their_name in (("expand", "expand_1x1"), ("depthwise", "conv_3x3"), ("project", "reduce_1x1")):
            yield from _layer(f"blocks.{k}.{name}", f"{theirs}.{their_name}")
    yield from _layer("last", "mobilenet_v2.conv_1x1")
    yield "head", "classifier"


HUGGINGFACE = Table(library="Hugging Face", pairs=_huggingface, trunk="mobilenet_v2.")
