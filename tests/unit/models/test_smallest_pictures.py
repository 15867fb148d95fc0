"""Networks that halve a picture until nothing is left say how large it has to be, and take exactly that."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from strata import models
from strata.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "changes", "least"),
    [
        ("airbench94", {}, 9),
        ("densenet121", {"stem": "imagenet"}, 29),
        ("densenet121", {"stem": "cifar"}, 8),
        ("densenet_bc_100_12", {"stem": "patch"}, 7),
        ("googlenet", {"stem": "imagenet"}, 15),
        ("inception_v3", {"stem": "imagenet"}, 75),
    ],
)
def test_the_smallest_picture_is_taken_and_a_smaller_one_refused(
    name: str, changes: dict[str, Any], least: int
) -> None:
    config = dataclasses.replace(models.preset(name), image_size=least, **changes)
    with torch.device("meta"):
        model = models.build(config).eval()
        assert model(torch.zeros(1, config.in_channels, least, least)).shape == (1, config.num_classes)
    with pytest.raises(ConfigError, match=rf"image_size={least - 1} is too small.* {least} pixels"):
        models.build(dataclasses.replace(config, image_size=least - 1))
