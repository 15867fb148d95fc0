"""Spans left out of a text: the published lengths, nothing lost between source and target, the loss, and use."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig
from strata.data.tokens import sentinels
from strata.errors import ConfigError, DataError
from strata.models.bert import BertConfig
from strata.models.t5 import T5, T5Config
from strata.models.t5 import TINY as TINY_T5
from strata.models.transformer import TransformerConfig
from strata.tasks import Draw
from strata.tasks.span_corruption import (
    SpanCorruption,
    random_lengths,
    random_spans,
    spans_of,
    spans_written,
    window_length,
)

SENTINELS = tuple(range(900, 1000))
TASK = SpanCorruption(sentinel_tokens=SENTINELS, start_token=0, end_token=1)


def draw(step: int = 0, first: int = 0, count: int = 64) -> Draw:
    return Draw(3, step, torch.arange(first, first + count))


def test_a_window_of_568_tokens_makes_the_published_512_and_114() -> None:
    assert window_length(512, 0.15, 3.0) == 568
    source_BS, target_BT = TASK.leave_out(torch.randint(2, 900, (3, 568)), draw(count=3))
    assert source_BS.shape == (3, 512) and target_BT.shape == (3, 114)


@pytest.mark.parametrize("source_length", [8, 9, 31, 64, 128, 333])
def test_source_and_target_together_hold_the_text(source_length: int) -> None:
    length = window_length(source_length, 0.15, 3.0)
    left_out, spans = spans_of(length, 0.15, 3.0)
    token_BL = torch.randint(2, 900, (64, length), generator=torch.Generator().manual_seed(0))
    source_BS, target_BT = TASK.leave_out(token_BL, draw())
    assert source_BS.shape[1] <= source_length and target_BT.shape[1] == left_out + spans + 1
    assert source_BS[:, -1].unique().tolist() == target_BT[:, -1].unique().tolist() == [1]
    for text, source, target in zip(token_BL.tolist(), source_BS.tolist(), target_BT.tolist(), strict=True):
        written = spans_written(target[:-1], SENTINELS)
        asked = [token for token in source if token in SENTINELS]
        assert asked == list(SENTINELS[:spans]) == list(written) and all(written.values())
        assert [token for first in source[:-1] for token in written.get(first, [first])] == text


def test_spans_are_three_tokens_long_on_average_and_never_touch() -> None:
    length = 568
    left_out, spans = spans_of(length, 0.15, 3.0)
    out_BL = random_spans(length, left_out, spans, draw(count=300))
    assert out_BL.sum(1).unique().tolist() == [85] and not out_BL[:, 0].any() and bool(out_BL[:, -1].all())
    begins_BL = out_BL[:, 1:] & ~out_BL[:, :-1]
    assert begins_BL.sum(1).unique().tolist() == [28]
    share_L = out_BL[:, 20:-20].double().mean(0)
    assert float(share_L.mean()) == pytest.approx(0.15, abs=0.01) and float(share_L.max()) < 0.25


def test_all_ways_of_cutting_are_equally_likely() -> None:
    ways = Counter(map(tuple, random_lengths(5, 3, draw(count=6000), "any").tolist()))
    assert set(ways) == {(a, b, 5 - a - b) for a in (1, 2, 3) for b in (1, 2, 3) if a + b < 5}
    assert all(count == pytest.approx(1000, abs=120) for count in ways.values())
    assert random_lengths(3, 3, draw(count=2), "any").tolist() == [[1, 1, 1]] * 2


def test_what_is_left_out_depends_on_seed_step_and_sample_alone() -> None:
    token_BL = torch.randint(2, 900, (8, 50))
    whole, part = TASK.leave_out(token_BL, draw(count=8)), TASK.leave_out(token_BL[4:], draw(first=4, count=4))
    assert all(torch.equal(a[4:], b) for a, b in zip(whole, part, strict=True))
    assert not torch.equal(whole[0], TASK.leave_out(token_BL, draw(step=1, count=8))[0])


def test_the_loss_is_the_cross_entropy_of_the_target_after_the_start_token() -> None:
    torch.manual_seed(0)
    model = T5(dataclasses.replace(TINY_T5, vocab_size=30)).double().eval()
    task = SpanCorruption(source_length=20, sentinel_tokens=tuple(range(20, 30)), start_token=0, end_token=1)
    token_BL = torch.randint(2, 20, (3, window_length(20, 0.15, 3.0)))
    source_BS, target_BT = task.leave_out(token_BL, draw(count=3))
    begun_BT = torch.cat([torch.zeros(3, 1, dtype=torch.int64), target_BT[:, :-1]], dim=1)
    with torch.no_grad():
        logits_BTV = model(source_BS, begun_BT)
    expected = float(F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), reduction="sum"))
    loss = task.objective(model, {"input": token_BL}, "train", draw(count=3))
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-12)
    found = task.metrics(task.measure(model, {"input": token_BL}, draw(count=3)).sums, {})
    assert found["loss"] == pytest.approx(expected / target_BT.numel(), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["accuracy"] == float((logits_BTV.argmax(-1) == target_BT).double().mean())


# ------------------------------------------------------------------------------------------------ text and use


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text that counts round and round, so that what is left out is plain."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    path = tmp_path_factory.mktemp("corpus") / "counting.txt"
    path.write_text(" ".join(words[k % 11] for k in range(3000)))
    return path


def test_a_gap_is_filled_with_what_the_text_asks_for(corpus: Path, tmp_path: Path) -> None:
    settings = {
        "data": str(corpus),
        "data.tokens": "word",
        "data.sentinels": 8,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.width": 32,
        "model.head_width": 16,
        "model.hidden_width": 64,
        "task.source_length": 16,
        "train.steps": 100,
        "train.learning_rate": 1e-2,
        "train.evaluate_every": 1000,
        "train.device": "cpu",
    }
    run = strata.train("t5", settings, runs=tmp_path)
    assert run.metrics["test"]["accuracy"] > 0.9
    text = "five six seven eight nine ten eleven one two three four five six seven"
    found = run.predict(f"{text} <extra_id_0>")
    assert found["text"] == f"{text} eight nine ten" and found["spans"] == ["eight nine ten"]
    assert run.evaluate("test").metrics == run.metrics["test"]
    with pytest.raises(DataError, match=r"no gap to fill\. Write <extra_id_0>"):
        run.predict("two three")


def test_the_tokenizer_gets_the_sentinels_that_are_asked_for(corpus: Path) -> None:
    dataset = open_data(DataConfig(source=str(corpus), tokens="unigram", sentinels=3))
    text = dataset.tokenizer
    assert set(sentinels(3)) <= set(text.special_ids) and "<extra_id_3>" not in text.special_ids
    assert text.decode(text.encode("one <extra_id_1> two", marked=True)).split() == ["one", "two"]
    task = SpanCorruption(source_length=60).resolve(dataset)
    assert task.sentinel_tokens == tuple(text.special_ids[name] for name in sentinels(3))
    assert (task.start_token, task.end_token) == (text.start, text.end)


def test_too_few_sentinels_tokens_without_an_end_and_models_that_write_nothing_are_refused(corpus: Path) -> None:
    dataset = open_data(DataConfig(source=str(corpus), tokens="unigram", sentinels=3))
    with pytest.raises(DataError, match=r"28 spans left out, and the tokenizer has 3 .* data.sentinels=100"):
        SpanCorruption().resolve(dataset)
    with pytest.raises(DataError, match=r"\(character\) have no marks .* data.tokens=unigram"):
        SpanCorruption().resolve(open_data(DataConfig(source=str(corpus))))
    task = SpanCorruption(source_length=40).resolve(dataset)
    with pytest.raises(ConfigError, match=r"'bert' .*: it looks at all of a text at once.*seq2seq, transformer, t5"):
        task.check_model(BertConfig(), dataset)
    with pytest.raises(ConfigError, match=r"task.source_length=40 is more than model.context=32"):
        task.check_model(TransformerConfig(context=32), dataset)
    task.check_model(T5Config(), dataset)
