from __future__ import annotations

import dataclasses

import pytest
import torch

from strata import models
from strata.errors import ConfigError
from strata.layers.stochastic_depth import StochasticDepth
from strata.models.vit import PRESETS, TINY, ViT, ViTConfig, grid_of, resize_positions

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def build(**changes: object) -> ViT:
    torch.manual_seed(0)
    return ViT(dataclasses.replace(TINY, **changes)).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("image_size", "grid"), [(8, 8), (28, 7), (32, 8), (64, 8), (224, 14), (384, 24)])
def test_small_pictures_are_cut_into_patches_small_enough(image_size: int, grid: int) -> None:
    assert grid_of(ViTConfig(image_size=image_size)) == grid


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_at_the_papers_size_the_short_name_is_the_network_with_patches_of_16(size: str) -> None:
    with torch.device("meta"):
        short, full = (models.build(PRESETS[name]).state_dict() for name in (f"vit_{size}", f"vit_{size}_16"))
    assert {name: value.shape for name, value in short.items()} == {name: value.shape for name, value in full.items()}


def test_the_last_block_gives_the_class_token_what_it_gives_when_all_tokens_are_computed() -> None:
    model = build()
    x_BTD = torch.randn(2, 5, TINY.width, dtype=torch.float64)
    block = model.blocks[-1]
    tolerance = TOLERANCE[x_BTD.dtype]
    with torch.no_grad():
        torch.testing.assert_close(block(x_BTD, 1), block(x_BTD)[:, :1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_the_head_reads_the_features(pool: str) -> None:
    model = build(pool=pool)
    image_BCHW = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    features_BD = model.features(image_BCHW)
    assert features_BD.shape == (3, TINY.width)
    assert torch.equal(model.head(features_BD), model(image_BCHW))
    assert any("class_token" in name for name, _ in model.named_parameters()) == (pool == "class")


def test_stochastic_depth_rises_from_the_first_block_to_the_last() -> None:
    model = build(depth=3, stochastic_depth=0.2)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2])


def test_query_key_and_value_start_as_three_layers_of_their_own() -> None:
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(TINY, width=240, num_heads=4))
    for weight_DD in model.blocks[0].attention.qkv.weight.chunk(3):
        assert weight_DD.std().item() == pytest.approx((2 / (240 + 240)) ** 0.5, rel=0.02)


def test_positions_of_a_smooth_field_are_the_same_field_on_a_finer_grid() -> None:
    def field(side: int) -> torch.Tensor:
        place = (torch.arange(side) + 0.5) / side
        return (place[:, None] + 2 * place).reshape(1, side * side, 1)

    prefix = torch.full((1, 2, 1), 7.0)
    found = resize_positions(torch.cat([prefix, field(8)], 1), (8, 8), (16, 16), num_prefix_tokens=2)
    assert torch.equal(found[:, :2], prefix)
    inner = found[:, 2:].view(16, 16)[4:-4, 4:-4]  # at the edges there is nothing to continue the slope
    # Torch's cubic (a = -0.75) bends a slope by up to a sixth of the old grid's step
    torch.testing.assert_close(inner, field(16).view(16, 16)[4:-4, 4:-4], rtol=0.0, atol=1 / 8 / 6)


def test_positions_for_the_same_grid_are_left_alone() -> None:
    position_1TD = torch.randn(1, 5, 3)
    assert resize_positions(position_1TD, (2, 2), (2, 2), 1) is position_1TD


def test_a_picture_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match="picture of 12 x 8 does not fit this model's image_size=8"):
        build()(torch.zeros(1, 3, 12, 8, dtype=torch.float64))


def test_a_patch_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"patch_size=16 is larger than image_size=8.*auto"):
        build(patch_size=16)


def test_a_width_that_the_heads_do_not_divide_is_refused_with_one_that_they_do() -> None:
    with pytest.raises(ConfigError, match=r"width=13 cannot be split among num_heads=2.*width=12"):
        build(width=13)
