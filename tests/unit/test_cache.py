"""Where downloads and compiled kernels lie."""

from pathlib import Path

import pytest

from strata.cache import cache_folder


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("STRATA_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "strata"
