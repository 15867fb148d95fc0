"""Kernels that read their sizes from a structure and get their working memory from whoever calls them.

In C such a kernel is a pair: ``NAME_work(sizes, threads)`` says how many numbers of memory it needs, and ``NAME(sizes,
tensors..., work, threads)`` does it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def structure(*names: str) -> type[ctypes.Structure]:
    """Return a structure of whole numbers of 64 bits, in the order of their names."""
    return type("Sizes", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_int64) for name in names]})


def declare(library: ctypes.CDLL, names: Sequence[str], tensors: int) -> None:
    """Say what pairs of a library take and return, each of so many tensors."""
    for name in names:
        work, run = getattr(library, f"{name}_work"), getattr(library, name)
        work.argtypes, work.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_long
        run.argtypes, run.restype = [*(ctypes.c_void_p,) * (tensors + 2), ctypes.c_int], None


def run(
    library: Any, name: str, sizes: ctypes.Structure, tensors: Sequence[Tensor | None], of_work: torch.dtype
) -> None:
    """Let a kernel do its work, in torch's number of threads.

    Args:
        of_work: of the numbers that its working memory is counted in.
    """
    threads, described = torch.get_num_threads(), ctypes.byref(sizes)
    work = torch.empty(getattr(library, f"{name}_work")(described, threads), dtype=of_work)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (*tensors, work))
    getattr(library, name)(described, *pointers, threads)
