"""Strata: deep learning as one system.

    import strata
    run = strata.train(strata.recipe("resnet", data="./photos"))
    run.predict("cat.jpg")

The public names are loaded when first used, so that ``import strata`` costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strata.api import (
        Recipe as Recipe,
    )
    from strata.api import (
        Run as Run,
    )
    from strata.api import (
        create as create,
    )
    from strata.api import (
        export as export,
    )
    from strata.api import (
        load as load,
    )
    from strata.api import (
        recipe as recipe,
    )
    from strata.api import (
        resume as resume,
    )
    from strata.api import (
        train as train,
    )
    from strata.errors import StrataError as StrataError

__version__ = "0.1.0"

_HOME = {
    "Recipe": "strata.api",
    "Run": "strata.api",
    "StrataError": "strata.errors",
    "create": "strata.api",
    "export": "strata.api",
    "load": "strata.api",
    "recipe": "strata.api",
    "resume": "strata.api",
    "train": "strata.api",
}

__all__ = ["Recipe", "Run", "StrataError", "__version__", "create", "export", "load", "recipe", "resume", "train"]


class _Package(ModuleType):
    """This package, in which a public name stays what it is when a room of the same name is imported.

    Importing ``strata.train.loop`` binds the room ``train`` here; ``strata.train`` has to remain the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'strata' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
