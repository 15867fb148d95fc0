from __future__ import annotations

import pytest
import torch

from strata.layers import masks
from strata.layers.attention import attention

TOLERANCE = {torch.float64: 1e-10, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("is_masked", [False, True])
def test_fewer_heads_of_keys_serve_as_if_each_were_repeated(dtype: torch.dtype, T: int, is_masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q_BHTK = torch.randn(2, 6, T, 8, generator=generator).to(dtype).requires_grad_()
    k_BHSK, v_BHSK = (torch.randn(2, 2, 5, 8, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    mask = masks.causal(T, 5, window=3) if is_masked else None
    repeated = (tensor.repeat_interleave(3, dim=1) for tensor in (k_BHSK, v_BHSK))
    found, expected = attention(q_BHTK, k_BHSK, v_BHSK, mask=mask), attention(q_BHTK, *repeated, mask=mask)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(found.sum(), k_BHSK)
    assert gradient.shape == k_BHSK.shape and gradient.isfinite().all()
