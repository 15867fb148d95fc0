"""The command line: every command's answer as JSON, its words for people, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strata.cli import main as cli
from strata.data.catalog import DATASETS
from strata.models import names
from strata.recipes import RECIPES

Command = Callable[..., Any]
QUICK = ("train.steps=6", "train.batch_size=8", "train.early_stopping=none", "train.device=cpu")
NET = ("model=resnet20", "model.depths=1", "model.width=4")
GPT = ("model.num_layers=1", "model.num_heads=2", "model.width=8", "model.context=16")


def test_train_answers_with_what_a_script_needs_and_resume_alike(strata_command: Command) -> None:
    done = strata_command("train", "digits", *NET, *QUICK, "--json")
    assert done.code == 0, done.err
    assert set(done.answer) == {"run", "metrics", "seconds", "samples_per_second", "steps", "device", "precision"}
    assert done.answer["run"] == "runs/digits-1" and done.answer["steps"] == 6 and done.answer["device"] == "cpu"
    assert {"validation", "test"} == done.answer["metrics"].keys()
    assert 0 <= done.answer["metrics"]["test"]["accuracy"] <= 1
    assert Path("runs/digits-1/model/model.safetensors").is_file()
    assert len(done.out.splitlines()) == 1  # people's lines go to standard error
    assert "Run       runs/digits-1" in done.err and "Report    runs/digits-1/report.html" in done.err

    again = strata_command("resume", "runs/digits-1", "--json")
    assert again.answer == done.answer and "had finished already" in again.err
    longer = strata_command("resume", "runs/digits-1", "train.steps=8", "--json")
    assert longer.code == 0 and longer.answer["steps"] == 8 and longer.answer.keys() == done.answer.keys()

    plain = strata_command("train", "digits", *NET, *QUICK, "name=trial")
    assert "Finished at step 6" in plain.out and "Use it    strata predict runs/trial-1" in plain.out


def test_a_classifier_is_measured_and_predicts(strata_command: Command) -> None:
    strata_command("train", "digits", *NET, *QUICK)
    found = strata_command("evaluate", "runs/digits-1", "--json")
    assert found.answer["run"] == "runs/digits-1" and found.answer["metrics"]["test"]["accuracy"] >= 0
    found = strata_command("evaluate", "runs/digits-1", "split=validation")
    assert found.code == 0 and found.out.startswith("validation: accuracy ")

    Path("in").mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8), 80 * k, dtype=np.uint8)).save(f"in/{k}.png")
    found = strata_command("predict", "runs/digits-1", "in", "in/1.png", "--top", "3", "--json")
    assert found.code == 0 and found.answer["failed"] == 0
    assert [p["input"] for p in found.answer["predictions"]] == ["in/0.png", "in/1.png", "in/2.png", "in/1.png"]
    assert all(len(p["top"]) == 3 and p["label"] in "0123456789" for p in found.answer["predictions"])
    found = strata_command("predict", "runs/digits-1", "in/0.png", "--csv")
    assert found.out.splitlines()[0] == "input,answer,probability" and found.out.splitlines()[1].startswith("in/0.png,")
    found = strata_command("predict", "runs/digits-1", "in/0.png")
    assert found.out.startswith("in/0.png: ") and "%" in found.out

    Path("in/bad.png").write_bytes(b"no picture")
    found = strata_command("predict", "runs/digits-1", "in", "--json")
    assert found.code == 2 and found.answer["failed"] == 1 and len(found.answer["predictions"]) == 4
    assert "Error: 1 of 4 inputs could not be read and was skipped" in found.err and "Traceback" not in found.err


def test_a_table_is_predicted_row_by_row(strata_command: Command) -> None:
    rows = [f"{k % 10},{'ab'[k % 10 > 4]}" for k in range(60)]
    Path("t.csv").write_text("\n".join(["size,target", *rows]))
    done = strata_command("train", "t.csv", *QUICK)
    assert done.code == 0, done.err
    assert "t.csv holds data of kind 'table': recipe 'mlp'" in done.out and "task classify" in done.out
    Path("new.csv").write_text("size\n1\n9\n")
    found = strata_command("predict", "runs/mlp-1", "new.csv", "--json")
    assert [p["input"] for p in found.answer["predictions"]] == ["row 1", "row 2"]
    assert all(p["label"] in ("a", "b") for p in found.answer["predictions"])
    Path("nameless.csv").write_text("1\n9\n")
    same = strata_command("predict", "runs/mlp-1", "nameless.csv", "--json")
    assert [p["top"] for p in same.answer["predictions"]] == [p["top"] for p in found.answer["predictions"]]
    Path("wrong.csv").write_text("sise\n1\n")
    found = strata_command("predict", "runs/mlp-1", "wrong.csv", "--json")
    assert found.code == 2 and "no column 'sise'. Did you mean 'size'?" in found.answer["predictions"][0]["error"]


def test_a_text_model_generates_and_says_what_comes_next(strata_command: Command) -> None:
    Path("t.txt").write_text("abcde fghij\n" * 300)
    done = strata_command("train", "t.txt", *GPT, *QUICK, "--json")
    assert done.answer["tokens_per_second"] > 0 and done.answer["run"] == "runs/gpt-1"
    made = strata_command("generate", "runs/gpt-1", "--prompt", "abc", "--tokens", "20", "--json")
    assert made.answer["run"] == "runs/gpt-1" and made.answer["text"].startswith("abc")
    assert len(made.answer["text"]) == 23
    typed = strata_command("generate", "runs/gpt-1", "prompt=abc", "tokens=20")
    assert typed.out == made.answer["text"] + "\n"  # the same, streamed
    strata_command("generate", "runs/gpt-1", "prompt=abc", "tokens=20", "out=made.txt")
    assert Path("made.txt").read_text() == made.answer["text"]
    several = strata_command("generate", "runs/gpt-1", "prompt=abc", "--number", "2", "--tokens", "4", "--json")
    assert [len(text) for text in several.answer["texts"]] == [7, 7]
    listed = strata_command("generate", "runs/gpt-1", "prompt=abc", "number=2", "tokens=4")
    assert listed.out == "--- 1\n{}\n--- 2\n{}\n".format(*several.answer["texts"])
    held = strata_command("generate", "runs/gpt-1", "--prompt", "abc", "--regex", "(de )+f", "--beams", "2", "--json")
    assert held.answer["text"].removeprefix("abc").removesuffix("f").replace("de ", "") == ""
    greedy = ("generate", "runs/gpt-1", "prompt=abc", "temperature=0", "tokens=20", "stop=zz")
    assert strata_command(*greedy, "--draft", "runs/gpt-1").out == strata_command(*greedy).out
    refused = strata_command("generate", "runs/gpt-1", "--beams", "2", "--top-p", "0.5").refusal
    assert "beams and top_p exclude each other" in refused
    found = strata_command("predict", "runs/gpt-1", "abc", "abcde " * 80, "t.txt", "--json")
    assert found.code == 0 and len(found.answer["predictions"][0]["next"]) == 5
    assert "Traceback" not in found.err


def test_a_gan_generates_pictures(strata_command: Command) -> None:
    done = strata_command("train", "dcgan", "data=digits", "data.limit=32", "model.width=4", *QUICK, "--json")
    assert done.code == 0, done.err
    made = strata_command("generate", "runs/dcgan-1", "--count", "9", "--json")
    assert made.answer == {"run": "runs/dcgan-1", "file": "runs/dcgan-1/samples/generated-1.png", "count": 9}
    assert Path(made.answer["file"]).is_file()
    made = strata_command("generate", "runs/dcgan-1", "count=4", "out=some/where.png")
    assert made.code == 0 and Path("some/where.png").is_file()
    assert "out=x.gif is not allowed" in strata_command("generate", "runs/dcgan-1", "out=x.gif").refusal


def test_lists_say_what_there_is(strata_command: Command) -> None:
    found = strata_command("recipes", "--json")
    assert [row["recipe"] for row in found.answer["recipes"]] == [*RECIPES]
    assert all(name in strata_command("recipes").out for name in RECIPES)
    assert strata_command("recipes", "mnist", "--json").answer["recipe"]["data"]["source"] == "mnist"
    assert "train.epochs" in strata_command("recipes", "mnist").out

    assert strata_command("models", "--json").answer["models"] == names()
    found = strata_command("models", "resnet50", "--json")
    assert found.answer["parameters"] == 25_557_032 and found.answer["config"]["block"] == "bottleneck"

    assert [row["name"] for row in strata_command("data", "--json").answer["data"]] == [*DATASETS]
    found = strata_command("data", "iris", "data.test=0.5", "--json")
    assert found.answer["kind"] == "table" and found.answer["splits"]["test"] == 75
    assert found.answer["labels"] == ["setosa", "versicolor", "virginica"]
    assert "setosa (" in strata_command("data", "iris").out

    for k in range(4):
        for name in ("images", "masks"):
            (Path("pairs") / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) // 32 * 255).save(f"pairs/{name}/{k}.png")
    assert "classes: 0, 255" in strata_command("data", "pairs").out

    found = strata_command("info", "--json")
    assert {d["name"] for d in found.answer["decided"]} >= {"device", "precision", "memory format", "compile"}
    assert "torch" in found.answer["found"] and "because" in strata_command("info").out


def test_without_a_word_the_help_is_shown(strata_command: Command) -> None:
    for words in ((), ("--help",), ("-h",)):
        found = strata_command(*words)
        assert found.code == 0 and "Usage:" in found.out and "train" in found.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train",), "Missing argument"),
        (("train", "data.limit=5"), "Say what to train: a recipe's name or a path of data"),
        (("trian", "digits"), "No such command"),
        (("train", "digits", "--fast"), "No such option: --fast"),
        (("train", "digits", "epochs"), "'epochs' is not a setting. Write settings as key=value"),
        (("train", "digits", "train.epoch=1"), "Did you mean 'train.epochs'?"),
        (("train", "digts"), "'digts' is neither a recipe nor a path of data. Did you mean 'digits'?"),
        (("evaluate", "runs/x", "splt=test"), "Unknown setting 'splt'. Did you mean 'split'?"),
        (("generate", "runs/x", "temprature=1"), "Did you mean 'temperature'?"),
        (("generate", "runs/x", "tokens=many"), "tokens=many is not allowed: it has to be a number."),
        (("generate", "runs/x", "--temperature", "hot"), "--temperature"),
        (("resume", "runs/x"), "There is no run at runs/x."),
        (("recipes", "mnst"), "Unknown recipe 'mnst'. Did you mean 'mnist'?"),
        (("models", "resnet51"), "Unknown model 'resnet51'. Did you mean"),
        (("data", "irs"), "Did you mean 'iris'?"),
        (("data", "iris", "data.tset=1"), "Data has no setting 'tset'. Did you mean 'test'?"),
    ],
)
def test_a_wrong_word_gets_one_line_and_exit_code_2(words: tuple[str, ...], said: str, strata_command: Command) -> None:
    found = strata_command(*words, "--json")
    assert said in found.refusal
    assert said in found.answer["error"] and len(found.out.splitlines()) == 1
    assert not Path("runs").exists()


def test_brackets_in_a_name_are_printed_as_they_are(strata_command: Command) -> None:
    for label in ("cat", "dog"):
        Path("set[v2]", label).mkdir(parents=True)
        for k in range(8):
            Image.fromarray(np.full((8, 8), 20 * k, dtype=np.uint8)).save(f"set[v2]/{label}/{k}.png")
    found = strata_command("data", "set[v2]")
    assert found.out.startswith("set[v2]: image; ")
    found = strata_command("train", "set[v2]", *NET, *QUICK, "name=x")
    assert "set[v2] holds data of kind 'image': recipe 'resnet'" in found.out


def test_an_interruption_outside_training_is_no_traceback(
    strata_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strata import api

    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "choose", interrupted)
    found = strata_command("train", "digits")
    assert found.code == 130 and "Traceback" not in found.err


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from strata import api

    def broken(*words: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(api, "choose", broken)
    monkeypatch.setattr(sys, "argv", ["strata", "train", "digits"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_a_forbidden_folder_gets_one_line(strata_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from strata import api

    def forbidden(*words: object) -> None:
        raise PermissionError(13, "Permission denied", "secret.csv")

    monkeypatch.setattr(api, "choose", forbidden)
    assert strata_command("train", "digits").refusal == "Error: Permission denied: secret.csv"


def test_what_was_typed_is_kept_as_a_shell_would_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/strata", "train", "my photos", "name=x"])
    assert cli.command_line() == "strata train 'my photos' name=x"


def test_numbers_that_are_none_are_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    cli.answer({"metrics": {"r2": float("nan"), "loss": [float("inf"), 1.0]}})
    assert json.loads(capsys.readouterr().out) == {"metrics": {"r2": None, "loss": [None, 1.0]}}
