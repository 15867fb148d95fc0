from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from strata.models.efficientnet import PRESETS, TINY, EfficientNet, SqueezeExcitation


def test_depth_and_width_are_scaled_together() -> None:
    with torch.device("meta"):
        b0, b4 = EfficientNet(PRESETS["efficientnet_b0"]), EfficientNet(PRESETS["efficientnet_b4"])
    assert (len(b0.blocks), len(b4.blocks)) == (16, 32)
    assert (b0.head.in_features, b4.head.in_features) == (1280, 1792)


def test_the_deeper_a_block_the_likelier_its_branch_is_left_out() -> None:
    with torch.device("meta"):
        model = EfficientNet(PRESETS["efficientnet_b0"])
    rates = [block.stochastic_depth.p for block in model.blocks]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0.0, 0.2)


def test_a_squeeze_has_a_quarter_of_the_channels_that_enter_its_block() -> None:
    with torch.device("meta"):
        model = EfficientNet(PRESETS["efficientnet_b0"])
    assert [block.excite.reduce.out_channels for block in model.blocks[:4]] == [8, 4, 6, 6]


def test_squeeze_and_excitation_scales_whole_channels() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.rand(2, 6, 3, 3) + 1
    ratio_BCHW = SqueezeExcitation(6, 2)(x_BCHW) / x_BCHW
    assert ratio_BCHW.min() > 0
    assert ratio_BCHW.max() < 1
    torch.testing.assert_close(ratio_BCHW, ratio_BCHW[:, :, :1, :1].expand_as(ratio_BCHW))


@pytest.mark.parametrize(("image_size", "side"), [(28, 4), (32, 4), (64, 8), (65, 3), (224, 7)])
def test_small_pictures_are_halved_three_times(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = EfficientNet(dataclasses.replace(PRESETS["efficientnet_b0"], image_size=image_size)).eval()
        assert model.feature_map(torch.zeros(1, 3, image_size, image_size)).shape == (1, 1280, side, side)


def test_a_branch_that_is_left_out_leaves_the_shortcut_alone() -> None:
    torch.manual_seed(0)
    block = EfficientNet(dataclasses.replace(TINY, stages=((2, 3, 1, 8, 3),))).blocks[2]
    block.stochastic_depth.p = 0.5
    x_BCHW = torch.randn(64, 8, 4, 4)
    is_skipped = (block.train()(x_BCHW) == x_BCHW).flatten(1).all(dim=1)
    assert 16 < is_skipped.sum() < 48


@pytest.mark.parametrize("classes", [2, 10])
def test_a_fresh_network_knows_nothing_of_its_classes_however_few(classes: int) -> None:
    torch.manual_seed(0)
    model = EfficientNet(dataclasses.replace(PRESETS["efficientnet_b0"], num_classes=classes, image_size=32))
    target = torch.arange(32) % classes
    loss = F.cross_entropy(model(torch.randn(32, 3, 32, 32)), target)
    assert abs(loss.item() - math.log(classes)) < 0.1
