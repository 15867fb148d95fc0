"""Policies: every picture changed by operations drawn from the same fourteen, for a whole batch at once.

RandAugment (Cubuk et al. 2020) draws N operations at one strength; TrivialAugment Wide (Mueller and Hutter 2021) draws
one, at a strength drawn as well. Both name Pillow's operations, and these are Pillow's, on uint8. Random erasing (Zhong
et al. 2020) stands here too. Like all augmentation, a sample's change is a function of (seed, step, sample) alone.

What is unusual here: nothing loops over samples. Each operation works on those rows of the batch that drew it; on a GPU
on all rows, with the others put back, since finding the rows would wait for the device.

B samples in a batch, R rows that an operation works on, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from strata.rng import bits, uniform

LEVELS = 31
"""Strengths that TrivialAugment draws from, evenly from none to the greatest."""
ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), 0.3
"""Of random erasing: share of the area, and the least ratio of the sides (Zhong et al. 2020, section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Greatest strength of each operation."""

    shear: float
    translate_share: float = 0.0
    """Of the side ..."""
    translate_pixels: float = 0.0
    """... and in pixels, whatever the side."""
    rotate_degrees: float
    enhance: float
    """Brightness, saturation, contrast and sharpness are multiplied by up to 1 plus or minus this."""
    posterize_bits: int
    """Taken from the eight of a pixel."""


RANDAUGMENT = Reach(shear=0.3, translate_share=150 / 331, rotate_degrees=30, enhance=0.9, posterize_bits=4)
"""Cubuk et al. 2019 (AutoAugment), Table 6."""
TRIVIAL_WIDE = Reach(shear=0.99, translate_pixels=32, rotate_degrees=135, enhance=0.99, posterize_bits=6)
"""Mueller and Hutter 2021, Table 8."""


def randaugment(
    image_BCHW: Tensor, rounds: int, magnitude: float, seed: int, step: int | Tensor, sample_B: Tensor, stream: str
) -> Tensor:
    """Apply ``rounds`` operations one after another, each at ``magnitude`` of 10: uint8 (B, C, H, W)."""
    u_BN = uniform(seed, f"{stream}.randaugment", step, sample_B, 2 * rounds)
    strength_B = torch.full_like(u_BN[:, 0], magnitude / 10)
    for k in range(rounds):
        image_BCHW = operate(image_BCHW, u_BN[:, 2 * k], u_BN[:, 2 * k + 1], strength_B, RANDAUGMENT)
    return image_BCHW


def trivialaugment(image_BCHW: Tensor, seed: int, step: int | Tensor, sample_B: Tensor, stream: str) -> Tensor:
    """Apply one operation at a strength drawn at random: uint8 (B, C, H, W)."""
    u_B3 = uniform(seed, f"{stream}.trivial", step, sample_B, 3)
    strength_B = (u_B3[:, 2] * LEVELS).floor() / (LEVELS - 1)
    return operate(image_BCHW, u_B3[:, 0], u_B3[:, 1], strength_B, TRIVIAL_WIDE)


def operate(image_BCHW: Tensor, choice_B: Tensor, sign_B: Tensor, strength_B: Tensor, reach: Reach) -> Tensor:
    """Apply to each picture the one operation that it drew; uint8 in and out.

    Args:
        choice_B, sign_B: from 0 to 1; which operation, and to which side.
        strength_B: from 0 to 1 of the operation's reach.
    """
    assert image_BCHW.dtype == torch.uint8, f"policies work on uint8, not {image_BCHW.dtype}"
    operation_B = (choice_B * len(OPERATIONS)).long()
    signed_B = torch.where(sign_B < 0.5, -strength_B, strength_B).double()
    strength_B = strength_B.double()
    found = image_BCHW.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        drawn_B = operation_B == number
        if image_BCHW.device.type == "cpu":
            row_R = drawn_B.nonzero()[:, 0]
            if len(row_R):
                found[row_R] = operation(image_BCHW[row_R], strength_B[row_R], signed_B[row_R], reach)
        else:
            changed = operation(image_BCHW, strength_B, signed_B, reach)
            found = torch.where(drawn_B[:, None, None, None], changed, found)
    return found


def erase(
    image_BCHW: Tensor, probability: float, seed: int, step: int | Tensor, sample_B: Tensor, stream: str
) -> Tensor:
    """Fill a box of each picture, with this probability, with pixels at random; its own dtype, uint8 or 0 to 1.

    A side longer than the picture's is shortened to it, where others draw again.
    """
    C, H, W = image_BCHW.shape[1:]
    is_erased_B, area_B, aspect_B, y_B, x_B = uniform(seed, f"{stream}.erase", step, sample_B, 5).double().unbind(1)
    area_B = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area_B) * H * W
    aspect_B = ERASED_ASPECT + (1 / ERASED_ASPECT - ERASED_ASPECT) * aspect_B
    high_B1 = torch.sqrt(area_B * aspect_B).round().long().clamp(1, H)[:, None]
    wide_B1 = torch.sqrt(area_B / aspect_B).round().long().clamp(1, W)[:, None]
    top_B1 = (y_B[:, None] * (H - high_B1 + 1)).long()
    left_B1 = (x_B[:, None] * (W - wide_B1 + 1)).long()
    y_H, x_W = torch.arange(H, device=image_BCHW.device), torch.arange(W, device=image_BCHW.device)
    in_y_BH = (y_H >= top_B1) & (y_H < top_B1 + high_B1) & (is_erased_B < probability)[:, None]
    in_x_BW = (x_W >= left_B1) & (x_W < left_B1 + wide_B1)
    box_B1HW = (in_y_BH[:, :, None] & in_x_BW[:, None, :])[:, None]
    word_BN = bits(seed, f"{stream}.erase.pixels", step, sample_B, -(-C * H * W // 8))
    pixel_BCHW = word_BN.view(torch.uint8)[:, : C * H * W].view(image_BCHW.shape)
    if image_BCHW.dtype != torch.uint8:
        pixel_BCHW = (pixel_BCHW.to(torch.float32) / 255).to(image_BCHW.dtype)
    return torch.where(box_B1HW, pixel_BCHW, image_BCHW)


# ---------------------------------------------------------------------------------------------------- operations


def _warp(
    image_RCHW: Tensor,
    x_from: tuple[Tensor | float, Tensor | float, Tensor | float],
    y_from: tuple[Tensor | float, Tensor | float, Tensor | float],
) -> Tensor:
    """Move pixels: the output's (x, y) shows the input's pixel nearest to the affine map of it; black outside.

    Args:
        x_from, y_from: what x, y and 1 are multiplied by, numbers or (R,); the corner of the picture is 0.
    """
    R, C, H, W = image_RCHW.shape
    device = image_RCHW.device
    y_H1 = torch.arange(H, device=device, dtype=torch.float32)[:, None] + 0.5
    x_W = torch.arange(W, device=device, dtype=torch.float32) + 0.5

    def mapped(factors: tuple[Tensor | float, Tensor | float, Tensor | float]) -> Tensor:
        of_x, of_y, shift = (
            factor.float()[:, None, None] if isinstance(factor, Tensor) else factor for factor in factors
        )
        return (of_x * x_W + of_y * y_H1 + shift).expand(R, H, W).floor().long()

    x_RHW, y_RHW = mapped(x_from), mapped(y_from)
    outside_RHW = (x_RHW < 0) | (x_RHW >= W) | (y_RHW < 0) | (y_RHW >= H)
    index_RHW = (y_RHW * W + x_RHW).masked_fill_(outside_RHW, H * W)  # one black pixel more than the picture has
    pixel_RCP = F.pad(image_RCHW.flatten(2), (0, 1))
    return pixel_RCP.gather(2, index_RHW.view(R, 1, H * W).expand(R, C, H * W)).view(R, C, H, W)


def _rotated(image_RCHW: Tensor, angle_R: Tensor) -> Tensor:
    H, W = image_RCHW.shape[2:]
    sin_R, cos_R = torch.sin(angle_R), torch.cos(angle_R)
    shift_x_R = W / 2 - cos_R * (W / 2) + sin_R * (H / 2)
    shift_y_R = H / 2 - sin_R * (W / 2) - cos_R * (H / 2)
    return _warp(image_RCHW, (cos_R, -sin_R, shift_x_R), (sin_R, cos_R, shift_y_R))


def _blended(from_RCHW: Tensor, image_RCHW: Tensor, factor_R: Tensor) -> Tensor:
    """Go from one picture towards the other, by a factor that may lead beyond it; cut off to whole levels."""
    start, end = from_RCHW.to(torch.float32), image_RCHW.to(torch.float32)
    return (start + factor_R.float()[:, None, None, None] * (end - start)).clamp_(0, 255).to(torch.uint8)


def _grey(image_RCHW: Tensor) -> Tensor:
    """Return ITU-R BT.601's grey in whole levels, as Pillow rounds it: int32 (R, 1, H, W)."""
    if image_RCHW.shape[1] != 3:
        return image_RCHW[:, :1].to(torch.int32)
    red, green, blue = image_RCHW.to(torch.int32).split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _mean_grey(image_RCHW: Tensor) -> Tensor:
    """Return the mean grey in whole levels: int64 (R, 1, 1, 1)."""
    total_R = _grey(image_RCHW).flatten(1).sum(1)
    n = image_RCHW[0, 0].numel()
    return ((2 * total_R + n) // (2 * n))[:, None, None, None]


def _smoothed(image_RCHW: Tensor) -> Tensor:
    """Return the mean of each pixel, five times, and its eight neighbours; pixels at the edge as they are."""
    image = image_RCHW.to(torch.int32)
    rows = image[:, :, :-2] + image[:, :, 1:-1] + image[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * image[:, :, 1:-1, 1:-1]
    image[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    return image


def _autocontrast(image_RCHW: Tensor) -> Tensor:
    """Stretch each channel to all of 0 to 255."""
    image = image_RCHW.to(torch.int32)
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    stretched = (image - low) * 255 // (high - low).clamp(min=1)
    return torch.where(high > low, stretched, image).to(torch.uint8)


def _equalized(image_RCHW: Tensor) -> Tensor:
    """Give each channel levels that occur equally often, as nearly as whole levels can."""
    R, C, H, W = image_RCHW.shape
    level_RCP = image_RCHW.flatten(2).long()
    count_RC256 = torch.zeros(R, C, 256, dtype=torch.int64, device=image_RCHW.device)
    count_RC256.scatter_add_(2, level_RCP, torch.ones_like(level_RCP))
    of_highest_RC1 = count_RC256.gather(2, level_RCP.amax(2, keepdim=True))
    step_RC1 = (H * W - of_highest_RC1) // 255
    below_RC256 = count_RC256.cumsum(2) - count_RC256
    table_RC256 = ((step_RC1 // 2 + below_RC256) // step_RC1.clamp(min=1)).clamp(max=255)
    found_RCP = torch.where(step_RC1 > 0, table_RC256.gather(2, level_RCP), level_RCP)
    return found_RCP.to(torch.uint8).view(R, C, H, W)


def _posterized(image_RCHW: Tensor, bits_R: Tensor) -> Tensor:
    bits_R111 = bits_R.to(torch.uint8)[:, None, None, None]
    return (image_RCHW >> bits_R111) << bits_R111


def _solarized(image_RCHW: Tensor, threshold_R: Tensor) -> Tensor:
    return torch.where(image_RCHW < threshold_R[:, None, None, None], image_RCHW, 255 - image_RCHW)


def _translation(side: int, signed_R: Tensor, reach: Reach) -> Tensor:
    return signed_R * (reach.translate_share * side + reach.translate_pixels)


_ALONG_X, _ALONG_Y = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
OPERATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Reach], Tensor]] = {
    "identity": lambda image, strength, signed, reach: image,
    "shear_x": lambda image, strength, signed, reach: _warp(image, (1.0, signed * reach.shear, 0.0), _ALONG_Y),
    "shear_y": lambda image, strength, signed, reach: _warp(image, _ALONG_X, (signed * reach.shear, 1.0, 0.0)),
    "translate_x": lambda image, strength, signed, reach: _warp(
        image, (1.0, 0.0, _translation(image.shape[3], signed, reach)), _ALONG_Y
    ),
    "translate_y": lambda image, strength, signed, reach: _warp(
        image, _ALONG_X, (0.0, 1.0, _translation(image.shape[2], signed, reach))
    ),
    "rotate": lambda image, strength, signed, reach: _rotated(image, signed * math.radians(reach.rotate_degrees)),
    "brightness": lambda image, strength, signed, reach: _blended(
        torch.zeros_like(image), image, 1 + signed * reach.enhance
    ),
    "saturation": lambda image, strength, signed, reach: _blended(_grey(image), image, 1 + signed * reach.enhance),
    "contrast": lambda image, strength, signed, reach: _blended(_mean_grey(image), image, 1 + signed * reach.enhance),
    "sharpness": lambda image, strength, signed, reach: _blended(_smoothed(image), image, 1 + signed * reach.enhance),
    "posterize": lambda image, strength, signed, reach: _posterized(image, (strength * reach.posterize_bits).round()),
    "solarize": lambda image, strength, signed, reach: _solarized(image, (256 * (1 - strength)).floor()),
    "autocontrast": lambda image, strength, signed, reach: _autocontrast(image),
    "equalize": lambda image, strength, signed, reach: _equalized(image),
}
"""Each takes pictures, strengths from 0 to 1, the same with a sign, and the policy's reach. Shears keep the corner at
the top left in place, as Pillow's transform does."""
