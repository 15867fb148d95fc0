"""LoRA: each layer keeps its weights and learns an addition of low rank beside them.

Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen 2022, "LoRA: Low-rank adaptation of large language models",
section 4.1. Unusual here: convolutions take part, as a convolution of the same shape to ``rank`` channels and a 1x1
convolution up from there; the two matrices are parameters of the layer itself, so that no name in the model changes
and foreign weights load as before.

B samples, R rank.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata.errors import ConfigError

DOWN, UP = "lora_down", "lora_up"


def add(model: nn.Module, rank: int, alpha: float) -> None:
    """Add a pair of matrices to every linear layer and ungrouped convolution but the head's; the model's answers stay.

    Raises ConfigError for a model that has no such layer.
    """
    chosen = [module for name, module in model.named_modules() if _takes_part(name, module)]
    if not chosen:
        raise ConfigError(
            f"weights.tune=lora needs linear layers or convolutions, and {type(model).__name__} has none."
        )
    for module in chosen:
        weight: Tensor = module.weight
        down = torch.empty(rank, *weight.shape[1:])
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        up_shape = (weight.shape[0], rank) + (1,) * (weight.ndim - 2)
        module.register_parameter(DOWN, nn.Parameter(down))
        module.register_parameter(UP, nn.Parameter(torch.zeros(up_shape)))  # zero: the start is what was learned before
        module.lora_scale = alpha / rank
        module.register_forward_hook(_add_to_output)


def _takes_part(name: str, module: nn.Module) -> bool:
    if name.split(".")[0] == "head":
        return False
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def is_added(name: str) -> bool:
    """Say whether a parameter of this name is one of LoRA's."""
    return name.rsplit(".", 1)[-1] in (DOWN, UP)


def _add_to_output(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    if layer.weight.ndim == 2:
        low = F.linear(F.linear(inputs[0], layer.lora_down), layer.lora_up)
    else:
        x, stride = inputs[0], layer.stride
        if layer.kernel_size == (1, 1) and layer.padding == (0, 0):  # see `kernels.sampled` for why it is not strided
            x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
        low = F.conv2d(x, layer.lora_down, None, stride, layer.padding, layer.dilation)
        low = F.conv2d(low, layer.lora_up)
    return output + low * layer.lora_scale


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Return the model with its additions put into its weights, as a copy; a model without any as it is."""
    if not any(is_added(name) for name, _ in model.named_parameters()):
        return model
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, DOWN):
            layer: Any = module
            addition = layer.lora_up.flatten(1) @ layer.lora_down.flatten(1)
            layer.weight += layer.lora_scale * addition.view_as(layer.weight)
            delattr(layer, DOWN)
            delattr(layer, UP)
            layer._forward_hooks.clear()
    return plain
