"""The Vision Transformer and the one in transformers give the same, weight for weight, in float64, both ways."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from strata import models, weights
from strata.errors import WeightsError
from strata.models.vit import ViT, ViTConfig
from strata.weights.vit import HUGGINGFACE, TORCHVISION, config_from, config_to, fit_positions

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 12,
    "patch_size": 4,
    "num_labels": 5,
}
VARIANTS = {
    "as published": {},
    "without bias of query, key and value": {"qkv_bias": False},
    "another activation": {"hidden_act": "gelu_new"},
    "other norms, one channel": {"layer_norm_eps": 1e-3, "num_channels": 1},
}


def theirs_of(kind: str = "ViTForImageClassification", **changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(transformers.ViTConfig(**SMALL | changes)).double().eval()
    for parameter in theirs.parameters():  # nothing stays at a trivial start
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def saved(theirs: Any, folder: Path) -> Path:
    theirs.save_pretrained(folder)
    return folder


def picture(size: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers_and_the_weights_return_bit_equal(variant: str, tmp_path: Path) -> None:
    changes = VARIANTS[variant]
    theirs = theirs_of(**changes)
    found = weights.open_weights(saved(theirs, tmp_path / "theirs"))
    ours = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    image_BCHW = picture(channels=changes.get("num_channels", 3))
    with torch.no_grad():
        torch.testing.assert_close(ours(image_BCHW), theirs(image_BCHW).logits, rtol=TOLERANCE, atol=TOLERANCE)

    back = weights.write_huggingface(tmp_path / "ours", ours)
    again = transformers.ViTForImageClassification.from_pretrained(back, dtype=torch.float64)
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert config_from(config_to(found.config) | {"num_labels": 5}) == found.config


def test_a_trunk_alone_gives_all_but_the_head_and_drops_the_pooler(tmp_path: Path) -> None:
    theirs = theirs_of("ViTModel")
    found = weights.open_weights(saved(theirs, tmp_path))
    ours = models.build(found.config).double().eval()
    missing, unexpected = ours.load_state_dict(found.state(), strict=False)
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])
    with torch.no_grad():
        expected = theirs(picture()).last_hidden_state[:, 0]
        torch.testing.assert_close(ours.features(picture()), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert "no head of theirs" in str(HUGGINGFACE.reason("vit.pooler.dense.weight"))


def test_positions_for_larger_pictures_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = theirs_of()
    found = weights.open_weights(saved(theirs, tmp_path))
    config = dataclasses.replace(found.config, image_size=20)
    ours = models.build(config).double().eval()
    ours.load_state_dict(fit_positions(found.state(), found.config, config))
    # Theirs interpolates in the model's precision, ours in float32
    with torch.no_grad():
        expected = theirs(picture(20), interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ours(picture(20)), expected, rtol=1e-5, atol=1e-5)


def test_torchvisions_names_return_bit_equal_also_those_of_its_older_files() -> None:
    config = ViTConfig(depth=2, width=12, num_heads=2, patch_size=4, image_size=8, num_classes=3)
    torch.manual_seed(0)
    ours = ViT(config).state_dict()
    theirs = TORCHVISION.write(config, ours)
    assert "encoder.layers.encoder_layer_1.self_attention.in_proj_weight" in theirs
    older = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for name, value in theirs.items()
    }
    for file in (theirs, older):
        again = TORCHVISION.read(config, ours, file)
        assert all(torch.equal(again[name], value) for name, value in ours.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [4, 2]}, "patch_size=.*only squares"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not supported"),
        ({"head_dim": 64}, "head_dim=64 is not supported; only head_dim=8"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from(SMALL | changes)


def test_a_model_without_class_token_is_not_written() -> None:
    with pytest.raises(WeightsError, match="pool='mean'"):
        config_to(ViTConfig(pool="mean"))
