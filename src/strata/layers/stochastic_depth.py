"""Stochastic depth: in training, a residual branch is left out at random, sample by sample.

Paper: Huang, Sun, Liu, Sedra and Weinberger 2016, "Deep networks with stochastic depth", section 3. Unusual here: a
branch that is kept is scaled up by 1 / (1 - p), as dropout is, so that nothing is left to do at test time.

B samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zeroes each sample's branch with probability p: (B, ...) to the same shape. Does nothing in eval mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch_B: Tensor) -> Tensor:
        """Return the branch, zero for the samples that skip it."""
        if self.p == 0.0 or not self.training:
            return branch_B
        shape = (branch_B.shape[0], *[1] * (branch_B.ndim - 1))
        kept_B = torch.rand(shape, device=branch_B.device) >= self.p
        return branch_B * (kept_B / (1.0 - self.p)).to(branch_B.dtype)

    def extra_repr(self) -> str:
        """Return the probability, for printing."""
        return f"p={self.p:g}"


def linear_rates(greatest: float, depth: int) -> list[float]:
    """Return the probability of each of ``depth`` blocks, rising from 0 to ``greatest`` (eq. 4)."""
    return [greatest * k / max(1, depth - 1) for k in range(depth)]
