"""Root mean square layer normalisation (Zhang and Sennrich 2019): layer norm without the mean and without a bias.

Unusual: its statistics are in float32 at least, whatever the input's type, and weights may be of another type than the
input, which torch's own module answers with a warning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide the last dimension by its root mean square and scale it (eq. 4): (..., width) to (..., width)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of ``x``'s shape and type."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps).to(x.dtype)
