"""ConvNeXt and the one in transformers give the same, weight for weight, in float64, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata import models, weights
from strata.errors import WeightsError
from strata.weights.convnext import config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "num_stages": 3,
    "hidden_sizes": [6, 8, 12],
    "depths": [1, 2, 1],
    "patch_size": 4,
    "image_size": 32,
    "num_labels": 5,
}
VARIANTS = {
    "as published": {},
    "without layer scale": {"layer_scale_init_value": 0.0},
    "odd maps": {"image_size": 28, "patch_size": 2},
    "another norm and activation, one channel": {"layer_norm_eps": 1e-3, "hidden_act": "relu", "num_channels": 1},
}


def theirs_of(kind: str = "ConvNextForImageClassification", **changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(transformers.ConvNextConfig(**SMALL | changes)).double().eval()
    for parameter in theirs.parameters():  # nothing stays at a trivial start
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def picture(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers_and_the_weights_return_bit_equal(
    variant: str, check_parity: Callable[..., Any]
) -> None:
    changes = SMALL | VARIANTS[variant]
    ours = check_parity(theirs_of(**VARIANTS[variant]), picture(changes["image_size"], changes.get("num_channels", 3)))
    assert config_from(config_to(ours.config) | {"num_labels": 5}) == ours.config


def test_a_trunk_alone_gives_all_but_the_head(tmp_path: Path) -> None:
    theirs = theirs_of("ConvNextModel")
    theirs.save_pretrained(tmp_path)
    found = weights.open_weights(tmp_path)
    ours = models.build(found.config).double().eval()
    missing, unexpected = ours.load_state_dict(found.state(), strict=False)
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])
    with torch.no_grad():
        expected = theirs(picture()).pooler_output
        torch.testing.assert_close(ours.features(picture()), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_number_of_stages_that_contradicts_their_depths_is_refused() -> None:
    with pytest.raises(WeightsError, match="num_stages=4 is not supported; only num_stages=3"):
        config_from(SMALL | {"num_stages": 4})
