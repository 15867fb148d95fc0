from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata import models
from strata.errors import ConfigError
from strata.models.vgg import TINY, VGG, VGGConfig


@pytest.mark.parametrize("name", models.presets_of("vgg"))
def test_a_network_has_as_many_layers_with_weights_as_its_name_says(name: str) -> None:
    with torch.device("meta"):
        model = models.build(models.preset(name))
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("vgg").removesuffix("_bn"))
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == name.endswith("_bn")


@pytest.mark.parametrize(("image_size", "side"), [(8, 2), (28, 3), (32, 2), (64, 2), (224, 7)])
def test_a_map_narrower_than_four_pixels_is_not_pooled(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = VGG(VGGConfig(image_size=image_size))
        x_BCHW = torch.zeros(2, 3, image_size, image_size)
        assert model.feature_map(x_BCHW).shape == (2, 512, side, side)
        assert model(x_BCHW).shape == (2, 1000)


def test_a_picture_of_another_size_than_the_configs_is_taken() -> None:
    with torch.device("meta"):
        assert VGG(VGGConfig())(torch.zeros(2, 3, 160, 160)).shape == (2, 1000)


def test_depths_and_widths_have_to_be_as_many() -> None:
    with pytest.raises(ConfigError, match=r"model\.depths has 2 entries, model\.widths 1"):
        VGG(dataclasses.replace(TINY, widths=(4,)))
