"""Scaled dot-product attention (Vaswani et al. 2017, equation 1) by torch's fused kernels, in the faster precision.

B sequences, H heads, T queries, S keys and values, K numbers in each.

Keys and values may have fewer heads, each serving as many heads of queries that follow one another (grouped queries,
Ainslie et al. 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FP32_PAYS_TO_LENGTH = 512
"""On a CPU the backward of torch's bf16 kernel is slow: forward and backward took 5.7 times as long as in fp32 at 64
tokens, 1.7 times at 256, and 0.85 times at 1024 (Xeon with AMX, 2 cores, torch 2.13)."""


def attention(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return what each query reads: (B, H, T, K), in the queries' type.

    Args:
        k_BHSK: as many heads as the queries have, or a divisor of that; ``v_BHSK`` likewise.
        mask: boolean, True where a query may look, or floating point, added to the scores.
        dropout: share of the weights that are dropped.
        is_causal: each query sees keys up to its own place; T and S are equal then.
        scale: factor of the scores; None is the paper's, K ** -0.5.
    """
    B, H, T, K = q_BHTK.shape
    is_grouped = k_BHSK.shape[1] != H
    if is_grouped and T == 1 and mask is None:
        # A lone query's heads of one group read the same keys: taken as so many queries, in a third of the time
        q_BGHK = q_BHTK.reshape(B, k_BHSK.shape[1], -1, K)
        return attention(q_BGHK, k_BHSK, v_BHSK, dropout=dropout, scale=scale).view(B, H, T, K)
    short = q_BHTK.shape[2] <= FP32_PAYS_TO_LENGTH
    fp32_pays = q_BHTK.device.type == "cpu" and q_BHTK.dtype == torch.bfloat16 and short and torch.is_grad_enabled()
    if mask is not None and mask.is_floating_point():
        mask = mask.float() if fp32_pays else mask.to(q_BHTK.dtype)
    if fp32_pays:
        with torch.autocast("cpu", enabled=False):
            y_BHTK = F.scaled_dot_product_attention(
                q_BHTK.float(),
                k_BHSK.float(),
                v_BHSK.float(),
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=is_grouped,
            )
        return y_BHTK.to(q_BHTK.dtype)
    return F.scaled_dot_product_attention(
        q_BHTK,
        k_BHSK,
        v_BHSK,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=is_grouped,
    )


def attention_weights(
    q_BHTK: Tensor, k_BHSK: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Return how much of each key's value `attention` gives each query: (B, H, T, S), rows that sum to 1.

    For looking at; the fused kernels never form it. The arguments are those of `attention`.
    """
    score_BHTS = q_BHTK @ k_BHSK.transpose(2, 3) * (q_BHTK.shape[3] ** -0.5 if scale is None else scale)
    if mask is not None and mask.is_floating_point():
        score_BHTS = score_BHTS + mask
    elif mask is not None:
        score_BHTS = score_BHTS.masked_fill(~mask, -torch.inf)
    return score_BHTS.softmax(dim=-1)
