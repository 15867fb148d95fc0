"""Classification: each loss learns, and its numbers are those of the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig
from strata.errors import ConfigError
from strata.tasks import Draw
from strata.tasks.base import Answering
from strata.tasks.classify import Classify

DRAW = Draw(0, 0, torch.arange(4))
SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.5, 3.0], [1.0, 1.5, -2.0], [-1.0, 2.0, 0.0]])
TARGET = torch.tensor([0, 1, 1, 2])


class Fixed(nn.Module):
    """Gives the same scores whatever it is asked."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        return self.scores


def batch(**more: Tensor) -> dict[str, Tensor]:
    return {"input": torch.zeros(4, 1), "target": TARGET} | more


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "hinge", "mean_squared_error"])
@pytest.mark.parametrize(("data", "outputs", "at_least"), [("breast-cancer", (2, 1), 0.9), ("iris", (3, 3), 0.8)])
def test_each_loss_learns_two_classes_and_three(
    loss: str, data: str, outputs: tuple[int, int], at_least: float, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"data": data, "model.hidden": "16", "task.loss": loss, "train.steps": 150}
    settings |= {"train.early_stopping": None, "train.learning_rate": 0.01, "train.device": "cpu"}
    run = strata.train("iris", settings, runs=tmp_path)
    assert run.metrics["test"]["accuracy"] >= at_least
    assert run.recipe.model.num_classes == outputs[loss != "cross_entropy"]
    dataset = open_data(DataConfig(source=data))
    row = dataset.splits["test"].gather(torch.arange(1), torch.zeros(1))["input"][0]
    answer = run.predict(row)
    assert answer["label"] in dataset.labels and answer["label"] == answer["top"][0]["label"]
    assert sum(entry["probability"] for entry in answer["top"]) == pytest.approx(1, abs=1e-5)


def test_the_loss_is_a_sum_and_a_count() -> None:
    for task, expected, count in [
        (Classify(), F.cross_entropy(SCORES, TARGET, reduction="sum"), 4.0),
        (
            Classify(label_smoothing=0.1),
            F.cross_entropy(SCORES, TARGET, reduction="sum", label_smoothing=0.1),
            4.0,
        ),
        (
            Classify(class_weights=(1.0, 2.0, 5.0)),
            F.cross_entropy(SCORES, TARGET, weight=torch.tensor([1.0, 2.0, 5.0]), reduction="sum"),
            10.0,
        ),
        (Classify(loss="mean_squared_error"), (SCORES - F.one_hot(TARGET, 3)).square().sum(), 12.0),
    ]:
        found = task.objective(Fixed(SCORES), batch(), "train", DRAW)
        torch.testing.assert_close(found.total, expected)
        assert float(torch.as_tensor(found.count)) == count


def test_the_loss_of_mixed_samples_is_the_mixture_of_both_targets_losses() -> None:
    other, weight = TARGET.flip(0), torch.tensor([1.0, 0.75, 0.5, 0.0])
    found = Classify().objective(Fixed(SCORES), batch(target_b=other, weight=weight), "train", DRAW)
    one, two = (F.cross_entropy(SCORES, t, reduction="none") for t in (TARGET, other))
    torch.testing.assert_close(found.total, (weight * one + (1 - weight) * two).sum())


def test_metrics_are_those_of_all_samples_together_and_not_means_of_batches() -> None:
    task = Classify()
    whole = task.measure(Fixed(SCORES), batch(), DRAW).sums
    parts = [
        task.measure(Fixed(SCORES[s]), {"input": torch.zeros(1), "target": TARGET[s]}, DRAW).sums
        for s in (slice(0, 3), slice(3, 4))
    ]
    added = {name: parts[0][name] + parts[1][name] for name in whole}
    assert task.metrics(added) == pytest.approx(task.metrics(whole))
    assert task.metrics(whole)["accuracy"] == 0.5
    assert task.metrics(whole)["loss"] == pytest.approx(float(F.cross_entropy(SCORES, TARGET)), rel=1e-6)


def test_balanced_weights_are_in_inverse_proportion_to_the_training_counts() -> None:
    dataset = open_data(DataConfig(source="breast-cancer"))
    few, many = dataset.class_counts
    resolved = Classify(class_weights="balanced").resolve(dataset)
    assert isinstance(resolved, Classify)
    assert resolved.class_weights == pytest.approx(((few + many) / (2 * few), (few + many) / (2 * many)))


@pytest.mark.parametrize(
    ("loss", "score", "probability"),
    [("binary_cross_entropy", 0.0, 0.5), ("hinge", 0.0, 0.5), ("mean_squared_error", 0.5, 0.5), ("hinge", 9.0, 1.0)],
)
def test_a_single_output_gives_probabilities_of_both_classes(loss: Any, score: float, probability: float) -> None:
    found = Classify(loss=loss).probabilities(torch.tensor([[score]]))
    assert found.tolist()[0] == pytest.approx([1 - probability, probability], abs=1e-3)


def test_mistakes_are_the_most_confident_first() -> None:
    task = Classify()
    measure = task.measure(Fixed(SCORES), batch(), DRAW)
    found = task.findings(measure.sums, measure.per_sample, ("a", "b", "c"))
    assert [m["sample"] for m in found.mistakes] == [1, 3]
    assert found.mistakes[0]["true"] == "b" and found.mistakes[0]["predicted"] == "c"
    assert found.mistakes[0]["confidence"] >= found.mistakes[1]["confidence"]
    assert found.confusion == [[1, 0, 0], [0, 1, 1], [0, 1, 0]]


def test_an_answer_names_the_likeliest_classes() -> None:
    context = Answering(("a", "b", "c"), None, torch.device("cpu"))
    answers = Classify().answers(Fixed(SCORES), torch.zeros(4, 1), context)
    assert [a["label"] for a in answers] == ["a", "c", "b", "b"]
    assert [entry["label"] for entry in answers[0]["top"]] == ["a", "c", "b"]


def test_an_option_that_the_loss_does_not_know_is_refused() -> None:
    dataset = open_data(DataConfig(source="iris"))
    with pytest.raises(ConfigError, match=r"task\.label_smoothing has no meaning for task\.loss=hinge"):
        Classify(loss="hinge", label_smoothing=0.1).resolve(dataset)
