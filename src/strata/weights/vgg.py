"""VGG's tensors as torchvision names them: by their places in one list of all layers, pools included."""

from __future__ import annotations

from collections.abc import Iterator

from strata.models.vgg import VGGConfig
from strata.weights.table import Pair, Table


def _torchvision(config: VGGConfig) -> Iterator[Pair]:
    place = 0
    for s, depth in enumerate(config.depths):
        layers = depth * (3 if config.batch_norm else 2)  # convolution, norm, rectifier
        for k in range(layers):
            yield f"stages.{s}.{k}", f"features.{place + k}"
        place += layers + 1  # the pool
    yield "hidden", "classifier"
    yield "head", "classifier.6"


TORCHVISION = Table(library="torchvision", pairs=_torchvision)
