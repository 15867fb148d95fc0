from __future__ import annotations

import dataclasses

import pytest
import torch

from strata.errors import ConfigError
from strata.models.mlp_mixer import TINY, MLPMixer, MLPMixerConfig


@pytest.mark.parametrize(("image_size", "places"), [(28, 49), (32, 64), (224, 196)])
def test_small_pictures_are_cut_into_patches_small_enough(image_size: int, places: int) -> None:
    with torch.device("meta"):
        model = MLPMixer(MLPMixerConfig(image_size=image_size))
        assert model.blocks[0].tokens.up.in_features == places
        assert model(torch.zeros(2, 3, image_size, image_size)).shape == (2, 1000)


def test_places_meet_only_where_places_are_mixed() -> None:
    torch.manual_seed(0)
    block = MLPMixer(TINY).double().eval().blocks[0]
    x_BND = torch.randn(1, 4, TINY.width, dtype=torch.float64)
    changed = x_BND.clone()
    changed[:, 2] += torch.randn(TINY.width, dtype=torch.float64)  # not the same everywhere: the norm would undo it
    with torch.no_grad():
        assert not torch.allclose(block(x_BND)[:, 0], block(changed)[:, 0])
        torch.nn.init.zeros_(block.tokens.down.weight)
        assert torch.equal(block(x_BND)[:, 0], block(changed)[:, 0])


def test_the_head_reads_the_features() -> None:
    torch.manual_seed(0)
    model = MLPMixer(dataclasses.replace(TINY, dropout=0.5, stochastic_depth=0.5)).eval()
    image_BCHW = torch.randn(3, 3, 8, 8)
    assert torch.equal(model.head(model.features(image_BCHW)), model(image_BCHW))


def test_a_picture_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match="picture of 12 x 12 does not fit this model's image_size=8"):
        MLPMixer(TINY)(torch.zeros(1, 3, 12, 12))


def test_a_patch_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size=16 is larger than image_size=8"):
        MLPMixer(dataclasses.replace(TINY, patch_size=16))
