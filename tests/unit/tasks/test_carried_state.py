"""Truncated backpropagation: a text read in its order, and the state handed on from window to window."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata
from strata.checkpoint import store
from strata.data.dataset import Dataset
from strata.data.loader import Loader, in_order
from strata.data.text import StreamSplit, TokenSplit
from strata.data.tokens import TextPreprocess
from strata.models.gpt import TINY as GPT_TINY
from strata.models.rnn import RNN, TINY
from strata.tasks import Draw
from strata.tasks.next_token import NextToken

CONTEXT = 4
CPU = torch.device("cpu")


def stream(windows: int) -> StreamSplit:
    return TokenSplit(torch.arange(windows * CONTEXT + 2) % 11).stream(CONTEXT)


def loader(split: StreamSplit, rows: int) -> Loader:
    return Loader(split, batch_size=rows, seed=0, stream="train", device=CPU, prepare=lambda batch, step: batch)


def model(**changes: Any) -> RNN:
    torch.manual_seed(0)
    return RNN(dataclasses.replace(TINY, dropout=0.0, **changes)).double()


@pytest.mark.parametrize(("windows", "rows"), [(12, 3), (11, 3), (5, 5), (7, 1)])
def test_each_row_goes_on_where_it_stopped_and_begins_anew_with_the_text(windows: int, rows: int) -> None:
    read = loader(stream(windows), rows)
    batches = [read.batch(number, number) for number in range(2 * windows)]
    for one, two in itertools.pairwise(batches):
        goes_on = one["target"][:, -1] == two["input"][:, 0]
        assert bool((goes_on | two["begins"]).all())
        assert torch.equal(two["sample"], (one["sample"] + 1) % windows)
        assert torch.equal(two["begins"], two["sample"] == 0)
    if windows % rows == 0:  # an epoch has every window once
        seen = torch.cat([batch["sample"] for batch in batches[: windows // rows]])
        assert seen.sort().values.tolist() == list(range(windows))


@pytest.mark.parametrize(("windows", "rows"), [(12, 3), (11, 3), (2, 5), (7, 1)])
def test_an_evaluation_reads_every_window_once_and_each_row_in_order(windows: int, rows: int) -> None:
    batches = [batch["sample"].tolist() for batch in in_order(stream(windows), rows, CPU)]
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(windows))
    for one, two in itertools.pairwise(batches):
        assert len(two) <= len(one) <= rows
        assert two == [place + 1 for place in one[: len(two)]]


def test_windows_handed_on_give_the_loss_of_the_text_read_at_once() -> None:
    split, net, carried, total = stream(6), model().eval(), dict[str, Tensor](), 0.0
    for batch in in_order(split, 1, CPU):
        total += float(NextToken().measure(net, batch, Draw(0, 0, batch["sample"], carried)).sums["loss"])
    token_T = split.token_N[: 6 * CONTEXT + 1].to(torch.int64)
    whole = torch.nn.functional.cross_entropy(net(token_T[None, :-1])[0], token_T[1:], reduction="sum")
    assert total == pytest.approx(whole.item(), rel=1e-6)


def test_gradients_end_at_the_windows_edge_and_the_state_does_not() -> None:
    task, net, carried = NextToken(), model(), dict[str, Tensor]()
    one, two = (loader(stream(6), 2).batch(number, 0) for number in range(2))
    task.objective(net, one, "train", Draw(0, 0, one["sample"], carried)).total.backward()
    assert carried and not any(state.requires_grad for state in carried.values())
    before = {name: state.clone() for name, state in carried.items()}
    net.zero_grad()
    task.objective(net, two, "train", Draw(0, 1, two["sample"], carried)).total.backward()
    found = net.recurrent.layers[0][0].weight_hidden.grad  # type: ignore[index]
    net.zero_grad()
    cache = net.new_cache(2)
    cache.take_up(before, torch.zeros(2, dtype=torch.bool))
    logits = net(two["input"], cache=cache)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), two["target"].flatten(), reduction="sum").backward()
    torch.testing.assert_close(found, net.recurrent.layers[0][0].weight_hidden.grad)  # type: ignore[index]
    assert not torch.equal(carried["0"], before["0"])


def test_a_row_whose_text_begins_anew_begins_without_a_state() -> None:
    net, carried, batch = model().eval(), dict[str, Tensor](), loader(stream(4), 2).batch(0, 0)
    batch = batch | {"begins": torch.tensor([True, False])}
    fresh = NextToken().measure(net, batch, Draw(0, 0, batch["sample"])).sums["loss"]
    NextToken().measure(net, batch, Draw(0, 0, batch["sample"], carried))
    half = {name: value[:1] for name, value in batch.items()}
    again = NextToken().measure(net, half, Draw(0, 0, half["sample"], carried)).sums["loss"]
    alone = NextToken().measure(net, half, Draw(0, 0, half["sample"])).sums["loss"]
    assert torch.equal(again, alone) and again < fresh


def test_only_a_model_that_carries_its_state_reads_in_order() -> None:
    splits: Any = {"train": TokenSplit(torch.arange(200))}
    preprocess = TextPreprocess(tokens="byte")
    dataset = Dataset(name="", kind="text", target_kind=None, splits=splits, sizes={}, preprocess=preprocess)
    assert isinstance(NextToken().split(dataset, "train", TINY, training=True), StreamSplit)
    assert not isinstance(NextToken().split(dataset, "train", GPT_TINY, training=True), StreamSplit)


def test_the_state_is_a_part_of_the_checkpoint(tmp_path: Path, digest: Callable[[Path], str]) -> None:
    """Without it a run resumed would go on from an empty state, and end elsewhere."""
    text = tmp_path / "corpus.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    settings = {"data": str(text), "model.width": 8, "model.embedding_width": 8, "model.context": 8}
    settings |= {"train.steps": 4, "train.batch_size": 2, "train.accumulate": 2, "train.device": "cpu"}
    settings |= {"train.evaluate_every": 100}
    run = strata.train("char-lstm", settings, runs=tmp_path)
    loaded = store.load_newest(run.folder / "checkpoints")
    assert loaded is not None
    carried = {name: tensor for name, tensor in loaded[1].items() if name.startswith("carried/")}
    assert sorted(carried) == [f"carried/train {micro}/{layer}" for micro in (0, 1) for layer in (0, 1)]
    assert all(tensor.shape == (2, 2, 8) and tensor.abs().sum() > 0 for tensor in carried.values())
    assert run.evaluate("validation", device="cpu").metrics == run.metrics["validation"]
    assert len(run.generate("the ", tokens=20)) > 20


def test_the_report_shows_how_far_back_gradients_reach(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be that is the question\n" * 60)
    settings = {"train.steps": 4, "train.batch_size": 4, "model.width": 8, "model.embedding_width": 8}
    run = strata.train(
        strata.recipe("char-lstm", data=str(path), **settings, **{"model.context": 12}), runs=tmp_path / "runs"
    )
    assert run.finished is not None
    flow = run.finished["gradient_flow"]
    assert [len(layer) for layer in flow] == [11, 11]
    assert "Flow of gradients through time" in (run.folder / "report.html").read_text(encoding="utf-8")
    gpt = strata.train(
        strata.recipe(
            "gpt", data=str(path), **{"train.steps": 1, "model.width": 8, "model.num_heads": 1, "model.context": 12}
        ),
        runs=tmp_path / "runs",
    )
    assert gpt.finished is not None
    assert "gradient_flow" not in gpt.finished
