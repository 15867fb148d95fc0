"""Frozen dataclasses to JSON and back, and ``key=value`` overrides with dotted keys.

A config is a frozen, keyword-only dataclass whose fields are numbers, strings, tuples, or further configs. pydantic
checks the values; what this file adds is that one field may hold configs of several kinds (a recipe's model may be a
ResNet's or a GPT's), that a key's error names the nearest right key, and that a config can name the field that a bare
``data=PATH`` sets, in the class attribute ``HEAD``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from strata.errors import ConfigError, suggest

Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), Lt(math.inf)]
NotNegativeFloat = Annotated[float, Ge(0), Lt(math.inf)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A share from 0 to 1, both allowed."""
Probability = Annotated[float, Ge(0), Lt(1)]
"""A share from 0 up to but not including 1: a dropout rate, a momentum."""

T = TypeVar("T")
NAMES_LISTED = 40
"""Settings that an error lists by their names; of more, their groups are listed."""


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _adapter(kind: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def to_json(config: Any, kind_of: Callable[[Any], str | None] = lambda config: None) -> Any:
    """Return a config as what `json` can write.

    Args:
        kind_of: gives the name to write as ``"kind"`` for a config that is one of several, else None.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = kind_of(config)
        head = {} if kind is None else {"kind": kind}
        return head | {f.name: to_json(getattr(config, f.name), kind_of) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_json(item, kind_of) for item in config]
    if isinstance(config, Mapping):
        return {key: to_json(value, kind_of) for key, value in config.items()}
    return config


def from_json(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a config of type ``cls`` from what `to_json` wrote, every value checked.

    Fields that are missing take their default, so that a run outlives a setting added later.
    Raises ConfigError for a key that ``cls`` lacks or a value that it does not allow.
    """
    types_ = _field_types(typing.cast(Any, cls))
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key == "kind" and key not in types_:
            continue
        dotted = f"{where}.{key}" if where else key
        if key not in types_:
            raise ConfigError(f"Unknown setting {dotted!r}.{suggest(key, types_)}")
        nested = _nested(types_[key])
        if nested is not None and isinstance(value, Mapping):
            built[key] = from_json(nested, value, dotted)
        else:
            built[key] = _check(types_[key], value, dotted)
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from None


def checked(config: Any) -> dict[str, Any]:
    """Return a config's values by field, each as its field's type has it. Raises ConfigError for one not allowed."""
    types_ = _field_types(typing.cast(Any, type(config)))
    return {name: _check(kind, getattr(config, name), name) for name, kind in types_.items()}


def _nested(kind: Any) -> type | None:
    """Return the dataclass in a field's type, also in ``X | None``."""
    if dataclasses.is_dataclass(kind):
        return typing.cast(type, kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        found = [k for k in typing.get_args(kind) if dataclasses.is_dataclass(k)]
        return typing.cast(type, found[0]) if found else None
    return None


def _check(kind: Any, value: Any, dotted: str) -> Any:
    import pydantic

    if kind is Any or dataclasses.is_dataclass(value):
        return value
    try:
        return _adapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{dotted}={_shown(value)} is not allowed: {_reason(error)}.") from None


def _reason(error: Any) -> str:
    """Say in a few words what a value has to be, from pydantic's list of what was tried."""
    reasons: list[str] = []
    for item in error.errors():
        text = re.sub(r", unable to .*", "", item["msg"].removeprefix("Input should be "))
        if item["type"] == "missing":  # in a tuple of so many values
            text = f"at least {item['loc'][-1] + 1} values"
        elif item["type"] == "too_long":
            text = f"at most {item['ctx']['max_length']} values"
        elif item.get("ctx", {}).get("lt") == math.inf:
            text = "finite"
        if text not in reasons:
            reasons.append(text)
    return "it has to be " + " or ".join(reasons)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return ",".join(value)  # as it was typed
    return value if isinstance(value, str) else json.dumps(value, default=str)


def says_none(value: Any) -> bool:
    """Say whether what was given for a setting is None, as such or as it is typed."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null"))


def parse(kind: Any, text: str, dotted: str) -> Any:
    """Turn what was typed after ``key=`` into a value of the field's type."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if text.strip() in words:
        return _check(kind, text.strip(), dotted)
    if says_none(text):
        return _check(kind, None, dotted)
    if any(typing.get_origin(_bare(option)) is tuple for option in options):
        if text.lstrip().startswith("["):
            try:
                return _check(kind, json.loads(text), dotted)
            except json.JSONDecodeError:
                raise ConfigError(f"{dotted}={text} is not a list; write it as 1,2,3 or [1, 2, 3].") from None
        try:
            return _check(kind, tuple(part.strip() for part in text.split(",") if part.strip()), dotted)
        except ConfigError:
            if len(options) == 1:
                raise
    literals = [option for option in options if typing.get_origin(option) is Literal]
    for value in (value for option in literals for value in typing.get_args(option)):
        if str(value) == text.strip():  # a number among them is not what was typed, but is meant by it
            return _check(kind, value, dotted)
    return _check(kind, text, dotted)


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def keys(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every dotted key that can be set in ``config``, with its present value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        dotted = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            head = getattr(value, "HEAD", None)
            if head is not None:
                found[dotted] = getattr(value, head)
            found |= keys(value, f"{dotted}.")
        else:
            found[dotted] = value
    return found


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return mappings within mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def override(config: T, key: str, text: Any, owner: str = "This config") -> T:
    """Return ``config`` with one dotted key set.

    Args:
        text: what was typed; a value that is not a string (from Python) is checked as it is.
        owner: whom an error names: "Recipe 'resnet'".

    Raises ConfigError for a key that does not exist, with the nearest right one, and for a value not allowed.
    """
    return typing.cast(T, _override(config, key.split("."), key, text, owner, config))


def _override(config: Any, path: list[str], key: str, value: Any, owner: str, root: Any) -> Any:
    types_ = _field_types(typing.cast(Any, type(config)))
    name = path[0]
    if name not in types_:
        raise ConfigError(f"{owner} has no setting {key!r}.{_takes(key, root)}")
    kind = types_[name]
    old = getattr(config, name)
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise ConfigError(f"{owner} has no setting {key!r}.{_takes(key, root)}")
        new = _override(old, path[1:], key, value, owner, root)
    elif dataclasses.is_dataclass(old) and not dataclasses.is_dataclass(value):
        head = getattr(old, "HEAD", None)
        if head is None:
            inside = ", ".join(f"{key}.{field.name}" for field in dataclasses.fields(old))
            raise ConfigError(f"{key!r} is a group of settings. Set one of: {inside}.")
        new = _override(old, [head], f"{key}.{head}", value, owner, root)
    else:
        new = parse(kind, value, key) if isinstance(value, str) else _check(kind, value, key)
    return dataclasses.replace(config, **{name: new})


def _takes(key: str, root: Any) -> str:
    known = [name for name in keys(root) if name.split(".")[0] not in getattr(root, "NOT_SET", ())]
    group = key.rsplit(".", 1)[0] + "." if "." in key else ""
    inside = {name.removeprefix(group): None for name in known if group and name.startswith(group)}
    if inside:
        return _suggest_in(group, key.removeprefix(group), inside)
    if len(known) <= NAMES_LISTED:
        return suggest(key, known, limit=NAMES_LISTED).replace(" Known:", " It takes:")
    groups = {f"{name.split('.')[0]}.*" if "." in name else name: None for name in known}
    shown = sorted(name for name in groups if f"{name}.*" not in groups)
    return f"{suggest(key, known).split(' Known:')[0]} It takes: {', '.join(shown)}."


def _suggest_in(group: str, name: str, inside: Iterable[str]) -> str:
    text = suggest(name, inside, limit=NAMES_LISTED).replace(" Known:", " It takes:")
    return text.replace("Did you mean '", f"Did you mean '{group}")


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Split ``["a.b=1", ...]`` into a dict. Raises ConfigError for a word without ``=``."""
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"{setting!r} is not a setting. Write settings as key=value, such as train.epochs=3.")
        found[key.strip()] = value
    return found
