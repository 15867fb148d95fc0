"""Pictures are prepared as transformers' own image processors prepare them, by files of theirs and of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from strata.data.preprocess import ImagePreprocess
from strata.weights import preprocessing

transformers = pytest.importorskip("transformers")

MEAN, STD = list(preprocessing.IMAGENET_MEAN), list(preprocessing.IMAGENET_STD)
NORMAL = {"image_mean": MEAN, "image_std": STD}
SQUARE = {"height": 64, "width": 64}
EFFICIENTNET = {
    "image_processor_type": "EfficientNetImageProcessor",
    "image_mean": MEAN,
    "image_std": [0.47853944, 0.4732864, 0.47434163],
    "crop_size": {"height": 289, "width": 289},
    "do_center_crop": False,
    "resample": 0,
    "rescale_factor": 1 / 255,
    "size": SQUARE,
}
CONVNEXT = {"feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, **NORMAL}


def picture(mode: str = "RGB") -> Image.Image:
    """Return a smooth picture that is wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((432, 288), Image.Resampling.BICUBIC).convert(mode)


def by_theirs(settings: dict[str, Any], model_type: str, image: Image.Image, folder: Path) -> Tensor:
    """Return what transformers makes of a picture, in a folder with these settings: (C, H, W)."""
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
    return pixels


def by_ours(settings: dict[str, Any], image: Image.Image) -> Tensor:
    """Return what ours makes of a picture: (C, S, S)."""
    preprocess = ImagePreprocess(**settings)
    return preprocess.normalize(preprocess.read(image)[None])[0]


def check_equal(ours: Tensor, theirs: Tensor) -> None:
    """Check that two ways give the same, but for half a pixel's shift and what lies at the edges."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.03 * theirs.std()


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("vit", {"image_processor_type": "ViTImageProcessor", **NORMAL, "resample": 2, "size": SQUARE}),
        ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": 64}),
        ("vit", {"size": [64, 64], "image_mean": 0.4, "image_std": 0.3}),
        ("vit", {"image_processor_type": "ViTImageProcessorFast"}),
        ("vit", {"size": SQUARE, "include_top": True, "rescale_offset": True, "crop_pct": 0.5}),
        ("vit", {"size": {"height": 72, "width": 72}, "do_center_crop": True, "crop_size": SQUARE, **NORMAL}),
        ("vit", {"size": SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
        ("vit", {"size": SQUARE, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}),
        ("vit", {"size": SQUARE, "do_normalize": False}),
        ("vit", {"image_processor_type": "DeiTImageProcessor"}),
        ("vit", {"image_processor_type": "BitImageProcessor"}),
        ("swin", {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 56}),
        ("resnet", CONVNEXT | {"crop_pct": 0.875, "size": 224}),
        ("resnet", {"crop_pct": 0.875, "size": 224, "resample": 3, **NORMAL}),
        ("convnext", {"crop_pct": 0.9, "size": {"shortest_edge": 224}}),
        ("convnext", {}),
        ("convnext", CONVNEXT | {"crop_pct": 0.95, "size": 384}),
        ("mobilenet_v2", {}),
        ("mobilenet_v2", {"size": 72, "crop_size": 64, **NORMAL}),
        ("efficientnet", {}),
        ("efficientnet", EFFICIENTNET | {"include_top": True}),
        ("efficientnet", EFFICIENTNET),
        ("efficientnet", EFFICIENTNET | {"include_top": False}),
        ("efficientnet", EFFICIENTNET | {"do_normalize": False}),
        ("efficientnet", EFFICIENTNET | {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ],
)
def test_a_picture_is_prepared_as_the_file_says_to_transformers(
    model_type: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    ours = preprocessing.from_huggingface(settings, model_type)
    check_equal(by_ours(ours, picture()), by_theirs(settings, model_type, picture(), tmp_path))


@pytest.mark.parametrize("model_type", ["resnet", "convnext", "swin", "vit", "mobilenet_v2", "efficientnet"])
@pytest.mark.parametrize(
    ("side", "fit", "share"),
    [
        (224, "crop", 0.875),
        (224, "crop", 0.9),
        (64, "crop", 1.0),
        (64, "stretch", 1.0),
        (64, "stretch", 0.8),
        (384, "crop", 0.95),
        (384, "crop", 1.0),
        (384, "stretch", 1.0),
    ],
)
def test_transformers_prepares_a_picture_as_an_exported_model_saw_it(
    side: int, fit: str, share: float, model_type: str, tmp_path: Path
) -> None:
    ours = preprocessing.imagenet(side) | {"fit": fit, "crop_share": share}
    written = preprocessing.to_huggingface(ours, model_type)
    check_equal(by_ours(ours, picture()), by_theirs(written, model_type, picture(), tmp_path))
    again = preprocessing.from_huggingface(written, model_type)
    assert again.pop("crop_share") == pytest.approx(share, abs=0.5 / side)
    assert {key: again[key] for key in again} == {key: pytest.approx(ours[key]) for key in again}


@pytest.mark.parametrize("model_type", ["resnet", "vit", "mobilenet_v2", "efficientnet"])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_grey_pictures_are_prepared_alike(fit: str, model_type: str, tmp_path: Path) -> None:
    ours = preprocessing.imagenet(64) | {"fit": fit, "mean": (0.4,), "std": (0.2,), "channels": 1}
    written = preprocessing.to_huggingface(ours, model_type)
    check_equal(by_ours(ours, picture("L")), by_theirs(written, model_type, picture("L"), tmp_path))
    assert preprocessing.from_huggingface(written, model_type, channels=1)["mean"] == (0.4,)


def test_a_picture_of_another_kind_is_made_colour_where_the_model_takes_colour(tmp_path: Path) -> None:
    ours = preprocessing.imagenet(64)
    written = preprocessing.to_huggingface(ours, "resnet")
    theirs = by_theirs(written, "resnet", picture("L"), tmp_path)
    check_equal(by_ours(ours, picture("L")), theirs)
    assert torch.equal(theirs[0] * STD[0] + MEAN[0] > 0.5, theirs[1] * STD[1] + MEAN[1] > 0.5)
