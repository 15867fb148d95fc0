"""Keys and values of the tokens read so far, so that each further token costs one step and not the whole text again.

The memory is set aside once, for the greatest length, so that nothing is copied as the text grows.

What can be generated from has a cache with: `position`, `length`, `reorder`, `can_rewind`. A recurrent net's is its
state; this one is attention's.

L layers, B sequences, H heads of keys and values, S places, T tokens read now, K numbers in a head.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.layers.position import places_of_real


class KVCache:
    """Static memory for keys and values, (L, B, H, S, K) each, and which of its places hold real tokens.

    A model's forward pass calls `begin` once, `append` once a layer, and `advance` at the end.

    Args:
        num_heads: of keys and values, which may be fewer than those of queries.
        length: tokens that there is room for, padding among them.
    """

    can_rewind: ClassVar[bool] = True
    """`position` may be set back, and what followed is forgotten."""

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        length: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (num_layers, batch_size, num_heads, length, head_width)
        self.key_LBHSK = torch.zeros(shape, dtype=dtype, device=device)
        self.value_LBHSK = torch.zeros(shape, dtype=dtype, device=device)
        self.position = 0
        """Tokens read, padding among them. Set it back to forget the last ones; 0 empties the cache."""
        self.real_BS: Tensor | None = None
        """Which places hold real tokens; None while no padding was announced."""

    @property
    def batch_size(self) -> int:
        """Sequences that are read side by side."""
        return self.key_LBHSK.shape[1]

    @property
    def length(self) -> int:
        """Tokens that there is room for."""
        return self.key_LBHSK.shape[3]

    def begin(self, num_new: int, mask_BT: Tensor | None = None) -> Tensor | None:
        """Make ready for ``num_new`` more tokens a row; return which places up to them hold real ones: (B, S).

        Args:
            mask_BT: True where a new token is real; None where all are.

        Returns None, and builds nothing, as long as no mask was ever given.
        Raises ConfigError where there is no room.
        """
        end = self.position + num_new
        if end > self.length:
            raise ConfigError(f"{end} tokens do not fit into a cache of {self.length}. Ask new_cache for a longer one.")
        if self.position == 0:
            self.real_BS = None
        if mask_BT is None and self.real_BS is None:
            return None
        if self.real_BS is None:
            shape = (self.batch_size, self.length)
            self.real_BS = torch.ones(shape, dtype=torch.bool, device=self.key_LBHSK.device)
        self.real_BS[:, self.position : end] = True if mask_BT is None else mask_BT
        return self.real_BS[:, :end]

    def places(self, num_new: int) -> Tensor:
        """Return where the new tokens stand: (T,), or (B, T) by each row's real tokens once it is padded.

        Call it after `begin`.
        """
        end = self.position + num_new
        if self.real_BS is None:
            return torch.arange(self.position, end, device=self.key_LBHSK.device)
        return places_of_real(self.real_BS[:, :end])[:, self.position :]

    def append(self, layer: int, key_BHTK: Tensor, value_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values at `position`; return all so far, (B, H, S, K) each, without a copy."""
        end = self.position + key_BHTK.shape[2]
        self.key_LBHSK[layer, :, :, self.position : end] = key_BHTK
        self.value_LBHSK[layer, :, :, self.position : end] = value_BHTK
        return self.key_LBHSK[layer, :, :, :end], self.value_LBHSK[layer, :, :, :end]

    def advance(self, num_new: int) -> None:
        """Count the new tokens as read."""
        self.position += num_new

    def reorder(self, index_B: Tensor) -> None:
        """Let row b be what row ``index_B[b]`` was, as beam search does; there may be more or fewer rows then."""
        if len(index_B) == self.batch_size:
            for memory in (self.key_LBHSK, self.value_LBHSK):  # in place, and only what is filled
                filled = memory[:, :, :, : self.position]
                filled.copy_(filled.index_select(1, index_B))
        else:
            self.key_LBHSK = self.key_LBHSK.index_select(1, index_B)
            self.value_LBHSK = self.value_LBHSK.index_select(1, index_B)
        if self.real_BS is not None:
            self.real_BS = self.real_BS.index_select(0, index_B)
