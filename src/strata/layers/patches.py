"""How large the patches are into which a model cuts pictures of a given size."""

from __future__ import annotations


def patch_size_for(image_size: int, *, greatest: int, fewest: int) -> int:
    """Return the largest power of two up to ``greatest`` that leaves at least ``fewest`` patches a side, or 1."""
    size = greatest
    while size > 1 and image_size // size < fewest:
        size //= 2
    return size
