from __future__ import annotations

import dataclasses

import pytest
import torch

from strata.errors import ConfigError
from strata.layers.stochastic_depth import StochasticDepth
from strata.models.convnext import TINY, ConvNeXt, ConvNeXtConfig


@pytest.mark.parametrize(("image_size", "side"), [(16, 2), (28, 1), (32, 2), (64, 2), (224, 7)])
def test_small_pictures_get_a_smaller_first_stride(image_size: int, side: int) -> None:
    with torch.device("meta"):
        model = ConvNeXt(ConvNeXtConfig(image_size=image_size))
        assert model.feature_map(torch.zeros(1, 3, image_size, image_size)).shape == (1, 768, side, side)


def test_the_channels_of_a_place_lie_together_all_the_way() -> None:
    model = ConvNeXt(dataclasses.replace(TINY, image_size=16)).eval()
    strides: list[bool] = []
    for module in [*model.stem, *model.stages[0], *model.stages[1]][1:]:
        module.register_forward_hook(
            lambda module, inputs, output: strides.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    model(torch.randn(2, 3, 16, 16))
    assert len(strides) == 4
    assert all(strides)


def test_layer_scale_can_be_left_out_and_starts_small_where_it_is_not() -> None:
    with_scale, without = ConvNeXt(TINY), ConvNeXt(dataclasses.replace(TINY, layer_scale=0.0))
    scales = [value for name, value in with_scale.named_parameters() if name.endswith("scale_C")]
    assert [scale.unique().item() for scale in scales] == pytest.approx([1e-6, 1e-6])
    assert not [name for name, _ in without.named_parameters() if name.endswith("scale_C")]


def test_stochastic_depth_leaves_out_the_whole_branch() -> None:
    torch.manual_seed(0)
    model = ConvNeXt(dataclasses.replace(TINY, layer_scale=1.0, stochastic_depth=0.5))
    block = model.stages[1][1]
    assert isinstance(block.depth, StochasticDepth)
    assert block.depth.p == 0.5
    x_BCHW = torch.randn(64, 8, 2, 2)
    skipped = (block(x_BCHW) == x_BCHW).flatten(1).all(dim=1)
    assert 16 < skipped.sum() < 48


def test_the_same_weights_take_pictures_of_any_size() -> None:
    model = ConvNeXt(TINY).eval()
    for height, width in ((8, 8), (30, 21)):
        image_BCHW = torch.randn(1, 3, height, width)
        assert torch.equal(model.head(model.features(image_BCHW)), model(image_BCHW))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (4, 8, 16)}, "depths has 2 stages and widths 3"),
        ({"image_size": 3}, "image_size=3 is too small for patch_size=2 and 2 stages; at least 4 pixels"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvNeXt(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
