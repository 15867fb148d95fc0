"""Attention masks: boolean, True where a query may look, and combined with ``&``.

Whoever needs none passes none: SDPA is fastest without a mask, and causal attention over whole rows needs only
``is_causal``. Rows that are padded on the right need no mask in a causal model, since no real token looks ahead.

B sequences, T queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal(T: int, S: int, device: torch.device | str | None = None, window: int | None = None) -> Tensor:
    """Return (T, S): each query sees its own place and those before it.

    Args:
        T: number of queries; they are the last T of the S places.
        window: places that a query sees, its own among them (sliding window, Beltagy et al. 2020); None is all.
    """
    mask_TS = torch.ones(T, S, dtype=torch.bool, device=device).tril_(S - T)
    return mask_TS if window is None else mask_TS.triu_(S - T - window + 1)


def padding(mask_BS: Tensor) -> Tensor:
    """Return (B, 1, 1, S), for every head and query, from a mask that is True where there is a token."""
    return mask_BS.bool()[:, None, None, :]


def documents(document_BT: Tensor) -> Tensor:
    """Return (B, 1, T, T): each place of a packed row sees those of its own document.

    Args:
        document_BT: a number for each token, equal within a document.
    """
    return (document_BT[:, :, None] == document_BT[:, None, :])[:, None]
