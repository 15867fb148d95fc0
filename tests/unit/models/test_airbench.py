"""The network of CIFAR-10 speed runs."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from strata.models.airbench import PATCH, TINY, Airbench


def test_the_first_layer_whitens_the_pictures_it_was_shown() -> None:
    torch.manual_seed(0)
    model = Airbench(TINY).double()
    smooth = F.avg_pool2d(torch.randn(200, 3, 14, 14, dtype=torch.float64), 3, stride=1)
    model.initialize(smooth)
    out = model.whitening(smooth).transpose(0, 1).flatten(1)
    covariance = (out @ out.T / out.shape[1])[: TINY.in_channels * PATCH**2, : TINY.in_channels * PATCH**2]
    off_diagonal = covariance - covariance.diagonal().diag()
    assert off_diagonal.abs().max() < 1e-8
    assert (covariance.diagonal() < 1).all()
    assert (covariance.diagonal()[-6:] > 0.9).all()  # the strongest directions; the floor shrinks the weakest


def test_the_whitening_is_saved_and_not_learned() -> None:
    model = Airbench(TINY)
    assert "whitening.weight" in model.state_dict()
    assert "whitening.weight" not in dict(model.named_parameters())


def test_it_takes_pictures_of_any_size() -> None:
    model = Airbench(TINY).eval()
    assert model(torch.randn(2, 3, 20, 20)).shape == (2, 3)
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 3)
