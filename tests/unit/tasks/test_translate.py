"""Texts from texts: the loss is that of real tokens, the scores those of what is written, and a run does it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig, Dataset
from strata.data.loader import in_order
from strata.device import decide
from strata.errors import ConfigError
from strata.models import build
from strata.models.gpt import GPTConfig
from strata.models.seq2seq import Seq2SeqConfig
from strata.models.transformer import TransformerConfig
from strata.predict.run import Run
from strata.report.report import write_report
from strata.tasks import Draw
from strata.tasks.base import Answering
from strata.tasks.translate import Translate
from strata.train.evaluate import evaluate

COLORS, ANIMALS, VERBS = ["red", "green", "old", "small"], ["dog", "cat", "cow", "bird"], ["runs", "sleeps"]
ENGLISH = [f"A {color} {animal} {verb}." for color in COLORS for animal in ANIMALS for verb in VERBS]
BACKWARDS = [" ".join(text.removesuffix(".").split()[::-1]) + "!" for text in ENGLISH]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.mkdir()
    for part, lines in (("train", slice(None)), ("val", slice(0, 12)), ("test", slice(4, 14))):
        for language, texts in (("en", ENGLISH), ("xx", BACKWARDS)):
            (path / f"{part}.{language}").write_text("\n".join(texts[lines]) + "\n")
    return path


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_data(DataConfig(source=str(folder), tokens="word"))


def small(dataset: Dataset) -> Any:
    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=2, num_heads=2, width=16, hidden_width=32, dropout=0.0, context=32, **dataset.sizes
    )
    return build(config).double().eval()


def answering(dataset: Dataset) -> Answering:
    return Answering((), dataset.preprocess, torch.device("cpu"))


@torch.no_grad()
def test_the_loss_counts_real_target_tokens_alone_and_pads_change_nothing(dataset: Dataset) -> None:
    task, model, split = Translate(label_smoothing=0.2), small(dataset), dataset.splits["train"]
    zeros = torch.zeros(4, dtype=torch.int64)
    batch = split.gather(torch.tensor([0, 5, 9, 20]), zeros)
    whole = task.objective(model, batch, "train", Draw(0, 0, zeros))
    alone = [split.gather(torch.tensor([k]), zeros[:1]) for k in (0, 5, 9, 20)]
    parts = [task.objective(model, one, "train", Draw(0, 0, zeros)) for one in alone]
    assert float(whole.total) == pytest.approx(float(sum(part.total for part in parts)), rel=1e-6)
    assert int(whole.count) == sum(int(one["target_mask"].sum()) - 1 for one in alone)
    wide = batch | {"target": torch.nn.functional.pad(batch["target"], (0, 3), value=7)}
    wide["target_mask"] = torch.nn.functional.pad(batch["target_mask"], (0, 3))
    padded = task.objective(model, wide, "train", Draw(0, 0, zeros))
    assert float(padded.total) == pytest.approx(float(whole.total), rel=1e-6)
    logits = model(batch["input"], batch["target"][:, :-1], source_mask_BS=batch["mask"])
    wanted = batch["target"][:, 1:].masked_fill(~batch["target_mask"][:, 1:], -100)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), label_smoothing=0.2)
    assert float(whole.total / whole.count) == pytest.approx(float(expected), rel=1e-6)


def test_validation_writes_as_many_as_asked_and_the_test_all(dataset: Dataset) -> None:
    task, model = Translate(written_at_most=5, beams=2), small(dataset)
    setup = decide(device="cpu", precision="fp32", compile=False, model=model)
    for part, count in (("validation", 5), ("test", 10)):
        split = task.split(dataset, part, model.config, training=False)
        found = evaluate(task, model, split, setup, lambda batch: batch, answering(dataset), batch_size=4)
        assert int(found.sums["texts"]) == count
        assert {"bleu", "bleu_lowercase", "chrf", "loss", "perplexity", "accuracy"} == set(found.metrics)
    without = Translate(written_at_most=0)
    split = without.split(dataset, "test", model.config, training=False)
    found = evaluate(without, model, split, setup, lambda batch: batch, answering(dataset), batch_size=4)
    assert set(found.metrics) == {"loss", "perplexity", "accuracy"}
    assert (task.main_metric, without.main_metric, Translate(judge="loss").main_metric) == ("bleu", "loss", "loss")


def test_what_is_written_together_is_what_is_written_alone(dataset: Dataset) -> None:
    model, context = small(dataset), answering(dataset)
    sources = [dataset.preprocess.read(text).tolist() for text in ("A red dog runs.", "dog", "A small cow.")]
    for beams in (1, 3):
        together = Translate()._write(model, sources, context, beams)
        alone = [Translate()._write(model, [source], context, beams)[0] for source in sources]
        assert together == alone


def test_models_that_read_only_one_text_are_refused(dataset: Dataset) -> None:
    with pytest.raises(
        ConfigError, match=r"'gpt' cannot do task 'translate'.*reads one text and writes another.*transformer"
    ):
        Translate().check_model(GPTConfig(), dataset)
    with pytest.raises(ConfigError, match=r"longest text has 7 tokens.*model\.context=4"):
        Translate().check_model(TransformerConfig(context=4), dataset)


def test_a_run_learns_to_turn_sentences_round_and_shows_where_it_looked(folder: Path, tmp_path: Path) -> None:
    recipe = strata.recipe(
        "translate",
        data=str(folder),
        model={"num_layers": 1, "num_heads": 2, "width": 32, "hidden_width": 64, "dropout": 0.0},
        train={"steps": 90, "batch_size": 16, "evaluate_every": 90, "learning_rate": 0.02, "ema": 0.9},
        task={"beams": 2},
    )
    recipe = recipe.set({"data.tokens": "word"})
    run: Run = strata.train(recipe, runs=tmp_path / "runs")
    assert run.metrics["test"]["bleu"] > 90
    assert run.predict("A red dog runs.")["text"] == "runs dog red A!"
    found = run.evaluate()
    assert found.metrics["bleu"] == run.metrics["test"]["bleu"]
    assert found.notes[0].startswith("bleu: nrefs:1|case:mixed|eff:no|tok:13a")
    seen = run.attention("A red dog runs.")
    assert seen.source == ("A", "red", "dog", "runs", ".", "</s>")
    assert [sum(row) for row in seen.weights] == pytest.approx([1.0] * len(seen.target), abs=0.01)
    picture = seen.save(tmp_path / "map.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert "What it writes" in page and f"<td>{run.predict(ENGLISH[4])['text']}</td>" in page
    assert 'aria-label="For:' in page and "NAME0" not in page  # tokens stand where they were drawn by stand-ins


def test_a_net_without_attention_says_that_it_looks_at_nothing(dataset: Dataset) -> None:
    config = Seq2SeqConfig(attention="none", width=8, embedding_width=8, bidirectional=False, **dataset.sizes)
    model, context = build(config).eval(), answering(dataset)
    with pytest.raises(ConfigError, match="no attention to look at"):
        Translate().attention(model, dataset.preprocess.read("A dog runs.").tolist(), context)
    shown = Translate(beams=1).examples(model, dataset, "test", context)
    assert len(shown) == 5 and not any("attention" in example for example in shown)
    assert shown[0]["source"] == ENGLISH[4] and shown[0]["references"] == [BACKWARDS[4]]


def test_batches_of_training_are_no_longer_than_their_longest_text(dataset: Dataset) -> None:
    split: Any = dataset.splits["train"]
    batch = next(iter(in_order(split, 8, torch.device("cpu"))))
    assert batch["mask"].any(0).all() and batch["target_mask"].any(0).all()
