"""What is learned from: pictures, tables and texts, under a name or from disk, read into one shape (`dataset.Dataset`).

Importing this page imports nothing else; each name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strata.data.catalog import DATASETS
    from strata.data.dataset import DataConfig, Dataset, Preprocess, Split, TensorSplit
    from strata.data.preprocess import load as load_preprocess
    from strata.data.preprocess import save as save_preprocess
    from strata.data.source import open_data, recognize
    from strata.data.tables import read_rows

__all__ = [
    "DATASETS",
    "TEXTUAL",
    "DataConfig",
    "Dataset",
    "Preprocess",
    "Split",
    "TensorSplit",
    "load_preprocess",
    "open_data",
    "read_rows",
    "recognize",
    "save_preprocess",
]

_TARGETS = {
    "DATASETS": "catalog:DATASETS",
    "TEXTUAL": "dataset:TEXTUAL",
    "DataConfig": "dataset:DataConfig",
    "Dataset": "dataset:Dataset",
    "Preprocess": "dataset:Preprocess",
    "Split": "dataset:Split",
    "TensorSplit": "dataset:TensorSplit",
    "load_preprocess": "preprocess:load",
    "open_data": "source:open_data",
    "read_rows": "tables:read_rows",
    "recognize": "source:recognize",
    "save_preprocess": "preprocess:save",
}


def __getattr__(name: str) -> Any:
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _TARGETS[name].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
