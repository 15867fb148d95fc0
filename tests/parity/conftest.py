"""What a network of transformers and ours promise each other, checked alike for every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strata import models, weights
from strata.checkpoint.files import read_tensors

TOLERANCE = 1e-9
"""Relative and absolute, in float64."""


def perturbed(model: Any) -> Any:
    """Return the model in float64 and eval mode, with no number left where training would start it."""
    generator = torch.Generator().manual_seed(5)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("num_batches_tracked"):
                value.fill_(7)
            elif value.ndim > 1:
                nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
            else:
                start = 1.0 if name.endswith("weight") else 0.0
                value.normal_(start, 0.1, generator=generator)
    return model


@pytest.fixture
def check_parity(tmp_path: Path) -> Callable[..., Any]:
    """Return a check of a transformers model on a picture, through files and back; it returns our model."""

    def check(reference: Any, image_BCHW: Tensor) -> Any:
        perturbed(reference).save_pretrained(tmp_path / "theirs")
        opened = weights.open_weights(tmp_path / "theirs")
        torch.manual_seed(1)
        ours = models.build(opened.config).double().eval()
        ours.load_state_dict(opened.state())
        with torch.no_grad():
            logits = reference(image_BCHW).logits
            torch.testing.assert_close(ours(image_BCHW), logits, rtol=TOLERANCE, atol=TOLERANCE)
        assert logits.std() > 1e-3, "the logits say nothing"

        weights.write_huggingface(tmp_path / "ours", ours)
        theirs, written = (read_tensors(tmp_path / who / "model.safetensors") for who in ("theirs", "ours"))
        assert theirs.keys() == written.keys()
        assert all(torch.equal(theirs[name], written[name]) for name in theirs)
        again = type(reference).from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
        with torch.no_grad():
            # not to the bit: some libraries round by where in memory a tensor lies
            torch.testing.assert_close(again(image_BCHW).logits, logits, rtol=TOLERANCE, atol=TOLERANCE)
        for name, value in reference.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        return ours

    return check
