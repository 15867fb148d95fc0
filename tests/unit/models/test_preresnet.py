from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from strata import models
from strata.models.preresnet import PRESETS, TINY, PreResNet, PreResNetConfig


def count(config: PreResNetConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(config).parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("wrn_16_4", 2.7e6),
        ("wrn_28_10", 36.5e6),
        ("wrn_40_4", 8.9e6),
        ("preresnet110", 1.7e6),
        ("preresnet164", 1.7e6),
    ],
)
def test_the_cifar_shapes_have_the_parameters_of_the_papers(name: str, published: float) -> None:
    assert count(PRESETS[name]) == pytest.approx(published, abs=0.05e6)


@pytest.mark.parametrize(("name", "layers"), [("wrn_16_4", 16), ("wrn_28_10", 28), ("wrn_40_4", 40)])
def test_a_wide_shape_has_as_many_convolutions_as_its_name_says(name: str, layers: int) -> None:
    with torch.device("meta"):
        model = PreResNet(PRESETS[name])
    found = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert found == layers


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_without_its_branches_the_network_is_one_clean_path(block: str) -> None:
    torch.manual_seed(0)
    model = PreResNet(dataclasses.replace(TINY, depths=(3,), block=block, widening=1)).double().eval()
    x_BCHW = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for unit in model.stages[0]:
            (unit.conv2 if block == "basic" else unit.conv3).weight.zero_()
        first = model.stages[0][0]
        start = model.stem(x_BCHW) if first.shortcut is None else first.shortcut(model.stem(x_BCHW))
        assert torch.equal(model.stages(model.stem(x_BCHW)), start)


def test_a_block_that_changes_shape_gives_its_shortcut_what_it_has_activated() -> None:
    torch.manual_seed(0)
    block = PreResNet(TINY).eval().stages[1][0]
    x_BCHW = torch.randn(2, block.norm1.num_features, 4, 4)
    seen: list[torch.Tensor] = []
    block.shortcut.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block(x_BCHW)
    assert torch.equal(seen[0], block.norm1(x_BCHW).relu())


def test_dropout_lies_inside_the_blocks_and_nowhere_else() -> None:
    model = PreResNet(dataclasses.replace(TINY, dropout=0.3))
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    assert found == ["stages.0.0.dropout", "stages.1.0.dropout", "stages.1.1.dropout"]
    assert {model.get_submodule(name).p for name in found} == {0.3}


@pytest.mark.parametrize(("stem", "side"), [("auto", 8), ("cifar", 8), ("patch", 4), ("imagenet", 2)])
def test_the_stem_can_be_chosen(stem: str, side: int) -> None:
    with torch.device("meta"):
        model = PreResNet(dataclasses.replace(PRESETS["wrn_16_4"], stem=stem)).eval()
        assert model.feature_map(torch.zeros(1, 3, 32, 32)).shape == (1, 256, side, side)
