"""Vectors of texts: the loss is the papers', retrieval is exact, and runs learn which texts belong together."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import strata
from strata import metrics
from strata.data import DataConfig, Dataset, open_data
from strata.errors import ConfigError, DataError
from strata.models.bert import BertConfig
from strata.tasks import Draw
from strata.tasks.embed import Embed, neighbour_accuracy, retrieval, uniformity

COLOURS = {"red": "rot", "green": "gruen", "old": "alt", "small": "klein"}
ANIMALS = {"dog": "hund", "cat": "katze", "cow": "kuh", "bird": "vogel"}
PAIRS = [
    {"source": f"a {one} {two} runs", "target": f"{COLOURS[one]} rennt {ANIMALS[two]}"}
    for one, two in itertools.product(COLOURS, ANIMALS)
]
SMALL = {"num_layers": 1, "num_heads": 2, "width": 32, "hidden_width": 64, "context": 16}


def written(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(**{"source": str(path), "tokens": "word", "kind": "text_pairs", "test": 0} | settings))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return opened(written(tmp_path / "pairs.jsonl", PAIRS), validation=0)


def small(dataset: Dataset, **fields: Any) -> Any:
    torch.manual_seed(0)
    return strata.create("bert", **{**SMALL, "head": "embedding", **dataset.sizes, **fields}).double().eval()


def first(split: Any, count: int) -> dict[str, torch.Tensor]:
    index_B = torch.arange(count)
    batch: dict[str, torch.Tensor] = split.gather(index_B, torch.zeros_like(index_B))
    return batch


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_finding_the_partner_both_ways(dataset: Dataset) -> None:
    model, task = small(dataset), Embed(temperature=0.1)
    split: Any = task.split(dataset, "train", model.config, training=True)
    found = task.objective(model, first(split, 5), "train", Draw(0, 0, torch.arange(5)))
    alone = [[model(split.columns[side][k][None])[0] for k in range(5)] for side in ("input", "target")]
    expected = 0.0
    for one, other in (alone, alone[::-1]):
        for k in range(5):
            near = [math.exp(float(one[k] @ vector) / 0.1) for vector in other]
            expected -= math.log(near[k] / sum(near))
    assert (float(found.total), found.count) == (pytest.approx(expected, rel=1e-6), 10)


def test_both_sides_stand_between_the_same_marks_and_within_the_length(tmp_path: Path) -> None:
    long = {"source": "a red dog runs a red dog", "target": "a red dog runs a red dog"}
    dataset = opened(written(tmp_path / "pairs.jsonl", [long, *PAIRS[:4]]), validation=0, max_length=6)
    split: Any = Embed().split(dataset, "train", None, training=True)
    preprocess: Any = dataset.preprocess
    for k in range(len(split)):
        for side in ("input", "target"):
            token_T = split.columns[side][k]
            assert (int(token_T[0]), int(token_T[-1])) == (preprocess.start, preprocess.end) and len(token_T) <= 6
    k = next(k for k in range(len(split)) if dataset.splits["train"].describe(k)["source"] == long["source"])  # type: ignore[attr-defined]
    assert torch.equal(split.columns["input"][k], split.columns["target"][k])
    assert torch.equal(Embed().read(long["source"], preprocess), split.columns["input"][k])
    with pytest.raises(ConfigError, match=r"The longest text has 6 tokens.*model\.context=8"):
        Embed().check_model(BertConfig(context=7), dataset)


def test_retrieval_is_exact_and_equal_vectors_find_nothing() -> None:
    torch.manual_seed(0)
    one_ND, other_ND = (F.normalize(torch.randn(7, 3), dim=-1) for _ in range(2))
    places = [int((one_ND[k] @ other_ND.T > one_ND[k] @ other_ND[k]).sum()) + 1 for k in range(7)]
    accuracy, mrr = retrieval(one_ND, other_ND)
    assert accuracy == pytest.approx(sum(place == 1 for place in places) / 7)
    assert mrr == pytest.approx(sum(1 / place for place in places) / 7)
    same_ND = torch.ones(7, 3) / math.sqrt(3)
    assert retrieval(same_ND, same_ND) == pytest.approx((1 / 7, 1 / 4))
    assert uniformity(same_ND) == pytest.approx(0.0, abs=1e-6)
    distance = torch.cdist(one_ND, one_ND)[~torch.eye(7, dtype=torch.bool)]
    assert uniformity(one_ND) == pytest.approx(float((-2 * distance.square()).exp().mean().log()), abs=1e-5)
    vector_ND = torch.eye(3)[[0, 0, 1, 1, 1]]
    assert neighbour_accuracy(vector_ND, torch.tensor([0, 0, 1, 1, 0])) == pytest.approx(4 / 5)


def test_rank_correlation_takes_the_mean_rank_of_ties() -> None:
    one_N, other_N = torch.tensor([1.0, 2.0, 2.0, 4.0, 9.0]), torch.tensor([3.0, 1.0, 5.0, 5.0, 8.0])
    ranks = torch.tensor([[1, 2.5, 2.5, 4, 5], [2, 1, 3.5, 3.5, 5]])
    assert metrics.spearman(one_N, other_N) == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))
    assert metrics.spearman(one_N, one_N.exp()) == pytest.approx(1.0)


def test_a_run_learns_to_find_partners_and_gives_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for part in ("train", "val"):
        written(folder / f"{part}.jsonl", PAIRS)
    settings = {"data": str(folder), "data.tokens": "word", "data.vocab_size": None, "data.max_length": 16}
    train = {"train.steps": 60, "train.batch_size": 16, "train.learning_rate": 3e-3, "train.evaluate_every": 60}
    recipe = strata.recipe("embed", model=SMALL).set(settings | train | {"train.device": "cpu"})
    run = strata.train(recipe, runs=tmp_path / "runs")
    found = run.metrics["validation"]
    assert found["retrieval_accuracy"] > 0.9 and found["mrr_back"] > 0.9 and found["uniformity"] < -0.5
    assert run.evaluate("validation").metrics == found
    one, partner, other = (
        torch.tensor(answer["vector"])
        for answer in run.predict([PAIRS[0]["source"], PAIRS[0]["target"], PAIRS[-1]["target"]])
    )
    assert float(one.norm()) == pytest.approx(1.0, abs=1e-5) and float(one @ partner) > float(one @ other) + 0.2


def test_texts_alone_are_told_apart_under_dropout(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(record["source"] + "\n" for record in PAIRS))
    dataset = opened(path, validation=0.25)
    task = Embed().resolve(dataset)
    assert task.main_metric == "loss" and "SimCSE" in task.notes(dataset)[0]
    with pytest.raises(ConfigError, match=r"model\.dropout=0\. Set it to 0\.1"):
        task.check_model(BertConfig(dropout=0.0), dataset)
    model, split = small(dataset, dropout=0.3).train(), task.split(dataset, "train", None, training=True)
    one_BD, other_BD = task._vectors(model, first(split, 4))
    assert not torch.allclose(one_BD, other_BD)
    model.eval()
    one_BD, other_BD = task._vectors(model, first(split, 4))
    assert torch.equal(one_BD, other_BD)


def test_texts_with_a_class_are_judged_by_their_nearest_neighbour(tmp_path: Path) -> None:
    rows = [{"text": record["source"], "label": record["source"].split()[2]} for record in PAIRS * 2]
    dataset = opened(written(tmp_path / "t.jsonl", rows), kind="sentences", validation=0)
    task, model = Embed().resolve(dataset), small(dataset)
    assert task.main_metric == "neighbour_accuracy"
    with torch.no_grad():
        measured = task.measure(model, first(dataset.splits["train"], 32), Draw(0, 0, torch.arange(32)))
    assert task.metrics(measured.sums, measured.per_sample)["neighbour_accuracy"] == 1.0  # each text is there twice


def test_pairs_with_a_score_are_brought_as_near_as_it_says(tmp_path: Path) -> None:
    rows = [{"sentence1": r["source"], "sentence2": r["target"], "score": k % 6} for k, r in enumerate(PAIRS)]
    dataset = opened(written(tmp_path / "sts.jsonl", rows), validation=0)
    task, model = Embed().resolve(dataset), small(dataset)
    assert (task.main_metric, task.greatest_score) == ("spearman", 5.0)
    batch = first(task.split(dataset, "train", None, training=True), 16)
    with torch.no_grad():
        measured = task.measure(model, batch, Draw(0, 0, torch.arange(16)))
    cosine_N = (measured.per_sample["vector"] * measured.per_sample["partner"]).sum(-1)
    found = task.metrics(measured.sums, measured.per_sample)
    assert found["loss"] == pytest.approx(float((cosine_N - batch["score"] / 5).square().mean()))
    assert found["spearman"] == pytest.approx(metrics.spearman(cosine_N, batch["score"]))
    with pytest.raises(DataError, match=r"Field 'score' of .* is 'x' in record 2 of the train split; a number"):
        opened(written(tmp_path / "bad.jsonl", [rows[0], rows[1] | {"score": "x"}]), validation=0)


def test_what_is_no_pairs_is_refused_with_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one text\n" * 30)
    dataset = open_data(DataConfig(source=str(tmp_path / "t.txt"), kind="text"))
    with pytest.raises(DataError, match=r"learns from pairs of texts that mean the same \(data\.kind=text_pairs\)"):
        Embed().resolve(dataset)
