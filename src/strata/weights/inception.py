"""GoogLeNet's and Inception-v3's tensors as torchvision names them.

torchvision's pretrained networks have ``transform_input`` set: they take pictures normalised with ImageNet's constants,
undo that, and bring them to -1..1. Ours does no such thing; the preprocessing that travels with the weights normalises
with a mean and a deviation of 0.5 once, which is the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.errors import WeightsError
from strata.layers.stem import resolve
from strata.models.inception import InceptionConfig
from strata.weights.preprocessing import imagenet
from strata.weights.table import Pair, Table

STEM_V1 = {0: "conv1", 2: "conv2", 3: "conv3"}
STEM_V3 = {0: "Conv2d_1a_3x3", 1: "Conv2d_2a_3x3", 2: "Conv2d_2b_3x3", 4: "Conv2d_3b_1x1", 5: "Conv2d_4a_3x3"}
"""By place in our stem."""
BLOCK_V1 = {"0.0": "branch1", "1.0": "branch2.0", "1.1": "branch2.1", "2.0": "branch3.0", "2.1": "branch3.1"} | {
    "3.1": "branch4.1"
}


def _row(branch: int, name: str, length: int) -> dict[str, str]:
    """Return the names of a branch of several convolutions: name_1, name_2, ..."""
    return {f"{branch}.{k}": f"{name}_{k + 1}" for k in range(length)}


def _fork(branch: int, place: int, name: str) -> dict[str, str]:
    """Return the names of a branch's end, a row and a column side by side."""
    return {f"{branch}.{place}.branches.{k}.0": f"{name}_{place + 1}{letter}" for k, letter in enumerate("ab")}


_ONE, _POOLED = {"0.0": "branch1x1"}, {"3.1": "branch_pool"}
_A = _ONE | _row(1, "branch5x5", 2) | _row(2, "branch3x3dbl", 3) | _POOLED
_B = {"0.0": "branch3x3"} | _row(1, "branch3x3dbl", 3)
_C = _ONE | _row(1, "branch7x7", 3) | _row(2, "branch7x7dbl", 5) | _POOLED
_D = _row(0, "branch3x3", 2) | _row(1, "branch7x7x3", 4)
_E = (
    _ONE
    | (_row(1, "branch3x3", 1) | _fork(1, 1, "branch3x3"))
    | (_row(2, "branch3x3dbl", 2) | _fork(2, 2, "branch3x3dbl"))
    | _POOLED
)
STAGES_V3 = ((_A, _A, _A), (_B, _C, _C, _C, _C), (_D, _E, _E))
"""Our branch and place in each block, and their name."""


def _torchvision(config: InceptionConfig) -> Iterator[Pair]:
    if resolve(config.stem, config.image_size) != "imagenet":
        raise WeightsError("torchvision's Inception networks have ImageNet's stem. Take model.stem=imagenet.")
    for ours, theirs in _units_v1() if config.version == "v1" else _units_v3():
        yield f"{ours}.conv", f"{theirs}.conv"
        yield f"{ours}.norm", f"{theirs}.bn"
    if config.version == "v1":
        for k in (0, 1):
            yield f"auxiliary.{k}.linear", f"aux{k + 1}.fc1"
            yield f"auxiliary.{k}.head", f"aux{k + 1}.fc2"
    else:
        yield "auxiliary.0.head", "AuxLogits.fc"
    yield "head", "fc"


def _units_v1() -> Iterator[tuple[str, str]]:
    for place, theirs in STEM_V1.items():
        yield f"stem.{place}", theirs
    for s, letters in enumerate(("ab", "abcde", "ab")):
        for b, letter in enumerate(letters, start=0 if s == 0 else 1):  # the later stages begin with a pool
            for ours, theirs in BLOCK_V1.items():
                yield f"stages.{s}.{b}.branches.{ours}", f"inception{s + 3}{letter}.{theirs}"
    for k in (0, 1):
        yield f"auxiliary.{k}.conv", f"aux{k + 1}.conv"


def _units_v3() -> Iterator[tuple[str, str]]:
    for place, theirs in STEM_V3.items():
        yield f"stem.{place}", theirs
    for s, (blocks, letters) in enumerate(zip(STAGES_V3, ("bcd", "abcde", "abc"), strict=True)):
        for b, (block, letter) in enumerate(zip(blocks, letters, strict=True)):
            for ours, theirs in block.items():
                yield f"stages.{s}.{b}.branches.{ours}", f"Mixed_{s + 5}{letter}.{theirs}"
    for k in (0, 1):
        yield f"auxiliary.0.conv{k + 1}", f"AuxLogits.conv{k}"


def preprocess(config: InceptionConfig) -> dict[str, Any]:
    """Return how pictures are prepared for torchvision's weights: its resizing, and -1..1 as this page's top says."""
    prepared = imagenet(299, 342) if config.version == "v3" else imagenet()
    return prepared | {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


_UNUSED = "the config has no auxiliary heads, which serve in training alone"
TORCHVISION = Table(
    library="torchvision",
    pairs=_torchvision,
    dropped={"aux1.*": _UNUSED, "aux2.*": _UNUSED, "AuxLogits.*": _UNUSED},
)
