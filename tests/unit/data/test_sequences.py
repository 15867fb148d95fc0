"""Sequences of different lengths meet in batches of about equal length, each sample once in an epoch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata import rng
from strata.data.loader import Loader
from strata.data.sequences import Ragged, SequenceSplit, bucketed

LISTS = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), min_size=1, max_size=40)


@given(LISTS)
@settings(max_examples=30, deadline=None)
def test_a_padded_batch_holds_each_sequence_and_says_where_it_ends(sequences: list[list[int]]) -> None:
    ragged = Ragged.of(sequences)
    index_B = torch.arange(len(sequences)).flip(0)
    value_BT, mask_BT = ragged.padded(index_B, filler=-1)
    for row, wanted in zip(range(len(sequences)), reversed(sequences), strict=True):
        assert value_BT[row][mask_BT[row]].tolist() == wanted
        assert (value_BT[row][~mask_BT[row]] == -1).all()
        assert ragged[int(index_B[row])].tolist() == wanted


def test_a_batch_is_padded_to_its_own_longest_sequence_only() -> None:
    ragged = Ragged.of([[1] * 3, [1] * 100, [1] * 9])
    assert ragged.padded(torch.tensor([0, 2]))[0].shape == (2, 16)
    assert ragged.padded(torch.tensor([0]))[0].shape == (1, 8)


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_bucketing_only_reorders(n: int, batch_size: int, epoch: int) -> None:
    order_N = rng.permutation(n, 0, "order", epoch)
    length_N = rng.integers(60, 0, "length", torch.zeros(n, dtype=torch.int64), torch.arange(n))[:, 0]
    first = -epoch * n % batch_size
    found_N = bucketed(order_N, length_N, batch_size, first, 0, epoch)
    assert found_N.sort().values.tolist() == list(range(n))


def test_an_epoch_of_batches_has_every_sample_once_and_little_padding() -> None:
    length_N = rng.integers(60, 0, "length", torch.zeros(1000, dtype=torch.int64), torch.arange(1000))[:, 0] + 1
    split = SequenceSplit({"input": Ragged.of([[7] * n for n in length_N.tolist()])})
    loader = Loader(
        split, batch_size=30, seed=0, stream="train", device=torch.device("cpu"), prepare=lambda batch, step: batch
    )
    seen, padded, real = [], 0, 0
    for number in range(200):  # six epochs: batches reach over the ends of five
        batch = loader.batch(number, number)
        seen += batch["sample"].tolist()
        padded += batch["mask"].numel()
        real += int(batch["mask"].sum())
    for epoch in range(6):
        assert sorted(seen[1000 * epoch : 1000 * (epoch + 1)]) == list(range(1000))
    assert real / padded > 0.85
    assert seen[:1000] != seen[1000:2000]
    again = loader.batch(57, 57)["sample"].tolist()
    assert again == seen[57 * 30 : 58 * 30]


def test_tags_are_padded_with_what_no_loss_counts() -> None:
    split = SequenceSplit(
        {"input": Ragged.of([[1, 2], [3]]), "target": Ragged.of([[0, 1], [1]])}, fillers={"target": -100}
    )
    batch = split.gather(torch.tensor([1, 0]), torch.zeros(2, dtype=torch.int64))
    assert batch["target"][:, :3].tolist() == [[1, -100, -100], [0, 1, -100]]
    assert set(batch) == {"input", "mask", "target"}
