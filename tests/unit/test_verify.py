"""Recipes retrained with several seeds: what is kept, what goes on, what is refused."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from strata import device, recipes
from strata.errors import ConfigError, RunError
from strata.train.events import Event, Observer, Stepped
from strata.verify import refuse_to_replace, verify

TINY = {"data": "iris", "model.hidden": "8", "train.steps": 6, "train.batch_size": 16}
TINY |= {"train.early_stopping": None, "train.device": "cpu"}


def kept(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_recipe_verified_with_two_seeds_tells_mean_and_spread(tmp_path: Path) -> None:
    result = verify("iris", {"train.epochs": 2}, seeds=(0, 1), runs=tmp_path)
    assert len(result["values"]) == 2 and min(result["values"]) <= result["mean"] <= max(result["values"])
    assert result["mean"] == statistics.fmean(result["values"])
    assert result["command"] == "strata verify iris train.epochs=2 seeds=0,1"
    assert json.loads(json.dumps(result)) == result


def test_seeds_are_added_to_equal_settings_only(tmp_path: Path) -> None:
    record = tmp_path / "results" / "iris.json"
    first = verify("iris", {"train.epochs": 2}, seeds=(0, 2), runs=tmp_path, record=record, note="quiet")
    assert kept(record) == first
    both = verify("iris", {"train.epochs": 2}, seeds=(1,), runs=tmp_path, record=record, add=True, note="quiet")
    assert kept(record) == both
    assert both["seeds"] == [0, 1, 2] and both["values"][::2] == first["values"]
    assert both["command"] == "strata verify iris train.epochs=2 seeds=0,1,2" and both["note"] == "quiet"
    assert both["machine"] == first["machine"] and both["commit"] == first["commit"]
    assert both["mean"] == statistics.fmean(both["values"]) and len(both["other_metrics"]["loss"]) == 3
    with pytest.raises(ConfigError, match="Seed 1 of iris is recorded already"):
        verify("iris", {"train.epochs": 2}, seeds=(1,), runs=tmp_path, record=record, add=True)
    with pytest.raises(ConfigError, match=r"is of train.epochs=2.0, and this is 3.0. Record all seeds anew"):
        verify("iris", {"train.epochs": 3}, seeds=(3,), runs=tmp_path, record=record, add=True)
    anew = verify("iris", {"train.epochs": 3}, seeds=(3,), runs=tmp_path, record=record)
    assert kept(record) == anew and anew["seeds"] == [3]


def test_seeds_that_are_trained_side_by_side_are_kept_both(tmp_path: Path) -> None:
    record = tmp_path / "iris.json"
    begun: list[bool] = []

    def another(event: Event) -> None:
        if not begun:
            begun.append(True)
            verify("iris", TINY, seeds=(0,), runs=tmp_path / "other", record=record, add=True, note="the other")

    verify("iris", TINY, seeds=(1,), runs=tmp_path, record=record, add=True, observers=[another], note="the one")
    assert kept(record)["seeds"] == [0, 1] and kept(record)["note"] == "the other; the one"


def test_seeds_are_added_to_a_result_of_before_a_setting_existed(tmp_path: Path) -> None:
    record = tmp_path / "iris.json"
    before = verify("iris", TINY, seeds=(0,), runs=tmp_path)
    del before["resolved"]["train"]["grow_step"]
    record.write_text(json.dumps(before))
    assert verify("iris", TINY, seeds=(1,), runs=tmp_path, record=record, add=True)["seeds"] == [0, 1]
    before["resolved"]["train"]["gone"] = 1
    record.write_text(json.dumps(before))
    with pytest.raises(ConfigError, match=r"has settings that are no longer there: .*gone"):
        verify("iris", TINY, seeds=(2,), runs=tmp_path, record=record, add=True)
    del before["resolved"]
    record.write_text(json.dumps(before))
    with pytest.raises(ConfigError, match="does not say all its settings"):
        verify("iris", TINY, seeds=(2,), runs=tmp_path, record=record, add=True)


def test_a_seed_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Seed 5 is given twice"):
        verify("iris", TINY, seeds=(5, 4, 5), runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("digits", {"data.test": 0}, r"on the test split, and the data has none \(data.test=0\)"),
        ("iris", {"data.test": 0, "data.validation": 0}, "on the test split, and the data has none"),
        ("dcgan", {"data": "digits"}, "'dcgan' has no one metric that stands for it"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_it_is_trained(
    tmp_path: Path, name: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        verify(name, settings | {"train.steps": 2}, seeds=(0,), runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_compared_by_validation_where_there_is_no_test_split(tmp_path: Path) -> None:
    assert verify("iris", TINY | {"data.test": 0}, seeds=(0,), runs=tmp_path)["split"] == "validation"


def test_a_recipe_has_one_name_and_one_file_of_results(tmp_path: Path) -> None:
    assert recipes.result_file("breast_cancer") == recipes.result_file("breast-cancer")
    result = verify("breast_cancer", {"train.steps": 2}, seeds=(0,), runs=tmp_path)
    assert result["recipe"] == "breast-cancer" and result["command"].startswith("strata verify breast-cancer ")


def test_a_result_of_changed_settings_is_shown_with_them_and_replaces_no_other_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "iris.json"
    monkeypatch.setattr(recipes, "result_file", lambda name, model="": tmp_path / f"{name}.json")
    changed = {"train.steps": 4, "data.limit": 20, "train.log_every": 2, "data.split_seed": 0}
    refuse_to_replace(file, "iris", changed)  # there is none yet
    verify("iris", changed, seeds=(0,), runs=tmp_path, record=file)
    reference = recipes.recipe("iris").reference
    assert reference.changed == "train.steps=4 data.limit=20"
    assert reference.note.startswith("with train.steps=4 data.limit=20; ")
    refuse_to_replace(file, "iris", changed)  # of the same settings
    refuse_to_replace(file, "iris", {})  # the recipe's own
    with pytest.raises(ConfigError, match=r"of iris is of data.limit=20, and this is None\..* --replace"):
        refuse_to_replace(file, "iris", {"train.steps": 4})


class Cut(Exception):
    """The power goes."""


def cutting(after: int) -> tuple[list[int], Observer]:
    """Return the steps that an observer has seen, and the observer, which breaks off after so many."""
    steps: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, Stepped):
            steps.append(event.step)
        if len(steps) == after:
            raise Cut

    return steps, observe


def test_a_verification_that_was_broken_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TINY | {"train.save_every": 1}
    whole = verify("iris", settings, seeds=(0, 1), runs=tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Cut):
        verify("iris", settings, seeds=(0, 1), runs=cut, observers=[cutting(6 + 4)[1]])
    steps, watch = cutting(99)
    again = verify("iris", settings, seeds=(0, 1), runs=cut, observers=[watch])
    assert again["values"] == whole["values"] and again["other_metrics"] == whole["other_metrics"]
    assert 0 < len(steps) <= 3 and steps[-1] == 6  # the first seed's run was at its end, the second's went on
    assert {path.name for path in cut.glob("iris-*")} == {"iris-1", "iris-2"}
    verify("iris", settings, seeds=(0,), runs=cut)  # nothing is left to go on with
    assert (cut / "iris-3").is_dir()
    with pytest.raises(Cut):
        verify("iris", settings, seeds=(5,), runs=cut, observers=[cutting(3)[1]])
    monkeypatch.setattr("strata.device.commit", lambda: "another")
    verify("iris", settings, seeds=(5,), runs=cut)
    assert (cut / "iris-5").is_dir()  # what other code began is not mixed with


def test_a_result_that_could_not_be_written_costs_no_training(tmp_path: Path) -> None:
    (tmp_path / "iris.json").mkdir()  # where the file is to lie
    with pytest.raises(RunError, match="Cannot write"):
        verify("iris", TINY, seeds=(0,), runs=tmp_path, record=tmp_path / "iris.json")
    (tmp_path / "iris.json").rmdir()
    steps, watch = cutting(99)
    verify("iris", TINY, seeds=(0,), runs=tmp_path, record=tmp_path / "iris.json", observers=[watch])
    assert steps == [] and kept(tmp_path / "iris.json")["seeds"] == [0]


def test_a_commit_is_of_the_code_and_not_of_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "strata"
    (package / "recipes" / "results").mkdir(parents=True)
    code, record = package / "device.py", package / "recipes" / "results" / "iris.json"
    code.write_text("one = 1\n")
    record.write_text("{}")

    def git(*words: str) -> None:
        by = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", *by, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(device, "__file__", str(code))
    clean = device.commit()
    assert len(clean) == 12
    record.write_text('{"seeds": [0]}')
    (tmp_path / "README.md").write_text("words")
    assert device.commit() == clean
    code.write_text("one = 2\n")
    second = device.commit()
    assert re.fullmatch(f"{clean}-dirty-[0-9a-f]{{8}}", second)
    code.write_text("one = 3\n")
    third = device.commit()
    code.write_text("one = 2\n")
    assert third != second == device.commit()  # other code has another name, the same code the same
    (package / "more.py").write_text("two = 2\n")
    assert device.commit() not in (second, third)
    (package / "more.py").unlink()
    git("add", "-A", "src")
    assert device.commit() == second
    code.write_text("one = 1\n")
    assert device.commit() == clean
    monkeypatch.setattr(device, "__file__", str(tmp_path / "nowhere" / "device.py"))
    assert device.commit() == "none"
