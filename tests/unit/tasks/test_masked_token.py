"""Hidden words: how many, which, behind what; the loss over them alone; and masks that a person fills in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig
from strata.data.text import WindowSplit
from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError
from strata.models.bert import TINY, Bert
from strata.models.gpt import GPTConfig
from strata.tasks import Draw
from strata.tasks.masked_token import MaskableSplit, MaskedToken, chosen_words
from strata.tasks.next_token import NextToken

LENGTH, VOCABULARY, SPECIAL, MASK = 128, 1000, (0, 1, 4, 7), 4
TASK = MaskedToken(mask_token=MASK, special_tokens=SPECIAL, num_tokens=VOCABULARY)
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven"]


def draw(step: int = 0, first: int = 0, count: int = 400) -> Draw:
    return Draw(3, step, torch.arange(first, first + count))


def windows(count: int = 400) -> tuple[Tensor, Tensor]:
    """Return tokens, special ones at both ends, and words of one to four tokens."""
    generator = torch.Generator().manual_seed(0)
    token_BT = torch.randint(8, VOCABULARY, (count, LENGTH), generator=generator)
    begins_BT = torch.rand(count, LENGTH, generator=generator) < 0.6
    begins_BT[:, 0] = begins_BT[:, ::4] = True
    word_BT = begins_BT.cumsum(1) - 1
    token_BT[:, 0], token_BT[:, -1] = 0, 1
    word_BT[:, 0] = word_BT[:, -1] = -1
    return token_BT, word_BT


def test_fifteen_percent_are_hidden_eight_in_ten_of_them_behind_a_mask_and_one_behind_another_token() -> None:
    token_BT, _ = windows()
    word_BT = torch.arange(LENGTH).expand(len(token_BT), -1)
    seen_BT, place_BK, true_BK = TASK.hide(token_BT, word_BT, draw())
    assert place_BK.shape == (400, round(0.15 * LENGTH)) and bool((true_BK != -100).all())
    assert torch.equal(true_BK, token_BT.gather(1, place_BK))
    shown_BK = seen_BT.gather(1, place_BK)
    masked, kept = (shown_BK == MASK).double().mean(), (shown_BK == true_BK).double().mean()
    assert float(masked) == pytest.approx(0.8, abs=0.015)
    assert float(kept) == pytest.approx(0.1, abs=0.012)
    assert int((seen_BT != token_BT).sum()) == int((shown_BK != true_BK).sum()), "a token changed that was not chosen"


def test_words_are_hidden_whole_and_special_tokens_never() -> None:
    token_BT, word_BT = windows()
    most = round(0.15 * LENGTH)
    _, place_BK, true_BK = TASK.hide(token_BT, word_BT, draw())
    chosen_BT = torch.zeros_like(word_BT, dtype=torch.bool).scatter(1, place_BK, true_BK != -100)
    assert not chosen_BT[word_BT == -1].any()
    count_B = chosen_BT.sum(1)
    assert int(count_B.max()) <= most and float(count_B.double().mean()) > 0.98 * most
    for chosen_T, word_T in zip(chosen_BT[:50], word_BT[:50], strict=True):
        words = set(word_T[chosen_T].tolist())
        assert chosen_T.tolist() == [word in words for word in word_T.tolist()]
    share_T = chosen_BT[:, 1:-1].double().mean(0)
    assert float(share_T.min()) > 0.08 and float(share_T.max()) < 0.24, "some places are hidden more often than others"


def test_a_word_too_long_for_the_share_leaves_it_to_shorter_ones() -> None:
    word_BT = torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
    chosen_BT = chosen_words(word_BT, 2, torch.tensor([[0.1, 0.2, 0.4, 0.3, 0.9, 0.9, 0.9]]))
    assert chosen_BT.tolist() == [[False] * 4 + [True, False, True]]


def test_another_token_is_any_but_a_special_one() -> None:
    task = dataclasses.replace(TASK, num_tokens=12)
    ordinary = sorted(set(range(12)) - set(SPECIAL))
    uniform_BK = (torch.arange(8) + 0.5)[None] / 8
    assert task._ordinary(uniform_BK).tolist() == [ordinary]
    assert task._ordinary(torch.tensor([[0.0, 1 - 2**-24]])).tolist() == [[ordinary[0], ordinary[-1]]]


def test_what_is_hidden_depends_on_seed_step_and_sample_alone() -> None:
    token_BT, word_BT = windows(8)
    whole = TASK.hide(token_BT, word_BT, draw(count=8))
    part = TASK.hide(token_BT[4:], word_BT[4:], draw(first=4, count=4))
    assert all(torch.equal(a[4:], b) for a, b in zip(whole, part, strict=True))
    assert not torch.equal(whole[0], TASK.hide(token_BT, word_BT, draw(step=1, count=8))[0])


def test_the_loss_is_the_cross_entropy_at_hidden_places_and_the_vocabularys_layer_reads_no_others() -> None:
    torch.manual_seed(0)
    model = Bert(dataclasses.replace(TINY, context=40)).double().eval()
    task = MaskedToken(mask_token=1, special_tokens=(0, 1), num_tokens=TINY.vocab_size)
    token_BT = torch.randint(2, TINY.vocab_size, (3, 40))
    batch = {"input": token_BT, "word": torch.arange(40).expand(3, -1) // 2}
    seen_BT, place_BK, true_BK = task.hide(token_BT, batch["word"], draw(count=3))
    with torch.no_grad():
        logits_BKV = model(seen_BT).gather(1, place_BK[..., None].expand(-1, -1, TINY.vocab_size))
    expected = F.cross_entropy(logits_BKV.flatten(0, 1), true_BK.flatten(), reduction="sum")
    rows: list[int] = []
    head: Any = model.head
    head.dense.register_forward_hook(lambda layer, read, _: rows.append(read[0].flatten(0, -2).shape[0]))
    loss = task.objective(model, batch, "train", draw(count=3))
    sums = task.measure(model, batch, draw(count=3)).sums
    assert float(loss.total.detach()) == pytest.approx(float(expected), rel=1e-12)
    assert rows == [3 * 6, 3 * 6], "the head reads other places than the hidden ones"
    found, count = task.metrics(sums, {}), int((true_BK != -100).sum())
    hits = int((logits_BKV.argmax(-1) == true_BK).sum())
    assert found["loss"] == pytest.approx(float(expected) / count, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"])) and found["accuracy"] == hits / count


# ------------------------------------------------------------------------------------------------ text and use


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text that says one word again and again, then another, so that what is hidden is plain."""
    path = tmp_path_factory.mktemp("corpus") / "counting.txt"
    path.write_text(" ".join(NUMBERS[k // 40 % 7] for k in range(4000)))
    return path


def small(corpus: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": str(corpus),
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.width": 64,
        "model.hidden_width": 64,
        "model.context": 16,
        "train.steps": 100,
        "train.optimizer": "adamw",
        "train.learning_rate": 5e-3,
        "train.weight_decay": 0.0,
        "train.evaluate_every": 1000,
        "train.device": "cpu",
    } | more


def test_windows_stand_between_marks_and_know_where_words_begin(corpus: Path) -> None:
    dataset = open_data(DataConfig(source=str(corpus), tokens="wordpiece"))
    text: TextPreprocess = dataset.tokenizer
    task = MaskedToken().resolve(dataset)
    split = task.split(dataset, "train", dataclasses.replace(TINY, context=12), training=False)
    assert isinstance(split, MaskableSplit) and isinstance(split.windows, WindowSplit)
    batch = split.gather(torch.tensor([0, 3]), torch.zeros(2, dtype=torch.int64))
    assert batch["input"].shape == (2, 12) and split.context == 12
    assert batch["input"][:, 0].tolist() == [text.cls] * 2 and batch["input"][:, -1].tolist() == [text.sep] * 2
    assert batch["word"][:, 0].tolist() == batch["word"][:, -1].tolist() == [-1, -1]
    begins = text.word_starts()
    for token_T, word_T in zip(batch["input"].tolist(), batch["word"].tolist(), strict=True):
        for k in range(2, 11):
            assert (word_T[k] == word_T[k - 1] + 1) == bool(begins[token_T[k]])
    single = MaskedToken(whole_words=False).split(
        dataset, "train", dataclasses.replace(TINY, context=12), training=True
    )
    assert single.gather(torch.tensor([0]), torch.tensor([0]))["word"][0, 1:11].diff().tolist() == [1] * 9


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return strata.train("bert", small(corpus), runs=tmp_path_factory.mktemp("runs"))


def test_a_mask_is_filled_with_the_word_that_both_sides_ask_for(run: Any) -> None:
    for number in NUMBERS:
        words = 14 * [number]
        found = run.predict(" ".join(["[MASK]", *words[1:]]))
        (likeliest,) = found["masks"]
        assert likeliest[0]["text"] == number and likeliest[0]["probability"] > 0.5
        assert len(likeliest) == 5 and found["text"] == " ".join(words)
    assert len(run.predict("two <mask> two two [MASK] two")["masks"]) == 2
    with pytest.raises(DataError, match=r"no mask to fill in\. Write \[MASK\]"):
        run.predict("one two three")


def test_the_command_line_shows_the_likeliest_words(run: Any, strata_command: Callable[..., Any]) -> None:
    text = "one one one [MASK] one one one one one one one one one one"
    shown = strata_command("predict", str(run.folder), text, "--top", "2")
    assert shown.code == 0 and ": one " in shown.out and shown.out.count("%") == 2


def test_an_evaluation_hides_the_same_words_each_time(run: Any) -> None:
    assert run.evaluate("test").metrics == run.metrics["test"]


@pytest.mark.parametrize(
    ("task", "model", "words"),
    [
        (MaskedToken(), GPTConfig(), r"'gpt' cannot do task 'masked_token': it reads a text from left to right.* bert"),
        (NextToken(), TINY, r"'bert' cannot do task 'next_token': it looks at all of a text at once.*: rnn, gpt\."),
    ],
)
def test_a_model_that_reads_another_way_is_refused(corpus: Path, task: Any, model: Any, words: str) -> None:
    dataset = open_data(DataConfig(source=str(corpus), tokens="wordpiece"))
    with pytest.raises(ConfigError, match=words):
        task.resolve(dataset).check_model(model, dataset)


def test_tokens_without_a_mask_are_refused_and_shares_that_are_too_large(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"\(character\) have no mask .* data.tokens=wordpiece"):
        MaskedToken().resolve(open_data(DataConfig(source=str(corpus))))
    dataset = open_data(DataConfig(source=str(corpus), tokens="bpe"))
    with pytest.raises(ConfigError, match="add up to more than 1"):
        MaskedToken(masked=0.8, replaced=0.3).resolve(dataset)
