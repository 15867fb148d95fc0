from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from strata.models.mobilenet import PRESETS, TINY, ConvNorm, MobileNet, round_channels


def test_the_last_convolution_never_has_fewer_channels_than_without_a_multiplier() -> None:
    for name, width in {"mobilenet_v2_050": 1280, "mobilenet_v2": 1280, "mobilenet_v2_140": 1792}.items():
        with torch.device("meta"):
            assert MobileNet(PRESETS[name]).head.in_features == width


def test_only_blocks_that_change_nothing_have_shortcuts() -> None:
    with torch.device("meta"):
        model = MobileNet(PRESETS["mobilenet_v2"])
    depths = [depth for _, _, depth, _ in model.config.stages]
    expected = [i > 0 for depth in depths for i in range(depth)]
    assert [block.is_residual for block in model.blocks] == expected


def test_nothing_follows_the_projection_of_a_block() -> None:
    torch.manual_seed(0)
    block = MobileNet(TINY).eval().blocks[1]
    inner = torch.randn(1, block.project.conv.in_channels, 3, 3)
    assert block.project(inner).min() < 0
    assert block.depthwise.act(torch.tensor([-1.0, 3.0, 9.0])).tolist() == [0.0, 3.0, 6.0]


@pytest.mark.parametrize(("image_size", "side"), [(28, 4), (32, 4), (64, 8), (65, 3), (224, 7)])
def test_small_pictures_are_halved_three_times(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = MobileNet(dataclasses.replace(PRESETS["mobilenet_v2"], image_size=image_size)).eval()
        assert model.feature_map(torch.zeros(1, 3, image_size, image_size)).shape == (1, 1280, side, side)


@pytest.mark.parametrize(("side", "before", "after"), [(6, 1, 2), (7, 2, 2)])
def test_tensorflow_padding_adds_what_the_windows_need_and_the_odd_pixel_last(
    side: int, before: int, after: int
) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(2, 3, 5, stride=2, padding="tensorflow").double().eval()
    x_BCHW = torch.randn(1, 2, side, side, dtype=torch.float64)
    padded = F.pad(x_BCHW, (before, after, before, after))
    expected = layer.norm(F.conv2d(padded, layer.conv.weight, stride=2))
    assert layer(x_BCHW).shape[-1] == (side + 1) // 2
    torch.testing.assert_close(layer(x_BCHW), expected, rtol=1e-12, atol=1e-12)


def test_without_stride_both_paddings_are_one() -> None:
    layers = [ConvNorm(2, 3, 3, padding=padding) for padding in ("tensorflow", "symmetric")]  # type: ignore[arg-type]
    layers[1].load_state_dict(layers[0].state_dict())
    x_BCHW = torch.randn(1, 2, 5, 5)
    assert torch.equal(layers[0](x_BCHW), layers[1](x_BCHW))


@pytest.mark.parametrize(("channels", "rounded"), [(3, 8), (11.2, 16), (12, 16), (18, 24), (33.6, 32), (44.8, 48)])
def test_channels_are_rounded_to_eights_and_lose_no_tenth(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


def test_dropout_comes_before_the_head() -> None:
    model = MobileNet(dataclasses.replace(TINY, dropout=0.99))
    assert (model.train().features(torch.randn(4, 3, 8, 8)) == 0).float().mean() > 0.8
    assert [type(m) for m in model.children()][-2:] == [nn.Dropout, nn.Linear]
