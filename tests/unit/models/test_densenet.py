from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata.models.densenet import PRESETS, TINY, DenseNet


def test_a_layer_keeps_what_came_in_and_adds_its_growth() -> None:
    torch.manual_seed(0)
    model = DenseNet(TINY)
    x_BCHW = torch.randn(2, TINY.width, 4, 4)
    y_BCHW = model.stages[0][0](x_BCHW)
    assert y_BCHW.shape == (2, TINY.width + TINY.growth, 4, 4)
    assert torch.equal(y_BCHW[:, : TINY.width], x_BCHW)


def test_a_transition_keeps_the_share_of_channels_that_compression_says() -> None:
    model = DenseNet(dataclasses.replace(TINY, compression=0.25))
    transition = model.stages[0][-1]
    assert (transition.conv.in_channels, transition.conv.out_channels) == (16, 4)
    assert transition(torch.randn(2, 16, 6, 6)).shape == (2, 4, 3, 3)


@pytest.mark.parametrize(("name", "layers"), [("densenet121", 121), ("densenet161", 161), ("densenet_bc_100_12", 100)])
def test_a_preset_has_as_many_layers_as_its_name_says(name: str, layers: int) -> None:
    with torch.device("meta"):
        model = DenseNet(PRESETS[name])
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers


def test_the_cifar_shape_has_the_parameters_of_table_2() -> None:
    with torch.device("meta"):
        model = DenseNet(PRESETS["densenet_bc_100_12"])
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.8e6, rel=0.05)


@pytest.mark.parametrize(("image_size", "side"), [(28, 3), (32, 4), (64, 8), (224, 7)])
def test_small_pictures_keep_their_size_in_the_stem(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = DenseNet(dataclasses.replace(PRESETS["densenet121"], image_size=image_size)).eval()
        assert model.feature_map(torch.zeros(1, 3, image_size, image_size)).shape == (1, 1024, side, side)
