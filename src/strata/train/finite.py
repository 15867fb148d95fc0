"""Finding where numbers stopped being finite, so that an error can name the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def find_culprit(model: nn.Module, forward: Callable[[], object]) -> str:
    """Say in a few words where the first NaN or infinity is: a parameter, a layer's output, or the loss.

    Args:
        forward: runs the model once on the batch in question.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the parameter {name!r} is not finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                fed = all(torch.isfinite(i).all() for i in inputs if isinstance(i, Tensor) and i.is_floating_point())
                found.append(
                    f"the output of layer {name!r} ({type(module).__name__})" + ("" if fed else ", fed with it")
                )

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"{found[0]} is not finite" if found else "every layer's output is finite again: the last steps went wrong"
