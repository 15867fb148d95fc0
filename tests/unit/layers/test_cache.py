from __future__ import annotations

import pytest
import torch

from strata.errors import ConfigError
from strata.layers.cache import KVCache


def empty(batch_size: int = 2, length: int = 6) -> KVCache:
    return KVCache(
        num_layers=2,
        batch_size=batch_size,
        num_heads=3,
        length=length,
        head_width=4,
        dtype=torch.float32,
        device="cpu",
    )


def read(cache: KVCache, count: int, mask_BT: torch.Tensor | None = None, seed: int = 0) -> torch.Tensor:
    """Store random keys, equal in both layers, and return them."""
    key_BHTK = torch.randn(cache.batch_size, 3, count, 4, generator=torch.Generator().manual_seed(seed))
    cache.begin(count, mask_BT)
    for layer in range(2):
        cache.append(layer, key_BHTK, -key_BHTK)
    cache.advance(count)
    return key_BHTK


def test_what_was_read_comes_back_without_a_copy() -> None:
    cache = empty()
    first, second = read(cache, 2), read(cache, 1, seed=1)
    cache.begin(1)
    third = torch.ones(2, 3, 1, 4)
    key, value = cache.append(1, third, third)
    assert key[:, :, :3].equal(torch.cat([first, second], dim=2)) and value[:, :, :2].equal(-first)
    assert key.data_ptr() == cache.key_LBHSK[1].data_ptr()
    assert (cache.position, cache.length, cache.batch_size) == (3, 6, 2)


def test_no_mask_is_built_while_none_was_given() -> None:
    cache = empty()
    assert cache.begin(4) is None
    cache.advance(4)
    assert cache.places(2).tolist() == [4, 5]
    assert cache.real_BS is None


def test_padding_is_remembered_and_not_counted() -> None:
    cache = empty()
    real = cache.begin(3, torch.tensor([[False, False, True], [True, True, True]]))
    assert real is not None and real.tolist() == [[False, False, True], [True, True, True]]
    assert cache.places(3)[0, 2] == 0 and cache.places(3)[1].tolist() == [0, 1, 2]
    cache.advance(3)
    real = cache.begin(1)
    assert real is not None and real.tolist() == [[False, False, True, True], [True] * 4]
    assert cache.places(1).tolist() == [[1], [3]]


def test_a_mask_that_comes_late_takes_what_was_read_for_real() -> None:
    cache = empty()
    read(cache, 2)
    real = cache.begin(1, torch.tensor([[True], [False]]))
    assert real is not None and real.tolist() == [[True, True, True], [True, True, False]]


def test_set_back_it_forgets_and_emptied_it_forgets_the_padding_too() -> None:
    cache = empty()
    read(cache, 4, torch.tensor([[False, True, True, False], [True] * 4]))
    cache.position = 2
    real = cache.begin(1)
    assert real is not None and real.tolist() == [[False, True, True], [True, True, True]]
    cache.position = 0
    assert cache.begin(1) is None


@pytest.mark.parametrize("index", [[1, 0], [1, 1], [0, 0, 1, 1], [1]])
def test_reordered_rows_are_the_rows_asked_for(index: list[int]) -> None:
    cache = empty()
    key_BHTK = read(cache, 3, torch.tensor([[False, True, True], [True, True, True]]))
    cache.reorder(torch.tensor(index))
    assert cache.key_LBHSK[0, :, :, :3].equal(key_BHTK[index])
    assert cache.value_LBHSK[1, :, :, :3].equal(-key_BHTK[index])
    assert cache.real_BS is not None and cache.real_BS[:, 0].tolist() == [row == 1 for row in index]
    assert (cache.batch_size, cache.length, cache.position) == (len(index), 6, 3)


def test_more_than_there_is_room_for_is_refused_with_both_numbers() -> None:
    cache = empty()
    read(cache, 4)
    with pytest.raises(ConfigError, match="7 tokens do not fit into a cache of 6"):
        cache.begin(3)
