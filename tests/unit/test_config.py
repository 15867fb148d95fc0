"""Configs to JSON and back, and settings as they are typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from strata.config import (
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Probability,
    from_json,
    keys,
    override,
    parse_settings,
    to_json,
)
from strata.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    HEAD: ClassVar[str] = "source"

    source: str = "digits"
    rate: PositiveFloat = 0.5
    drop: Probability = 0.0
    noise: NotNegativeFloat = 0.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    widths: tuple[Positive, ...] = (1, 2)
    pair: tuple[float, float] = (0.9, 0.999)
    steps: Positive | None = None
    size: Positive | Literal["full"] = 64
    compile: bool | Literal["auto"] = "auto"
    channels: Literal[1, 3] | None = None
    weights: Literal["balanced"] | tuple[float, ...] | None = None
    inner: Inner = field(default_factory=Inner)
    any: Any = None


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("widths", "8,16,32", (8, 16, 32)),
        ("widths", "[8, 16]", (8, 16)),
        ("widths", "8", (8,)),
        ("widths", "", ()),
        ("pair", "0.5,0.9", (0.5, 0.9)),
        ("steps", "10", 10),
        ("steps", "none", None),
        ("size", "full", "full"),
        ("size", "1", 1),
        ("compile", "true", True),
        ("compile", "auto", "auto"),
        ("channels", "1", 1),
        ("channels", "none", None),
        ("weights", "balanced", "balanced"),
        ("weights", "1,2.5", (1.0, 2.5)),
        ("inner.rate", "1e-3", 1e-3),
    ],
)
def test_what_is_typed_becomes_a_value_of_the_fields_type(key: str, text: str, value: object) -> None:
    assert keys(override(Outer(), key, text))[key] == value


def test_a_bare_key_sets_the_head_of_its_group() -> None:
    assert override(Outer(), "inner", "./photos").inner.source == "./photos"
    assert keys(Outer())["inner"] == "digits"


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("inner.rat", "1", "Recipe 'r' has no setting 'inner.rat'. Did you mean 'inner.rate'? It takes: drop, noise,"),
        ("stepps", "1", "Recipe 'r' has no setting 'stepps'. Did you mean 'steps'?"),
        ("rate", "1", "Did you mean 'inner.rate'?"),
        ("steps.more", "1", "Recipe 'r' has no setting 'steps.more'."),
        ("steps", "0", "steps=0 is not allowed: it has to be greater than or equal to 1"),
        ("steps", "1e3", "steps=1e3 is not allowed: it has to be a valid integer."),
        ("size", "half", "size=half is not allowed: it has to be a valid integer or 'full'."),
        ("compile", "x", "compile=x is not allowed: it has to be a valid boolean or 'auto'."),
        ("channels", "2", "channels=2 is not allowed: it has to be 1 or 3."),
        ("pair", "0.9", "pair=0.9 is not allowed: it has to be at least 2 values."),
        ("pair", "1,2,3", "pair=1,2,3 is not allowed: it has to be at most 2 values."),
        ("widths", "[1, 2", "widths=[1, 2 is not a list; write it as 1,2,3 or [1, 2, 3]."),
        ("inner.drop", "1", "inner.drop=1 is not allowed: it has to be less than 1."),
        ("inner.rate", "inf", "inner.rate=inf is not allowed: it has to be finite."),
        ("inner.noise", "inf", "inner.noise=inf is not allowed: it has to be finite."),
        ("inner.rate", "nan", "inner.rate=nan is not allowed: it has to be finite."),
    ],
)
def test_a_wrong_setting_is_refused_in_words_that_help(key: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        override(Outer(), key, text, owner="Recipe 'r'")
    assert words in str(refused.value)


def test_a_group_without_a_head_names_what_is_inside() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Top:
        outer: Outer = field(default_factory=Outer)

    with pytest.raises(ConfigError, match=r"'outer' is a group of settings\. Set one of: outer\.widths"):
        override(Top(), "outer", "3")


def test_json_gives_the_same_config_back() -> None:
    config = Outer(widths=(5,), steps=3, size="full", weights=(1.0, 0.5), inner=Inner(source="x", rate=0.1 + 0.2))
    assert from_json(Outer, to_json(config)) == config


def test_a_setting_that_json_lacks_takes_its_default() -> None:
    assert from_json(Outer, {"steps": 4}) == Outer(steps=4)


def test_json_with_a_key_or_value_that_does_not_fit_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"Unknown setting 'inner\.rat'\. Did you mean 'rate'"):
        from_json(Outer, {"inner": {"rat": 1}})
    with pytest.raises(ConfigError, match=r"inner\.rate=-1 is not allowed"):
        from_json(Outer, {"inner": {"rate": -1}})


def test_a_word_that_is_no_setting_is_refused() -> None:
    assert parse_settings(["a.b=1", "c=x=y"]) == {"a.b": "1", "c": "x=y"}
    for word in ("epochs", "=3"):
        with pytest.raises(ConfigError, match=r"is not a setting\. Write settings as key=value"):
            parse_settings([word])
