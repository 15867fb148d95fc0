"""DenseNet's tensors as torchvision names them."""

from __future__ import annotations

from collections.abc import Iterator

from strata.models.densenet import DenseNetConfig
from strata.weights.table import Pair, Table


def _torchvision(config: DenseNetConfig) -> Iterator[Pair]:
    yield "stem.0", "features.conv0"
    yield "stem.1", "features.norm0"
    for s, depth in enumerate(config.depths):
        for k in range(depth):
            yield f"stages.{s}.{k}", f"features.denseblock{s + 1}.denselayer{k + 1}"
        yield f"stages.{s}.{depth}", f"features.transition{s + 1}"
    yield "norm", f"features.norm{len(config.depths) + 1}"
    yield "head", "classifier"


TORCHVISION = Table(
    library="torchvision",
    pairs=_torchvision,
    # The files that torchvision offers are older than its rule that a module's name has no dot.
    renamed={f".{layer}.{k}.": f".{layer}{k}." for layer in ("norm", "conv") for k in (1, 2)},
)
