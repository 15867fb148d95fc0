"""What the README says is so: its commands run, its tables are what was recorded, the settings' page is the code's."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "src" / "strata" / "recipes" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_tables_are_what_was_recorded() -> None:
    assert runpy.run_path(str(ROOT / "docs" / "make_results.py"))["page"]() == README, "run docs/make_results.py"


def test_the_vision_page_s_tables_are_the_code_and_what_was_recorded() -> None:
    written = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["vision_page"]()
    assert made == written, "run docs/make_results.py"


def test_the_language_page_s_tables_are_the_code_and_what_was_recorded() -> None:
    written = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["language_page"]()
    assert made == written, "run docs/make_results.py"


def test_the_settings_page_is_the_code() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["page"]() == written, "run docs/make_settings.py"


def test_every_command_runs_or_is_marked_slow(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (20, 30), 90).save(tmp_path / "photo.png")
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("strata ")]
    assert len(commands) > 10
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for line in commands:
        words, _, comment = line.partition("#")
        if comment.strip().startswith("slow"):
            continue
        command = [sys.executable, "-m", "strata", *shlex.split(words)[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(block, {})


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_result_is_of_the_settings_that_its_command_gives_today(path: Path) -> None:
    import strata
    from strata.verify import difference, without_seed

    found = json.loads(path.read_text(encoding="utf-8"))
    words = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["words_of"](found)
    words.pop("seeds")
    now = without_seed(strata.recipe(found["recipe"], words))
    assert difference(found["resolved"], now) == ""
