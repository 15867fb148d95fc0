"""Regression learns on standardised targets and speaks in the target's own units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strata
from strata.tasks import Draw
from strata.tasks.base import Answering
from strata.tasks.regress import Regress

DRAW = Draw(0, 0, torch.arange(3))


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0], [1.0], [-2.0]])


def test_loss_metrics_and_answers_are_in_the_units_they_should_be() -> None:
    task = Regress(target_mean=100.0, target_std=10.0)
    batch = {"input": torch.zeros(3, 1), "target": torch.tensor([100.0, 100.0, 90.0])}
    loss = task.objective(Fixed(), batch, "train", DRAW)
    assert float(loss.total) == pytest.approx(0 + 1 + 1) and float(torch.as_tensor(loss.count)) == 3
    metrics = task.metrics(task.measure(Fixed(), batch, DRAW).sums, {})  # predicted: 100, 110, 80
    assert metrics["rmse"] == pytest.approx((200 / 3) ** 0.5) and metrics["mae"] == pytest.approx(20 / 3)
    assert metrics["r2"] == pytest.approx(1 - 200 / (200 / 3))
    context = Answering((), None, torch.device("cpu"))
    assert [a["value"] for a in task.answers(Fixed(), torch.zeros(3, 1), context)] == [100.0, 110.0, 80.0]


@pytest.mark.parametrize(
    ("loss", "expected"), [("mean_squared_error", 2.25), ("l1", 1.5), ("huber", 0.5 * (1.5 - 0.25))]
)
def test_each_loss_is_that_of_its_definition(loss: Any, expected: float) -> None:
    batch = {"input": torch.zeros(3, 1), "target": torch.tensor([0.0, 1.0, -0.5])}
    found = Regress(loss=loss, huber_delta=0.5).objective(Fixed(), batch, "train", DRAW)
    assert float(found.total) == pytest.approx(expected)


def test_mistakes_are_those_missed_by_most() -> None:
    found = Regress().findings(
        {}, {"predicted": torch.tensor([1.0, 5.0, 2.0]), "true": torch.tensor([1.5, 1.0, 2.0])}, ()
    )
    assert [m["sample"] for m in found.mistakes] == [1, 0, 2] and found.mistakes[0]["true"] == 1


def test_errors_are_those_of_the_numbers_as_given_however_far_from_zero(tmp_path: Path) -> None:
    truth = [5_000_000 + 0.125 * (k % 50) for k in range(200)]
    table = tmp_path / "far.csv"
    table.write_text("\n".join(["a,target", *(f"{k % 7},{value}" for k, value in enumerate(truth))]))
    run = strata.train(str(table), {"train.steps": 2, "train.device": "cpu"}, runs=tmp_path / "runs")
    rows = [{"a": k % 7} for k in range(200)]
    error_by_row = {k: abs(run.predict(rows[k])["value"] - truth[k]) for k in range(200)}
    told = run.finished["mistakes"]
    for mistake in told:
        assert mistake["error"] == abs(mistake["predicted"] - mistake["true"])
        assert mistake["true"] in truth
        near = [abs(mistake["error"] - error) for k, error in error_by_row.items() if truth[k] == mistake["true"]]
        assert min(near) < 1e-5


def test_a_targets_scale_does_not_matter_to_what_is_learned(tmp_path: Path) -> None:
    table = tmp_path / "far.csv"
    rows = [f"{k % 13},{k % 7},{1e6 + 1000 * (3 * (k % 13) - 2 * (k % 7))}" for k in range(200)]
    table.write_text("\n".join(["a,b,target", *rows]))
    settings = {"train.steps": 300, "model.hidden": "", "train.weight_decay": 0, "train.early_stopping": None}
    settings |= {"train.learning_rate": 0.05, "train.device": "cpu"}
    run = strata.train(str(table), settings, runs=tmp_path / "runs")
    assert run.recipe.recipe == "mlp" and run.recipe.task.kind == "regress"
    assert run.metrics["test"]["r2"] > 0.99 and run.metrics["test"]["rmse"] < 1500
    assert run.predict({"a": 3, "b": 1})["value"] == pytest.approx(1_007_000, rel=2e-3)
