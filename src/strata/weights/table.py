"""A table between our names of a model's tensors and another library's, written once and read in both directions.

A table is a list of pairs of prefixes, ours and theirs. A prefix stands for every tensor below it, so that one line
maps a whole layer: its weight, bias and running statistics. The longest prefix that fits a name decides. Every tensor
is mapped, dropped on purpose with the reason, or an error.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from strata.errors import WeightsError

Pair = tuple[str, str | tuple[str, ...]]
"""Our prefix and theirs; where theirs are several, ours is theirs one after another along the first axis."""
NAMED = 4
"""Tensors that an error names."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """How one library names one architecture's tensors."""

    library: str
    """As an error names it: "Hugging Face", "torchvision"."""
    pairs: Callable[[Any], Iterable[Pair]]
    """From our config, since depth and options decide which tensors there are."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Patterns (as of `fnmatch`) of their tensors that ours lacks, and why that is right."""
    head: str = "head"
    """Our prefix of the layer that gives the classes, which other data needs anew."""
    trunk: str = ""
    """Their prefix that is left out where there is a trunk alone, without a head: "vit."."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Parts of their names as older files have them, and what they are today."""

    def names(self, config: Any, ours: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return, for each of our tensors' names, theirs. Asserts that the table knows each."""
        pairs = {our: (their,) if isinstance(their, str) else their for our, their in self.pairs(config)}
        found: dict[str, tuple[str, ...]] = {}
        for name in ours:
            prefix = name
            while prefix and prefix not in pairs:
                prefix = prefix.rpartition(".")[0]
            assert prefix, f"the {self.library} table of {type(config).__name__} has no line for {name!r}"
            found[name] = tuple(their + name[len(prefix) :] for their in pairs[prefix])
        return found

    def read(self, config: Any, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors under our names.

        Args:
            ours: a model's state dict, for names and shapes; on the meta device it costs nothing.

        Weights of a trunk alone give no tensors of the head.

        Raises WeightsError for tensors that are missing, unknown, or of another shape.
        """
        theirs = {self._today(their): value for their, value in theirs.items()}
        names = self.names(config, ours)
        if self.trunk and not any(their.startswith(self.trunk) for their in theirs):
            theirs = {self.trunk + their: value for their, value in theirs.items()}
            names = {our: parts for our, parts in names.items() if not our.startswith(f"{self.head}.")}
        missing = [their for parts in names.values() for their in parts if their not in theirs and not _counter(their)]
        used = {their for parts in names.values() for their in parts}
        unknown = [their for their in theirs if their not in used and self.reason(their) is None]
        if missing or unknown:
            said = [
                f"{label} {_list(found)}" for label, found in (("missing:", missing), ("unknown:", unknown)) if found
            ]
            raise WeightsError(
                f"These weights are not {type(config).__name__.removesuffix('Config')}'s in the layout of "
                f"{self.library}; {'; '.join(said)}. Is it another size or preset? See: strata models"
            )
        found: dict[str, Tensor] = {}
        for name, parts in names.items():
            if parts[0] not in theirs:  # written before torch counted batches
                found[name] = torch.zeros_like(ours[name], device="cpu")
                continue
            value = theirs[parts[0]] if len(parts) == 1 else torch.cat([theirs[part] for part in parts])
            if value.shape != ours[name].shape:
                raise WeightsError(
                    f"{' + '.join(parts)} has shape {tuple(value.shape)}, but the model's {name} "
                    f"{tuple(ours[name].shape)}. Is it another size or preset? See: strata models"
                )
            found[name] = value
        return found

    def write(self, config: Any, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our tensors under their names."""
        found: dict[str, Tensor] = {}
        for name, parts in self.names(config, ours).items():
            values = ours[name].chunk(len(parts)) if len(parts) > 1 else (ours[name],)
            assert len(values) == len(parts)
            found |= {part: value.contiguous() for part, value in zip(parts, values, strict=True)}
        return found

    def _today(self, their: str) -> str:
        for old, new in self.renamed.items():
            their = their.replace(old, new)
        return their

    def reason(self, their: str) -> str | None:
        """Return why a tensor of theirs is dropped, or None where it is not."""
        return next((why for pattern, why in self.dropped.items() if fnmatch.fnmatchcase(their, pattern)), None)


def _counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
