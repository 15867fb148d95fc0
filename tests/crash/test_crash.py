"""The small form of the proof in `prove.py`, run with every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from .prove import FAMILIES, prove


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_killed_and_resumed_ends_bit_identical_to_one_never_stopped(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two threads on a busy machine wait for each other for minutes; `prove.py` by itself uses all there are.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    proof = prove(family, kills=2, steps=40, save_every=5, seed=1, folder=tmp_path)
    assert proof.holds, proof
    assert proof.kills == 2
