"""Conversations and preferences: the losses are those of the papers, and runs learn, resume and answer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import strata
from strata import losses
from strata.data import DataConfig, Dataset, open_data
from strata.data.chat import NOT_LEARNED
from strata.errors import ConfigError, DataError, RunError
from strata.models.gpt import GPTConfig
from strata.models.rnn import RNNConfig
from strata.predict.chat import Chat as Talk
from strata.tasks import Draw
from strata.tasks.chat import Chat
from strata.tasks.prefer import Prefer, log_probabilities

COLOURS = ("red", "blue", "green")
TALKS = [
    {"messages": [{"role": "user", "content": f"say {c}"}, {"role": "assistant", "content": f"it is {c}"}]}
    for c in COLOURS
]
PREFERENCES = [{"prompt": f"say {c}", "chosen": f"no {c}", "rejected": f"it is {c}"} for c in COLOURS]
SMALL = {"model": {"num_layers": 1, "num_heads": 2, "width": 32, "context": 40, "dropout": 0.0}}
PLAIN = {"data.tokens": "character", "data.vocab_size": None, "data.max_length": None, "data.test": 0}


def written(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def first(split: Any, count: int) -> dict[str, torch.Tensor]:
    index_B = torch.arange(count)
    batch: dict[str, torch.Tensor] = split.gather(index_B, torch.zeros_like(index_B))
    return batch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def talks(tmp_path: Path) -> Dataset:
    path = written(tmp_path / "talks.jsonl", TALKS)
    return open_data(DataConfig(source=str(path), tokens="character", validation=0, test=0))


@pytest.fixture
def preferences(tmp_path: Path) -> Dataset:
    path = written(tmp_path / "preferences.jsonl", PREFERENCES)
    return open_data(DataConfig(source=str(path), tokens="character", validation=0, test=0))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> strata.Run:
    """A run that has learned to answer."""
    folder = tmp_path_factory.mktemp("talker")
    path = written(folder / "talks.jsonl", TALKS * 8)
    train = {"train": {"steps": 120, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 120, "device": "cpu"}}
    return strata.train(
        strata.recipe("chat", data=str(path), **SMALL, **train).set(PLAIN | {"data.validation": 0.25}), runs=folder
    )


def small(dataset: Dataset, **fields: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "width": 16, "context": 64, **dataset.sizes}
    return strata.create("gpt", **settings | fields).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_loss_of_packed_conversations_is_that_of_each_alone(talks: Dataset, positions: str) -> None:
    model, split = small(talks, positions=positions, context=48), talks.splits["train"]
    packs: Any = Chat().split(talks, "train", model.config, training=True)
    assert len(packs) == 2  # of three conversations
    batch, draw = first(packs, 2), Draw(0, 0, torch.arange(2))
    together = Chat().objective(model, batch, "train", draw)
    total = count = 0.0
    for k in range(3):
        alone = split.gather(torch.tensor([k]), torch.zeros(1))
        kept = alone["target"] != NOT_LEARNED
        total += float(F.cross_entropy(model(alone["input"])[kept], alone["target"][kept], reduction="sum"))
        count += int(kept.sum())
    assert (float(together.total), int(together.count)) == (pytest.approx(total, rel=1e-9), count)
    assert count == sum(len(f"it is {c}") + 1 for c in COLOURS)  # each answer and its end, nothing that was asked
    measured = Chat().measure(model, batch, draw)
    assert Chat().metrics(measured.sums, {})["loss"] == pytest.approx(total / count, rel=1e-6)


def test_nets_that_remember_read_conversations_one_by_one(talks: Dataset) -> None:
    assert Chat().split(talks, "train", RNNConfig(**talks.sizes), training=True) is talks.splits["train"]


def test_a_conversation_too_long_for_the_model_is_refused_with_what_to_do(talks: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"model\.context=24, or cut texts: data\.max_length=16"):
        Chat().check_model(GPTConfig(context=18), talks)
    with pytest.raises(DataError, match="learns from pairs of answers"):
        Prefer().resolve(talks)


def test_a_run_learns_to_answer_and_is_talked_to_by_its_template(talker: strata.Run) -> None:
    assert talker.metrics["validation"]["accuracy"] > 0.95
    assert talker.predict("say blue")["text"] == "it is blue"
    answers = talker.predict(["say red", TALKS[2]["messages"][:1]])  # of different lengths
    assert [answer["text"] for answer in answers] == ["it is red", "it is green"]
    assert talker.generate("say red", tokens=12, temperature=0.0) == "say red\nit is red"
    chat = Talk(talker.predictor(), tokens=12, temperature=0.0)
    assert chat.answer("say green") == "it is green"
    assert (talker.folder / "samples").is_dir()
    shown = (talker.folder / "report.html").read_text(encoding="utf-8")
    assert "user: say " in shown and "it is " in shown


def test_new_tokens_begin_as_the_mean_of_all_others_and_lora_then_trains_the_embedding(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("say it is red blue green\n" * 60)
    train = {"train": {"steps": 2, "batch_size": 4, "device": "cpu"}}
    plain = strata.train(strata.recipe("gpt", data=str(tmp_path / "t.txt"), **SMALL, **train), runs=tmp_path)
    before = plain.model().token_embedding.weight
    talks = written(tmp_path / "talks.jsonl", TALKS * 8)
    settings = {"data": str(talks), "weights": str(plain.folder), "train.steps": 1, "train.learning_rate": 1e-12}
    for tune in ("full", "lora"):
        run = strata.train("chat-tune", settings | {"weights.tune": tune, "data.test": 0}, runs=tmp_path)
        started = next(record for record in run.records if record["event"] == "started")
        assert any("4 tokens are new to it" in note for note in started["data"]["notes"])
        after = run.model().token_embedding.weight
        assert after.shape[0] == before.shape[0] + 4
        torch.testing.assert_close(after[:-4], before, rtol=0, atol=1e-6)
        torch.testing.assert_close(after[-4:], before.mean(0).expand(4, -1), rtol=0, atol=1e-6)
    run = strata.train(
        "chat-tune",
        settings | {"weights.tune": "lora", "train.learning_rate": 1e-2, "train.steps": 4, "data.test": 0},
        runs=tmp_path,
    )
    after = run.model().state_dict()
    assert not torch.allclose(after["token_embedding.weight"][-4], after["token_embedding.weight"][-3])
    assert torch.equal(after["norm.weight"], plain.model().state_dict()["norm.weight"])  # which LoRA leaves alone


def test_the_loss_of_preferences_is_equation_7(preferences: Dataset) -> None:
    model, began, beta = small(preferences), small(preferences, num_layers=1), 0.3
    batch = first(preferences.splits["train"], 3)
    with torch.no_grad():
        reference = Prefer().reference(began, batch)
        found = Prefer(beta=beta).objective(model, batch | reference, "train", Draw(0, 0, torch.arange(3)))
        measured = Prefer(beta=beta).measure(model, batch | reference, Draw(0, 0, torch.arange(3)))
    expected, rewards = 0.0, []
    for k in range(3):
        ratio: dict[str, float] = {}
        for side, tokens, targets in (("chosen", "input", "target"), ("rejected", "rejected", "rejected_target")):
            ratio[side] = 0.0
            for net, sign in ((model, 1), (began, -1)):
                log_chance = net(batch[tokens][k][None])[0].log_softmax(-1).detach()
                for place, token in enumerate(batch[targets][k].tolist()):
                    if token != NOT_LEARNED:
                        ratio[side] += sign * float(log_chance[place, token])
        margin = beta * (ratio["chosen"] - ratio["rejected"])
        rewards.append((beta * ratio["chosen"], beta * ratio["rejected"]))
        expected += math.log1p(math.exp(-margin))
    assert (float(found.total), found.count) == (pytest.approx(expected, rel=1e-6), 3)
    metrics = Prefer(beta=beta).metrics(measured.sums, {})
    assert metrics["accuracy"] == sum(one > other for one, other in rewards) / 3
    assert metrics["margin"] == pytest.approx(sum(one - other for one, other in rewards) / 3, rel=1e-5)
    assert metrics["loss"] == pytest.approx(expected / 3, rel=1e-6)


def test_smoothing_takes_some_pairs_for_the_wrong_way_round() -> None:
    reward_B2 = torch.tensor([[2.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    right, wrong = Prefer._loss(reward_B2, 0.0), Prefer._loss(reward_B2.flip(1), 0.0)
    torch.testing.assert_close(Prefer._loss(reward_B2, 0.1), 0.9 * right + 0.1 * wrong, rtol=1e-12, atol=1e-12)


def test_gradients_are_the_same_where_logits_are_calculated_some_at_a_time(
    preferences: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, found = first(preferences.splits["train"], 3), []
    for numbers in (2**24, 100):
        monkeypatch.setattr(losses, "CHUNK_NUMBERS", numbers)
        model = small(preferences)
        log_probability_B2 = log_probabilities(model, batch)
        (log_probability_B2 * torch.tensor([1.0, -2.0], dtype=torch.float64)).sum().backward()
        found.append((log_probability_B2.detach(), *(p.grad for p in model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_run_learns_what_is_preferred_and_a_resumed_one_ends_bit_identical(
    tune: str, talker: strata.Run, tmp_path: Path
) -> None:
    path = written(tmp_path / "preferences.jsonl", PREFERENCES * 8)
    settings = {
        "data": str(path),
        "data.test": 0.0,
        "data.validation": 0.25,
        "weights": str(talker.folder),
        "weights.tune": tune,
        "train.steps": 12,
        "train.batch_size": 8,
        "train.learning_rate": 1e-2,
        "train.save_every": 4,
        "train.device": "cpu",
    }
    whole = strata.train("dpo", settings, runs=tmp_path / "whole")
    assert whole.metrics["validation"]["accuracy"] == 1.0 and whole.metrics["validation"]["margin"] > 0.5
    assert whole.evaluate("validation").metrics == pytest.approx(whole.metrics["validation"], rel=1e-5)

    def stop(event: Any) -> None:
        if event.kind == "saved" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strata.train("dpo", settings, runs=tmp_path / "cut", observers=[stop])
    resumed = strata.resume(next((tmp_path / "cut").iterdir()))
    for name, value in whole.model().state_dict().items():
        assert torch.equal(value, resumed.model().state_dict()[name]), name


def test_before_the_first_step_no_answer_is_preferred_to_its_pair(talker: strata.Run, tmp_path: Path) -> None:
    path = written(tmp_path / "preferences.jsonl", PREFERENCES * 4)
    settings = {"data": str(path), "data.test": 0.0, "data.validation": 0.5, "weights": str(talker.folder)}
    settings |= {"train.steps": 1, "train.learning_rate": 1e-12, "train.device": "cpu", "train.batch_size": 4}
    metrics = strata.train("dpo", settings, runs=tmp_path).metrics["validation"]
    assert metrics["margin"] == pytest.approx(0.0, abs=1e-5) and metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_run_whose_beginning_is_gone_says_so(talker: strata.Run, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(talker.folder, tmp_path / "talker"))
    path = written(tmp_path / "preferences.jsonl", PREFERENCES * 4)
    settings = {"data": str(path), "data.test": 0.0, "data.validation": 0.5, "weights": str(weights)}
    run = strata.train("dpo", settings | {"train.steps": 1, "train.batch_size": 4}, runs=tmp_path)
    shutil.rmtree(weights)
    with pytest.raises(RunError, match="held to the weights that it began from, and they are gone"):
        run.evaluate()
