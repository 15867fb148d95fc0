"""Write docs/settings.md from the dataclasses: `python docs/make_settings.py`. A test holds the two equal."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from pathlib import Path
from typing import Any

from strata.data.augment import AugmentConfig
from strata.data.dataset import DataConfig
from strata.models import MODELS, config_class
from strata.tasks import TASKS
from strata.train.recipe import TrainConfig

HEAD = """# Settings

Every setting is a dotted key: `strata train digits train.epochs=5 data.augment.rotate=15`. `strata recipes NAME` shows
what a recipe sets. This page is written by `python docs/make_settings.py` from the code.
"""


def described(cls: type) -> dict[str, str]:
    """Return the docstring of each field: the string that stands below it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, below in itertools.pairwise(body):
        documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and documented:
            found[statement.target.id] = " ".join(str(below.value.value).split())
    return found


def table(title: str, prefix: str, cls: Any) -> str:
    """Return one section: a row for each field."""
    words = described(cls)
    rows = [f"## {title}", "", (cls.__doc__ or "").split("\n")[0], "", "| key | default | |", "|---|---|---|"]
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            continue
        default = "" if field.default is dataclasses.MISSING else f"`{field.default}`"
        rows.append(f"| `{prefix}{field.name}` | {default} | {words.get(field.name, '').replace('|', '/')} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the whole page."""
    parts = [
        HEAD,
        table("Training", "train.", TrainConfig),
        table("Data", "data.", DataConfig),
        table("Augmentation of pictures", "data.augment.", AugmentConfig),
    ]
    parts += [table(f"Task {name}", "task.", TASKS.get(name)) for name in TASKS]
    parts += [table(f"Model {name}", "model.", config_class(name)) for name in MODELS]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(page(), encoding="utf-8")
