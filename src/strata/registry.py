"""Names that stand for things which are imported only when used.

A registry maps a name to ``"module:attribute"``. Listing imports nothing; a second claim of a name is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from strata.errors import UnknownNameError


class Registry:
    """Names of one kind of thing, each resolved when asked for.

    Args:
        what: what an entry is called in an error: "model", "recipe", ...
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._targets: dict[str, str] = {}
        self._summaries: dict[str, str] = {}

    def add(self, name: str, target: str, summary: str = "") -> None:
        """Claim ``name`` for ``"module:attribute"``. Raises ValueError when the name is taken."""
        if name in self._targets:
            raise ValueError(f"{self.what} {name!r} is already {self._targets[name]!r}; it cannot also be {target!r}")
        self._targets[name] = target
        self._summaries[name] = summary

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def target(self, name: str) -> str:
        """Return ``"module:attribute"``. Raises UnknownNameError with the nearest right name."""
        if name not in self._targets:
            raise UnknownNameError(self.what, name, self)
        return self._targets[name]

    def summary(self, name: str) -> str:
        """Return the one line that describes ``name``."""
        self.target(name)
        return self._summaries[name]

    def get(self, name: str) -> Any:
        """Import and return what ``name`` stands for."""
        module, attribute = self.target(name).split(":")
        return getattr(importlib.import_module(module), attribute)
