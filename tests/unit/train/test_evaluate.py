"""Evaluation: what is kept of each sample, and what is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strata.data.dataset import TensorSplit
from strata.device import decide
from strata.tasks.base import Answering, Evaluation
from strata.tasks.classify import Classify
from strata.train import evaluate as module


def measured() -> tuple[nn.Module, TensorSplit, Evaluation]:
    """Return a model of two classes, 50 samples, and what an evaluation in four batches finds."""
    model = nn.Linear(3, 2)
    split = TensorSplit(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2)
    setup = decide(device="cpu", precision="fp32", compile=False, model=model, steps=1)
    context = Answering((), None, setup.device)
    found = module.evaluate(
        Classify(positive_class=1), model, split, setup, lambda batch: batch, context, batch_size=16
    )
    return model, split, found


def test_the_scores_of_every_sample_are_kept_in_order_and_metrics_see_them() -> None:
    model, split, found = measured()
    torch.testing.assert_close(found.per_sample["scores"], model(split.input).detach())
    assert 0 <= found.metrics["auroc"] <= 1


@pytest.mark.parametrize(("most", "kept"), [(100, True), (99, False)])
def test_scores_are_kept_only_where_all_of_them_are_not_too_many(
    monkeypatch: pytest.MonkeyPatch, most: int, kept: bool
) -> None:
    monkeypatch.setattr(module, "NUMBERS_KEPT", most)
    _, _, found = measured()
    assert ("scores" in found.per_sample) == kept == ("auroc" in found.metrics)
    assert len(found.per_sample["predicted"]) == 50
