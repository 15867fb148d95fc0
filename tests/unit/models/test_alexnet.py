from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata import models
from strata.errors import WeightsError
from strata.models.alexnet import TINY, AlexNet, AlexNetConfig
from strata.weights.alexnet import TORCHVISION


def test_the_two_towers_have_the_shapes_of_the_paper() -> None:
    with torch.device("meta"):
        model = AlexNet(models.preset("alexnet_2012"))
        first = model.stages[0][0](torch.zeros(1, 3, 224, 224))
        last = model.feature_map(torch.zeros(1, 3, 224, 224))
    assert (tuple(first.shape), tuple(last.shape)) == ((1, 96, 55, 55), (1, 256, 6, 6))


def test_in_a_grouped_convolution_a_tower_does_not_see_the_other() -> None:
    torch.manual_seed(0)
    conv = AlexNet(TINY).stages[1][0]
    x_BCHW = torch.randn(1, TINY.widths[0], 7, 7)
    before = conv(x_BCHW)
    x_BCHW[:, TINY.widths[0] // 2 :] = 0
    changed = (conv(x_BCHW) - before).abs().amax(dim=(0, 2, 3)) > 0
    assert changed.tolist() == [False] * 8 + [True] * 8


def test_local_response_normalisation_is_equation_1_of_section_3_3() -> None:
    torch.manual_seed(0)
    norm = AlexNet(TINY).stages[0][2]
    a = 30 * torch.rand(1, 8, 1, 1, dtype=torch.float64)
    expected = torch.empty_like(a)
    for i in range(8):
        squares = a[:, max(0, i - 2) : min(7, i + 2) + 1].square().sum(1)
        expected[:, i] = a[:, i] / (2 + 1e-4 * squares) ** 0.75
    torch.testing.assert_close(norm(a), expected, rtol=1e-12, atol=1e-12)


def test_the_gaussian_start_has_the_biases_of_section_5() -> None:
    torch.manual_seed(0)
    model = AlexNet(dataclasses.replace(TINY, hidden=(64, 48), start="gaussian"))
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [float(layer.bias.detach().mean()) for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    assert float(model.hidden[4].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("image_size", "deviation"), [(32, (2 / 192) ** 0.5), (128, (1 / (3 * 192)) ** 0.5)])
def test_small_pictures_get_the_start_that_keeps_the_signals_size(image_size: int, deviation: float) -> None:
    torch.manual_seed(0)
    model = AlexNet(AlexNetConfig(image_size=image_size, hidden=(192, 192)))
    assert float(model.hidden[4].weight.detach().std()) == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize(("image_size", "side"), [(8, 1), (28, 2), (32, 3), (64, 7), (65, 1), (224, 6)])
def test_small_pictures_get_the_stem_that_keeps_their_size(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = AlexNet(AlexNetConfig(image_size=image_size))
        x_BCHW = torch.zeros(2, 3, image_size, image_size)
        assert model.feature_map(x_BCHW).shape[-2:] == (side, side)
        assert model(x_BCHW).shape == (2, 1000)


def test_a_picture_of_another_size_than_the_configs_is_taken() -> None:
    with torch.device("meta"):
        assert AlexNet(AlexNetConfig())(torch.zeros(2, 3, 160, 160)).shape == (2, 1000)


@pytest.mark.parametrize("changes", [{"groups": (1, 2, 1, 2, 2)}, {"local_norm": True}, {"image_size": 32}])
def test_what_torchvision_has_not_is_not_written_in_its_layout(changes: dict[str, object]) -> None:
    config = dataclasses.replace(AlexNetConfig(), **changes)
    with pytest.raises(WeightsError, match="one tower, no local response normalisation, and an 11x11 stem"):
        TORCHVISION.names(config, ["head.weight"])
