"""The benchmarks run, tell a ratio, and log what a reader needs to trust it. Their quick sizes say nothing of speed."""

from __future__ import annotations

import importlib
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import strata

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RATIO = re.compile(r"^ratio, .+ is (at least )?\d+\.\d\d times as fast as .+ \(round by round [\d. ]+\)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _benchmarks_at_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    yield
    torch.set_num_threads(threads)


def _run(name: str, tmp_path: Path, *words: str, name_of_log: str | None = None) -> dict[str, Any]:
    importlib.import_module(name).main(["--quick", "--rounds", "1", "--logs", str(tmp_path), *words])
    (log,) = tmp_path.glob("*.json")
    assert re.fullmatch(rf"{name_of_log or name}-\d{{8}}\.json", log.name)
    return dict(json.loads(log.read_text()))


@pytest.mark.parametrize("name", ["vision_speed", "text_speed", "time_to_loss"])
def test_a_benchmark_of_training_tells_a_ratio_and_logs_how_it_came_about(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _run(name, tmp_path, "--threads", "1")
    assert RATIO.search(capsys.readouterr().out)
    assert log["machine"]["cpu"] and log["machine"]["threads"] == 1
    assert log["versions"]["torch"] == torch.__version__
    assert log["load_average"].keys() == {"start", "end"}
    assert log["rounds"][0].keys() >= {"strata", "textbook"}
    assert all(value > 0 for value in log["rounds"][0].values())
    assert log["settings"]["strata"]["decisions"]["precision"]


@pytest.mark.parametrize("name", ["vision_speed", "text_speed"])
def test_both_sides_train_as_many_parameters(name: str, tmp_path: Path) -> None:
    settings = _run(name, tmp_path, "--threads", "1")["settings"]
    assert settings["strata"]["parameters"] == settings["textbook"]["parameters"]


def test_encoding_is_compared_with_transformers_for_as_many_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    log = _run("encode_speed", tmp_path, "--threads", "1", "--peak")
    said = capsys.readouterr().out
    assert RATIO.search(said) and "of it" in said
    assert log["rounds"][0].keys() == {"strata", "strata, int8", "transformers", "transformers, best"}
    assert 0 < log["details"]["int8 changes"] < 0.1
    assert all(value > 0 for value in log["rounds"][0].values())
    assert log["settings"]["strata"]["parameters"] == log["settings"]["transformers"]["parameters"]
    assert 0 < log["details"]["peak"]["share"] < 1


def test_the_textbook_resnet_has_the_size_of_ours() -> None:
    textbook = importlib.import_module("textbook")
    with torch.device("meta"):
        theirs = textbook.ResNet18()
        ours = strata.create("resnet18", stem="cifar", num_classes=10)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


def test_the_textbook_gpt_computes_the_same_with_either_attention() -> None:
    textbook = importlib.import_module("textbook")
    sizes = {"num_layers": 2, "num_heads": 2, "width": 16, "context": 8, "vocab_size": 11}
    torch.manual_seed(0)
    sdpa, manual = (textbook.GPT(textbook.GPTShape(**sizes, sdpa=how)).double() for how in (True, False))
    manual.load_state_dict(sdpa.state_dict())
    tokens = torch.randint(11, (3, 8))
    torch.testing.assert_close(sdpa(tokens), manual(tokens))


def test_starting_up_is_timed_against_the_bars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _run("startup", tmp_path)
    said = capsys.readouterr().out
    assert RATIO.search(said)
    assert re.search(r"strata --help: median .+ of the bar of 0\.3 s", said)
    assert re.search(r"import strata: median .+ of the bar of 0\.1 s", said)
    assert log["rounds"][0].keys() >= {"strata --help", "import strata"}


def test_writing_is_compared_with_transformers_and_with_what_memory_allows(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    log = _run(
        "generation_speed", tmp_path, "--threads", "1", "--batch-size", "2", name_of_log="generation_speed-batch2"
    )
    assert log["details"]["read_bandwidth_bytes_per_second"] > 0
    for weights in ("fp32", "bf16", "int8"):
        told = log["details"][weights]
        assert told["share"] * told["bound_tokens_per_second"] == pytest.approx(statistics.median(told["steps"]))


@pytest.mark.slow
def test_training_a_gpt_is_compared_in_speed_and_memory_for_as_many_parameters(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    log = _run("gpt_training", tmp_path, "--threads", "1")
    assert log["settings"]["strata"]["parameters"] == log["settings"]["transformers"]["parameters"]
    for found in log["details"]["peaks"].values():
        assert found[0]["peak_bytes"] > found[0]["began_with_bytes"] > 0


def test_a_target_that_we_miss_gives_no_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _run("time_to_loss", tmp_path, "--threads", "1", "--target", "0.1")
    assert log["ratios"] == []
    assert "strata did not reach 0.1 in round 1" in capsys.readouterr().out


def test_a_ratio_says_how_many_times_as_fast_ours_is_for_rates_and_for_times() -> None:
    rounds = importlib.import_module("rounds")
    rates = rounds.Measurement("x", "images per second", True, rounds=[{"a": 6.0, "b": 2.0}, {"a": 8.0, "b": 2.0}])
    times = rounds.Measurement("x", "seconds", False, rounds=[{"a": 2.0, "b": 6.0}])
    assert rates.compare("a", "b", "") == 3.5
    assert rates.ratios[0]["per_round"] == [3.0, 4.0]
    assert times.compare("a", "b", "") == 3.0


def test_a_ratio_to_a_side_that_missed_its_target_is_told_as_a_lower_bound(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = importlib.import_module("rounds")
    times = rounds.Measurement("x", "seconds", False, rounds=[{"a": 2.0, "b": 6.0}])
    times.compare("a", "b", "time to the target", at_least=True)
    times.show()
    assert "a is at least 3.00 times as fast as b" in capsys.readouterr().out


def test_sides_are_measured_in_turn() -> None:
    rounds = importlib.import_module("rounds")
    order: list[str] = []

    def side(name: str) -> Any:
        return lambda number: order.append(f"{name}{number}") or 1.0

    rounds.Measurement("x", "seconds", False, quick=True).alternate({"a": side("a"), "b": side("b")}, 2)
    assert order == ["a0", "b0", "a1", "b1"]


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    rounds = importlib.import_module("rounds")
    found = rounds.Measurement("x", "seconds", False, rounds=[{"a": 1.0}])
    assert found.write(tmp_path) != found.write(tmp_path)
    assert len(list(tmp_path.glob("x-*.json"))) == 2


def test_a_stop_watch_counts_only_the_steps_after_the_warm_up() -> None:
    rounds = importlib.import_module("rounds")
    watch = rounds.StopWatch(2, 3, "cpu")
    for _ in range(4):
        watch.tick()
    assert watch.seconds == 0
    with pytest.raises(rounds.Enough):
        watch.tick()
    assert watch.seconds > 0
