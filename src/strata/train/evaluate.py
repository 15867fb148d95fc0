"""One pass over a split: sums and counts, never means of means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from strata.data.dataset import Split
from strata.data.loader import Batch, in_order
from strata.device import Setup
from strata.tasks import Draw, Task
from strata.tasks.base import NUMBERS_KEPT, Answering, Evaluation

BATCH_SIZE_AT_MOST = 512


def batch_size_for(trained_with: int | str) -> int:
    """Return how many samples go through the model at once, of a model trained with this ``train.batch_size``.

    One rule for a run's own evaluations and for later ones, so that the same bits come out.
    """
    return BATCH_SIZE_AT_MOST if isinstance(trained_with, str) else min(BATCH_SIZE_AT_MOST, max(64, 2 * trained_with))


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    split: Split,
    setup: Setup,
    prepare: Callable[[Batch], Batch],
    context: Answering,
    *,
    batch_size: int,
    check: Callable[[], Any] = lambda: None,
) -> Evaluation:
    """Measure a model on a whole split, in eval mode; the model's mode is restored.

    Args:
        prepare: normalises a raw batch.
        context: with which the model's answers become text.
        batch_size: samples in one forward pass; see `batch_size_for`.
        check: called between batches; may raise to break off.
    """
    carried: dict[str, Tensor] = {}
    training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    per_sample: dict[str, list[Tensor]] = {}
    try:
        for raw in in_order(split, batch_size, setup.device):
            check()
            batch = prepare(raw)
            with setup.autocast():
                measures = (
                    task.measure(model, batch, Draw(0, 0, batch["sample"], carried)),
                    task.written(model, batch, context),
                )
            for measure in measures:
                for name, value in measure.sums.items():
                    sums[name] = sums[name] + value if name in sums else value
                for name, value in measure.per_sample.items():
                    if len(split) * value[:1].numel() <= NUMBERS_KEPT:
                        per_sample.setdefault(name, []).append(value)
    finally:
        model.train(training)
    here = {name: value.cpu() for name, value in sums.items()}
    kept = {name: torch.cat(parts).cpu() for name, parts in per_sample.items()}
    return Evaluation(task.metrics(here, kept), here, kept)
