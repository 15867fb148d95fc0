"""Tensors that are made again for the backward pass, where that costs little beside keeping them.

A linear layer keeps its input for its weight's gradient. Where that input is an activation's output, the activation
keeps what it read as well: the same numbers twice over. A norm's output is the same case. Of what a GPT keeps the two
are over a third. Chen et al. 2016, "Training deep nets with sublinear memory cost", make again what is cheap to make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def made_again(x: Tensor, how: Callable[[], Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which operations that would keep ``x`` for their backward call ``how`` then instead.

    Args:
        how: gives ``x`` once more, to the bit, and does not hold it.
    """
    if not (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return contextlib.nullcontext()  # what compiles decides for itself what to keep
    place, dtype, count = x.data_ptr(), x.dtype, x.numel()

    def keep(tensor: Tensor) -> Tensor | torch.Size:
        is_x = tensor.data_ptr() == place and tensor.dtype == dtype and tensor.numel() == count
        return tensor.shape if is_x and tensor.is_contiguous() else tensor

    def give(kept: Tensor | torch.Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else how().view(kept)

    return torch.autograd.graph.saved_tensors_hooks(keep, give)


def after_norm(norm: nn.Module, layer: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
    """Return ``layer(norm(x), *more)``; what was normed, which the layer's weights would keep, is made again."""
    normed = norm(x)
    with made_again(normed, lambda: norm.forward(x)):
        return layer(normed, *more)
