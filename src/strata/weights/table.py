"""A table between our names of a model's tensors and another library's, written once and read in both directions.

A table is a list of pairs of prefixes, ours and theirs. A prefix stands for every tensor below it, so that one line
maps a whole layer: its weight, bias and running statistics. The longest prefix that fits a name decides. Every tensor
is mapped, dropped on purpose with the reason, or an error.

What is more than a name: tensors of ours that are several of theirs (a tuple, or `Theirs` with ``rows`` where these
differ in size), layers that they store transposed (`Theirs`), and tensors of ours that are one and the same (`tied`),
which files hold once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from strata.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """How a layer of ours lies among their tensors, where that is more than its name."""

    names: tuple[str, ...]
    """Their prefixes; where several, ours is theirs one after another along the first axis."""
    rows: tuple[int, ...] | None = None
    """Size of each along the first axis; None where all are alike."""
    is_transposed: bool = False
    """Their matrices are ours transposed, as in GPT-2's file; vectors are the same."""


Pair = tuple[str, str | tuple[str, ...] | Theirs]
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
    trunk: str | Callable[[Any], str] = ""
    """Their prefix that is left out where there is a trunk alone, without a head: "vit."; or what gives it from our
    config. A model of ours without any tensor of a head is written without it too."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Parts of their names as older files have them, and what they are today."""

    tied: Callable[[Any], Mapping[str, str]] = lambda config: {}
    """Names of our tensors that are another of ours, by our config: {"head.weight": "token_embedding.weight"}. They
    are not written, and taken from that other tensor even where a file holds them. The pairs name them all the same."""

    zeros: Callable[[Any], Mapping[str, int]] = lambda config: {}
    """Vectors of theirs that ours lacks and that change nothing where they are zero, such as biases, and their sizes;
    they are written, never read."""

    def names(self, config: Any, ours: Iterable[str]) -> dict[str, Theirs]:
        """Return, for each of our tensors' names, what it is of theirs. Asserts that the table knows each."""
        pairs = {our: _theirs(their) for our, their in self.pairs(config)}
        found: dict[str, Theirs] = {}
        for name in ours:
            prefix = name
            while prefix and prefix not in pairs:
                prefix = prefix.rpartition(".")[0]
            assert prefix, f"the {self.library} table of {type(config).__name__} has no line for {name!r}"
            names = tuple(their + name[len(prefix) :] for their in pairs[prefix].names)
            found[name] = replace(pairs[prefix], names=names)
        return found

    def read(self, config: Any, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors under our names.

        Args:
            ours: a model's state dict, for names and shapes; on the meta device it costs nothing.

        Weights of a trunk alone give no tensors of the head.

        Raises WeightsError for tensors that are missing, unknown, or of another shape.
        """
        theirs = {self.today(their): value for their, value in theirs.items()}
        names, tied, trunk = self.names(config, ours), self.tied(config), self._trunk(config)
        if trunk and not any(their.startswith(trunk) for their in theirs):
            theirs = {trunk + their: value for their, value in theirs.items()}
            names = {our: parts for our, parts in names.items() if not self._is_head(our) or our in tied}
        wanted = [their for our, parts in names.items() if our not in tied for their in parts.names]
        missing = [their for their in wanted if their not in theirs and not _counter(their)]
        known = {their for parts in names.values() for their in parts.names}
        unknown = [their for their in theirs if their not in known and self.reason(their) is None]
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
            if name in tied:
                continue
            if parts.names[0] not in theirs:  # written before torch counted batches
                found[name] = torch.zeros_like(ours[name], device="cpu")
                continue
            found[name] = _joined(parts, theirs)
            if found[name].shape != ours[name].shape:
                raise WeightsError(
                    f"{' + '.join(parts.names)} has shape {tuple(found[name].shape)}, but the model's {name} "
                    f"{tuple(ours[name].shape)}. Is it another size or preset? See: strata models"
                )
        return found | {name: found[tied[name]] for name in names if name in tied}

    def write(self, config: Any, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our tensors under their names."""
        found: dict[str, Tensor] = {}
        tied = self.tied(config)
        for name, parts in self.names(config, ours).items():
            if name not in tied:
                values = (value.contiguous() for value in _parted(parts, ours[name]))
                found |= dict(zip(parts.names, values, strict=True))
        like = next(iter(ours.values()))
        found |= {their: like.new_zeros(size) for their, size in self.zeros(config).items()}
        if any(self._is_head(name) for name in ours):
            return found
        trunk = self._trunk(config)
        return {their.removeprefix(trunk): value for their, value in found.items()}

    def _trunk(self, config: Any) -> str:
        return self.trunk if isinstance(self.trunk, str) else self.trunk(config)

    def _is_head(self, our: str) -> bool:
        return our.startswith(f"{self.head}.")

    def today(self, their: str) -> str:
        """Return a name of theirs as files have it now."""
        for old, new in self.renamed.items():
            their = their.replace(old, new)
        return their

    def reason(self, their: str) -> str | None:
        """Return why a tensor of theirs is dropped, or None where it is not."""
        return next((why for pattern, why in self.dropped.items() if fnmatch.fnmatchcase(their, pattern)), None)


def _theirs(their: str | tuple[str, ...] | Theirs) -> Theirs:
    if isinstance(their, Theirs):
        return their
    return Theirs(names=(their,) if isinstance(their, str) else their)


def _joined(parts: Theirs, theirs: Mapping[str, Tensor]) -> Tensor:
    values = [
        theirs[name].t() if parts.is_transposed and theirs[name].ndim == 2 else theirs[name] for name in parts.names
    ]
    return values[0] if len(values) == 1 else torch.cat(values)


def _parted(parts: Theirs, value: Tensor) -> tuple[Tensor, ...]:
    if len(parts.names) == 1:
        values: tuple[Tensor, ...] = (value,)
    else:
        values = value.split(parts.rows) if parts.rows is not None else value.chunk(len(parts.names))
    return tuple(part.t() if parts.is_transposed and part.ndim == 2 else part for part in values)


def _counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
