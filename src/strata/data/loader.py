"""Batches as a pure function of (seed, stream, number): batch 1,000 is the same whether or not 0..999 were drawn.

A split that says ``in_order_rows`` is read in its order instead, for nets that remember what came before: row r of a
batch goes on where row r of the last one ended. Rows begin evenly spread and go round in a ring, so that in training
each sample is seen once in an epoch here too.

So the loader's place is the step number, and resuming skips nothing. Each epoch is a fresh permutation; a batch may
reach over the end of an epoch into the next, so that every batch has the same size and every sample is seen exactly
once in each epoch. Where classes are balanced, an epoch has as many draws, shared evenly by the classes instead, and
each class goes through its own samples in a fresh order again and again. Sequences of different lengths meet others of
about their own length.

B samples in a batch, N samples, K classes, M samples of one class.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from strata import rng
from strata.data.dataset import Split
from strata.data.sequences import bucketed

Batch = dict[str, Tensor]
BATCHES_AHEAD = 4
"""Read in the background, and so in memory at once, beside the one in use."""


class Loader:
    """Training batches of one split.

    Args:
        batch_size: samples in one batch; at most the split's length.
        stream: name of the random stream, so that two phases of a step see their own order.
        prepare: turns (raw batch on the device, step) into what the model sees: augmentation, normalisation.
        prefetch: read the next batches in the background; for splits that read from disk.
        class_N: each sample's class, where classes are to be drawn equally often.
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
        class_N: Tensor | None = None,
    ) -> None:
        self.split, self.batch_size, self.seed, self.stream = split, batch_size, seed, stream
        self.device, self.prepare = device, prepare
        self.members = [] if class_N is None else _members(class_N.cpu())
        self.length_N: Tensor | None = getattr(split, "length_N", None)
        self.waited_seconds = 0.0
        self._orders: dict[int, tuple[Tensor, Tensor]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._reading: dict[int, Future[Batch]] = {}

    def batch(self, number: int, step: int) -> Batch:
        """Return batch ``number`` of the stream, prepared for ``step``.

        "sample" numbers the samples, for their random numbers; "epoch" says how often each was drawn before. Where
        classes are balanced, a sample drawn again has another number, since both may be in one batch.
        """
        began = time.perf_counter()
        raw = self._read(number) if self._pool is None else self._read_ahead(self._pool, number)
        self.waited_seconds += time.perf_counter() - began
        return self.prepare({k: v.to(self.device, non_blocking=True) for k, v in raw.items()}, step)

    def _read_ahead(self, pool: ThreadPoolExecutor, number: int) -> Batch:
        wanted = range(number, number + BATCHES_AHEAD + 1)
        for other in self._reading.keys() - set(wanted):
            self._reading.pop(other).cancel()
        for other in wanted:
            if other not in self._reading:
                self._reading[other] = pool.submit(self._read, other)
        return self._reading.pop(number).result()

    def _read(self, number: int) -> Batch:
        place_B = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        epoch_B = place_B // len(self.split)
        if getattr(self.split, "in_order_rows", False):
            index_B = in_rows(len(self.split), self.batch_size, number)
            return self.split.gather(index_B, epoch_B) | {"sample": index_B, "epoch": epoch_B}
        within_B = place_B % len(self.split)
        orders = [
            (self._order(epoch), within_B[epoch_B == epoch]) for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1)
        ]
        index_B = torch.cat([index_N[within] for (index_N, _), within in orders])
        seen_B = torch.cat([seen_N[within] for (_, seen_N), within in orders])
        sample_B = index_B + len(self.split) * seen_B if self.members else index_B
        batch = self.split.gather(index_B, seen_B) | {"sample": sample_B, "epoch": seen_B}
        if self._pool is not None and self.device.type == "cuda":  # pinned here, a copy need not be waited for
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return batch

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the samples of an epoch, and how often each was drawn before: int64 (N,) each."""
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            n = len(self.split)
            order_N = rng.permutation(n, self.seed, f"order of {self.stream}", epoch)
            found = balanced(self.members, order_N, self.seed, self.stream, epoch) if self.members else None
            if found is None and self.length_N is not None:
                first = -epoch * n % self.batch_size
                order_N = bucketed(order_N, self.length_N, self.batch_size, first, self.seed, epoch)
            self._orders[epoch] = found or (order_N, torch.full((n,), epoch))
        return self._orders[epoch]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _members(class_N: Tensor) -> list[Tensor]:
    """Return the samples of each class that has any."""
    count_K = torch.bincount(class_N)
    return [part for part in class_N.argsort(stable=True).split(count_K.tolist()) if len(part)]


def balanced(members: list[Tensor], order_N: Tensor, seed: int, stream: str, epoch: int) -> tuple[Tensor, Tensor]:
    """Return the samples of an epoch, classes equally often, and how often each was drawn before: int64 (N,) each.

    Draws are numbered through all epochs and dealt out to the classes in turn, so over epochs no class is ahead by
    more than one; a class's draw r is place r mod M of its pass r div M through its samples in random order.

    Args:
        order_N: a permutation; decides where in the epoch the draws of each class stand.
    """
    n, count = len(order_N), len(members)
    class_N = (epoch * n + order_N) % count
    places = class_N.argsort(stable=True).split(torch.bincount(class_N, minlength=count).tolist())
    index_N, seen_N = torch.empty_like(order_N), torch.empty_like(order_N)
    for k, (member_M, place_R) in enumerate(zip(members, places, strict=True)):
        if not len(place_R):
            continue
        size, before = len(member_M), (epoch * n - k + count - 1) // count
        draw_R = before + torch.arange(len(place_R))
        pass_P = torch.arange(before // size, int(draw_R[-1]) // size + 1)
        key = rng.bits(seed, f"pass of {stream}", pass_P.repeat_interleave(size), member_M.repeat(len(pass_P)))
        order_PM = key.view(-1, size).argsort(dim=1, stable=True)
        index_N[place_R] = member_M[order_PM[draw_R // size - before // size, draw_R % size]]
        seen_N[place_R] = draw_R // size
    return index_N, seen_N


def in_rows(n: int, rows: int, number: int) -> Tensor:
    """Return the samples of batch ``number``, one for each row: int64 (B,)."""
    return (torch.arange(rows) * n // rows + number) % n


def in_order(split: Split, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yield every sample of a split once, in order; the last batch may be smaller. What is not in memory is read ahead.

    Where ``in_order_rows`` is asked for, each row goes through a stretch of the split of its own, one sample a batch;
    the last stretch may be shorter, and its row missing at the end.

    A caller that may stop before the end closes the generator, and with it what reads ahead.
    """

    rows = getattr(split, "in_order_rows", False)
    stretch = -(-len(split) // batch_size)

    def read(start: int) -> Batch:
        if rows:
            index_B = torch.arange(start, len(split), stretch)
        else:
            index_B = torch.arange(start, min(start + batch_size, len(split)))
        return split.gather(index_B, torch.zeros_like(index_B)) | {"sample": index_B}

    starts = range(stretch) if rows else range(0, len(split), batch_size)
    for raw in map(read, starts) if getattr(split, "in_memory", True) else _ahead(read, starts):
        yield {key: value.to(device, non_blocking=True) for key, value in raw.items()}


def _ahead(read: Callable[[int], Batch], starts: range) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="in order")
    reading: deque[Future[Batch]] = deque()
    try:
        for start in starts:
            reading.append(pool.submit(read, start))
            if len(reading) > BATCHES_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
