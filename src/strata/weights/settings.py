"""A Hugging Face ``config.json``, read setting by setting: what ours lacks is refused in words, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from strata.errors import WeightsError

T = TypeVar("T")

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Their names of activations, and ours."""


def their_activation(name: str) -> str:
    """Return their name of an activation of ours. Raises WeightsError where they have none."""
    found = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == name), None)
    if found is None:
        raise WeightsError(f"transformers has no counterpart of activation={name!r} in this model.")
    return found


REMEDIES = {"stem": " Train with model.stem=imagenet and a data.image_size that suits it, such as 64 or more."}
"""What to do where a setting of ours has no counterpart there."""


class Settings:
    """The settings of one model.

    Args:
        values: what ``config.json`` holds.
        model: its name, for errors.
    """

    def __init__(self, values: Mapping[str, Any], model: str) -> None:
        self.values, self.model = values, model

    def take(self, key: str, default: T) -> T:
        """Return a setting's value, or their default where the file leaves it out."""
        value = self.values.get(key)
        return default if value is None else value

    def must(self, key: str, only: Any) -> None:
        """Refuse any value but the one that ours has; an absent setting has it."""
        if key in self.values and self.values[key] != only:
            raise WeightsError(
                f"{self.model} with {key}={self.values[key]!r} is not supported; only {key}={only!r} is."
                + REMEDIES.get(key, "")
            )

    def one_of(self, key: str, default: str, allowed: Mapping[str, T]) -> T:
        """Return what a word of theirs means to us. Raises WeightsError for any other word."""
        value = self.take(key, default)
        if value not in allowed:
            raise WeightsError(
                f"{self.model} with {key}={value!r} is not supported; these are: {', '.join(map(repr, allowed))}."
            )
        return allowed[value]

    def side(self, key: str, default: int) -> int:
        """Return the side of a square that is given as one number or as two."""
        value: Any = self.take(key, default)
        sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(sides) != 2 or sides[0] != sides[1]:
            raise WeightsError(f"{self.model} with {key}={value!r} is not supported; only squares are.")
        return int(sides[0])

    def activation(self, key: str, default: str) -> Any:
        """Return our name of an activation."""
        return self.one_of(key, default, ACTIVATIONS)

    def num_classes(self) -> int:
        """Return how many classes the head gives."""
        labels = self.values.get("id2label")
        return len(labels) if labels else int(self.take("num_labels", 2))
