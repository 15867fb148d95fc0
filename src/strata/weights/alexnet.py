"""AlexNet's tensors as torchvision names them: the one-tower shape alone, for it has no other."""

from __future__ import annotations

from collections.abc import Iterator

from strata.errors import WeightsError
from strata.layers.stem import resolve
from strata.models.alexnet import AlexNetConfig
from strata.weights.table import Pair, Table

CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Their places in torchvision's list of layers."""


def _torchvision(config: AlexNetConfig) -> Iterator[Pair]:
    if config.local_norm or max(config.groups) > 1 or resolve(config.stem, config.image_size) != "imagenet":
        raise WeightsError(
            "torchvision's AlexNet has one tower, no local response normalisation, and an 11x11 stem. "
            "Take model=alexnet model.stem=imagenet."
        )
    for i, place in enumerate(CONVOLUTIONS):
        yield f"stages.{i}.0", f"features.{place}"
    yield "hidden", "classifier"
    yield "head", "classifier.6"


TORCHVISION = Table(library="torchvision", pairs=_torchvision)
