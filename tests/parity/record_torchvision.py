"""Records into torchvision.json what torchvision's own networks give, filled as `filling.py` says.

    python tests/parity/record_torchvision.py FOLDER [NAME ...]

FOLDER is a checkout of torchvision, or its unpacked wheel. Only its pure-Python files of models are read: its packages'
``__init__`` would load the compiled parts, and what prepares pictures is not needed. Without names, all are recorded.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from filling import CASES, CLASSES, Case, digest, filled, picture

RECORD = Path(__file__).with_name("torchvision.json")


def stand_in(folder: Path) -> None:
    """Make ``torchvision.models.NAME`` importable without running any of torchvision's packages' ``__init__``."""
    for name in ("torchvision", "torchvision.models", "torchvision.ops"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    for name in ("torchvision.transforms", "torchvision.transforms._presets"):
        sys.modules[name] = mock.MagicMock()


def record(case: Case) -> dict[str, Any]:
    """Return what theirs gives: of a network with auxiliary heads, their logits too, in the order of depth."""
    module, builder = case.builder.split(":")
    build = getattr(importlib.import_module(f"torchvision.models.{module}"), builder)
    with torch.device("meta"):
        model = build(num_classes=CLASSES, **case.options)
    state = model.state_dict()
    model.load_state_dict(filled(state), assign=True)
    model.eval().training = True  # auxiliary heads speak, but norms and dropout are as in use
    with torch.inference_mode():
        found = model(picture(case.side))
    logits = {"logits": found} if isinstance(found, torch.Tensor) else found._asdict()
    return {
        "keys": len(state),
        "digest": digest(state),
        "logits": [
            logits[name].flatten().tolist() for name in sorted(logits, key=lambda name: (name != "logits", name))
        ],
    }


def main(folder: str, *names: str) -> None:
    """Record the architectures of these names, or all, and keep what the file holds of the others."""
    stand_in(Path(folder))
    content = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    version = re.search(r"\d+(\.\d+)+", (Path(folder) / "torchvision" / "version.py").read_text())
    for name in names or CASES:
        content[name] = record(CASES[name]) | {"torchvision": version.group() if version else "unknown"}
        print(name, content[name]["logits"][0][:3])
    RECORD.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
