"""ResNet's tensors as Hugging Face (ResNetForImageClassification) and torchvision name them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from strata.layers.stem import resolve
from strata.models.resnet import ResNetConfig
from strata.weights.settings import Settings
from strata.weights.table import Pair, Table


def config_from(theirs: dict[str, Any]) -> ResNetConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "ResNet")
    block: Any = settings.one_of("layer_type", "bottleneck", {"basic": "basic", "bottleneck": "bottleneck"})
    widths = tuple(settings.take("hidden_sizes", [256, 512, 1024, 2048]))
    width = widths[0] // (4 if block == "bottleneck" else 1)
    settings.must("hidden_act", "relu")  # theirs has any other only where blocks end
    settings.must("downsample_in_first_stage", False)
    settings.must("downsample_in_bottleneck", False)
    settings.must("embedding_size", width)
    settings.must("hidden_sizes", [widths[0] * 2**k for k in range(len(widths))])
    return ResNetConfig(
        depths=tuple(settings.take("depths", [3, 4, 6, 3])),
        block=block,
        width=width,
        stem="imagenet",
        in_channels=settings.take("num_channels", 3),
        num_classes=settings.num_classes(),
    )


def config_to(ours: ResNetConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config. Raises WeightsError for a setting that theirs lacks."""
    settings = Settings(asdict(ours) | {"stem": resolve(ours.stem, ours.image_size)}, "In transformers, ResNet")
    for key, only in {
        "stem": "imagenet",
        "shortcut": "projection",
        "inner_width": 1,
        "groups": 1,
        "activation": "relu",
    }.items():
        settings.must(key, only)
    expansion = 4 if ours.block == "bottleneck" else 1
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": ours.in_channels,
        "embedding_size": ours.width,
        "hidden_sizes": [ours.width * expansion * 2**k for k in range(len(ours.depths))],
        "depths": list(ours.depths),
        "layer_type": ours.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _convolutions(config: ResNetConfig) -> list[tuple[str, str]]:
    """Return our names of a block's convolutions, each with its norm."""
    if config.block == "basic":
        return [("conv1", "norm1"), ("conv2", "last_norm")]
    return [("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "last_norm")]


def _huggingface(config: ResNetConfig) -> Iterator[Pair]:
    yield "stem.0", "resnet.embedder.embedder.convolution"
    yield "stem.1", "resnet.embedder.embedder.normalization"
    for s, depth in enumerate(config.depths):
        for b in range(depth):
            ours, theirs = f"stages.{s}.{b}", f"resnet.encoder.stages.{s}.layers.{b}"
            for k, (conv, norm) in enumerate(_convolutions(config)):
                yield f"{ours}.{conv}", f"{theirs}.layer.{k}.convolution"
                yield f"{ours}.{norm}", f"{theirs}.layer.{k}.normalization"
            yield f"{ours}.shortcut.0", f"{theirs}.shortcut.convolution"
            yield f"{ours}.shortcut.1", f"{theirs}.shortcut.normalization"
    yield "head", "classifier.1"


def _torchvision(config: ResNetConfig) -> Iterator[Pair]:
    yield "stem.0", "conv1"
    yield "stem.1", "bn1"
    for s, depth in enumerate(config.depths):
        for b in range(depth):
            ours, theirs = f"stages.{s}.{b}", f"layer{s + 1}.{b}"
            for k, (conv, norm) in enumerate(_convolutions(config), start=1):
                yield f"{ours}.{conv}", f"{theirs}.conv{k}"
                yield f"{ours}.{norm}", f"{theirs}.bn{k}"
            yield f"{ours}.shortcut", f"{theirs}.downsample"
    yield "head", "fc"


HUGGINGFACE = Table(library="Hugging Face", pairs=_huggingface, trunk="resnet.")
TORCHVISION = Table(library="torchvision", pairs=_torchvision)
