"""Where Strata keeps what it can get or make again: downloads, features, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where downloads and whatever is made once are kept: $STRATA_CACHE, else ~/.cache/strata."""
    return Path(os.environ.get("STRATA_CACHE") or "~/.cache/strata").expanduser()
