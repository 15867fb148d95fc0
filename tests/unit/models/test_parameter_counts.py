"""How many parameters each preset has, with the reference's count."""

from __future__ import annotations

import pytest
import torch

from strata import models

COUNTS = {
    "alexnet": 61_100_840,
    "alexnet_2012": 60_965_224,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "googlenet": 13_004_888,
    "inception_v3": 27_161_264,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet101_2": 126_886_696,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
    "vit_large": 304_326_632,
    "vit_tiny_16": 5_717_416,
    "vit_small_16": 22_050_664,
    "vit_small_32": 22_878_952,
    "vit_base_16": 86_567_656,
    "vit_base_32": 88_224_232,
    "vit_large_16": 304_326_632,
    "vit_large_32": 306_535_400,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "mixer_small": 18_528_264,
    "mixer_base": 59_880_472,
    "mixer_large": 208_196_168,
    "mixer_small_16": 18_528_264,
    "mixer_small_32": 19_104_624,
    "mixer_base_16": 59_880_472,
    "mixer_base_32": 60_293_428,
    "mixer_large_16": 208_196_168,
    "mixer_large_32": 206_939_264,
}
"""From torchvision's and the papers' own networks, for 1000 classes unless the preset says otherwise."""


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_as_many_parameters_as_the_reference(name: str) -> None:
    with torch.device("meta"):
        model = models.build(models.preset(name))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
