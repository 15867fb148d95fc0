"""Our networks give the logits of torchvision's own, weight for weight, in float64.

torchvision is not needed: `record_torchvision.py` ran it once, on the numbers that `filling.py` makes of names and
shapes.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from strata import models

HERE = Path(__file__).parent
filling = SimpleNamespace(**runpy.run_path(str(HERE / "filling.py")))
RECORD: dict[str, Any] = json.loads((HERE / "torchvision.json").read_text())
TOLERANCE = 1e-9
RUN = [pytest.param(name, marks=pytest.mark.slow if case.is_slow else ()) for name, case in filling.CASES.items()]


def ours(name: str) -> tuple[nn.Module, Any]:
    """Return our network on the meta device, where it costs nothing, and its table."""
    case = filling.CASES[name]
    config = dataclasses.replace(models.preset(case.preset), num_classes=filling.CLASSES, **case.settings)
    with torch.device("meta"):
        model = models.build(config)
    return model, importlib.import_module(f"strata.weights.{models.family_of(config)}").TORCHVISION


@pytest.mark.parametrize("name", filling.CASES)
def test_what_is_written_has_the_names_and_shapes_of_torchvision(name: str) -> None:
    model, table = ours(name)
    written = table.write(model.config, model.state_dict())
    assert (len(written), filling.digest(written)) == (RECORD[name]["keys"], RECORD[name]["digest"])


@pytest.mark.parametrize("name", RUN)
def test_the_logits_equal_those_of_torchvision_and_no_weight_is_lost(name: str) -> None:
    model, table = ours(name)
    theirs = filling.filled(table.write(model.config, model.state_dict()))
    state = table.read(model.config, model.state_dict(), theirs)
    back = table.write(model.config, state)
    assert back.keys() == theirs.keys() and all(torch.equal(back[key], theirs[key]) for key in theirs)

    model.load_state_dict(state, assign=True)
    model.eval().training = True  # auxiliary heads speak, but norms and dropout are as in use
    with torch.inference_mode():
        found = model(filling.picture(filling.CASES[name].side))
    logits = torch.cat(found if isinstance(found, tuple) else (found,))
    expected = torch.tensor(RECORD[name]["logits"], dtype=torch.float64)
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)
