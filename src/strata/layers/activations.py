"""Activations by name, for every model that takes one.

A config's field of type `Activation` refuses a wrong name when it is set; `activation` builds the module.

B samples, C channels or features, H and W pixels, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from strata.errors import UnknownNameError

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "sigmoid", "tanh", "softmax", "silu"]


class Softmax(nn.Module):
    """Softmax over features: the channels of pictures (B, C, H, W), the last dimension of (B, C) and (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x`` whose features sum to one."""
        return x.softmax(dim=1 if x.ndim == 4 else -1)


# None of them writes in place: explanations hook these modules, and backward hooks refuse tensors changed in place.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softmax": Softmax,
    "silu": nn.SiLU,
}

_BOUNDED = ("sigmoid", "tanh", "softmax")


def activation(name: str, leak: float = 0.01) -> nn.Module:
    """Return a new module of that name.

    Args:
        leak: slope of leaky_relu below zero; without effect on the others.

    Raises UnknownNameError with the nearest right name.
    """
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    if name == "leaky_relu":
        return nn.LeakyReLU(leak)
    return ACTIVATIONS[name]()


def gain(name: str) -> float:
    """Return g such that weights of deviation g / sqrt(fan_in) keep the signal's size from layer to layer.

    He et al. 2015, eq. 10, for those that cut off negative values; Glorot and Bengio 2010 for the bounded ones.
    """
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    return 1.0 if name in _BOUNDED else math.sqrt(2.0)
