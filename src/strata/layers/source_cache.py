"""What an encoder-decoder keeps while it writes: the source's keys and values, computed once, and the target's so far.

L layers, B sequences, H heads, S source tokens, K numbers in a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from strata.layers.cache import KVCache
from strata.layers.masks import padding


class SourceCache(KVCache):
    """A `KVCache` of the target, in the type and on the device of the source's keys, with the source beside it.

    Args:
        sources: keys and values of the source in each of the decoder's layers, (B, H, S, K) each.
        source_mask_BS: True where the source has a token; None where it has everywhere.
        length: target tokens that there is room for.
    """

    def __init__(self, sources: Sequence[tuple[Tensor, Tensor]], source_mask_BS: Tensor | None, *, length: int) -> None:
        key_BHSK = sources[0][0]
        B, H, _, K = key_BHSK.shape
        super().__init__(
            num_layers=len(sources),
            batch_size=B,
            num_heads=H,
            length=length,
            head_width=K,
            dtype=key_BHSK.dtype,
            device=key_BHSK.device,
        )
        self.source_key_LBHSK = torch.stack([key for key, _ in sources])
        self.source_value_LBHSK = torch.stack([value for _, value in sources])
        self.mask_B11S = None if source_mask_BS is None else padding(source_mask_BS)

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the source's keys and values in a layer, (B, H, S, K) each."""
        return self.source_key_LBHSK[layer], self.source_value_LBHSK[layer]

    def reorder(self, index_B: Tensor) -> None:
        """Let row b be what row ``index_B[b]`` was, source and target; there may be more or fewer rows then."""
        super().reorder(index_B)
        self.source_key_LBHSK = self.source_key_LBHSK.index_select(1, index_B)
        self.source_value_LBHSK = self.source_value_LBHSK.index_select(1, index_B)
        if self.mask_B11S is not None:
            self.mask_B11S = self.mask_B11S.index_select(0, index_B)
