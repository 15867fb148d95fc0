"""Names that stand for things which are imported only when used."""

from __future__ import annotations

import pytest

from strata.errors import UnknownNameError
from strata.registry import Registry


def make() -> Registry:
    registry = Registry("model")
    registry.add("resnet", "no.such.module:ResNet", "Residual networks")
    registry.add("ordered", "collections:OrderedDict")
    return registry


def test_listing_imports_nothing() -> None:
    registry = make()
    assert [*registry] == ["resnet", "ordered"] and len(registry) == 2 and "resnet" in registry
    assert registry.summary("resnet") == "Residual networks"


def test_a_name_is_resolved_when_asked_for() -> None:
    from collections import OrderedDict

    assert make().get("ordered") is OrderedDict


def test_a_second_claim_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model 'resnet' is already 'no\.such\.module:ResNet'"):
        make().add("resnet", "other:ResNet")


def test_an_unknown_name_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Unknown model 'resnt'\. Did you mean 'resnet'\? Known: ordered, resnet"
    ):
        make().get("resnt")
