"""Batches as a pure function of (seed, stream, number): batch 1,000 is the same whether or not 0..999 were drawn.

So the loader's place is the step number, and resuming skips nothing. Each epoch is a fresh permutation; a batch may
reach over the end of an epoch into the next, so that every batch has the same size and every sample is seen exactly
once in each epoch.

B samples in a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from strata import rng
from strata.data.dataset import Split

Batch = dict[str, Tensor]


class Loader:
    """Training batches of one split.

    Args:
        batch_size: samples in one batch; at most the split's length.
        stream: name of the random stream, so that two phases of a step see their own order.
        prepare: turns (raw batch on the device, step) into what the model sees: augmentation, normalisation.
        prefetch: read the next batch in the background; for splits that read from disk.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        stream: str,
        device: torch.device,
        prepare: Callable[[Batch, int], Batch],
        prefetch: bool = False,
    ) -> None:
        self.split, self.batch_size, self.seed, self.stream = split, batch_size, seed, stream
        self.device, self.prepare = device, prepare
        self.waited_seconds = 0.0
        self._orders: dict[int, Tensor] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, number: int, step: int) -> Batch:
        """Return batch ``number`` of the stream, prepared for ``step``; "sample" holds the sample numbers."""
        began = time.perf_counter()
        if self._pool is None:
            raw = self._read(number)
        else:
            ahead, self._next = self._next, None
            raw = ahead[1].result() if ahead is not None and ahead[0] == number else self._read(number)
            self._next = (number + 1, self._pool.submit(self._read, number + 1))
        self.waited_seconds += time.perf_counter() - began
        return self.prepare({k: v.to(self.device, non_blocking=True) for k, v in raw.items()}, step)

    def _read(self, number: int) -> Batch:
        place_B = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        epoch_B = place_B // len(self.split)
        within_B = place_B % len(self.split)
        first, last = int(epoch_B[0]), int(epoch_B[-1])
        index_B = torch.cat([self._order(e)[within_B[epoch_B == e]] for e in range(first, last + 1)])
        return self.split.gather(index_B, epoch_B) | {"sample": index_B}

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = rng.permutation(len(self.split), self.seed, f"order of {self.stream}", epoch)
        return self._orders[epoch]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def in_order(split: Split, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yield every sample of a split once, in order; the last batch may be smaller."""
    for start in range(0, len(split), batch_size):
        index_B = torch.arange(start, min(start + batch_size, len(split)))
        raw = split.gather(index_B, torch.zeros_like(index_B)) | {"sample": index_B}
        yield {key: value.to(device, non_blocking=True) for key, value in raw.items()}
