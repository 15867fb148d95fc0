"""How pictures are prepared travels with weights: Hugging Face's ``preprocessor_config.json`` and our data settings.

The settings are fields of `strata.data.DataConfig`: image_size, fit, crop_share, interpolation, mean, std, channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strata.errors import WeightsError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""By Pillow's numbers."""
_NUMBER = {name: number for number, name in _INTERPOLATION.items()}
_PROCESSOR = {
    "resnet": "ConvNextImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "swin": "ViTImageProcessor",
    "vit": "ViTImageProcessor",
    "mobilenet_v2": "MobileNetV2ImageProcessor",
    "efficientnet": "EfficientNetImageProcessor",
}


def imagenet(side: int = 224, short: int = 256, interpolation: str = "bilinear") -> dict[str, Any]:
    """Return torchvision's usual settings: short side resized, middle cut out, ImageNet's mean and deviation."""
    return {
        "image_size": side,
        "fit": "crop",
        "crop_share": side / short,
        "interpolation": interpolation,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "channels": 3,
    }


def from_huggingface(theirs: Mapping[str, Any], fallback_side: int) -> dict[str, Any]:
    """Return our data settings for a ``preprocessor_config.json``.

    Args:
        theirs: the file's content; empty where the folder has none: ImageNet's constants at the model's size.

    Raises WeightsError for a way of preparing pictures that ours lacks.
    """
    if not theirs:
        return imagenet(fallback_side, fallback_side)
    if theirs.get("do_rescale", True) is False:
        raise WeightsError("Weights whose pictures are not scaled to 0..1 (do_rescale=false) are not supported.")
    size = theirs.get("size", fallback_side)
    short, is_stretched = _size(size)
    crop_share = 1.0
    by_share = "ConvNext" in str(theirs.get("image_processor_type", theirs.get("feature_extractor_type", "")))
    share = theirs.get("crop_pct", 224 / 256 if by_share else None)
    if share is not None and not is_stretched:  # ConvNeXT's way: cut out of size / crop_pct, and from 384 on not cut
        side, crop_share, is_stretched = short, float(share) if short < 384 else 1.0, short >= 384
    elif theirs.get("do_center_crop", False):
        side, _ = _size(theirs.get("crop_size") or short)
        crop_share = side / short
    else:  # what is resized by its short side and not cut is not square; a batch has to be
        side = short
    fit = "stretch" if is_stretched and crop_share == 1.0 else "crop"
    normal = theirs.get("do_normalize", True)
    return {
        "image_size": side,
        "fit": fit,
        "crop_share": crop_share,
        "interpolation": _INTERPOLATION.get(theirs.get("resample", 2), "bilinear"),
        "mean": tuple(theirs.get("image_mean", IMAGENET_MEAN)) if normal else (0.0, 0.0, 0.0),
        "std": tuple(theirs.get("image_std", IMAGENET_STD)) if normal else (1.0, 1.0, 1.0),
        "channels": 3,
    }


def _size(given: Any) -> tuple[int, bool]:
    """Return a side, and whether both sides are brought to it."""
    if isinstance(given, Mapping):
        if "shortest_edge" in given:
            return int(given["shortest_edge"]), False
        if given.get("height") != given.get("width"):
            raise WeightsError(f"Weights for pictures of {given} are not supported; only squares are.")
        return int(given["height"]), True
    if isinstance(given, list | tuple):
        return int(given[0]), True
    return int(given), True


def to_huggingface(ours: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of our data settings."""
    side, share = int(ours["image_size"]), float(ours.get("crop_share", 1.0))
    is_cut = ours.get("fit", "crop") == "crop"
    found = {
        "image_processor_type": _PROCESSOR.get(model_type, "ViTImageProcessor"),
        "do_resize": True,
        "size": {"shortest_edge": round(side / share)} if is_cut else {"height": side, "width": side},
        "do_center_crop": is_cut,
        "crop_size": {"height": side, "width": side},
        "resample": _NUMBER[ours.get("interpolation", "bilinear")],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours["mean"]),
        "image_std": list(ours["std"]),
    }
    if found["image_processor_type"] == "ConvNextImageProcessor" and is_cut:
        found |= {"size": {"shortest_edge": side}, "crop_pct": share}
        del found["do_center_crop"], found["crop_size"]
    return found
