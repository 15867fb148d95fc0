"""A run's history: metrics.jsonl for programs, log.txt for people."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from strata.checkpoint.run_folder import RunFolder, create
from strata.errors import RunError
from strata.train import events, guards, history


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(create(tmp_path, "x"), {})


LOGGED = events.Logged(
    step=40,
    epoch=1.5,
    loss=0.75,
    losses={"train": 0.75},
    learning_rate=0.1,
    samples_per_second=1234.5,
    waiting=0.02,
    seconds=3.0,
)


def test_every_event_but_single_steps_is_one_line_of_json_without_what_is_absent(folder: RunFolder) -> None:
    observe = history.recorder(folder)
    observe(LOGGED)
    observe(events.Stepped(step=41))
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 1 and lines[0]["event"] == "step" and lines[0]["loss"] == 0.75
    assert "gradient_norm" not in lines[0] and "tokens_per_second" not in lines[0]


def test_the_log_says_events_in_words(folder: RunFolder) -> None:
    observe = history.writer(folder)
    observe(LOGGED)
    observe(events.Evaluated(step=40, epoch=1.5, split="test", metrics={"accuracy": 0.5, "loss": 1.0}, seconds=0.1))
    observe(events.Warned(step=40, message="careful"))
    observe(events.Stepped(step=41))
    log = folder.log.read_text()
    assert "step 40: loss 0.7500, 1,234 samples/s, waiting 2%" in log or "1,235 samples/s" in log
    assert "step 40: test accuracy 50.00%, loss 1" in log and "Warning: careful" in log
    assert len(log.splitlines()) == 3


def test_a_full_line_keeps_to_the_metrics_that_matter_and_a_short_one_shows_all() -> None:
    many = {"accuracy": 0.5, "precision": 0.1, "recall": 0.2, "f1": 0.3, "auroc": 0.9, "ece": 0.02, "loss": 1.0}
    assert history.shown(many) == "accuracy 50.00%, auroc 0.9, ece 0.02, loss 1"
    assert history.shown({"f1": 0.3, "loss": 1.0}) == "f1 0.3, loss 1"


def test_what_the_library_logs_reaches_the_log_in_utf_8(folder: RunFolder) -> None:
    with guards.logging_to(folder):
        logging.getLogger("strata.data").warning("skipped größe.png")
    assert "skipped größe.png" in folder.log.read_text(encoding="utf-8")


def test_a_log_that_cannot_be_written_is_a_run_error(folder: RunFolder) -> None:
    folder.log.mkdir()
    with pytest.raises(RunError, match=r"Cannot write .*log\.txt"):
        history.writer(folder)(LOGGED)
    (folder.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"Cannot write .*metrics\.jsonl"):
        history.recorder(folder)(LOGGED)
