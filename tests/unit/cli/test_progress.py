"""What a person sees while a run trains."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import strata
from strata.cli.progress import watching

IRIS = {"train.steps": 8, "train.evaluate_every": 4, "train.log_every": 2, "train.early_stopping": None}


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar_and_a_file_gets_lines(terminal: bool, tmp_path: Path) -> None:
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=terminal, width=160)
    with watching(console) as observer:
        strata.train("iris", IRIS | {"train.device": "cpu"}, runs=tmp_path, observers=[observer])
    shown = seen.getvalue()
    assert "step 4: validation accuracy" in shown and "Finished at step 8" in shown
    assert ("\x1b[" in shown) == terminal
    if terminal:
        assert "8/8" in shown and "samples/s" in shown and "loss " in shown
