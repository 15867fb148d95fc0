"""A U-Net gives a picture of the size that it is given, and is the paper's network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata import models
from strata.models.unet import TINY, UNet, UNetConfig

SIZES = [(1, 1), (2, 7), (9, 9), (16, 30), (33, 21)]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", SIZES)
def test_what_comes_out_is_as_large_as_what_went_in(padding: str, size: tuple[int, int]) -> None:
    model = UNet(dataclasses.replace(TINY, padding=padding)).eval()
    assert model(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_it_has_the_papers_23_convolutions() -> None:
    with torch.device("meta"):
        model = models.build(models.preset("unet"))
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in model.modules()) == 23


def test_unpadded_sizes_are_those_of_the_papers_figure_1() -> None:
    with torch.device("meta"):
        model = models.build(models.preset("unet_valid"))
    assert model._context(388) == ((572 - 388) // 2, 572)
    seen: list[tuple[int, ...]] = []
    for block in model.down:
        block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    model(torch.empty(1, 1, 388, 388, device="meta"))
    assert seen == [(64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64), (1024, 28, 28)]


def test_unpadded_convolutions_see_the_mirror_image_around_the_picture() -> None:
    model = UNet(dataclasses.replace(TINY, in_channels=1, padding="valid"))
    row = torch.arange(5.0).expand(1, 1, 5, 5)
    before, whole = model._context(5)
    seen = model._surrounded(row)
    assert seen.shape == (1, 1, whole, whole)
    expected = [abs((place + 4) % 8 - 4) for place in range(-before, whole - before)]
    assert seen[0, 0, 0].tolist() == expected


def test_moving_a_picture_by_what_pooling_divides_moves_the_answer() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(widths=(4, 6), in_channels=1, out_channels=1, padding="valid")).eval().double()
    image = torch.randn(1, 1, 40, 40, dtype=torch.float64)
    whole, part = model(image), model(image[:, :, 6:, 6:])
    torch.testing.assert_close(part[..., 14:24, 14:24], whole[..., 20:30, 20:30], rtol=1e-10, atol=1e-10)
