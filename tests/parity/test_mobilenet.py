"""Our MobileNetV2 is that of transformers, weight for weight, in float64, through files and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from strata import models
from strata.errors import WeightsError
from strata.models.mobilenet import PRESETS, TINY
from strata.weights.mobilenet import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("side", [64, 65, 75])
@pytest.mark.parametrize("tf_padding", [True, False])
def test_logits_and_files_equal_those_of_transformers(
    tf_padding: bool, side: int, check_parity: Callable[..., Any]
) -> None:
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.35, tf_padding=tf_padding, layer_norm_eps=2e-3, num_labels=5, image_size=side
    )
    image_BCHW = torch.randn(2, 3, side, side, dtype=torch.float64)
    check_parity(transformers.MobileNetV2ForImageClassification(config), image_BCHW)


def test_a_checkpoint_with_a_background_class_has_1001_classes() -> None:
    labels = {str(k): f"label {k}" for k in range(1001)}
    assert config_from({"model_type": "mobilenet_v2", "id2label": labels}).num_classes == 1001


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_shapes_of_theirs(name: str) -> None:
    config = PRESETS[name]
    theirs = transformers.MobileNetV2Config(**config_to(config), num_labels=config.num_classes)
    with torch.device("meta"):
        reference = transformers.MobileNetV2ForImageClassification(theirs)
        ours = HUGGINGFACE.write(config, models.build(config).state_dict())
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in reference.state_dict().items()
    }
    assert config_from(theirs.to_dict()) == dataclasses.replace(config, stem="imagenet")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_stride": 16}, "output_stride=16"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"first_layer_is_expansion": False}, "first_layer_is_expansion=False"),
        ({"depth_multiplier": 0.5, "finegrained_output": False}, "finegrained_output=False"),
        ({"depth_multiplier": 0.55}, "width multiplier of 0.55 is another network"),
        ({"depth_multiplier": 0.2}, "width multiplier of 0.2 is another network"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        config_from(changes)


def test_a_setting_that_theirs_lacks_is_refused_by_name() -> None:
    with pytest.raises(WeightsError, match="In transformers, MobileNetV2 with stem='cifar' is not supported"):
        config_to(dataclasses.replace(PRESETS["mobilenet_v2"], image_size=32))
    with pytest.raises(WeightsError, match="In transformers, MobileNetV2 with stages="):
        config_to(dataclasses.replace(TINY, stem="imagenet"))
