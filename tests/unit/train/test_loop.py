"""The one loop: what it promises of accumulation, interruption, boundaries, phases and stages."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import strata
from strata import losses, rng
from strata.checkpoint import store
from strata.checkpoint.files import read_tensors
from strata.checkpoint.run_folder import RunFolder
from strata.data import DataConfig, open_data
from strata.errors import CheckpointError, ConfigError, DataError, RunError, TrainingError
from strata.losses import LossSum
from strata.models import build
from strata.tasks import TASKS, Draw, Phase, Stage
from strata.tasks.adversarial import Adversarial
from strata.tasks.classify import Classify
from strata.train import events, loop
from strata.train.announce import without_effect
from strata.train.events import Interrupted
from strata.train.plan import make_plan
from strata.train.transfer import TransferConfig

IRIS = {
    "data": "iris",
    "model.hidden": "8",
    "model.dropout": 0,
    "train.steps": 12,
    "train.batch_size": 16,
    "train.early_stopping": None,
    "train.device": "cpu",
}
PLAIN_SGD = {"train.optimizer": "sgd", "train.schedule": "constant", "train.learning_rate": 0.1}
PLAIN_SGD |= {"train.weight_decay": 0}
PICTURES = {
    "data": "digits",
    "data.limit": 64,
    "model": "resnet20",
    "model.depths": "1,1",
    "model.width": 4,
    "model.dropout": 0.2,
    "data.augment.mixup": 0.2,
    "data.augment.noise": 0.05,
    "train.optimizer": "muon",
    "train.steps": 12,
    "train.batch_size": 8,
    "train.accumulate": 2,
    "train.ema": 0.9,
    "train.early_stopping": 3,
    "train.evaluate_every": 3,
    "train.precision": "bf16",
    "train.device": "cpu",
}
Digest = Callable[[Path], str]


def weights(run: strata.Run) -> dict[str, Tensor]:
    return read_tensors(run.folder / "model" / "model.safetensors")


def initial_weights(run: strata.Run) -> dict[str, Tensor]:
    rng.seed_everything_for(run.recipe.train.seed, "initial weights")
    return dict(build(run.recipe.model).state_dict())


# --------------------------------------------------------------------------------------------------- tasks to test with


@dataclass(frozen=True, kw_only=True)
class Ragged(Classify):
    """A classification in which only some samples count, so that micro-batches have unlike numbers of targets."""

    kind: ClassVar[str] = "ragged"

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        counts_B = batch["sample"] % 5 == 0
        parts = losses.cross_entropy(model(batch["input"])[counts_B], batch["target"][counts_B])
        return LossSum(parts.total, counts_B.sum())


@dataclass(frozen=True, kw_only=True)
class Staged(Classify):
    """The output layer alone first, then two phases over all: what a freeze, then an unfreeze needs."""

    kind: ClassVar[str] = "staged"
    seen: ClassVar[list[tuple[str, int, tuple[int, ...]]]] = []

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(name="head", share=0.5, phases=(Phase(name="head", parameters=("head.",)),)),
            Stage(name="all", share=0.5, phases=(Phase(name="all", repeats=2), Phase(name="rare", every=3))),
        )

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        self.seen.append((phase, draw.step, tuple(batch["sample"].tolist())))
        return super().objective(model, batch, phase, draw)


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (Ragged, Staged):
        monkeypatch.setitem(TASKS._targets, task.kind, f"{__name__}:{task.__name__}")
        monkeypatch.setitem(TASKS._summaries, task.kind, "")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Ragged.__module__])
    Staged.seen.clear()


# --------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    "more",
    [{}, {"task.class_weights": "1,2,5"}, {"task": "ragged"}, {"train.clip": 0.1, "train.l1": 0.01, "train.l2": 0.1}],
    ids=["plain", "class weights", "unlike counts", "clipped and penalised"],
)
def test_four_batches_of_8_accumulated_equal_one_of_32(
    more: dict[str, object], tmp_path: Path, close: Callable[[Tensor, Tensor], None]
) -> None:
    settings = IRIS | PLAIN_SGD | more
    large = strata.train("iris", settings | {"train.batch_size": 32}, runs=tmp_path)
    small = strata.train("iris", settings | {"train.batch_size": 8, "train.accumulate": 4}, runs=tmp_path)
    begun = initial_weights(large)
    for name, expected in weights(large).items():
        assert not torch.equal(expected, begun[name])
        close(weights(small)[name], expected)
    steps = [[r["loss"] for r in run.records if r["event"] == "step"] for run in (large, small)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_batch_size_full_is_gradient_descent_on_all_samples(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | PLAIN_SGD | {"train.batch_size": "full", "train.steps": 1}, runs=tmp_path)
    dataset = loop.open_data(run.recipe.data)
    model = build(run.recipe.model)
    model.load_state_dict(initial_weights(run))
    batch = dataset.splits["train"].gather(torch.arange(106), torch.zeros(106, dtype=torch.int64))
    loss = nn.functional.cross_entropy(model(dataset.preprocess.normalize(batch["input"])), batch["target"])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(weights(run)[name], parameter.detach() - 0.1 * parameter.grad, rtol=1e-5, atol=1e-6)


def test_batch_size_1_is_stochastic_and_batch_norm_refuses_it(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | {"train.batch_size": 1}, runs=tmp_path)
    assert next(r for r in run.records if r["event"] == "started")["batch_size"] == 1
    with pytest.raises(ConfigError, match=r"batch norm needs several samples at once: train\.batch_size of at least 2"):
        strata.train("iris", IRIS | {"train.batch_size": 1, "model.batch_norm": True}, runs=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["iris-1"]


# ------------------------------------------------------------------------------------ boundaries do not change training


def test_evaluating_saving_and_logging_do_not_change_training(tmp_path: Path, digest: Digest) -> None:
    settings = PICTURES | {"train.early_stopping": None}
    found = {
        digest(strata.train("digits", settings | often, runs=tmp_path).folder)
        for often in (
            {"train.evaluate_every": 1000, "train.log_every": 1000},
            {"train.evaluate_every": 1},
            {"train.save_every": 1},
            {"train.log_every": 1},
        )
    }
    assert len(found) == 1


def test_history_tells_each_step_evaluation_and_checkpoint_once(tmp_path: Path) -> None:
    every = {"train.log_every": 2, "train.evaluate_every": 4, "train.save_every": 6}
    run = strata.train("iris", IRIS | every, runs=tmp_path)
    steps: dict[str, list[int]] = {}
    for record in run.records:
        steps.setdefault(record["event"], []).append(record["step"])
    assert steps == {
        "started": [0],
        "step": [2, 4, 6, 8, 10, 12],
        "evaluated": [4, 8, 12, 12],
        "saved": [6, 12],
        "finished": [12],
    }
    assert store.steps(run.folder / "checkpoints") == [6, 12]
    last = run.finished
    assert last is not None and last["steps"] == 12 and last["samples_per_second"] > 0
    assert last["metrics"] == run.metrics and last["confusion"]["labels"] == ["setosa", "versicolor", "virginica"]


def test_an_evaluation_later_gives_the_number_of_the_run(tmp_path: Path) -> None:
    run = strata.train("digits", PICTURES, runs=tmp_path)
    for split in ("validation", "test"):
        assert run.evaluate(split, device="cpu", precision="bf16").metrics == run.metrics[split]


# --------------------------------------------------------------------------------------------------------- interruption


def interrupt(
    settings: Mapping[str, Any], recipe: str, at: int, runs: Path, number: int = signal.SIGTERM
) -> strata.Run:
    """Train, ask to stop after step ``at``, and resume."""

    def ask(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.step == at:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stopped:
        strata.train(recipe, settings, runs=runs, observers=[ask])
    assert stopped.value.step == at and stopped.value.signal == number
    assert f"Interrupted at step {at}; saved. Continue with: strata resume {stopped.value.folder}" in str(stopped.value)
    with pytest.raises(RunError, match=r"has not finished\. Continue it with: strata resume"):
        strata.Run(stopped.value.folder).predict("x")
    return strata.resume(stopped.value.folder)


def test_a_resumed_runs_times_are_those_of_all_its_processes(tmp_path: Path) -> None:
    def dawdle(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.step == 2:
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"data": "iris", "train.steps": 4, "train.batch_size": 16, "train.log_every": 3}
    with pytest.raises(Interrupted) as stopped:
        strata.train("mlp", settings, runs=tmp_path, observers=[dawdle])
    began = time.monotonic()
    run = strata.resume(stopped.value.folder)
    finished = run.finished
    assert finished is not None and time.monotonic() - began < 2 < finished["seconds"] < finished["total_seconds"]
    logged = next(record for record in run.records if record["event"] == "step")
    assert logged["step"] == 3 and logged["samples_per_second"] < 3 * 16 / 2


@pytest.mark.parametrize("at", [1, 6, 11])
def test_a_run_stopped_and_resumed_ends_bit_identical(at: int, tmp_path: Path, digest: Digest) -> None:
    whole = strata.train("digits", PICTURES, runs=tmp_path / "whole")
    parts = interrupt(PICTURES, "digits", at, tmp_path / "parts")
    assert digest(parts.folder) == digest(whole.folder)
    assert parts.metrics == whole.metrics
    kept = [
        [(r["event"], r["step"], r.get("loss"), r.get("metrics")) for r in run.records if r["event"] != "saved"]
        for run in (whole, parts)
    ]
    kept[1] = [line for line in kept[1] if line[0] != "resumed"]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        (
            "gpt",
            {
                "model.num_layers": 1,
                "model.num_heads": 2,
                "model.width": 8,
                "model.context": 8,
                "model.dropout": 0.1,
                "data.limit": 2000,
                "train.steps": 6,
                "train.batch_size": 2,
                "train.evaluate_every": 100,
            },
        ),
        (  # a state carried from step to step, of each micro-batch its own
            "char-lstm",
            {
                "model.width": 8,
                "model.embedding_width": 8,
                "model.context": 8,
                "model.dropout": 0.1,
                "model.weight_drop": 0.2,
                "data.limit": 2000,
                "train.steps": 6,
                "train.batch_size": 2,
                "train.accumulate": 2,
                "train.evaluate_every": 100,
            },
        ),
        (  # all that vision adds: weights from the data, growing pictures, policies, even classes, alternating flips
            "cifar10-speed",
            {
                "data": "digits",
                "data.limit": 64,
                "data.balance": True,
                "data.image_size": 16,
                "data.augment.policy": "trivial",
                "data.augment.erase": 0.5,
                "data.augment.cutmix": 1.0,
                "model.widths": "4,6",
                "task.calibrate": True,
                "train.steps": 6,
                "train.batch_size": 16,
                "train.evaluate_every": 100,
            },
        ),
        (
            "vit",
            {
                "recipe": "resnet",
                "model": "vit",
                "data": "digits",
                "data.limit": 64,
                "model.depth": 2,
                "model.width": 8,
                "model.num_heads": 2,
                "model.stochastic_depth": 0.3,
                "train.steps": 6,
                "train.batch_size": 16,
                "train.evaluate_every": 100,
            },
        ),
        (
            "unet",
            {
                "data": "digits",
                "data.limit": 32,
                "model.widths": "4,6",
                "train.steps": 6,
                "train.batch_size": 8,
                "train.evaluate_every": 100,
            },
        ),
        (
            "dcgan",
            {
                "data": "digits",
                "data.limit": 64,
                "model.width": 4,
                "train.steps": 6,
                "train.batch_size": 8,
                "train.evaluate_every": 100,
                "task.discriminator_steps": 2,
            },
        ),
    ],
)
def test_unlike_families_stop_and_resume_alike(
    recipe: str, settings: dict[str, Any], tmp_path: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe in ("gpt", "char-lstm"):
        text = tmp_path / "corpus.txt"
        text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
        settings = settings | {"data": str(text)}
    settings = settings | {"train.device": "cpu"}
    recipe = settings.pop("recipe", recipe)
    whole = strata.train(recipe, settings, runs=tmp_path / "whole")
    parts = interrupt(settings, recipe, 4, tmp_path / "parts", signal.SIGINT)
    assert digest(parts.folder) == digest(whole.folder)


def test_an_evaluation_broken_off_saves_the_raw_weights_and_is_done_again(
    tmp_path: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = strata.train("digits", PICTURES, runs=tmp_path / "whole")
    measure, asked = Classify.measure, []

    def asking(self: Classify, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Any:
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return measure(self, model, batch, draw)

    monkeypatch.setattr(Classify, "measure", asking)
    with pytest.raises(Interrupted) as stopped:
        strata.train("digits", PICTURES, runs=tmp_path / "parts")
    assert stopped.value.step == 3
    tensors = read_tensors(stopped.value.folder / "checkpoints" / "step-3" / "state.safetensors")
    assert not torch.equal(tensors["model/head.weight"], tensors["average/average/head.weight"])
    parts = strata.resume(stopped.value.folder)
    assert digest(parts.folder) == digest(whole.folder) and parts.metrics == whole.metrics


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_the_command_that_resumes(
    number: int, code: int, tmp_path: Path
) -> None:
    words = ["train", "iris", "train.steps=1000000", "train.early_stopping=none", "train.evaluate_every=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "strata", *words, "train.log_every=10", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "runs" / "iris-1" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (history.exists() and '"step"' in history.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    # The run is still going on: another process may not write there, and is told so in one line.
    with pytest.raises(RunError, match=f"is still being written by another process .process {process.pid}."):
        strata.resume(tmp_path / "runs" / "iris-1")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Interrupted at step ") and last.endswith("saved. Continue with: strata resume runs/iris-1")
    answer = json.loads(out.splitlines()[-1])
    assert answer["interrupted"] and answer["run"] == "runs/iris-1"
    assert store.steps(tmp_path / "runs" / "iris-1" / "checkpoints")[-1] == answer["steps"]


def test_a_signal_right_after_the_question_whether_to_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = loop.Training._save_is_due

    def with_a_signal_then(training: loop.Training) -> bool:
        due = asked(training)
        if training.state.step == 7:
            training.signal = signal.SIGTERM
        return due

    monkeypatch.setattr(loop.Training, "_save_is_due", with_a_signal_then)
    with pytest.raises(Interrupted, match="Interrupted at step 7; saved"):
        strata.train("iris", IRIS, runs=tmp_path)
    assert store.steps(tmp_path / "iris-1" / "checkpoints")[-1] == 7


def test_a_run_killed_before_its_first_line_begins_anew(tmp_path: Path, digest: Digest) -> None:
    whole = strata.train("iris", IRIS, runs=tmp_path)
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "recipe.json").write_bytes((whole.folder / "recipe.json").read_bytes())
    (killed / "metrics.jsonl").write_text('{"event": "star')
    parts = strata.resume(killed)
    assert digest(killed) == digest(whole.folder)
    assert next(r["event"] for r in parts.records) == "started"


def test_a_run_made_longer_and_stopped_is_unfinished_until_it_is_resumed(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS, runs=tmp_path)

    def ask(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.step == 14:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        strata.resume(run.folder, {"train.steps": 20}, observers=[ask])
    assert strata.Run(run.folder).finished is None
    done = strata.resume(run.folder)
    assert done.finished is not None and done.finished["step"] == 20


def test_a_run_is_not_made_so_long_that_its_stage_would_be_another(tmp_path: Path) -> None:
    begin = strata.train("iris", IRIS, runs=tmp_path)
    rows = [f"{k % 7},{k % 5},{k % 11},{k % 3 * 2.5},{'uvw'[k % 3]}" for k in range(60)]
    (tmp_path / "other.csv").write_text("\n".join(["a,b,c,d,label", *rows]))
    settings = IRIS | {"data": str(tmp_path / "other.csv"), "weights.source": str(begin.folder), "weights.frozen": 0.5}
    run = strata.train("iris", settings, runs=tmp_path)
    kept = (run.folder / "recipe.json").read_bytes()
    with pytest.raises(ConfigError, match=r"40 steps would put step 12, .* stage 'whole', into stage 'head'"):
        strata.resume(run.folder, {"train.steps": 40})
    assert (run.folder / "recipe.json").read_bytes() == kept
    assert strata.resume(run.folder, {"train.steps": 20}).finished is not None


def test_a_run_that_stopped_early_goes_on_from_where_it_stopped(tmp_path: Path) -> None:
    early = {"data": "wine", "train.steps": 200, "train.evaluate_every": 2, "train.early_stopping": 2}
    run = strata.train("iris", IRIS | early | {"train.learning_rate": 0.05}, runs=tmp_path)
    assert run.finished is not None
    stopped = run.finished["step"]
    assert store.steps(run.folder / "checkpoints")[-1] == stopped < 200
    longer = strata.resume(run.folder, {"train.steps": 260, "train.evaluate_every": 100})
    assert next(r["step"] for r in longer.records if r["event"] == "resumed") == stopped


def test_a_run_whose_first_line_was_lost_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | {"train.save_every": 4}, runs=tmp_path)
    (run.folder / "metrics.jsonl").unlink()
    done = strata.resume(run.folder)
    assert [r["event"] for r in done.records][:2] == ["resumed", "started"]
    assert done.records[0]["step"] == 12 and done.metrics == run.metrics


def test_lines_of_history_hold_any_character(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS, runs=tmp_path)
    folder = RunFolder(run.folder)
    folder.append({"event": "sampled", "step": 12, "text": "one\u2028two\u2029three\x85four"})
    assert folder.records()[-1]["text"] == "one\u2028two\u2029three\x85four"


def test_pictures_that_begin_too_small_for_a_network_are_refused(tmp_path: Path) -> None:
    small = {"data.limit": 64, "model": "convnext_tiny", "train.steps": 2, "train.grow_from": 0.5}
    with pytest.raises(ConfigError, match=r"train.grow_from=0.5 begins with pictures of 4 pixels, .* too small"):
        strata.train("digits", small, runs=tmp_path)


def test_a_network_with_auxiliary_heads_learns_numbers(tmp_path: Path) -> None:
    for k in range(24):
        Image.new("RGB", (32, 32), (10 * k, 9, 9)).save(tmp_path / f"{k}.png")
    (tmp_path / "ages.csv").write_text("\n".join(["image,age", *(f"{k},{k / 2}" for k in range(24))]))
    settings = {"data": str(tmp_path / "ages.csv"), "model": "googlenet", "train.steps": 1, "train.batch_size": 2}
    assert strata.train("resnet", settings, runs=tmp_path / "runs").finished is not None


def test_a_batch_of_which_nothing_counts_is_no_failure(tmp_path: Path) -> None:
    alone = {"task.class_weights": "0,1,1", "train.batch_size": 1, "train.steps": 12, "train.log_every": 1}
    run = strata.train("iris", IRIS | alone, runs=tmp_path)
    losses = [r["loss"] for r in run.records if r["event"] == "step"]
    assert run.finished is not None and any(map(math.isnan, losses)) and not all(map(math.isnan, losses))


# ----------------------------------------------------------------------------------------------------- damaged, changed


def test_a_flipped_byte_in_the_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    tmp_path: Path, digest: Digest
) -> None:
    settings = IRIS | {"train.save_every": 4, "train.ema": 0.9}
    whole = strata.train("iris", settings, runs=tmp_path / "whole")
    parts = strata.train("iris", settings, runs=tmp_path / "parts")
    (parts.folder / "model" / "model.safetensors").unlink()
    (parts.folder / "metrics.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in parts.records if record["event"] != "finished")
    )
    newest = parts.folder / "checkpoints" / "step-12" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 16
    newest.write_bytes(content)
    again = strata.resume(parts.folder)
    said = [r["message"] for r in again.records if r["event"] == "warned"]
    assert len(said) == 1 and "Checkpoint step-12 is damaged" in said[0] and "the one before it is used" in said[0]
    assert digest(again.folder) == digest(whole.folder)
    assert "Warning: Checkpoint step-12 is damaged" in (again.folder / "log.txt").read_text()


def test_when_every_checkpoint_is_damaged_the_run_says_so(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS, runs=tmp_path)
    for state in run.folder.glob("checkpoints/*/state.safetensors"):
        state.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* verifies: Checkpoint step-12 is damaged"):
        strata.resume(run.folder, {"train.steps": 20})


def test_data_that_changed_is_refused_by_resume_and_evaluate(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = ["size,target", *(f"{k},{'big' if k > 40 else 'small'}" for k in range(80))]
    table.write_text("\n".join(rows))
    settings = IRIS | {"data": str(table), "train.batch_size": 8}
    run = strata.train("mlp", settings, runs=tmp_path)
    table.write_text("\n".join([*rows, "90,big"]))
    with pytest.raises(RunError, match=r"The data at .*t\.csv changed since .*mlp-1 began"):
        strata.resume(run.folder, {"train.steps": 20})
    assert strata.Run(run.folder).recipe.train.steps == 12
    with pytest.raises(RunError, match="changed since it was trained"):
        run.evaluate()


def test_a_split_given_by_a_relative_path_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.csv", "held.csv"):
        (tmp_path / name).write_text("size,target\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(40)))
    monkeypatch.chdir(tmp_path)
    run = strata.train("mlp", IRIS | {"data": "train.csv", "data.test": "held.csv"}, runs=tmp_path / "runs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert strata.resume(run.folder, {"train.steps": 14}).finished is not None


# -------------------------------------------------------------------------------------------------------------- numbers


def test_a_loss_that_is_no_longer_finite_names_a_place_and_keeps_a_finite_checkpoint(tmp_path: Path) -> None:
    settings = IRIS | PLAIN_SGD | {"train.learning_rate": 1e30, "train.save_every": 1, "train.batch_size": 8}
    with pytest.raises(TrainingError) as stopped:
        strata.train("iris", settings, runs=tmp_path)
    message = str(stopped.value)
    assert "not finite after step" in message and ("the parameter 'layers" in message or "output of layer" in message)
    assert "Try a lower train.learning_rate" in message
    loaded = store.load_newest(tmp_path / "iris-1" / "checkpoints")
    for tensor in loaded[1].values() if loaded is not None else ():
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all())


def test_a_run_that_fails_leaves_the_reason_in_its_log_its_history_and_its_report(tmp_path: Path) -> None:
    settings = IRIS | PLAIN_SGD | {"train.learning_rate": 1e30, "train.save_every": 1, "train.batch_size": 8}
    with pytest.raises(TrainingError) as stopped:
        strata.train("iris", settings, runs=tmp_path)
    folder, message = tmp_path / "iris-1", str(stopped.value)
    failed = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert failed["event"] == "failed" and failed["message"] == message
    assert f"Failed at step {failed['step']}: {message}" in (folder / "log.txt").read_text()
    page = html.unescape((folder / "report.html").read_text())
    assert f"This run failed at step {failed['step']} of" in page and message in page


def test_a_failure_that_is_an_observers_is_told_and_forgotten_once_the_run_is_resumed(tmp_path: Path) -> None:
    def fail(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.step == 3:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        strata.train("iris", IRIS | {"train.save_every": 3}, runs=tmp_path, observers=[fail])
    report = tmp_path / "iris-1" / "report.html"
    assert "ValueError: no more" in report.read_text()
    strata.resume(tmp_path / "iris-1")
    assert '"event": "failed"' not in (tmp_path / "iris-1" / "metrics.jsonl").read_text()
    assert "no more" not in report.read_text()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.step == 3:
            with torch.no_grad():
                caught[0].head.bias[0] = float("nan")  # type: ignore[union-attr,operator]

    caught: list[nn.Module] = []
    monkeypatch.setattr(loop, "build", lambda config: caught.append(build(config)) or caught[0])
    with pytest.raises(
        TrainingError, match=r"The weights are not finite after step 3: the parameter 'head\.bias'.*step-2"
    ):
        strata.train("iris", IRIS | {"train.save_every": 1}, runs=tmp_path, observers=[spoil])
    assert store.steps(tmp_path / "iris-1" / "checkpoints") == [1, 2]


def test_clipping_bounds_the_step_and_the_norm_is_logged(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | PLAIN_SGD | {"train.steps": 1, "train.clip": 0.01}, runs=tmp_path)
    begun = initial_weights(run)
    moved = torch.cat([(tensor - begun[name]).flatten() for name, tensor in weights(run).items()])
    assert float(moved.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert next(r for r in run.records if r["event"] == "step")["gradient_norm"] > 0.01


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_penalties_pull_matrices_towards_zero_and_leave_biases_alone(kind: str, tmp_path: Path) -> None:
    settings = IRIS | PLAIN_SGD | {"train.steps": 1}
    plain = strata.train("iris", settings, runs=tmp_path)
    pulled = strata.train("iris", settings | {f"train.{kind}": 0.1}, runs=tmp_path)
    begun = initial_weights(plain)
    for name, tensor in weights(pulled).items():
        pull = begun[name].sign() if kind == "l1" else begun[name]
        expected = -0.1 * 0.1 * pull if tensor.ndim >= 2 else torch.zeros_like(tensor)
        torch.testing.assert_close(tensor - weights(plain)[name], expected, rtol=1e-4, atol=1e-6)


def test_the_moving_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | {"train.ema": 0.5, "train.save_every": 12}, runs=tmp_path)
    state = read_tensors(run.folder / "checkpoints" / "step-12" / "state.safetensors")
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, state[f"average/average/{name}"])
        assert not torch.equal(tensor, state[f"model/{name}"])
    assert run.evaluate("test", device="cpu").metrics == run.metrics["test"]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_early_stopping_ends_the_run_and_keeps_the_best_weights(ema: float | None, tmp_path: Path) -> None:
    settings = IRIS | {
        "data": "wine",
        "train.steps": 200,
        "train.evaluate_every": 2,
        "train.early_stopping": 2,
        "train.learning_rate": 0.05,
        "train.ema": ema,
    }
    run = strata.train("iris", settings, runs=tmp_path)
    seen = [r["metrics"]["accuracy"] for r in run.records if r["event"] == "evaluated" and r["split"] == "validation"]
    assert run.finished is not None and run.finished["stopped_early"] and run.finished["step"] < 200
    assert run.metrics["validation"]["accuracy"] == max(seen)
    tied = [
        r["metrics"]["loss"]
        for r in run.records
        if r["event"] == "evaluated" and r["split"] == "validation" and r["metrics"]["accuracy"] == max(seen)
    ]
    assert run.metrics["validation"]["loss"] == min(tied)
    assert run.evaluate("validation", device="cpu").metrics == run.metrics["validation"]


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strata.tasks.regress import Regress

    values = iter([float("nan"), 3.0, float("nan"), 2.0, 5.0, 5.0, 5.0])
    monkeypatch.setattr(Regress, "metrics", lambda self, sums, per_sample: {"rmse": next(values, 9.0)})
    settings = IRIS | {"data": "diabetes", "train.evaluate_every": 1, "train.early_stopping": 3}
    run = strata.train("diabetes", settings, runs=tmp_path)
    assert run.finished is not None and run.finished["step"] == 7
    assert run.records[-1]["event"] == "finished" and run.finished["stopped_early"]


# ---------------------------------------------------------------------------------------------------- phases and stages


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_each_player_of_a_gan_trains_its_own_parameters_only(
    player: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Adversarial.stages

    def only(self: Adversarial) -> tuple[Stage, ...]:
        return (Stage(phases=tuple(p for p in whole(self)[0].phases if p.name == player)),)

    monkeypatch.setattr(Adversarial, "stages", only)
    settings = {"data": "digits", "data.limit": 64, "model.generator_hidden": "8", "model.discriminator_hidden": "8"}
    settings |= {"train.steps": 2, "train.batch_size": 8, "train.ema": None, "train.device": "cpu"}
    run = strata.train("gan", settings, runs=tmp_path)
    begun = initial_weights(run)
    moved = {name.split(".")[0] for name, tensor in weights(run).items() if not torch.equal(tensor, begun[name])}
    assert moved == {player}


def test_phases_run_as_often_as_they_say_each_on_a_batch_of_its_own(tmp_path: Path) -> None:
    strata.train("iris", IRIS | {"task": "staged"}, runs=tmp_path)
    calls = [(phase, step) for phase, step, _ in Staged.seen]
    assert calls[:6] == [("head", k) for k in range(6)]
    expected = []
    for step in range(6, 12):
        expected += [("all", 2 * step), ("all", 2 * step + 1)] + ([("rare", step // 3)] if step % 3 == 0 else [])
    assert calls[6:] == expected
    drawn = [samples for phase, _, samples in Staged.seen if phase == "all"]
    assert len(set(drawn)) == len(drawn)


def test_what_a_stage_does_not_name_is_held_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Staged().stages()[:1]
    monkeypatch.setattr(Staged, "stages", lambda self: (dataclasses.replace(first[0], share=1.0),))
    run = strata.train("iris", IRIS | {"task": "staged"}, runs=tmp_path)
    begun = initial_weights(run)
    moved = {name for name, tensor in weights(run).items() if not torch.equal(tensor, begun[name])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("at", [5, 6, 7, 10])
def test_a_run_resumed_on_either_side_of_a_stages_border_ends_bit_identical(
    at: int, tmp_path: Path, digest: Digest
) -> None:
    settings = IRIS | {"task": "staged", "model.dropout": 0.2, "train.optimizer": "adamw", "train.ema": 0.9}
    whole = strata.train("iris", settings, runs=tmp_path / "whole")
    parts = interrupt(settings, "iris", at, tmp_path / "parts")
    assert digest(parts.folder) == digest(whole.folder)


# ----------------------------------------------------------------------------------------- what does not fit is refused


@pytest.mark.parametrize(
    ("recipe", "settings", "kind", "words"),
    [
        (
            "resnet",
            {"data": "iris"},
            ConfigError,
            "Model 'resnet' cannot take data of kind 'table'. Models that can: mlp.",
        ),
        (
            "digits",
            {"model": "dcgan"},
            ConfigError,
            "Model 'dcgan' cannot do task 'classify'. Models that can: mlp, lenet",
        ),
        ("digits", {"model": "gpt"}, ConfigError, "Model 'gpt' cannot take data of kind 'image'"),
        ("gpt", {"model": "mlp"}, ConfigError, "Model 'mlp' cannot do task 'next_token'. Models that can: rnn, gpt."),
        ("gpt", {"data": "digits"}, DataError, "is of kind 'image'; this recipe learns from text"),
        ("dcgan", {"data": "iris"}, DataError, "is of kind 'table'; this recipe learns from pictures"),
        ("dcgan", {"data": "digits", "data.pixels": "standard"}, ConfigError, "data.pixels=tanh"),
        ("diabetes", {"data": "iris"}, DataError, "has no numbers to predict. Use task=classify."),
        (
            "digits",
            {"data": "diabetes", "task.main": "auroc"},
            DataError,
            "has no classes to tell apart. Use task=regress.",
        ),
        ("dcgan", {"data": "digits", "data.augment.mixup": 0.2}, ConfigError, "mix classes, and task 'adversarial'"),
        ("mlp", {"train.device": "gpu"}, strata.StrataError, "train.device=gpu is not a device"),
        ("mlp", {"train.epochs": None}, ConfigError, "Give either train.steps or train.epochs."),
        ("mlp", {"task.loss": "hinge", "task.label_smoothing": 0.1}, ConfigError, "label_smoothing has no meaning"),
        ("iris", {"task.class_weights": "1,2"}, ConfigError, "task.class_weights has 2 weights for 3 classes."),
        ("iris", {"task.class_weights": "0,0,0"}, ConfigError, "task.class_weights are all 0"),
        ("mlp", {"name": "../x"}, RunError, "name=../x is not allowed"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_folder_is_made(
    recipe: str, settings: dict[str, object], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as refused:
        strata.train(recipe, settings, runs=tmp_path / "runs")
    assert words in str(refused.value)
    assert not (tmp_path / "runs").exists() or not [*(tmp_path / "runs").iterdir()]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data.augment.flip": 0.5}, "data.augment has no effect on data of kind 'table'"),
        ({"data.image_size": 32}, "data.image_size has no effect on data of kind 'table'"),
        ({"train.momentum": 0.8}, "train.momentum has no effect with train.optimizer=adamw."),
        ({"train.optimizer": "sgd", "train.betas": "0.5,0.9"}, "train.betas has no effect with train.optimizer=sgd."),
        ({"train.decay": 0.5}, "train.decay has no effect with train.schedule=cosine."),
        ({"train.schedule": "constant", "train.final": 0.1}, "train.final has no effect with train.schedule=constant."),
        ({"train.step_factor": 0.5}, "train.step_factor has no effect with train.schedule=cosine."),
        ({"train.batch_size": 500}, "Each step takes all 106 samples, which are fewer than train.batch_size=500."),
        ({"weights.tune": "probe"}, "weights.tune=probe has no effect without weights="),
        (
            {"train.early_stopping": 3, "data.validation": 0},
            "train.early_stopping has no effect: there is no validation",
        ),
    ],
)
def test_a_setting_without_effect_says_so_once(settings: dict[str, object], said: str, tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | settings, runs=tmp_path)
    log = (run.folder / "log.txt").read_text()
    assert log.count(said) == 1, log


def test_what_a_probe_and_a_batch_of_one_leave_undone_is_said() -> None:
    recipe = strata.recipe("resnet", {"data.augment.mixup": 0.2, "train.batch_size": 1})
    recipe = dataclasses.replace(recipe, weights=TransferConfig(source="runs/x-1", tune="probe"))
    dataset = open_data(DataConfig())
    plan = make_plan(recipe.train, len(dataset.splits["train"]), recipe.task.stages())
    assert [line.split(":")[0] for line in without_effect(recipe, dataset, plan)] == [
        "data.augment has no effect with weights.tune=probe",
        "data.augment.mixup and cutmix have no effect with train.batch_size=1",
    ]


def test_a_picture_that_another_stands_in_for_is_a_warning_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("strata.data.images.PIXELS_AT_ONCE", 0)
    monkeypatch.setattr("strata.data.images.BAD_AT_MOST", 0.2)
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(20):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{k}.png")
    broken = tmp_path / "data" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    settings = {"model": "resnet20", "model.depths": "1", "model.width": 4, "train.epochs": 1, "train.device": "cpu"}
    run = strata.train(str(tmp_path / "data"), settings | {"train.batch_size": 8}, runs=tmp_path)
    assert run.records[0]["event"] == "started" and run.records[-1]["event"] == "finished"
    (told,) = [record["message"] for record in run.records if record["event"] == "warned"]
    assert "cat/3.png cannot be read" in told and "another picture stands in for it" in told
    assert (run.folder / "log.txt").read_text().count("another picture stands in for it") == 1
    assert "stands in" not in capsys.readouterr().err  # the command line shows a warning of the run


def test_classes_that_held_out_data_lacks_are_noted_and_what_is_not_measured(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, count in (("common", 60), ("mid", 10), ("rare", 2)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{k}.png")
    settings = {"model": "resnet20", "model.depths": "1", "model.width": 4, "train.steps": 1, "train.device": "cpu"}
    run = strata.train(str(tmp_path / "data"), settings | {"task.positive": "rare"}, runs=tmp_path)
    notes = run.records[0]["data"]["notes"]
    for split in ("validation", "test"):
        assert (
            f"the {split} split holds no sample of 'rare', of which it measures nothing, and how well it is found "
            f"(AUROC, sensitivity) is left out; a greater data.{split} may hold some"
        ) in notes


def test_a_run_without_effectless_settings_warns_of_nothing(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS, runs=tmp_path)
    assert [r for r in run.records if r["event"] == "warned"] == []


def test_a_run_without_held_out_data_trains_and_has_no_metrics(tmp_path: Path) -> None:
    run = strata.train("iris", IRIS | {"data.validation": 0, "data.test": 0}, runs=tmp_path)
    assert run.metrics == {}
    with pytest.raises(DataError, match=r"has no split 'validation'\. It has: train"):
        run.evaluate()
    assert run.evaluate("train").metrics["accuracy"] > 0


def test_memory_that_runs_out_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(self: Classify, *arguments: object) -> LossSum:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Classify, "objective", greedy)
    with pytest.raises(
        TrainingError, match=r"Out of memory with train.batch_size=16.*train\.batch_size=8 train\.accumulate=2"
    ):
        strata.train("iris", IRIS, runs=tmp_path)
