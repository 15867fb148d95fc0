from __future__ import annotations

import torch

from strata.layers import masks


def test_causal_sees_itself_and_what_came_before() -> None:
    mask = masks.causal(3, 5)
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_a_window_counts_the_query_itself() -> None:
    assert masks.causal(4, 4, window=1).equal(torch.eye(4, dtype=torch.bool))
    assert masks.causal(2, 5, window=3).int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert masks.causal(4, 4, window=9).equal(masks.causal(4, 4))


def test_padding_holds_for_every_head_and_query() -> None:
    mask = masks.padding(torch.tensor([[1, 1, 0], [0, 1, 1]]))
    assert (mask.shape, mask.dtype) == ((2, 1, 1, 3), torch.bool)
    assert mask[:, 0, 0].int().tolist() == [[1, 1, 0], [0, 1, 1]]


def test_documents_see_their_own_alone() -> None:
    mask = masks.documents(torch.tensor([[4, 4, 9]]))
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
