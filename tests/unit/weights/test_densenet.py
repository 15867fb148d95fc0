from __future__ import annotations

import torch

from strata.models.densenet import TINY, DenseNet
from strata.weights.densenet import TORCHVISION


def test_files_from_before_torchvision_renamed_its_layers_are_read() -> None:
    torch.manual_seed(0)
    ours = DenseNet(TINY).state_dict()
    today = TORCHVISION.write(TINY, ours)
    older = dict(today)
    for layer in ("norm", "conv"):
        for k in (1, 2):
            older = {name.replace(f".{layer}{k}.", f".{layer}.{k}."): value for name, value in older.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    found = TORCHVISION.read(TINY, ours, older)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], ours[name]) for name in ours)


def test_the_layout_is_torchvisions() -> None:
    names = TORCHVISION.write(TINY, DenseNet(TINY).state_dict())
    assert {name.rpartition(".")[0] for name in names} == {
        "features.conv0",
        "features.norm0",
        *(
            f"features.denseblock{s}.denselayer{k}.{x}{i}"
            for s in (1, 2)
            for k in (1, 2)
            for x in ("norm", "conv")
            for i in (1, 2)
        ),
        "features.transition1.norm",
        "features.transition1.conv",
        "features.norm3",
        "classifier",
    }
