"""What several tests share: where the development data lies, the command line in this process, tolerances, digests."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import strata.kernels

TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-2)}
"""Relative and absolute, by dtype."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute with one thread: two on tiny shapes wait for each other, and for whatever else the machine does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the development data sets; skips the test, with the reason, where they are absent."""
    named = os.environ.get("STRATA_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the development data is not at {folder}; STRATA_SHARED_DATA says where it is")
    return folder


@pytest.fixture
def recompile(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return what makes a cached ``kernel()`` be compiled with more flags for the time of a test."""

    def with_flags(kernel: Any, *flags: str) -> None:
        monkeypatch.setattr(strata.kernels, "_FLAGS", (*strata.kernels._FLAGS, *flags))
        kernel.cache_clear()
        request.addfinalizer(kernel.cache_clear)

    return with_flags


@pytest.fixture
def close() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a check that two tensors are equal within their dtype's tolerance."""

    def check(found: torch.Tensor, expected: torch.Tensor) -> None:
        relative, absolute = TOLERANCES[found.dtype]
        torch.testing.assert_close(found, expected, rtol=relative, atol=absolute)

    return check


@pytest.fixture
def digest() -> Callable[[Path], str]:
    """Return what tells a run's final weights from any others: their SHA-256."""
    return lambda run: hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object in the last line of standard output."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    @property
    def refusal(self) -> str:
        """The one or two lines of a refusal; fails when it is not one."""
        assert self.code == 2, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert lines and lines[-1].startswith("Error: "), self.err
        assert len(lines) <= 2, self.err
        return lines[-1]


@pytest.fixture
def strata_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Return a function that runs the command line's `main` in this process, in an empty folder."""
    from strata.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["strata", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call
