"""Which architectures are compared with torchvision's own, and the numbers that both are filled with.

A tensor's numbers are a fixed function of its name in torchvision's layout and its shape, so that torchvision's network
and ours hold the same weights without a file of them. `record_torchvision.py` runs theirs once; `test_torchvision.py`
runs ours ever after. A further architecture is one line in `CASES`.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CLASSES = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One architecture, in both libraries."""

    preset: str
    """Ours."""
    builder: str
    """Theirs: a module in torchvision.models, and what builds the network there."""
    side: int
    """Of the picture that both are shown; the smallest that theirs takes where that makes no other network."""
    is_slow: bool = False
    """Takes more than a second or so: only its names and shapes are compared in the quick run."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Theirs, besides the number of classes."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Ours, likewise."""


SMALL_VIT = Case(
    preset="vit_base_16",
    builder="vision_transformer:VisionTransformer",
    side=64,
    options={"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96},
    settings={"image_size": 64, "depth": 2, "num_heads": 4, "width": 48, "mlp_ratio": 2.0},
)
CASES: dict[str, Case] = {
    "alexnet": Case(preset="alexnet", builder="alexnet:alexnet", side=224, is_slow=True),
    **{
        name: Case(preset=name, builder=f"vgg:{name}", side=224, is_slow=True)
        for layers in (11, 13, 16, 19)
        for name in (f"vgg{layers}", f"vgg{layers}_bn")
    },
    "googlenet": Case(preset="googlenet", builder="googlenet:googlenet", side=96, options={"init_weights": False}),
    "inception_v3": Case(
        preset="inception_v3", builder="inception:inception_v3", side=299, is_slow=True, options={"init_weights": False}
    ),
    "inception_v3_without_auxiliary": Case(
        preset="inception_v3",
        builder="inception:inception_v3",
        side=75,
        options={"init_weights": False, "aux_logits": False},
        settings={"auxiliary": False},
    ),
    "resnet18": Case(preset="resnet18", builder="resnet:resnet18", side=64),
    "resnet34": Case(preset="resnet34", builder="resnet:resnet34", side=64, is_slow=True),
    "resnet50": Case(preset="resnet50", builder="resnet:resnet50", side=64, is_slow=True),
    "resnet101": Case(preset="resnet101", builder="resnet:resnet101", side=64, is_slow=True),
    "resnet152": Case(preset="resnet152", builder="resnet:resnet152", side=64, is_slow=True),
    "wide_resnet50_2": Case(preset="wide_resnet50_2", builder="resnet:wide_resnet50_2", side=64, is_slow=True),
    "wide_resnet101_2": Case(preset="wide_resnet101_2", builder="resnet:wide_resnet101_2", side=64, is_slow=True),
    "densenet121": Case(preset="densenet121", builder="densenet:densenet121", side=64),
    "densenet161": Case(preset="densenet161", builder="densenet:densenet161", side=64, is_slow=True),
    "densenet169": Case(preset="densenet169", builder="densenet:densenet169", side=64, is_slow=True),
    "densenet201": Case(preset="densenet201", builder="densenet:densenet201", side=64, is_slow=True),
    "vit_small": SMALL_VIT,
    "vit_base_16": Case(preset="vit_base_16", builder="vision_transformer:vit_b_16", side=224, is_slow=True),
    "vit_base_32": Case(preset="vit_base_32", builder="vision_transformer:vit_b_32", side=224, is_slow=True),
}
"""By the name under which `torchvision.json` holds what theirs gave."""


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of torchvision's layout in float64; nothing is where training would start it.

    Weights keep the signal's size from layer to layer through rectifiers (He et al. 2015, eq. 10), so that the output
    of a deep network still depends on its input.
    """
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) > 1:
        return normal.mul_(math.sqrt(2 / math.prod(shape[1:])))
    if name.endswith("weight"):
        return normal.mul_(0.1).add_(1)
    return normal.mul_(0.1)


def filled(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the same names and shapes."""
    return {name: fill(name, tuple(value.shape)) for name, value in like.items()}


def digest(state: Mapping[str, Tensor]) -> str:
    """Return what tells the names and shapes of a state dict from any others."""
    lines = sorted(f"{name} {'x'.join(map(str, value.shape))}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def picture(side: int) -> Tensor:
    """Return the picture that both are shown: (1, 3, side, side) in float64."""
    generator = torch.Generator().manual_seed(side)
    return torch.randn(1, 3, side, side, generator=generator, dtype=torch.float64)
