from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from strata import models
from strata.errors import WeightsError
from strata.models.inception import TINY, AuxiliaryV3, Inception, InceptionConfig
from strata.weights import load_into, open_weights, write_torchvision
from strata.weights.inception import TORCHVISION, preprocess

V1 = dataclasses.replace(TINY, auxiliary=True)
V3 = dataclasses.replace(TINY, auxiliary=True, version="v3", width=0.0625)
BOTH = pytest.mark.parametrize("config", [V1, V3], ids=["v1", "v3"])


def built(config: InceptionConfig) -> Inception:
    torch.manual_seed(0)
    return Inception(config)


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_without_its_auxiliary_heads_googlenet_has_half_the_parameters() -> None:
    with torch.device("meta"):
        model = models.build(dataclasses.replace(models.preset("googlenet"), auxiliary=False))
    assert sum(p.numel() for p in model.parameters()) == 6_624_904


@BOTH
def test_in_training_the_auxiliary_heads_speak_in_the_order_of_depth_and_in_use_they_are_silent(
    config: InceptionConfig,
) -> None:
    model = built(config)
    heads = model(pictures())
    assert isinstance(heads, tuple)
    assert [tuple(head.shape) for head in heads] == [(4, 3)] * (3 if config.version == "v1" else 2)
    answer = model.eval()(pictures())
    assert torch.equal(answer, model.head(model.features(pictures())))


@BOTH
def test_gradient_reaches_every_parameter_through_some_head(config: InceptionConfig) -> None:
    model = built(dataclasses.replace(config, auxiliary_dropout=0.0))
    sum((head * torch.randn_like(head)).sum() for head in model(pictures())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@BOTH
def test_each_head_learns_a_batch(config: InceptionConfig) -> None:
    model = built(dataclasses.replace(config, auxiliary_dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    target_B = torch.tensor([0, 2, 1, 0])
    for _ in range(30):
        losses = [F.cross_entropy(head, target_B) for head in model(pictures())]
        optimizer.zero_grad()
        sum(losses).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert max(float(loss.detach()) for loss in losses) < 0.3


@pytest.mark.parametrize(
    ("name", "image_size", "sides"),
    [
        ("googlenet", 224, (28, 14, 7)),
        ("googlenet", 32, (16, 8, 4)),
        ("googlenet", 28, (14, 7, 4)),
        ("inception_v3", 299, (35, 17, 8)),
        ("inception_v3", 32, (16, 8, 4)),
        ("inception_v3", 28, (14, 7, 4)),
    ],
)
def test_the_stages_have_the_maps_of_the_papers_tables_and_small_pictures_keep_more(
    name: str, image_size: int, sides: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model: Any = models.build(dataclasses.replace(models.preset(name), image_size=image_size)).eval()
        x, found = model.stem(torch.zeros(1, 3, image_size, image_size)), []
        for stage in model.stages:
            x = stage(x)
            found.append(x.shape[-1])
    assert tuple(found) == sides


def test_the_auxiliary_head_of_v3_also_reads_maps_smaller_than_the_papers() -> None:
    head = AuxiliaryV3(V3, channels=6).eval()
    assert [tuple(head(torch.zeros(2, 6, side, side)).shape) for side in (3, 8, 17, 20)] == [(2, 3)] * 4


def test_torchvisions_auxiliary_heads_are_dropped_with_the_reason_where_the_config_has_none() -> None:
    with_heads = models.preset("googlenet")
    without = dataclasses.replace(with_heads, auxiliary=False)
    with torch.device("meta"):
        theirs = TORCHVISION.write(with_heads, models.build(with_heads).state_dict())
        ours = models.build(without).state_dict()
    assert TORCHVISION.read(without, ours, theirs).keys() == ours.keys()
    assert "in training alone" in str(TORCHVISION.reason("aux1.fc2.weight"))
    with pytest.raises(WeightsError, match=r"unknown: surplus\.weight"):
        TORCHVISION.read(without, ours, theirs | {"surplus.weight": torch.zeros(1)})


def test_weights_in_torchvisions_layout_come_back_from_a_file_with_new_heads_for_other_classes(tmp_path: Path) -> None:
    config = dataclasses.replace(V1, stem="imagenet", image_size=32)
    model = built(config)
    weights = open_weights(write_torchvision(tmp_path / "googlenet.safetensors", model), config)
    assert weights.preprocess["mean"] == (0.5, 0.5, 0.5)
    torch.manual_seed(5)
    other = Inception(dataclasses.replace(config, num_classes=5))
    said = load_into(other, weights, labels=("a", "b", "c", "d", "e"))
    assert "the head is new" in said
    before = model.state_dict()
    for name, value in other.state_dict().items():
        is_last = "head" in name.split(".")
        assert is_last == (value.shape != before[name].shape)
        assert is_last or torch.equal(value, before[name])


def test_another_stem_than_torchvisions_is_not_written_in_its_layout() -> None:
    with pytest.raises(WeightsError, match=r"ImageNet's stem. Take model\.stem=imagenet"):
        TORCHVISION.names(TINY, ["head.weight"])


def test_the_preprocessing_gives_what_torchvision_makes_of_normalised_pictures_within() -> None:
    prepared = preprocess(models.preset("inception_v3"))
    assert (prepared["image_size"], round(prepared["image_size"] / prepared["crop_share"])) == (299, 342)
    pixel = torch.rand(3, dtype=torch.float64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    theirs = (pixel - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
    ours = (pixel - torch.tensor(prepared["mean"]).double()) / torch.tensor(prepared["std"]).double()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
