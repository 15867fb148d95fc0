"""Finding where numbers stopped being finite, so that an error can name the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def not_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter or saved buffer that holds a NaN or an infinity, or None."""
    floating = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in floating.values()]).tolist()
    return next((name for name, is_finite in zip(floating, finite, strict=True) if not is_finite), None)


def find_culprit(model: nn.Module, forward: Callable[[], object]) -> str:
    """Say in a few words where the first NaN or infinity is: a parameter, a layer's output, or the loss.

    Args:
        forward: runs the model once on the batch in question.
    """
    name = not_finite(model)
    if name is not None:
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
