"""Dropout (Srivastava et al. 2014), its random bits drawn sixty-four at a time on the CPU.

There torch draws one number for each element, which takes longer than the linear layers of a small model beside it;
sixteen bits for each, compared with a threshold, take a quarter of that time (measured).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BITS = 16


class Dropout(nn.Dropout):
    """Sets elements to zero with probability p in training, and scales the others so that the mean stays: any shape.

    On the CPU p is rounded to a multiple of 2 ** -16, and the scale is that of the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return what is kept, scaled; the input itself outside training."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        levels = 2**_BITS
        dropped = round(self.p * levels)
        if dropped in (0, levels):
            return super().forward(x)
        per_draw = 64 // _BITS
        drawn = torch.empty(-(-x.numel() // per_draw), dtype=torch.int64).random_(-(2**63), None)
        bits = drawn.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (bits >= dropped - levels // 2).to(x.dtype)
        return x * kept.mul_(levels / (levels - dropped))
