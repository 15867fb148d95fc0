"""A file in torchvision's layout: which model its name says it is, its sizes by its tensors, how pictures are prepared.

The files' names, and what belongs to each, are those of torchvision 0.21's ``torchvision/models/*.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from strata.errors import WeightsError
from strata.models import build, names, preset, settled
from strata.weights import preprocessing
from strata.weights.table import Table

SHORT_SIDES = {
    "resnet50-11ad3fa6": 232,
    "resnet101-cd907fc2": 232,
    "resnet152-f82ba261": 232,
    "resnext50_32x4d-1a0047aa": 232,
    "resnext101_32x8d-110c445d": 232,
    "wide_resnet50_2-9ba9bcbe": 232,
    "wide_resnet101_2-d733dc28": 232,
    "vit_l_16-852ce7e3": 242,
}
"""Sides to which the short side is brought before the middle is cut out, of files where that is not 256 pixels."""
UNCUT = {"vit_b_16_swag": 384, "vit_b_16_lc_swag": 224, "vit_l_16_swag": 512, "vit_l_16_lc_swag": 224}
"""Picture sizes of files whose short side is brought to that very size, by bicubic interpolation."""
_THEIRS = {"vit_b_": "vit_base_", "vit_l_": "vit_large_"}
_LACKING = "vit_h_"
"""What files' names begin with whose sizes are no preset here."""


def by_name(path: Path) -> Any:
    """Return the config of the preset that a file is called after: resnet50-0676ba61.pth. Raises WeightsError."""
    stem = path.stem.replace("-", "_")
    for theirs, ours in _THEIRS.items():
        stem = ours + stem.removeprefix(theirs) if stem.startswith(theirs) else stem
    fit = [name for name in names() if stem == name or stem.startswith(f"{name}_")]
    if not fit or stem.startswith(_LACKING):
        raise WeightsError(f"{path.name} does not say which model it is. Give it: model=resnet50 weights={path}")
    return preset(max(fit, key=len))


def prepared(path: Path, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return how pictures are prepared for a file.

    Args:
        usual: for the family's other files.
    """
    uncut = UNCUT.get(path.stem.partition("-")[0])
    if uncut is not None:
        return preprocessing.imagenet(uncut, uncut, "bicubic")
    short = SHORT_SIDES.get(path.stem)
    return dict(usual) | ({"crop_share": usual["image_size"] / short} if short is not None else {})


def as_in_file(config: Any, table: Table, shapes: Mapping[str, torch.Size], image_size: int) -> Any:
    """Return a config with the classes, channels and picture size that a file's tensors are of, and nothing "auto".

    Args:
        config: of the architecture; its sizes may be of other data.
        shapes: of the tensors, by torchvision's names.
        image_size: of pictures that the file's network is made for, where its tensors do not say.
    """
    shapes = {table.today(name): shape for name, shape in shapes.items()}
    with torch.device("meta"):
        ours = build(dataclasses.replace(config, image_size=image_size)).state_dict()
    theirs = {name: parts.names[0] for name, parts in table.names(config, ours).items()}
    first = next(name for name, value in ours.items() if value.ndim == 4)
    sizes = {"image_size": image_size}
    if (head := shapes.get(theirs["head.weight"])) is not None:
        sizes["num_classes"] = head[0]
    if (convolution := shapes.get(theirs[first])) is not None:
        sizes["in_channels"] = convolution[1]
    if "positions_1TD" in ours and (positions := shapes.get(theirs["positions_1TD"])) is not None:
        sizes["image_size"] = round((positions[1] - 1) ** 0.5) * shapes[theirs[first]][-1]  # one is the class token's
    return settled(dataclasses.replace(config, **sizes))
