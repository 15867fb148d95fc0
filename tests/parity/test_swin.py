"""The Swin Transformer and the one in transformers give the same, weight for weight, in float64, both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata import models, weights
from strata.errors import WeightsError
from strata.weights.swin import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "patch_size": 2,
    "image_size": 16,
    "num_labels": 5,
}
VARIANTS = {
    "windows that fit, the last map one window": {},
    "both maps in several windows": {"image_size": 32},
    "maps filled up to whole windows": {"image_size": 20},
    "maps of odd sides": {"image_size": 22, "window_size": 3},
    "pictures filled up to whole patches": {"image_size": 19},
    "without bias of query, key and value": {"qkv_bias": False, "mlp_ratio": 2.5},
    "one channel, another activation": {"num_channels": 1, "hidden_act": "silu"},
}


def theirs_of(kind: str = "SwinForImageClassification", **changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(transformers.SwinConfig(**SMALL | changes)).double().eval()
    for parameter in theirs.parameters():  # nothing stays at a trivial start
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def picture(size: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers_and_the_weights_return_bit_equal(
    variant: str, check_parity: Callable[..., Any]
) -> None:
    changes = SMALL | VARIANTS[variant]
    ours = check_parity(theirs_of(**VARIANTS[variant]), picture(changes["image_size"], changes.get("num_channels", 3)))
    assert config_from(config_to(ours.config) | {"num_labels": 5}) == ours.config


def test_pictures_of_another_size_than_the_models_give_what_transformers_gives(tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    found = weights.open_weights(tmp_path)
    ours = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    image_BCHW = picture(40)[..., :26]
    with torch.no_grad():
        torch.testing.assert_close(ours(image_BCHW), theirs(image_BCHW).logits, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_trunk_alone_gives_all_but_the_head(tmp_path: Path) -> None:
    theirs = theirs_of("SwinModel")
    theirs.save_pretrained(tmp_path)
    found = weights.open_weights(tmp_path)
    ours = models.build(found.config).double().eval()
    missing, unexpected = ours.load_state_dict(found.state(), strict=False)
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])
    with torch.no_grad():
        expected = theirs(picture()).pooler_output
        torch.testing.assert_close(ours.features(picture()), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_maps_smaller_than_a_window_are_not_written_since_transformers_cannot_run_them(tmp_path: Path) -> None:
    theirs = theirs_of(image_size=8).config
    config = config_from(theirs.to_dict())  # maps of 4 and 2 places
    with pytest.raises(WeightsError, match=r"windows of 4 places and a last map of 2.*Train it with model\.window=2"):
        weights.write_huggingface(tmp_path / "ours", models.build(config))
    assert not (tmp_path / "ours").exists()
    folder = weights.write_huggingface(tmp_path / "ours", models.build(dataclasses.replace(config, window=2)))
    written = transformers.SwinForImageClassification.from_pretrained(folder, dtype=torch.float64)
    assert written(picture(8)).logits.shape == (2, 5)


def test_what_follows_from_the_sizes_is_dropped_with_the_reason() -> None:
    name = "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    assert "follows from the window" in str(HUGGINGFACE.reason(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings=True is not supported"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06 is not supported"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from(SMALL | changes)
