"""Sequences of different lengths: kept end to end in one long tensor, padded only when they meet in a batch.

A batch is padded on the right to its own longest sequence, and batches are drawn from sequences of about equal length
(`bucketed`), so that little of the work is spent on padding. For each column NAME of sequences a batch has NAME, int64
(B, T), and NAME_mask, bool (B, T), True where there is a token; the mask of ``input`` is called ``mask``.

N sequences, B of them in a batch, T tokens in the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata import rng
from strata.data.dataset import digest

PAD_TO = 8
"""A batch's length is a multiple of this: fewer different shapes, and full vectors."""
BATCHES_IN_POOL = 50
"""Batches whose sequences are sorted by length together."""


class Ragged:
    """N sequences of int64, end to end.

    Args:
        value_M: all of them, int32 or int64.
        start_N1: where each begins, and at last where the last one ends, int64 (N + 1,).
    """

    def __init__(self, value_M: Tensor, start_N1: Tensor) -> None:
        self.value_M, self.start_N1 = value_M, start_N1

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> Ragged:
        """Put sequences of numbers end to end."""
        arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
        lengths = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        start_N1 = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        value = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
        return cls(torch.from_numpy(value.astype(np.int32)), start_N1)

    def __len__(self) -> int:
        return len(self.start_N1) - 1

    def __getitem__(self, index: int) -> Tensor:
        return self.value_M[int(self.start_N1[index]) : int(self.start_N1[index + 1])].to(torch.int64)

    @property
    def length_N(self) -> Tensor:
        """How many numbers each has."""
        return self.start_N1.diff()

    def padded(self, index_B: Tensor, filler: int = 0) -> tuple[Tensor, Tensor]:
        """Return sequences side by side, int64 (B, T), and where there is something, bool (B, T)."""
        index_B = index_B.to(self.start_N1.device)
        first_B, length_B = self.start_N1[index_B], self.start_N1[index_B + 1] - self.start_N1[index_B]
        longest = max(1, int(length_B.max())) if len(length_B) else 1
        place_T = torch.arange(-(-longest // PAD_TO) * PAD_TO, device=first_B.device)
        mask_BT = place_T < length_B[:, None]
        place_BT = (first_B[:, None] + place_T).clamp(max=max(0, len(self.value_M) - 1))
        if not len(self.value_M):
            return torch.full(mask_BT.shape, filler), mask_BT
        return torch.where(mask_BT, self.value_M[place_BT].to(torch.int64), filler), mask_BT

    def to(self, device: torch.device | str) -> Ragged:
        """Return the same sequences on a device."""
        return Ragged(self.value_M.to(device), self.start_N1.to(device))


class SequenceSplit:
    """A part of a data set whose samples hold sequences.

    Args:
        columns: sequences by name, ``input`` among them.
        values: one row for each sample, by name, such as ``target`` (N,).
        fillers: what a column is padded with, where it is not 0; a column that has -100 here needs no mask.
        describe: gives what a person may want to know of a sample by its number: its text.
    """

    in_memory = True

    def __init__(
        self,
        columns: Mapping[str, Ragged],
        values: Mapping[str, Tensor] | None = None,
        *,
        fillers: Mapping[str, int] | None = None,
        describe: Callable[[int], dict[str, Any]] = lambda index: {},
    ) -> None:
        self.columns, self.values, self.fillers = dict(columns), dict(values or {}), dict(fillers or {})
        self.describe = describe
        lengths = [len(column) for column in self.columns.values()] + [len(value) for value in self.values.values()]
        assert lengths and min(lengths) == max(lengths), "every column is of the same samples"

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def length_N(self) -> Tensor:
        """Tokens of each sample, of all its columns that are padded together; batches are made of similar ones."""
        return torch.stack([column.length_N.cpu() for column in self.columns.values()]).sum(0)

    @property
    def target(self) -> Tensor | None:
        """Each sample's class, where it has one."""
        return self.values.get("target")

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the samples of these numbers, padded; they are the same in every epoch."""
        batch: dict[str, Tensor] = {}
        for name, column in self.columns.items():
            filler = self.fillers.get(name, 0)
            batch[name], mask_BT = column.padded(index_B, filler)
            if filler != -100:
                batch["mask" if name == "input" else f"{name}_mask"] = mask_BT
        return batch | {name: value[index_B.to(value.device)] for name, value in self.values.items()}

    def with_values(self, values: Mapping[str, Tensor]) -> SequenceSplit:
        """Return the same samples with further rows, by name."""
        return SequenceSplit(self.columns, self.values | dict(values), fillers=self.fillers, describe=self.describe)

    def to(self, device: torch.device | str) -> SequenceSplit:
        """Return the same samples on a device."""
        columns = {name: column.to(device) for name, column in self.columns.items()}
        values = {name: value.to(device) for name, value in self.values.items()}
        return SequenceSplit(columns, values, fillers=self.fillers, describe=self.describe)


def fingerprint(splits: Mapping[str, SequenceSplit]) -> str:
    """Return the hex digest of the sequences of all splits, for `Dataset.fingerprint`."""
    return digest(*(column.value_M for split in splits.values() for column in split.columns.values()))


def bucketed(order_N: Tensor, length_N: Tensor, batch_size: int, first: int, seed: int, epoch: int) -> Tensor:
    """Reorder an epoch so that the samples of a batch are of similar length; batches come in random order.

    Args:
        order_N: a permutation of the samples; decides who meets whom.
        first: samples of this epoch that complete the batch which began in the one before.
    """
    n = len(order_N)
    first = min(first, n)
    whole = (n - first) // batch_size
    body_M = order_N[first : first + whole * batch_size]
    pools = [pool[length_N[pool].argsort(stable=True)] for pool in body_M.split(batch_size * BATCHES_IN_POOL)]
    if whole:
        batch_KB = torch.cat(pools).view(whole, batch_size)
        body_M = batch_KB[rng.permutation(whole, seed, "order of batches", epoch)].flatten()
    return torch.cat([order_N[:first], body_M, order_N[first + whole * batch_size :]])
