"""Where a token stands: sinusoids, rotary angles, ALiBi's slopes, and places in packed or padded rows.

Sinusoids: Vaswani et al. 2017, section 3.5. Rotary: Su et al. 2021, "RoFormer", section 3.2, in the layout of Llama,
where a pair of numbers that turn together is half a head apart; stretched to longer texts as Chen et al. 2023 (linear)
and Llama 3.1 do. ALiBi: Press et al. 2022, section 3. T5's buckets of distances: Raffel et al. 2020, section 2.1.

B sequences, T places, H heads, K numbers in a head, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from strata.config import Positive, PositiveFloat


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How rotary angles are changed for texts longer than those trained on."""

    HEAD: ClassVar[str] = "kind"
    kind: Literal["none", "linear", "llama3"] = "none"
    """linear: every angle divided by the factor. llama3: only those of waves longer than the original context."""
    factor: PositiveFloat = 8.0
    low: PositiveFloat = 1.0
    """Waves that fit into the original context fewer times than this are stretched by the whole factor (llama3)."""
    high: PositiveFloat = 4.0
    """Waves that fit more often than this stay as they are (llama3)."""
    original_context: Positive = 8192
    """Tokens that the model was first trained on (llama3)."""


NO_SCALING = RotaryScaling()


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Return sines and cosines in turn of places (...): (..., D) in float32 (Vaswani et al. 2017, section 3.5)."""
    rate_D = torch.exp(
        torch.arange(0, width, 2, device=position.device, dtype=torch.float32) * (-math.log(10_000.0) / width)
    )
    angle = position[..., None].float() * rate_D
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]


def sinusoidal(length: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Return `sinusoids` of the places 0 to ``length`` - 1: (T, D) in float32."""
    return sinusoids(torch.arange(length, device=device), width)


def rotary_angles(
    position: Tensor, head_width: int, theta: float = 10_000.0, scaling: RotaryScaling = NO_SCALING
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of places (...), as `rotate` takes them: (..., K) each, in float32.

    They are computed in float32 whatever the model's precision: in bf16, places beyond 256 would coincide.

    Args:
        head_width: numbers in a head; even.
        theta: base of the wavelengths, which run from 2 pi to 2 pi theta.
    """
    step = torch.arange(0, head_width, 2, device=position.device, dtype=torch.float32) / head_width
    rate = 1.0 / theta**step
    if scaling.kind == "linear":
        rate = rate / scaling.factor
    elif scaling.kind == "llama3":
        times_fit = scaling.original_context / (2 * math.pi / rate)
        kept = ((times_fit - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
        rate = (1 - kept) * rate / scaling.factor + kept * rate
    angle = position[..., None].float() * rate
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys by the angles of their places (Su et al. 2021, eq. 34), in their own precision.

    Args:
        cos: of `rotary_angles`: (T, K) where all rows stand alike, else (B, 1, T, K).
        sin: likewise.
    """
    first, second = x_BHTK.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x_BHTK * cos.to(x_BHTK.dtype) + turned * sin.to(x_BHTK.dtype)


def alibi_slopes(num_heads: int) -> Tensor:
    """Return how much each head loses a place of distance: (H,) in float32 (Press et al. 2022, section 3).

    Powers of one ratio for 2^n heads; for other numbers, those of the next smaller 2^n and then every other one of
    the next greater, as the authors' code does.
    """

    def powers(count: int) -> list[float]:
        return [2 ** (-8 * (h + 1) / count) for h in range(count)]

    whole = 2 ** int(math.log2(num_heads))
    return torch.tensor(powers(whole) + powers(2 * whole)[::2][: num_heads - whole])


def alibi_bias(slope_H: Tensor, T: int, S: int) -> Tensor:
    """Return what is added to attention scores: (H, T, S), 0 at a query's own place and less the farther away.

    Args:
        slope_H: of `alibi_slopes`.
        T: number of queries; they are the last T of the S places.
    """
    key_S = torch.arange(S, device=slope_H.device)
    distance_TS = (key_S[S - T :, None] - key_S[None, :]).abs()
    return -slope_H[:, None, None] * distance_TS


def t5_bucket(distance: Tensor, num_buckets: int, max_distance: int, *, is_causal: bool) -> Tensor:
    """Return the bucket of each distance (...), int64: one for each short distance, then ever wider ones (T5, 2020).

    Half of the buckets are for one distance each; the bounds of the others grow by one factor up to ``max_distance``.

    Args:
        distance: of a key from its query in places; negative for what lies behind.
        is_causal: keys ahead, which nobody may look at, are counted as distance 0; else half of all buckets are theirs.
    """
    bucket = torch.zeros_like(distance)
    if is_causal:
        behind = (-distance).clamp(min=0)
    else:
        num_buckets //= 2
        bucket = (distance > 0).long() * num_buckets
        behind = distance.abs()
    num_exact = num_buckets // 2
    # In float32 and in this order: at the bounds rounding decides, and published weights learned with these
    share = torch.log(behind.clamp(min=1).float() / num_exact) / math.log(max_distance / num_exact)
    coarse = num_exact + (share * (num_buckets - num_exact)).long()
    return bucket + torch.where(behind < num_exact, behind, coarse.clamp(max=num_buckets - 1))


def places_of_documents(document_BT: Tensor) -> Tensor:
    """Return each token's place in its own document, (B, T) int64, where documents lie one after another in a row."""
    place_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    begins_BT = torch.ones_like(document_BT, dtype=torch.bool)
    begins_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    return place_T - torch.where(begins_BT, place_T, 0).cummax(dim=1).values


def places_of_real(mask_BT: Tensor) -> Tensor:
    """Return each token's place among the real ones of its row, (B, T) int64; padding gets any place from 0 on.

    Args:
        mask_BT: True where there is a token, False for padding.
    """
    return (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
