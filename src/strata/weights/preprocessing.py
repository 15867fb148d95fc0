"""How pictures are prepared travels with weights: Hugging Face's ``preprocessor_config.json`` and our data settings.

The settings are fields of `strata.data.DataConfig`: image_size, fit, crop_share, interpolation, mean, std, channels.

Theirs depend on the image processor that a file is for, or that belongs to the model's type where the file names none:
it says what a setting is that the file leaves out, and what a size given as one number means.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strata.checkpoint.files import read_json
from strata.errors import WeightsError

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
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
"""That of each ``model_type``."""
_ANY = "CLIPImageProcessor"
"""Brings pictures to any size and cuts any middle out of them, whatever the model."""
_EVERY = {
    "do_resize": True,
    "do_center_crop": False,
    "do_pad": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
    "crop_size": None,
}
"""What a processor does where neither the file nor `_DEFAULTS` says."""
_CLIP = {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": 224,
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {"size": 224, "resample": 2},
    "DeiTImageProcessor": {"size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": 3},
    "EfficientNetImageProcessor": {
        "size": 346,
        "crop_size": 289,
        "resample": 3,
        "rescale_offset": False,
        "include_top": True,
    },
    "MobileNetV2ImageProcessor": {
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": 224,
        "resample": 2,
    },
    "BitImageProcessor": _CLIP,
    "CLIPImageProcessor": _CLIP,
}
"""What each processor does where the file leaves it out; one whose size is a short side takes a number for that too.

Settings that are neither here nor in `_EVERY` have no part in what it does."""
_STRETCHED_FROM = 384
"""Side in pixels from which ConvNeXt's processor stretches pictures and cuts nothing."""


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


def of_channels(prepared: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return settings of colour pictures as they are, or as grey ones have them: with the means of their constants."""
    if channels != 1:
        return dict(prepared)
    return {**prepared, "channels": 1} | {key: (sum(prepared[key]) / len(prepared[key]),) for key in ("mean", "std")}


def of_folder(folder: Path, model_type: str, channels: int, side: int) -> dict[str, Any]:
    """Return our data settings for a Hugging Face folder.

    Args:
        model_type: as ``config.json`` has it.
        channels: of the pictures that the model takes.
        side: of these pictures in pixels; they are cut to it, with ImageNet's mean and deviation, where the folder
            does not say how its pictures are prepared, which is told.

    Raises WeightsError for a way of preparing pictures that ours lacks.
    """
    if channels not in (1, 3):
        raise WeightsError(f"{folder} is for pictures of {channels} channels; Strata has grey (1) and colour (3) ones.")
    if (folder / FILE).is_file():
        return from_huggingface(read_json(folder / FILE), model_type, channels)
    _tell_that_nothing_is_said(folder.resolve())
    return of_channels(imagenet(side, side), channels)


@functools.cache
def _tell_that_nothing_is_said(folder: Path) -> None:
    logger.warning(
        "%s has no %s: pictures are prepared with ImageNet's mean and deviation. Put the file there if others fit.",
        folder,
        FILE,
    )


def from_huggingface(theirs: Any, model_type: str, channels: int = 3) -> dict[str, Any]:
    """Return our data settings for a ``preprocessor_config.json``.

    Args:
        theirs: the file's content.
        model_type: of the model beside it, as ``config.json`` has it.
        channels: of the pictures that the model takes.

    Raises WeightsError for a way of preparing pictures that ours lacks.
    """
    if not isinstance(theirs, Mapping):
        raise WeightsError(f"{FILE} holds no settings, but a {type(theirs).__name__}. It has to hold an object.")
    processor = _processor_of(theirs, model_type)
    known = _EVERY | _DEFAULTS[processor]
    settings = known | {key: value for key, value in theirs.items() if key in known and value is not None}
    for key, only in (("do_resize", True), ("do_pad", False)):
        if bool(settings[key]) is not only:
            raise _unsupported(key, settings, f"only {only} is, so that all pictures are of one size")
    fit, resized, side = _framing(processor, settings)
    if type(settings["resample"]) is not int or settings["resample"] not in _INTERPOLATION:
        said = ", ".join(f"{number} ({name})" for number, name in _INTERPOLATION.items())
        raise _unsupported("resample", settings, f"these are: {said}")
    mean, std = _constants(settings, channels)
    return {
        "image_size": side,
        "fit": fit,
        "crop_share": side / resized,
        "interpolation": _INTERPOLATION[settings["resample"]],
        "mean": mean,
        "std": std,
        "channels": channels,
    }


def _processor_of(theirs: Mapping[str, Any], model_type: str) -> str:
    """Return the processor that a file is for. Raises WeightsError for one that is not known."""
    named = theirs.get("image_processor_type") or theirs.get("feature_extractor_type") or _PROCESSOR[model_type]
    found = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if found not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise WeightsError(f"{FILE} is for {named}, which Strata does not know. It knows: {known}.")
    return found


def _unsupported(key: str, settings: Mapping[str, Any], because: str) -> WeightsError:
    return WeightsError(f"{FILE} with {key}={settings.get(key)!r} is not supported: {because}.")


def _framing(processor: str, settings: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return the fit, the side in pixels that pictures, or their short sides, are brought to, and what is cut out."""
    short_is_default = isinstance(_DEFAULTS[processor]["size"], Mapping)
    resized, is_stretched = _size("size", settings, is_square=not short_is_default)
    side = resized
    if processor == "ConvNextImageProcessor":
        if is_stretched:
            raise _unsupported("size", settings, f"{processor} needs a shortest_edge")
        if side < _STRETCHED_FROM:
            resized = int(side / _number("crop_pct", settings))
        is_stretched = side >= _STRETCHED_FROM
    if settings["do_center_crop"]:
        side, _ = _size("crop_size", settings, is_square=True)
    # Where nothing is cut, theirs leaves the long side longer; a batch of ours is square
    if side > resized:
        raise _unsupported("crop_size", settings, f"no {side} pixels can be cut out of {resized}")
    return "stretch" if is_stretched else "crop", resized, side


def _size(key: str, settings: Mapping[str, Any], is_square: bool) -> tuple[int, bool]:
    """Return a side in pixels, and whether both sides are brought to it, as with one number where ``is_square``."""
    given = settings[key]
    if isinstance(given, Mapping):
        sides = {name: value for name, value in given.items() if value is not None}
        is_square = sides.keys() == {"height", "width"}
        known = list(sides.values()) if is_square or sides.keys() == {"shortest_edge"} else []
    else:
        is_square = is_square or isinstance(given, list | tuple)
        known = list(given) if isinstance(given, list | tuple) else [given]
    if not known or known[0] != known[-1] or type(known[0]) is not int or known[0] < 1:
        raise _unsupported(key, settings, "it has to be a shortest_edge, or an equal height and width, in pixels")
    return known[0], is_square


def _number(key: str, settings: Mapping[str, Any]) -> float:
    """Return a share or a factor. Raises WeightsError for what is no number above 0."""
    given = settings[key]
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise _unsupported(key, settings, "it has to be a number above 0")
    return float(given)


def _constants(settings: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel where pixels are 0 to 1.

    Theirs are of pixels that are 0 to 255 times a factor, less 1 perhaps; EfficientNet's processor divides by the
    deviation once more where the model has a head (``include_top``).
    """
    factor, offset = 1.0, 0.0
    if settings["do_rescale"]:
        factor, offset = _number("rescale_factor", settings), float(bool(settings.get("rescale_offset")))
    scale = 255 * factor
    mean, std = (_per_channel(key, settings, channels) for key in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise _unsupported("image_std", settings, "it has to be above 0")
    if not settings["do_normalize"]:
        mean = (0.0,) * channels
    times = bool(settings["do_normalize"]) + bool(settings.get("include_top"))
    return tuple((m + offset) / scale for m in mean), tuple(s**times / scale for s in std)


def _per_channel(key: str, settings: Mapping[str, Any], channels: int) -> tuple[float, ...]:
    """Return a number for each channel; one for all of them may be given once or several times."""
    given = settings[key]
    values = list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise _unsupported(key, settings, "it has to be numbers")
    if len(set(values)) == 1:
        values = values[:1] * channels
    if len(values) != channels:
        raise _unsupported(key, settings, f"the model takes pictures of {channels} channel{'s' * (channels > 1)}")
    return tuple(map(float, values))


def to_huggingface(ours: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of our data settings.

    It is for the model's own processor, or for one that can do what ours does where that cannot. The side that
    pictures are resized to, of which a share is cut out, is rounded to whole pixels, which is all that is there.
    """
    side, share = int(ours["image_size"]), float(ours.get("crop_share", 1.0))
    resized, is_short = round(side / share), ours.get("fit", "crop") == "crop"
    processor = _PROCESSOR.get(model_type, "ViTImageProcessor")
    if processor == "ConvNextImageProcessor" and (not is_short or side >= _STRETCHED_FROM):
        processor = _ANY
    found = {
        "image_processor_type": processor,
        "do_convert_rgb": ours["channels"] == 3,
        "do_resize": True,
        "size": {"shortest_edge": resized} if is_short else {"height": resized, "width": resized},
        "do_center_crop": is_short or resized > side,
        "crop_size": {"height": side, "width": side},
        "resample": _NUMBER[ours.get("interpolation", "bilinear")],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours["mean"]),
        "image_std": list(ours["std"]),
    }
    if processor == "EfficientNetImageProcessor":
        found["include_top"] = False
    if processor == "ConvNextImageProcessor":
        found |= {"size": {"shortest_edge": side}, "crop_pct": _share_for(side, resized, share)}
        del found["do_center_crop"], found["crop_size"]
    return found


def _share_for(side: int, resized: int, share: float) -> float:
    """Return the ``crop_pct`` by which ConvNeXt's processor, which rounds down, resizes to so many pixels."""
    return share if int(side / share) == resized else side / (resized + 0.5)
