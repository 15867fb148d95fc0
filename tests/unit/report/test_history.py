"""A run's folder is read as it is: going on, killed, resumed, or damaged."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from strata.errors import RunError
from strata.report.history import read_history

fake_runs = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fake_runs.py"))))


def run(folder: Path, *lines: dict[str, Any]) -> Path:
    return fake_runs.write(folder, fake_runs.recipe(), [fake_runs.started(), *lines])


def step(number: int, loss: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss}


def test_steps_that_were_done_again_after_a_resumption_count_once_and_the_later_line_wins(tmp_path: Path) -> None:
    lines = [step(10, 3.0), step(20, 2.0), step(25, 9.0), {"event": "resumed", "step": 10}, step(20, 1.5)]
    history = read_history(run(tmp_path, *lines))
    assert [(line["step"], line["loss"]) for line in history.steps] == [(10, 3.0), (20, 1.5)]
    assert history.resumed == [10]


def test_a_later_line_of_the_same_step_wins_without_word_of_a_resumption(tmp_path: Path) -> None:
    history = read_history(run(tmp_path, step(10, 3.0), step(10, 2.0)))
    assert [line["loss"] for line in history.steps] == [2.0]


def test_a_run_that_was_made_longer_is_not_finished_yet(tmp_path: Path) -> None:
    finished = {"event": "finished", "step": 20, "metrics": {}}
    history = read_history(run(tmp_path, step(20, 1.0), finished, {"event": "resumed", "step": 20, "total_steps": 40}))
    assert (history.finished, history.total_steps) == (None, 40)


def test_a_line_cut_short_by_a_kill_is_counted_and_the_line_behind_it_is_kept(tmp_path: Path) -> None:
    run(tmp_path, step(10, 3.0))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 2' + json.dumps({"event": "resumed", "step": 10}) + "\n")
        file.write(json.dumps(step(20, 1.0)) + '\n{"event": "st')
    history = read_history(tmp_path)
    assert ([line["step"] for line in history.steps], history.resumed, history.unread) == ([10, 20], [10], 2)


def test_the_curve_of_a_run_stopped_early_does_not_end_with_the_weights_put_back(tmp_path: Path) -> None:
    history = read_history(
        run(
            tmp_path,
            fake_runs.evaluated(10, 5.0, {"rmse": 50.0}),
            fake_runs.evaluated(20, 5.0, {"rmse": 60.0}),
            fake_runs.evaluated(20, 5.0, {"rmse": 50.0}),
            {"event": "finished", "step": 20, "stopped_early": True, "metrics": {"validation": {"rmse": 50.0}}},
        )
    )
    assert [line["metrics"]["rmse"] for line in history.evaluations["validation"]] == [50.0, 60.0]
    assert history.results["validation"]["rmse"] == 50.0


def test_the_curve_of_a_calibrated_run_ends_with_what_training_had(tmp_path: Path) -> None:
    history = read_history(fake_runs.detector(tmp_path))
    assert [line["metrics"]["ece"] for line in history.evaluations["validation"]] == [0.08]


def test_a_file_outside_the_run_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    line = {"event": "sampled", "step": 1, "file": "../secret.txt"}
    assert read_history(run(tmp_path / "run", line)).samples == []


def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: it holds no recipe\.json"):
        read_history(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds no metrics\.jsonl: the run has not begun"):
        read_history(tmp_path)
    with pytest.raises(RunError, match="There is no run folder at"):
        read_history(tmp_path / "nowhere")


def test_an_interrupted_run_was_at_the_step_of_its_last_checkpoint(tmp_path: Path) -> None:
    history = read_history(run(tmp_path, step(54, 3.0), {"event": "saved", "step": 55, "seconds": 0.1}))
    assert history.last_step == 55
