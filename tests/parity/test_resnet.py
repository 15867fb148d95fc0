"""Our ResNet is that of transformers, weight for weight, in float64, through files and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from strata.errors import WeightsError
from strata.models.resnet import PRESETS, ResNetConfig
from strata.weights.resnet import config_from, config_to

transformers = pytest.importorskip("transformers")


def settings(**changes: Any) -> dict[str, Any]:
    small: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [16, 32, 64], "depths": [2, 1, 2], "num_labels": 5}
    return small | {"layer_type": "bottleneck"} | changes


@pytest.mark.parametrize(
    "changes", [{}, {"layer_type": "basic", "hidden_sizes": [4, 8, 16]}, {"num_channels": 1, "num_labels": 2}], ids=str
)
def test_logits_and_files_equal_those_of_transformers(
    changes: dict[str, Any], check_parity: Callable[..., Any]
) -> None:
    config = transformers.ResNetConfig(**settings(**changes))
    image_BCHW = torch.randn(2, config.num_channels, 45, 45, dtype=torch.float64)
    check_parity(transformers.ResNetForImageClassification(config), image_BCHW)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_the_config_of_a_preset_comes_back_from_theirs(name: str) -> None:
    theirs = config_to(PRESETS[name])
    assert dataclasses.replace(PRESETS[name], stem="imagenet") == config_from(theirs | {"num_labels": 1000})
    if name == "resnet50":
        defaults = transformers.ResNetConfig().to_dict()
        assert {key: defaults[key] for key in theirs if key != "architectures"} == {
            key: value for key, value in theirs.items() if key != "architectures"
        }


@pytest.mark.parametrize(
    "changes",
    [{"downsample_in_bottleneck": True}, {"downsample_in_first_stage": True}, {"hidden_act": "gelu"}],
    ids=str,
)
def test_a_setting_that_ours_lacks_is_refused_by_name(changes: dict[str, Any]) -> None:
    ((key, value),) = changes.items()
    with pytest.raises(WeightsError, match=f"ResNet with {key}={value!r} is not supported; only"):
        config_from(settings(**changes))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (PRESETS["resnet20"], "stem"),
        (PRESETS["wide_resnet50_2"], "inner_width"),
        (dataclasses.replace(PRESETS["resnet50"], groups=2), "groups"),
        (dataclasses.replace(PRESETS["resnet18"], activation="gelu"), "activation"),
    ],
)
def test_a_setting_that_theirs_lacks_is_refused_by_name(config: ResNetConfig, key: str) -> None:
    with pytest.raises(WeightsError, match=f"In transformers, ResNet with {key}=.* is not supported; only"):
        config_to(config)
