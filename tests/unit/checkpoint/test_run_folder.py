"""The folder of a run: whose it is, and its lines of history."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from strata.checkpoint.run_folder import RunFolder, create
from strata.errors import RunError


def make(runs: Path, name: str = "mlp") -> RunFolder:
    return RunFolder.create(create(runs, name), {"recipe": name})


def test_each_run_gets_the_next_free_number(tmp_path: Path) -> None:
    names = [make(tmp_path / "runs").path.name for _ in range(2)]
    (tmp_path / "runs" / "mlp-10").mkdir()
    (tmp_path / "runs" / "mlp-x").mkdir()
    assert [*names, make(tmp_path / "runs").path.name] == ["mlp-1", "mlp-2", "mlp-11"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a b", "-x"])
def test_a_name_that_is_no_folders_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not allowed: use letters, digits, '\.', '_' and '-'"):
        create(tmp_path, name)


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="Cannot make a run folder in"):
        create(tmp_path / "runs", "mlp")


def test_the_newest_runs_nearby_are_named(tmp_path: Path) -> None:
    for number in range(1, 12):
        make(tmp_path)
        os.utime(tmp_path / f"mlp-{number}" / "recipe.json", (number, number))
    with pytest.raises(RunError, match=r"Runs there: mlp-11, mlp-10, mlp-9, mlp-8, mlp-7, mlp-6, mlp-5, mlp-4, \.\.\."):
        RunFolder(tmp_path / "mlp-99")


def test_what_is_no_run_is_refused_and_runs_nearby_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(RunError, match=r"There is no run at .*mlp-7\. Runs there: mlp-1"):
        RunFolder(tmp_path / "mlp-7")
    with pytest.raises(RunError, match=r"is not a run: it holds no recipe\.json"):
        RunFolder(tmp_path)
    (tmp_path / "mlp-1" / "recipe.json").write_text("5")
    with pytest.raises(RunError, match=r"recipe\.json is damaged"):
        RunFolder(tmp_path / "mlp-1").recipe()


def test_a_second_writer_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    folder = make(tmp_path)
    script = (
        "import sys\nfrom strata.checkpoint.run_folder import RunFolder\nfrom strata.errors import RunError\n"
        "try:\n    RunFolder(sys.argv[1]).lock()\nexcept RunError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"is still being written by another process (process {os.getpid()}). Wait for it or stop it." in said
    folder.unlock()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert folder.records() == []
    folder.append({"event": "step", "step": 1})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('5\n{"event": "st')
    assert folder.records() == [{"event": "step", "step": 1}]


def test_lines_that_a_resumed_run_writes_again_are_dropped(tmp_path: Path) -> None:
    folder = make(tmp_path)
    for event, step in [
        ("started", 0),
        ("step", 5),
        ("saved", 5),
        ("evaluated", 5),
        ("sampled", 5),
        ("finished", 5),
        ("step", 6),
    ]:
        folder.append({"event": event, "step": step})
    folder.forget_after(5)
    kept = [json.loads(line)["event"] for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert kept == ["started", "step", "saved"]


def test_a_number_that_is_not_finite_is_null_in_the_file_and_nan_to_who_reads_it(tmp_path: Path) -> None:
    folder = make(tmp_path)
    metrics = {"test": {"accuracy": math.nan, "loss": math.inf}}
    folder.append({"event": "step", "step": 1, "loss": math.nan, "losses": {"train": math.nan}})
    folder.append({"event": "finished", "step": 2, "metrics": metrics, "detection": {"threshold": None}})

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    for _ in range(2):
        text = (folder.path / "metrics.jsonl").read_text()
        plain = [json.loads(line, parse_constant=refused) for line in text.splitlines()]
        assert plain[0]["loss"] is None and plain[1]["metrics"]["test"] == {"accuracy": None, "loss": None}
        step, finished = folder.records()
        assert math.isnan(step["loss"]) and math.isnan(step["losses"]["train"])
        assert all(math.isnan(value) for value in finished["metrics"]["test"].values())
        assert finished["detection"]["threshold"] is None
        folder.forget_after(3)
