from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from strata import config
from strata.errors import ConfigError
from strata.models.mlp import MLP, PRESETS, MLPConfig


def test_no_hidden_layer_is_one_perceptron() -> None:
    model = MLP(PRESETS["perceptron"])
    assert [type(module) for module in model.modules() if not list(module.children())] == [nn.Sequential, nn.Linear]


def test_an_empty_list_of_hidden_layers_can_be_typed() -> None:
    assert config.override(MLPConfig(), "hidden", "") == MLPConfig(hidden=())


def test_each_number_typed_is_one_hidden_layer() -> None:
    model = MLP(config.override(MLPConfig(in_features=4, num_classes=2), "hidden", "8,6"))
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [8, 6, 2]


def test_a_wrong_activation_is_refused_when_it_is_set() -> None:
    with pytest.raises(ConfigError, match=r"activation=rely is not allowed.*'relu'"):
        config.override(MLPConfig(), "activation", "rely")


def test_pictures_are_read_as_rows_of_pixels() -> None:
    model = MLP(MLPConfig(in_features=2 * 3 * 3, num_classes=4))
    image_BCHW = torch.randn(5, 2, 3, 3)
    assert torch.equal(model(image_BCHW), model(image_BCHW.flatten(1)))


def test_settings_of_hidden_layers_without_any_are_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MLP(MLPConfig(hidden=(), dropout=0.5))
    assert "dropout=0.5" in caplog.text
    assert "no effect" in caplog.text


def test_the_signal_keeps_its_size_through_many_layers() -> None:
    torch.manual_seed(0)
    model = MLP(MLPConfig(hidden=(256,) * 20, in_features=256))
    features = model.features(torch.randn(64, 256))
    assert 0.2 < features.square().mean().item() < 5
