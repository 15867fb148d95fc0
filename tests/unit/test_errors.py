"""One tree of errors that a user can cause, and the words that help."""

from __future__ import annotations

import inspect
import re

from strata import errors
from strata.errors import StrataError, suggest


def test_every_error_hangs_in_the_tree_that_is_drawn_at_the_top() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    written = [
        name
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, StrataError) and found is not StrataError
    ]
    assert sorted(drawn) == sorted(written)


def test_the_nearest_right_name_is_suggested_and_the_others_are_listed() -> None:
    assert suggest("resnt", ["vgg", "resnet"]) == " Did you mean 'resnet'? Known: resnet, vgg."
    assert suggest("qqq", ["vgg", "resnet"]) == " Known: resnet, vgg."
    assert suggest("epochs", ["train.epochs", "model.width"]).startswith(" Did you mean 'train.epochs'?")
    assert suggest("x", []) == ""


def test_a_long_list_of_names_is_cut() -> None:
    assert suggest("zzz", [f"n{k:02}" for k in range(30)], limit=3) == " Known: n00, n01, n02, ..."
