from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata import models
from strata.errors import ConfigError
from strata.models.resnet import TINY, ResNet, ResNetConfig, ZeroPad


def count(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(models.preset(name)).parameters())


@pytest.mark.parametrize(("layers", "table_6"), [(20, 0.27e6), (32, 0.46e6), (44, 0.66e6), (56, 0.85e6), (110, 1.7e6)])
def test_the_cifar_shapes_have_6n_plus_2_layers_and_the_parameters_of_table_6(layers: int, table_6: float) -> None:
    n = (layers - 2) // 6

    def conv(before: int, after: int) -> int:
        return 9 * before * after + 2 * after  # the 3x3 filters, and scale and shift of their norm

    expected = conv(3, 16) + 2 * n * conv(16, 16)
    expected += conv(16, 32) + (2 * n - 1) * conv(32, 32)
    expected += conv(32, 64) + (2 * n - 1) * conv(64, 64) + 64 * 10 + 10
    assert count(f"resnet{layers}") == expected
    assert expected == pytest.approx(table_6, rel=0.02)

    with torch.device("meta"):
        modules = list(models.build(models.preset(f"resnet{layers}")).modules())
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules) == 6 * n + 2


@pytest.mark.parametrize(("image_size", "side"), [(8, 1), (28, 4), (32, 4), (64, 8), (65, 3), (224, 7)])
def test_small_pictures_get_the_stem_that_keeps_their_size(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = ResNet(ResNetConfig(image_size=image_size)).eval()
        assert model.feature_map(torch.zeros(1, 3, image_size, image_size)).shape == (1, 512, side, side)


def test_the_stem_can_be_chosen() -> None:
    with torch.device("meta"):
        model = ResNet(ResNetConfig(image_size=32, stem="imagenet")).eval()
        assert model.feature_map(torch.zeros(1, 3, 32, 32)).shape[-2:] == (1, 1)


def test_the_patch_stem_halves_once_without_pooling() -> None:
    with torch.device("meta"):
        model = ResNet(ResNetConfig(image_size=32, stem="patch")).eval()
        assert model.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 16, 16)
        assert model.feature_map(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 2, 2)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_network_wide_inside_ends_its_blocks_as_before(block: str) -> None:
    config = dataclasses.replace(TINY, block=block)
    plain, wide = ResNet(config).stages[1][0], ResNet(dataclasses.replace(config, inner_width=3)).stages[1][0]
    assert wide.conv1.out_channels == 3 * plain.conv1.out_channels
    assert wide.last_norm.num_features == plain.last_norm.num_features


def test_groups_do_not_see_each_other() -> None:
    block = ResNet(dataclasses.replace(TINY, inner_width=2, groups=4)).stages[0][0]
    with torch.no_grad():
        before, changed = torch.randn(1, 8, 5, 5), torch.zeros(1, 8, 5, 5)
        changed[:, :2] = 1
        moved = block.conv2(before + changed) != block.conv2(before)
    assert moved[:, :2].any() and not moved[:, 2:].any()
    with pytest.raises(ConfigError, match=r"model.groups=4 is of bottleneck blocks"):
        ResNet(dataclasses.replace(TINY, block="basic", groups=4))


def test_recorded_names_of_tensors_do_not_change() -> None:
    names = {name.removesuffix(".weight") for name, _ in ResNet(TINY).named_parameters() if name.endswith("weight")}
    layers = ("conv1", "norm1", "conv2", "norm2", "conv3", "last_norm", "shortcut.0", "shortcut.1")
    assert names == {"stem.0", "stem.1", "head", *(f"stages.{s}.0.{layer}" for s in (0, 1) for layer in layers)}


def test_a_shortcut_without_parameters_keeps_every_second_pixel_and_adds_empty_channels() -> None:
    x_BCHW = torch.arange(32.0).view(1, 2, 4, 4)
    y_BCHW = ZeroPad(3, stride=2)(x_BCHW)
    assert y_BCHW.shape == (1, 5, 2, 2)
    assert torch.equal(y_BCHW[:, :2], x_BCHW[:, :, ::2, ::2])
    assert not y_BCHW[:, 2:].any()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_with_zero_init_every_block_starts_as_its_shortcut(block: str) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, block=block, zero_init=True)
    model = ResNet(config)
    first = model.stages[0][0]
    x_BCHW = torch.randn(2, config.width, 4, 4)
    assert torch.equal(first(x_BCHW), first.shortcut(x_BCHW).relu())


def test_the_bottleneck_halves_in_its_3x3_convolution() -> None:
    model = ResNet(TINY)
    block = model.stages[1][0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


@pytest.mark.parametrize("name", ["gelu", "silu", "softmax"])
def test_the_activation_is_the_one_that_is_named(name: str) -> None:
    kinds = {type(module) for module in ResNet(dataclasses.replace(TINY, activation=name)).modules()}
    assert nn.ReLU not in kinds
    assert {"gelu": "GELU", "silu": "SiLU", "softmax": "Softmax"}[name] in {kind.__name__ for kind in kinds}
