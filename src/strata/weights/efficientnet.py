"""EfficientNet's tensors as Hugging Face (EfficientNetForImageClassification) names them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from strata.errors import WeightsError
from strata.layers.stem import resolve
from strata.models.efficientnet import EfficientNetConfig
from strata.models.mobilenet import round_channels
from strata.weights.settings import Settings
from strata.weights.table import Pair, Table


def config_from(theirs: dict[str, Any]) -> EfficientNetConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks.

    Their ``batch_norm_momentum`` is left aside: it has no part in what trained weights answer, and the 0.99 there is
    TensorFlow's, which in torch would be 0.01.
    """
    settings = Settings({"depthwise_padding": []} | theirs, "EfficientNet")
    settings.one_of("hidden_act", "swish", {"swish": "silu", "silu": "silu"})
    settings.must("pooling_type", "mean")
    settings.must("depth_divisor", 8)
    defaults = {
        "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
        "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "strides": [1, 2, 2, 2, 1, 2, 1],
        "out_channels": [16, 24, 40, 80, 112, 192, 320],
        "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    }
    columns = [list(settings.take(key, default)) for key, default in defaults.items()]
    settings.must("in_channels", [32, *columns[3][:-1]])
    width = float(settings.take("width_coefficient", 2.0))
    settings.must("hidden_dim", round_channels(1280 * width))
    ours = EfficientNetConfig(
        stages=tuple(zip(*columns, strict=True)),
        width_multiplier=width,
        depth_multiplier=float(settings.take("depth_coefficient", 3.1)),
        squeeze=settings.take("squeeze_expansion_ratio", 0.25),
        stem="imagenet",
        padding="tensorflow",
        norm_epsilon=settings.take("batch_norm_eps", 0.001),
        dropout=settings.take("dropout_rate", 0.5),
        stochastic_depth=settings.take("drop_connect_rate", 0.2),
        in_channels=settings.take("num_channels", 3),
        image_size=settings.side("image_size", 600),
        num_classes=settings.num_classes(),
    )
    _must_be_the_same_network(ours)
    settings.must("depthwise_padding", _odd_blocks(ours))
    return ours


def config_to(ours: EfficientNetConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config. Raises WeightsError for a setting that theirs lacks."""
    settings = Settings(asdict(ours) | {"stem": resolve(ours.stem, ours.image_size)}, "In transformers, EfficientNet")
    for key, only in {"stem": "imagenet", "stem_width": 32, "last_width": 1280, "padding": "tensorflow"}.items():
        settings.must(key, only)
    _must_be_the_same_network(ours)
    expansions, kernels, strides, channels, depths = (list(column) for column in zip(*ours.stages, strict=True))
    return {
        "model_type": "efficientnet",
        "architectures": ["EfficientNetForImageClassification"],
        "num_channels": ours.in_channels,
        "image_size": ours.image_size,
        "width_coefficient": ours.width_multiplier,
        "depth_coefficient": ours.depth_multiplier,
        "depth_divisor": 8,
        "kernel_sizes": kernels,
        "in_channels": [32, *channels[:-1]],
        "out_channels": channels,
        "depthwise_padding": _odd_blocks(ours),
        "strides": strides,
        "num_block_repeats": depths,
        "expand_ratios": expansions,
        "squeeze_expansion_ratio": ours.squeeze,
        "hidden_act": "swish",
        "hidden_dim": round_channels(1280 * ours.width_multiplier),
        "pooling_type": "mean",
        "batch_norm_eps": ours.norm_epsilon,
        "batch_norm_momentum": 0.1,
        "dropout_rate": ours.dropout,
        "drop_connect_rate": ours.stochastic_depth,
    }


def _depths(config: EfficientNetConfig) -> list[int]:
    return [math.ceil(config.depth_multiplier * depth) for *_, depth in config.stages]


def _odd_blocks(config: EfficientNetConfig) -> list[int]:
    """Return the numbers of the blocks that halve an odd side, and so pad all sides alike."""
    found, number, side = [], 0, config.image_size // 2
    for (_, _, stride, _, _), depth in zip(config.stages, _depths(config), strict=True):
        if stride == 2 and side % 2 == 1:
            found.append(number)
        side = math.ceil(side / stride)
        number += depth
    return found


def _must_be_the_same_network(config: EfficientNetConfig) -> None:
    """Refuse what transformers builds otherwise than here."""
    if config.image_size % 2 == 1:
        raise WeightsError(
            f"EfficientNet for pictures of {config.image_size} pixels is another network in transformers than here, "
            "for its first convolution pads as if the side were even. Take an even side."
        )
    channels = round_channels(config.stem_width * config.width_multiplier)
    for number, (_, _, stride, c, _) in enumerate(config.stages):
        width = round_channels(c * config.width_multiplier)
        if stride > 2 or (stride == 1 and width == channels):
            raise WeightsError(
                f"Stage {number} of this EfficientNet, with stride {stride} from {channels} to {width} channels, is "
                "another in transformers than here: strides have to be 1 or 2, and with 1 the channels have to change."
            )
        channels = width


def _huggingface(config: EfficientNetConfig) -> Iterator[Pair]:
    yield "stem.conv", "efficientnet.embeddings.convolution"
    yield "stem.norm", "efficientnet.embeddings.batchnorm"
    for k in range(sum(_depths(config))):
        ours, theirs = f"blocks.{k}", f"efficientnet.encoder.blocks.{k}"
        yield f"{ours}.expand.conv", f"{theirs}.expansion.expand_conv"
        yield f"{ours}.expand.norm", f"{theirs}.expansion.expand_bn"
        yield f"{ours}.depthwise.conv", f"{theirs}.depthwise_conv.depthwise_conv"
        yield f"{ours}.depthwise.norm", f"{theirs}.depthwise_conv.depthwise_norm"
        yield f"{ours}.excite.reduce", f"{theirs}.squeeze_excite.reduce"
        yield f"{ours}.excite.expand", f"{theirs}.squeeze_excite.expand"
        yield f"{ours}.project.conv", f"{theirs}.projection.project_conv"
        yield f"{ours}.project.norm", f"{theirs}.projection.project_bn"
    yield "last.conv", "efficientnet.encoder.top_conv"
    yield "last.norm", "efficientnet.encoder.top_bn"
    yield "head", "classifier"


HUGGINGFACE = Table(library="Hugging Face", pairs=_huggingface, trunk="efficientnet.")
