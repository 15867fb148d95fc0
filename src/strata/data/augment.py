"""Pictures changed at random, as batched tensor operations that are exactly repeatable.

Every random number is a function of (seed, what it is for, step, sample), so a sample at a step is changed in the same
way in any batch, in any order, on any device, before and after a resume. Where two devices round an interpolation
differently, a pixel may differ by one level.

What is unusual here: flip, crop and cutout are one integer gather that never leaves uint8; rotation, zoom, shift,
resized crop and elastic deformation (with the flip and the crop, if any of these is on) are one map and one
interpolation; brightness, contrast, saturation and hue are one 3x3 matrix for each picture. Parameters are computed in
float64 and used in float32, so that the last bit of a sine does not depend on where in a vector register a sample
happened to lie.

B samples in a batch, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from strata.config import Fraction, NotNegative, NotNegativeFloat, Positive, Probability
from strata.data import policies
from strata.rng import bits, uniform

logger = logging.getLogger(__name__)

# One column of random numbers each, by place: a new one goes to the end, or every stored run changes its augmentation.
_NUMBERS = (
    *("flip", "vertical_flip", "crop_y", "crop_x", "rotate", "scale", "translate_y", "translate_x"),
    *("area", "aspect", "area_y", "area_x", "brightness", "contrast", "saturation", "hue", "cutout_y", "cutout_x"),
)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures are changed at random; everything is off by default."""

    flip: Fraction = 0.0
    """Probability of a mirror image, left to right."""
    flip_alternate: bool = False
    """A mirror image in every second epoch, the first of them by chance for each sample, so that any two epochs in
    turn show both sides of all (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6); in place of flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a mirror image, top to bottom."""
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    """Greatest rotation in degrees, to either side."""
    crop: NotNegative = 0
    """Pixels added on every side before a crop of the picture's own size (He et al. 2016, section 4.2)."""
    resized_crop: Annotated[float, Gt(0), Le(1)] | None = None
    """Smallest share of the area that a crop may take, stretched to the picture's size; aspect 3/4 to 4/3
    (Szegedy et al. 2015, section 6)."""
    scale: Probability = 0.0
    """Greatest zoom, in and out: 0.1 is plus or minus ten percent."""
    translate: Fraction = 0.0
    """Greatest shift along each axis, as a share of the side."""
    elastic: Fraction = 0.0
    """Elastic deformation: standard deviation, as a share of the side, of random shifts on a coarse 3 x 3 grid, smooth
    in between (Ronneberger et al. 2015, section 3.1: 10 pixels of 512 are 0.02)."""
    padding: Literal["zero", "reflect"] = "zero"
    """What comes in from outside the picture: black, or the picture's mirror image."""
    noise: NotNegativeFloat = 0.0
    """Standard deviation of Gaussian noise, on the scale where pixels are 0 to 1."""
    brightness: NotNegativeFloat = 0.0
    """Greatest relative change: 0.4 multiplies by 0.6 to 1.4."""
    contrast: NotNegativeFloat = 0.0
    """Greatest relative change of the distance from the picture's mean grey."""
    saturation: NotNegativeFloat = 0.0
    """Greatest relative change of the distance from grey; without effect on grey pictures."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Greatest turn of the colour circle, in full turns; without effect on grey pictures."""
    cutout: Fraction = 0.0
    """Side of a black square at a random place, as a share of the picture's shorter side (DeVries and Taylor 2017)."""
    policy: Literal["none", "randaugment", "trivial"] = "none"
    """Operations drawn for each picture from fourteen: RandAugment or TrivialAugment Wide; see `policies`."""
    policy_ops: Positive = 2
    """RandAugment's N: how many operations one after another."""
    policy_magnitude: Annotated[float, Ge(0), Le(10)] = 9.0
    """RandAugment's M: how strong, where 10 is the greatest strength (Cubuk et al. 2020, section 3)."""
    erase: Fraction = 0.0
    """Probability that a box of 2 to 40 percent of the picture is filled with noise (Zhong et al. 2020)."""
    mixup: NotNegativeFloat = 0.0
    """Alpha of the Beta(alpha, alpha) that weighs two pictures (Zhang et al. 2018)."""
    cutmix: NotNegativeFloat = 0.0
    """Alpha of the Beta(alpha, alpha) that sets the area pasted from another picture (Yun et al. 2019). Where mixup is
    on too, each sample takes one of the two, with equal chances."""


def without_effect(config: AugmentConfig) -> list[str]:
    """Return a line for each setting that was changed and does nothing beside the others."""
    lines, usual = [], AugmentConfig()
    if config.flip_alternate and config.flip > 0:
        lines.append("data.augment.flip has no effect with data.augment.flip_alternate=true")
    if config.policy != "randaugment":
        changed = [n for n in ("policy_ops", "policy_magnitude") if getattr(config, n) != getattr(usual, n)]
        lines += [f"data.augment.{name} has no effect with data.augment.policy={config.policy}" for name in changed]
    return lines


def augment(
    image_BCHW: Tensor,
    config: AugmentConfig,
    seed: int,
    step: int | Tensor,
    sample_B: Tensor,
    stream: str = "augment",
    *,
    epoch_B: Tensor | None = None,
    between: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Return the pictures changed at random: same shape, dtype and device.

    Args:
        image_BCHW: uint8, or floating point on the scale 0 to 1; masks, which are only moved, of any integers.
        step: the optimiser step, or one number for each sample.
        sample_B: each picture's number in its data set.
        epoch_B: how often it was seen before, for flip_alternate.
        between: how a pixel is made that comes from between others.
    """
    assert image_BCHW.ndim == 4, f"pictures are (B, C, H, W), not {tuple(image_BCHW.shape)}"
    colour = config.brightness > 0 or config.contrast > 0 or config.saturation > 0 or config.hue > 0
    affine = config.rotate > 0 or config.scale > 0 or config.translate > 0 or config.resized_crop is not None
    affine = affine or config.elastic > 0
    mirrored = config.flip > 0 or config.flip_alternate
    moved = mirrored or config.vertical_flip > 0 or config.crop > 0 or config.cutout > 0
    if not (colour or affine or moved or config.noise > 0 or config.policy != "none" or config.erase > 0):
        return image_BCHW
    sample_B = sample_B.to(image_BCHW.device)
    columns = uniform(seed, stream, step, sample_B, len(_NUMBERS)).double().unbind(1)
    u = dict(zip(_NUMBERS, columns, strict=True))
    if config.elastic > 0:
        u["elastic"] = uniform(seed, f"{stream}.elastic", step, sample_B, 18).double()
    if config.flip_alternate:
        assert epoch_B is not None, "flip_alternate needs to know each sample's epoch"
        config = dataclasses.replace(config, flip=0.5)
        u["flip"] = _alternating(seed, stream, sample_B, epoch_B.to(image_BCHW.device))
    mean_B = _mean_grey(image_BCHW) if config.contrast > 0 else None

    image = image_BCHW
    if affine:
        image = _interpolate(image, config, u, between)
        if config.cutout > 0:
            image = image.masked_fill(_cutout(config, u, image)[:, None], 0)
    elif moved:
        image = _gather(image, config, u)
    if config.policy != "none":
        assert image_BCHW.dtype == torch.uint8, f"data.augment.policy works on uint8 pictures, not {image_BCHW.dtype}"
        image = image if image.dtype == torch.uint8 else (image.clamp(0, 255) + 0.5).to(torch.uint8)
        if config.policy == "trivial":
            image = policies.trivialaugment(image, seed, step, sample_B, stream)
        else:
            ops, magnitude = config.policy_ops, config.policy_magnitude
            image = policies.randaugment(image, ops, magnitude, seed, step, sample_B, stream)
    if colour:
        image = _recolour(image, config, u, mean_B)
    if config.noise > 0:
        deviation = config.noise * (255 if image_BCHW.dtype == torch.uint8 else 1)
        image = _add_noise(image, deviation, bits(seed, f"{stream}.noise", step, sample_B, -(-image[0].numel() // 4)))
    if image_BCHW.dtype == torch.uint8 and image.dtype != torch.uint8:
        image = image.clamp(0, 255) + 0.5
    elif not image_BCHW.is_floating_point():  # masks of many classes
        image = image.round() if image.is_floating_point() else image
    elif colour or config.noise > 0:
        image = image.clamp(0, 1)
    image = image.to(image_BCHW.dtype)
    return policies.erase(image, config.erase, seed, step, sample_B, stream) if config.erase > 0 else image


_MOVES = (
    *("flip", "flip_alternate", "vertical_flip", "rotate", "crop", "resized_crop", "scale", "translate"),
    *("elastic", "padding"),
)
"""Settings that move pixels to another place."""


def augment_pair(
    batch: Mapping[str, Tensor], config: AugmentConfig, seed: int, step: int, stream: str = "augment"
) -> dict[str, Tensor]:
    """Return a batch of pairs whose targets are moved exactly as their pictures are; all else changes pictures alone.

    Args:
        batch: ``input`` (B, C, H, W), "sample", "epoch" and, where there is one, ``target`` as pictures (B, C, H, W) or
            as masks (B, H, W), which are moved without values in between; what comes in from outside is 0.
    """
    sample_B, epoch_B = batch["sample"], batch["epoch"]
    found = {**batch, "input": augment(batch["input"], config, seed, step, sample_B, stream, epoch_B=epoch_B)}
    if "target" in batch:
        moves = AugmentConfig(**{name: getattr(config, name) for name in _MOVES})
        target = batch["target"]
        is_mask = target.ndim == 3
        moved = augment(
            target[:, None] if is_mask else target,
            moves,
            seed,
            step,
            sample_B,
            stream,
            epoch_B=epoch_B,
            between="nearest" if is_mask else "bilinear",
        )
        found["target"] = moved[:, 0] if is_mask else moved
    return found


def partners(seed: int, step: int, sample_B: Tensor, stream: str = "augment") -> Tensor:
    """Return where in the step's batch each sample's partner lies: int64 (B,).

    The samples are put in a ring in random order and each takes the next one, so who is whose partner depends on which
    samples the step has and not on their order, and nobody is its own partner.
    """
    order_B = torch.argsort(bits(seed, f"{stream}.partner", step, sample_B)[:, 0], stable=True)
    return torch.empty_like(order_B).scatter_(0, order_B, order_B.roll(-1))


def mix(
    batch: Mapping[str, Tensor], config: AugmentConfig, seed: int, step: int, sample_B: Tensor, stream: str = "augment"
) -> dict[str, Tensor]:
    """Mix every sample with a partner, by mixup or cutmix; a batch as it came where both are off.

    Adds ``target_b``, the partner's target, and ``weight``, float32 (B,): the loss to take is
    ``weight * loss(target) + (1 - weight) * loss(target_b)``.

    Args:
        batch: the *whole* step's batch, before it is cut for accumulation: partners are found in it. ``input`` is
            uint8 or floating point, pictures (B, C, H, W) for cutmix, any shape for mixup.
    """
    if config.mixup == 0 and config.cutmix == 0:
        return dict(batch)
    image = batch["input"]
    sample_B = sample_B.to(image.device)
    partner_B = partners(seed, step, sample_B, stream)
    other = image.index_select(0, partner_B)
    u_B4 = uniform(seed, f"{stream}.mix", step, sample_B, 4)
    is_cut_B = u_B4[:, 0] < 0.5
    shape = (-1, *[1] * (image.ndim - 1))

    weight_B = torch.ones_like(u_B4[:, 0])
    if config.mixup > 0:
        weight_B = _beta(config.mixup, u_B4[:, 1])
    if config.cutmix > 0:
        assert image.ndim == 4, f"cutmix is for pictures (B, C, H, W), not {tuple(image.shape)}"
        inside_BHW = _box(_beta(config.cutmix, u_B4[:, 1]), u_B4[:, 2], u_B4[:, 3], image)
        kept_B = 1 - inside_BHW.flatten(1).sum(1).float() / inside_BHW[0].numel()
        weight_B = torch.where(is_cut_B, kept_B, weight_B) if config.mixup > 0 else kept_B

    if config.mixup == 0:
        mixed = torch.where(inside_BHW[:, None], other, image)
    else:
        share = weight_B.view(shape)
        if config.cutmix > 0:
            share = torch.where(is_cut_B.view(shape), 1 - inside_BHW[:, None].float(), share)
        mixed = image.float() * share + other.float() * (1 - share)
        mixed = (mixed + 0.5).to(torch.uint8) if image.dtype == torch.uint8 else mixed.to(image.dtype)
    return {**batch, "input": mixed, "target_b": batch["target"][partner_B], "weight": weight_B}


def _alternating(seed: int, stream: str, sample_B: Tensor, epoch_B: Tensor) -> Tensor:
    """Return 0 where a sample is to be mirrored in this epoch, else 1: float64 (B,)."""
    first_B = bits(seed, f"{stream}.flip_alternate", 0, sample_B)[:, 0] & 1
    return ((first_B + epoch_B) & 1).double()


def _signed(u_B: Tensor) -> Tensor:
    return 2 * u_B - 1


def _factor(u_B: Tensor, change: float) -> Tensor:
    low = max(0.0, 1 - change)
    return low + (1 + change - low) * u_B


def _offset(u_B: Tensor, padding: int) -> Tensor:
    """Return whole pixels from -padding to padding, all equally likely."""
    return (u_B * (2 * padding + 1)).long() - padding


def _reflected(index: Tensor, size: int) -> Tensor:
    index = torch.remainder(index, 2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _gather(image_BCHW: Tensor, config: AugmentConfig, u: Mapping[str, Tensor]) -> Tensor:
    """Flip, crop and cut out by one gather; what lies outside reads one black pixel appended to the picture."""
    B, C, H, W = image_BCHW.shape
    device = image_BCHW.device
    y_BH = torch.arange(H, device=device) + _offset(u["crop_y"], config.crop)[:, None]
    x_BW = torch.arange(W, device=device) + _offset(u["crop_x"], config.crop)[:, None]
    if config.vertical_flip > 0:
        y_BH = torch.where((u["vertical_flip"] < config.vertical_flip)[:, None], H - 1 - y_BH, y_BH)
    if config.flip > 0:
        x_BW = torch.where((u["flip"] < config.flip)[:, None], W - 1 - x_BW, x_BW)
    black_BHW = _cutout(config, u, image_BCHW) if config.cutout > 0 else None
    if config.padding == "reflect":
        y_BH, x_BW = _reflected(y_BH, H), _reflected(x_BW, W)
    elif config.crop > 0:
        outside_BHW = ((y_BH < 0) | (y_BH >= H))[:, :, None] | ((x_BW < 0) | (x_BW >= W))[:, None, :]
        black_BHW = outside_BHW if black_BHW is None else black_BHW | outside_BHW
    index_BHW = y_BH[:, :, None] * W + x_BW[:, None, :]
    pixel_BCP = image_BCHW.flatten(2)
    if black_BHW is not None:
        index_BHW = index_BHW.masked_fill_(black_BHW, H * W)
        pixel_BCP = F.pad(pixel_BCP, (0, 1))
    return pixel_BCP.gather(2, index_BHW.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W)


def _interpolate(image_BCHW: Tensor, config: AugmentConfig, u: Mapping[str, Tensor], between: str) -> Tensor:
    """Apply everything that moves pixels as one affine map from output to input; float32 on the input's scale."""
    _, _, H, W = image_BCHW.shape
    image = image_BCHW.to(torch.float32)
    one_B = torch.ones_like(u["flip"])
    # From the output's pixel, relative to the centre, to the input's: flip, then crop, then resized crop, ...
    stretch_x, stretch_y, shift_x, shift_y = one_B, one_B, 0 * one_B, 0 * one_B
    if config.flip > 0:
        stretch_x = torch.where(u["flip"] < config.flip, -one_B, one_B)
    if config.vertical_flip > 0:
        stretch_y = torch.where(u["vertical_flip"] < config.vertical_flip, -one_B, one_B)
    if config.crop > 0:
        # The gather moves first and mirrors then.
        shift_x = stretch_x * _offset(u["crop_x"], config.crop)
        shift_y = stretch_y * _offset(u["crop_y"], config.crop)
    if config.resized_crop is not None:
        area = config.resized_crop + (1 - config.resized_crop) * u["area"]
        aspect = torch.exp(_signed(u["aspect"]) * math.log(4 / 3))
        # A side longer than the picture's is shortened to it, where others draw again.
        wide, high = torch.sqrt(area * aspect).clamp(max=1), torch.sqrt(area / aspect).clamp(max=1)
        stretch_x, shift_x = stretch_x * wide, shift_x * wide + (u["area_x"] - 0.5) * (1 - wide) * W
        stretch_y, shift_y = stretch_y * high, shift_y * high + (u["area_y"] - 0.5) * (1 - high) * H
    # ... then rotation and zoom about the centre, then shift.
    angle = _signed(u["rotate"]) * math.radians(config.rotate)
    zoom = 1 + _signed(u["scale"]) * config.scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    map_xx, map_xy = cos * stretch_x, -sin * stretch_y
    map_yx, map_yy = sin * stretch_x, cos * stretch_y
    offset_x = cos * shift_x - sin * shift_y + _signed(u["translate_x"]) * config.translate * W
    offset_y = sin * shift_x + cos * shift_y + _signed(u["translate_y"]) * config.translate * H

    def scaled(value_B: Tensor, size: int) -> Tensor:
        return (value_B * (2 / size)).float()[:, None, None]

    y_H1 = (torch.arange(H, device=image.device, dtype=torch.float32) - (H - 1) / 2)[:, None]
    x_W = torch.arange(W, device=image.device, dtype=torch.float32) - (W - 1) / 2
    grid_x = scaled(map_xx, W) * x_W + scaled(map_xy, W) * y_H1 + scaled(offset_x, W)
    grid_y = scaled(map_yx, H) * x_W + scaled(map_yy, H) * y_H1 + scaled(offset_y, H)
    if config.elastic > 0:
        shift_B2HW = _elastic(config, u["elastic"], H, W)
        grid_x, grid_y = grid_x + shift_B2HW[:, 0], grid_y + shift_B2HW[:, 1]
    grid_BHW2 = torch.stack((grid_x, grid_y), dim=3)
    outside = "zeros" if config.padding == "zero" else "reflection"
    return F.grid_sample(image, grid_BHW2, mode=between, padding_mode=outside, align_corners=False)


def _elastic(config: AugmentConfig, u_BN: Tensor, height: int, width: int) -> Tensor:
    """Return each pixel's shift along x and y, where the side is 2: float32 (B, 2, H, W), bicubic between 3 x 3."""
    normal_BN = math.sqrt(2) * torch.erfinv((2 * u_BN - 1).clamp(-1 + 1e-12, 1 - 1e-12))
    coarse_B233 = (2 * config.elastic * normal_BN).float().view(-1, 2, 3, 3)
    return F.interpolate(coarse_B233, size=(height, width), mode="bicubic", align_corners=True)


def _cutout(config: AugmentConfig, u: Mapping[str, Tensor], image_BCHW: Tensor) -> Tensor:
    """Return where the black square lies; its centre is any pixel, so that it may reach over the edge."""
    H, W = image_BCHW.shape[2:]
    side = max(1, round(config.cutout * min(H, W)))
    top_B1 = (u["cutout_y"] * H).long()[:, None] - side // 2
    left_B1 = (u["cutout_x"] * W).long()[:, None] - side // 2
    y_H, x_W = torch.arange(H, device=image_BCHW.device), torch.arange(W, device=image_BCHW.device)
    in_y_BH = (y_H >= top_B1) & (y_H < top_B1 + side)
    in_x_BW = (x_W >= left_B1) & (x_W < left_B1 + side)
    return in_y_BH[:, :, None] & in_x_BW[:, None, :]


_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
# YIQ = _TO_YIQ @ RGB: a turn of I and Q changes the hue and keeps the grey.
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def _mean_grey(image_BCHW: Tensor) -> Tensor:
    """Return the mean grey of each picture as it came, float64 (B,): exact for uint8, so the same in any batch."""
    C = image_BCHW.shape[1]
    kind = torch.int64 if image_BCHW.dtype == torch.uint8 else torch.float64
    mean_BC = image_BCHW.flatten(2).sum(2, dtype=kind).double() / (image_BCHW[0, 0].numel())
    if C != 3:
        return mean_BC.sum(1) / C
    return mean_BC[:, 0] * _GREY[0] + mean_BC[:, 1] * _GREY[1] + mean_BC[:, 2] * _GREY[2]


@functools.lru_cache(maxsize=8)
def _colour_basis(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return what makes a pixel grey, what is left then, and the latter turned by a right angle: float64 (3, 3)."""
    to_yiq = torch.tensor(_TO_YIQ, dtype=torch.float64)
    quarter = torch.tensor([[0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    grey = torch.tensor(_GREY, dtype=torch.float64).expand(3, 3)
    turned = torch.linalg.inv(to_yiq) @ quarter @ to_yiq
    return grey.to(device), (torch.eye(3, dtype=torch.float64) - grey).to(device), turned.to(device)


@functools.cache
def _warn_of_grey() -> None:
    logger.warning("data.augment.saturation and data.augment.hue have no effect on pictures that are not in colour")


def _recolour(image: Tensor, config: AugmentConfig, u: Mapping[str, Tensor], mean_B: Tensor | None) -> Tensor:
    """Apply brightness, contrast, saturation and hue as ``gain_B * (matrix_B33 @ pixel) + offset_B``; float32."""
    image = image.to(torch.float32)
    gain_B = _factor(u["brightness"], config.brightness)
    offset_B = torch.zeros_like(gain_B)
    if mean_B is not None:
        contrast_B = _factor(u["contrast"], config.contrast)
        gain_B, offset_B = gain_B * contrast_B, gain_B * (1 - contrast_B) * mean_B
    offset_B111 = offset_B.float()[:, None, None, None]
    if config.saturation == 0 and config.hue == 0:
        return image * gain_B.float()[:, None, None, None] + offset_B111
    if image.shape[1] != 3:
        _warn_of_grey()
        return image * gain_B.float()[:, None, None, None] + offset_B111
    strength_B = _factor(u["saturation"], config.saturation)
    angle_B = _signed(u["hue"]) * config.hue * 2 * math.pi
    grey, rest, turned = _colour_basis(image.device)
    cos_B11 = (gain_B * strength_B * torch.cos(angle_B))[:, None, None]
    sin_B11 = (gain_B * strength_B * torch.sin(angle_B))[:, None, None]
    matrix_B33 = (gain_B[:, None, None] * grey + cos_B11 * rest + sin_B11 * turned).float()
    # Sums of products, not a matrix multiplication: that would become bf16 under autocast.
    columns = [matrix_B33[:, :, channel, None, None] * image[:, channel : channel + 1] for channel in range(3)]
    return columns[0] + columns[1] + columns[2] + offset_B111


@functools.lru_cache(maxsize=8)
def _normal_table(device: torch.device) -> Tensor:
    """Return the middles of 2^16 equally likely parts of a standard normal: exact on any device, four a word."""
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    return torch.special.ndtri(middles).float().to(device)


def _add_noise(image: Tensor, deviation: float, bits_BN: Tensor) -> Tensor:
    place = bits_BN.view(torch.int16)[:, : image[0].numel()].to(torch.int32) & 0xFFFF
    noise = _normal_table(image.device).index_select(0, place.flatten()).view(image.shape)
    return image.to(torch.float32) + noise * deviation


@functools.lru_cache(maxsize=8)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    from scipy.special import betaincinv  # scikit-learn stands on scipy

    middles = (torch.arange(1 << 12, dtype=torch.float64) + 0.5) / (1 << 12)
    return torch.from_numpy(betaincinv(alpha, alpha, middles.numpy())).float().to(device)


def _beta(alpha: float, u_B: Tensor) -> Tensor:
    table = _beta_table(alpha, u_B.device)
    return table[(u_B * len(table)).long()]


def _box(kept_B: Tensor, u_y_B: Tensor, u_x_B: Tensor, image_BCHW: Tensor) -> Tensor:
    """Return where the partner's pixels go: a box of 1 - kept of the area (Yun et al. 2019, eq. 2), cut at the edge."""
    H, W = image_BCHW.shape[2:]
    side_B1 = torch.sqrt(1 - kept_B.double())[:, None]
    y_H, x_W = torch.arange(H, device=kept_B.device), torch.arange(W, device=kept_B.device)
    middle_y_B1, middle_x_B1 = (u_y_B * H).long()[:, None], (u_x_B * W).long()[:, None]
    half_y_B1, half_x_B1 = (side_B1 * H / 2).long(), (side_B1 * W / 2).long()
    in_y_BH = (y_H >= middle_y_B1 - half_y_B1) & (y_H < middle_y_B1 + half_y_B1)
    in_x_BW = (x_W >= middle_x_B1 - half_x_B1) & (x_W < middle_x_B1 + half_x_B1)
    return in_y_BH[:, :, None] & in_x_BW[:, None, :]
