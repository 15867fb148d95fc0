from __future__ import annotations

import dataclasses

import pytest
import torch

from strata.models.lenet import PRESETS, LeNet, LeNetConfig, Subsample


@pytest.mark.parametrize("image_size", [28, 32])
def test_lenet5_has_the_layers_of_the_paper(image_size: int) -> None:
    model = LeNet(LeNetConfig(image_size=image_size))
    counts = {
        name: sum(p.numel() for p in model.get_submodule(name).parameters())
        for name in ("conv1", "pool1", "conv2", "pool2", "linear1", "linear2", "head")
    }
    # The paper's C1, S2, C3 (1516 there, with Table I's gaps), S4, C5, F6, and a linear output
    assert counts == {
        "conv1": 156,
        "pool1": 12,
        "conv2": 2416,
        "pool2": 32,
        "linear1": 48120,
        "linear2": 10164,
        "head": 850,
    }


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("image_size", [*range(1, 41), 64, 65, 224])
def test_any_picture_size_works(preset: str, image_size: int) -> None:
    config = dataclasses.replace(PRESETS[preset], image_size=image_size, in_channels=3, num_classes=7)
    with torch.device("meta"):
        assert LeNet(config).eval()(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7)


def test_subsampling_starts_as_the_plain_average() -> None:
    x_BCHW = torch.arange(16.0).view(1, 1, 4, 4)
    assert Subsample(1)(x_BCHW).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize(("pool", "value"), [("max", 5.0), ("average", 2.5)])
def test_pooling_is_the_one_that_is_named(pool: str, value: float) -> None:
    model = LeNet(LeNetConfig(pool=pool))  # type: ignore[arg-type]
    assert model.pool1(torch.arange(16.0).view(1, 1, 4, 4))[0, 0, 0, 0] == value
