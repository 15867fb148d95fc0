"""Classification: each loss learns, and its numbers are those of the definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig, Dataset
from strata.errors import ConfigError
from strata.tasks import Draw
from strata.tasks.base import Answering, Evaluation
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
    assert task.metrics(added, {}) == pytest.approx(task.metrics(whole, {}))
    assert task.metrics(whole, {})["accuracy"] == 0.5
    assert task.metrics(whole, {})["loss"] == pytest.approx(float(F.cross_entropy(SCORES, TARGET)), rel=1e-6)


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
    with pytest.raises(
        ConfigError, match=r"task\.label_smoothing has no meaning for task\.loss=hinge\. Set task\.label_smoothing=0"
    ):
        Classify(loss="hinge", label_smoothing=0.1).resolve(dataset)


def of_two(seed: int = 0, n: int = 600) -> tuple[Tensor, Tensor]:
    """Return scores of two classes that are right by chance as a softmax of half of them says, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.zeros(n), 6 * torch.randn(n, generator=generator)], 1)
    return scores, (torch.rand(n, generator=generator) < (scores / 2).softmax(1)[:, 1]).long()


def evaluated(task: Classify, scores: Tensor, target: Tensor) -> Evaluation:
    found = task.measure(Fixed(scores), {"input": torch.zeros(len(target), 1), "target": target}, DRAW)
    return Evaluation(task.metrics(found.sums, found.per_sample), found.sums, found.per_sample)


class TwoHeads(nn.Module):
    """A main head and one that only helps in training."""

    def forward(self, x: Tensor) -> Any:
        return (SCORES, SCORES.flip(1)) if self.training else SCORES


@pytest.mark.parametrize("task", [Classify(), Classify(class_weights=(1.0, 2.0, 5.0), auxiliary_weight=0.5)])
def test_a_further_head_adds_its_weighted_loss_and_no_samples(task: Classify) -> None:
    found = task.objective(TwoHeads().train(), batch(), "train", DRAW)
    main, other = (task.objective(Fixed(s), batch(), "train", DRAW) for s in (SCORES, SCORES.flip(1)))
    torch.testing.assert_close(found.total, main.total + task.auxiliary_weight * other.total)
    assert float(torch.as_tensor(found.count)) == float(torch.as_tensor(main.count))
    assert task.measure(TwoHeads().eval(), batch(), DRAW).per_sample["scores"].equal(SCORES)


def test_the_temperature_is_the_one_by_which_the_scores_boast() -> None:
    scores, target = of_two(n=4000)
    task = Classify(calibrate=True, positive_class=1)
    before = evaluated(task, scores, target)
    fitted = task.after_training(before)
    assert isinstance(fitted, Classify) and fitted.temperature == pytest.approx(2, rel=0.08)
    after = evaluated(fitted, *of_two(1, 4000))
    assert after.metrics["ece"] < 0.03 < 0.05 < before.metrics["ece"]
    assert after.metrics["loss"] < evaluated(task, *of_two(1, 4000)).metrics["loss"]


def test_a_single_output_calibrates_as_two_do() -> None:
    scores, target = of_two()
    fitted = [
        task.after_training(evaluated(task, s, target))
        for task, s in (
            (Classify(calibrate=True), scores),
            (Classify(calibrate=True, loss="binary_cross_entropy"), scores[:, 1:]),
        )
    ]
    assert fitted[0].temperature == pytest.approx(fitted[1].temperature, rel=1e-9)  # type: ignore[attr-defined]


def test_where_every_answer_is_right_no_temperature_is_made_up(caplog: pytest.LogCaptureFixture) -> None:
    scores = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    task = Classify(calibrate=True)
    assert task.after_training(evaluated(task, scores, torch.tensor([0, 1]))) == task
    assert "No temperature calibrates" in caplog.text


def test_the_threshold_is_chosen_on_validation_and_the_curve_s_own_value_is_another_metric() -> None:
    task = Classify(specificity=0.9, positive_class=1)
    validation, test = of_two(0), of_two(1)
    first = evaluated(task, *validation)
    assert "sensitivity" not in first.metrics and "sensitivity_at_specificity" in first.metrics
    fitted = task.after_training(first)
    assert isinstance(fitted, Classify) and fitted.threshold is not None
    again = evaluated(fitted, *validation).metrics
    assert again["specificity"] >= 0.9 and again["sensitivity"] == again["sensitivity_at_specificity"]
    found = evaluated(fitted, *test).metrics
    chance, is_positive = test[0].double().softmax(1)[:, 1], test[1] == 1
    assert found["sensitivity"] == pytest.approx(float((chance[is_positive] >= fitted.threshold).double().mean()))
    assert found["specificity"] == pytest.approx(float((chance[~is_positive] < fitted.threshold).double().mean()))
    assert found["sensitivity_at_specificity"] != found["sensitivity"]


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_scores_whose_probabilities_round_to_one_are_still_ranked_and_their_threshold_works(loss: Any) -> None:
    scores, target = of_two()
    margin = 400 + 100 * (scores[:, 1] - scores[:, 0])
    large = torch.stack([torch.zeros_like(margin), margin], 1) if loss == "cross_entropy" else margin[:, None]
    task = Classify(loss=loss, positive_class=1, specificity=0.9)
    assert float(task.probabilities(large.double())[:, 1].median()) == 1
    found = evaluated(task, large, target)
    small = evaluated(Classify(positive_class=1, specificity=0.9), scores, target).metrics
    assert found.metrics["auroc"] == pytest.approx(small["auroc"], abs=1e-6)
    assert found.metrics["sensitivity_at_specificity"] == small["sensitivity_at_specificity"] > 0
    fitted = task.after_training(found)
    assert isinstance(fitted, Classify) and fitted.threshold == 1
    again = evaluated(fitted, large, target)
    assert again.metrics["sensitivity"] == found.metrics["sensitivity_at_specificity"]
    assert again.metrics["specificity"] >= 0.9
    told = fitted.findings(again.sums, again.per_sample, ("well", "ill")).detection
    answers = fitted.answers(Fixed(large), torch.zeros(600, 1), Answering(("well", "ill"), None, torch.device("cpu")))
    assert told is not None
    is_found = [answer["positive"]["found"] for answer in answers]
    assert sum(is_found) == told["found"] + told["negatives"] - told["left_alone"]


def test_log_odds_are_those_of_the_probabilities_where_these_can_be_told_apart() -> None:
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for task in (Classify(), Classify(loss="binary_cross_entropy", temperature=2.0)):
        torch.testing.assert_close(task.log_odds(scores), task.probabilities(scores).logit(), rtol=0, atol=1e-12)


def test_a_threshold_that_was_set_by_hand_counts_whatever_was_fitted() -> None:
    task = Classify(threshold=0.1, threshold_log_odds=-50.0, positive_class=1)
    context = Answering(("well", "ill"), None, torch.device("cpu"))
    answers = task.answers(Fixed(torch.tensor([[0.0, -1.0], [0.0, -5.0]])), torch.zeros(2, 1), context)
    assert [a["positive"]["found"] for a in answers] == [True, False]


def test_outputs_that_are_not_numbers_are_no_class_and_measure_as_nothing() -> None:
    task, scores = Classify(), torch.full((3, 3), torch.nan)
    scores[0] = 0.0
    found = evaluated(task, scores, torch.tensor([0, 1, 2]))
    assert all(math.isnan(found.metrics[name]) for name in ("accuracy", "precision", "recall", "f1"))
    assert found.per_sample["predicted"].tolist() == [0, -1, -1]
    findings = task.findings(found.sums, found.per_sample, ("a", "b", "c"))
    assert findings.mistakes == [] and findings.confusion == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_threshold_shows_in_the_answers_beside_the_likeliest_label() -> None:
    task = Classify(threshold=0.1, positive_class=1)
    scores = torch.tensor([[0.0, -1.0], [0.0, -5.0]])
    answers = task.answers(Fixed(scores), torch.zeros(2, 1), Answering(("well", "ill"), None, torch.device("cpu")))
    assert [a["label"] for a in answers] == ["well", "well"]
    assert [a["positive"]["found"] for a in answers] == [True, False]
    assert answers[0]["positive"]["label"] == "ill" and answers[0]["positive"]["threshold"] == 0.1


def test_auroc_is_left_out_where_one_class_occurs_or_scores_were_not_kept() -> None:
    scores, target = of_two()
    assert 0.9 < evaluated(Classify(positive_class=1), scores, target).metrics["auroc"] < 1
    assert "auroc" not in evaluated(Classify(positive_class=1), scores, torch.zeros_like(target)).metrics
    measure = Classify().measure(Fixed(SCORES), batch(), DRAW)
    assert "auroc" not in Classify().metrics(measure.sums, {})


def test_flip_test_answers_with_the_mean_of_a_picture_and_its_mirror_image() -> None:
    class Left(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, 0, :, 0]

    picture = torch.tensor([[[[1.0, 0.0, 4.0], [3.0, 0.0, -1.0]]]])
    task = Classify(flip_test=True)
    found = task.measure(Left(), {"input": picture, "target": torch.tensor([0])}, DRAW)
    assert found.per_sample["scores"].tolist() == [[2.5, 1.0]]
    answer = task.answers(Left(), picture, Answering(("a", "b"), None, torch.device("cpu")))[0]
    assert answer["probability"] == pytest.approx(float(torch.tensor([2.5, 1.0]).softmax(0)[0]))


def named(*labels: str) -> Dataset:
    return open_data(DataConfig(source="breast-cancer")).replace(labels=labels)


@pytest.mark.parametrize(
    ("labels", "positive", "number"),
    [
        (("malignant", "benign"), None, 0),
        (("Normal", "pneumonia"), None, 1),
        (("cat", "dog"), None, 1),
        (("0", "1"), None, 1),
        (("cat", "dog"), "Cat", 0),
    ],
)
def test_the_class_to_be_found_is_the_named_one_or_the_obvious_one(
    labels: tuple[str, str], positive: str | None, number: int
) -> None:
    dataset = named(*labels)
    found = Classify(positive=positive).resolve(dataset)
    assert isinstance(found, Classify) and found.positive_class == number
    assert found.notes(dataset) == (
        [] if positive else [f"the class to be found is {labels[number]!r} (task.positive chooses)"]
    )


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Classify(positive="ill"), r"task\.positive=ill is no class of this data"),
        (Classify(flip_test=True), r"task\.flip_test mirrors pictures; data 'breast-cancer' is of kind 'table'"),
        (Classify(calibrate=True, loss="hinge"), r"task\.calibrate has no meaning for task\.loss=hinge"),
    ],
)
def test_a_setting_that_the_data_cannot_serve_is_refused(task: Classify, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task.resolve(named("benign", "malignant"))


def test_what_is_fitted_to_validation_data_needs_some() -> None:
    dataset = open_data(DataConfig(source="breast-cancer", validation=0.0))
    with pytest.raises(ConfigError, match=r"task\.calibrate is fitted to validation data, and there is none"):
        Classify(calibrate=True).resolve(dataset)
    with pytest.raises(ConfigError, match=r"name it with task\.positive"):
        Classify(specificity=0.9).resolve(open_data(DataConfig(source="iris")))


def test_findings_say_how_one_class_is_found_and_how_true_probabilities_are() -> None:
    scores, target = of_two()
    task = Classify(positive_class=1, temperature=2.0, threshold=0.3, specificity=0.8)
    found = evaluated(task, scores, target)
    findings = task.findings(found.sums, found.per_sample, ("well", "ill"))
    told, probabilities = findings.detection, findings.calibration
    assert told is not None and probabilities is not None
    assert told["positive"] == "ill" and told["positives"] + told["negatives"] == 600
    assert told["found"] / told["positives"] == pytest.approx(found.metrics["sensitivity"])
    assert told["left_alone"] / told["negatives"] == pytest.approx(found.metrics["specificity"])
    assert told["interval"][0] < told["auroc"] == found.metrics["auroc"] < told["interval"][1]
    assert probabilities["ece"] == pytest.approx(found.metrics["ece"]) and probabilities["before"]["ece"] > 0.05
    assert [row["support"] for row in findings.classes] == [told["negatives"], told["positives"]]


def test_a_calibrated_run_is_saved_measured_and_used_with_what_validation_chose(tmp_path: Path) -> None:
    settings = {"task.calibrate": True, "task.specificity": 0.9, "task.main": "auroc", "train.steps": 40}
    run = strata.train("breast-cancer", settings | {"train.early_stopping": None, "train.device": "cpu"}, runs=tmp_path)
    task = run.predictor().task
    assert isinstance(task, Classify) and task.temperature != 1 and task.threshold is not None
    assert run.finished is not None and run.finished["main_metric"] == "auroc"
    assert run.metrics["validation"]["specificity"] >= 0.9
    assert run.evaluate().metrics == pytest.approx(run.metrics["test"], abs=1e-9)
    assert run.evaluate("validation").metrics == pytest.approx(run.metrics["validation"], abs=1e-9)
    assert "the class to be found is 'malignant'" in (run.folder / "log.txt").read_text()


def test_the_recipe_for_pneumonia_measures_a_threshold_and_warns_in_its_report(tmp_path: Path) -> None:
    random = numpy.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 160), ("val", 40), ("test", 40)):
        target = numpy.arange(n) % 2
        pictures = random.integers(0, 160, (n, 8, 8))
        pictures[target == 1, 2:6, 2:6] += 60
        arrays |= {f"{part}_images": pictures.astype("uint8"), f"{part}_labels": target[:, None]}
    numpy.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    settings = {"data": str(tmp_path / "pneumoniamnist.npz"), "data.labels": "normal,pneumonia", "data.limit": 128}
    settings |= {
        "model.width": 4,
        "model.depths": "1,1",
        "train.epochs": 6,
        "train.batch_size": 16,
        "train.device": "cpu",
        "train.ema": None,
    }
    run = strata.train("pneumonia", settings, runs=tmp_path)
    assert {"accuracy", "auroc", "sensitivity", "specificity", "sensitivity_at_specificity", "ece"} <= run.metrics[
        "test"
    ].keys()
    assert "Before this is used on patients" in (run.folder / "report.html").read_text(encoding="utf-8")
    answer = run.predict(arrays["test_images"][1])
    assert answer["positive"]["label"] == "pneumonia"
