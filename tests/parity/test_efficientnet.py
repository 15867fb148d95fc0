"""Our EfficientNet is that of transformers, weight for weight, in float64, through files and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from strata import models
from strata.errors import WeightsError
from strata.models.efficientnet import PRESETS, TINY
from strata.weights.efficientnet import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "in_channels": [32, 16, 24, 40],
    "out_channels": [16, 24, 40, 80],
    "kernel_sizes": [3, 3, 5, 3],
    "strides": [1, 2, 2, 2],
    "num_block_repeats": [1, 2, 2, 1],
    "expand_ratios": [1, 6, 4, 6],
    "width_coefficient": 0.5,
    "depth_coefficient": 1.1,
    "hidden_dim": 640,
    "image_size": 64,
    "num_labels": 5,
}
PADDING_OF_CHECKPOINTS = {
    "efficientnet_b0": [],
    "efficientnet_b1": [16],
    "efficientnet_b2": [5, 8, 16],
    "efficientnet_b3": [5, 18],
    "efficientnet_b4": [6],
    "efficientnet_b5": [13, 27],
    "efficientnet_b6": [31],
    "efficientnet_b7": [18],
}
"""What google/efficientnet-b0 to -b7 have as ``depthwise_padding``."""


@pytest.mark.parametrize(("side", "padding"), [(64, []), (50, [2, 5, 8]), (58, [2, 5])])
def test_logits_and_files_equal_those_of_transformers(
    side: int, padding: list[int], check_parity: Callable[..., Any]
) -> None:
    config = transformers.EfficientNetConfig(**SMALL | {"image_size": side, "depthwise_padding": padding})
    image_BCHW = torch.randn(2, 3, side, side, dtype=torch.float64)
    check_parity(transformers.EfficientNetForImageClassification(config), image_BCHW)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_shapes_and_padding_of_theirs(name: str) -> None:
    config = PRESETS[name]
    content = config_to(config)
    assert content["depthwise_padding"] == PADDING_OF_CHECKPOINTS[name]
    theirs = transformers.EfficientNetConfig(**content, num_labels=config.num_classes)
    with torch.device("meta"):
        reference = transformers.EfficientNetForImageClassification(theirs)
        ours = HUGGINGFACE.write(config, models.build(config).state_dict())
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in reference.state_dict().items()
    }
    assert config_from(theirs.to_dict()) == dataclasses.replace(config, stem="imagenet")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pooling_type": "max"}, "pooling_type='max'"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"hidden_dim": 1280}, "hidden_dim=1280"),
        ({"depthwise_padding": [2]}, r"depthwise_padding=\[2\]"),
        ({"image_size": 50}, r"depthwise_padding=\[\].*only depthwise_padding=\[2, 5, 8\]"),
        ({"image_size": 65}, "65 pixels is another network"),
        ({"strides": [1, 1, 2, 2], "out_channels": [16, 16, 40, 80], "in_channels": [32, 16, 16, 40]}, "Stage 1 of"),
    ],
)
def test_what_ours_builds_otherwise_is_refused_in_words(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        config_from(SMALL | changes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (dataclasses.replace(PRESETS["efficientnet_b0"], image_size=32), "stem='cifar'"),
        (dataclasses.replace(PRESETS["efficientnet_b0"], padding="symmetric"), "padding='symmetric'"),
        (dataclasses.replace(TINY, stem="imagenet"), "stem_width=8"),
    ],
)
def test_what_theirs_lacks_is_refused_in_words(config: Any, said: str) -> None:
    with pytest.raises(WeightsError, match=f"In transformers, EfficientNet with {said} is not supported"):
        config_to(config)
