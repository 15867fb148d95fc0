"""Batches that are functions of their number, classes drawn equally often, and reading ahead within bounds."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from strata.data import DataConfig, TensorSplit, open_data
from strata.data.loader import BATCHES_AHEAD, Loader, in_order
from strata.errors import ConfigError
from strata.tasks.classify import Classify

CPU = torch.device("cpu")


class Slow:
    """A split that reads as from a disk, and remembers how many batches it was asked for."""

    in_memory = False

    def __init__(self, n: int) -> None:
        self.n, self.reads, self.lock = n, 0, threading.Lock()

    def __len__(self) -> int:
        return self.n

    def gather(self, index_B: torch.Tensor, epoch_B: torch.Tensor) -> dict[str, torch.Tensor]:
        with self.lock:
            self.reads += 1
        return {"input": index_B.float()[:, None]}


def loader(split: Any, batch_size: int, **options: Any) -> Loader:
    return Loader(
        split, batch_size=batch_size, seed=3, stream="train", device=CPU, prepare=lambda batch, step: batch, **options
    )


SIZES = (61, 7, 2)
CLASSES = torch.cat([torch.full((size,), k) for k, size in enumerate(SIZES)])
N = len(CLASSES)


def of_classes() -> TensorSplit:
    return TensorSplit(torch.arange(N), CLASSES)


def drawn(batches: Loader, epochs: int) -> torch.Tensor:
    """Return the samples of so many epochs, in the order they come; epochs are whole batches of ten."""
    return torch.cat([batches.batch(number, number)["input"] for number in range(epochs * N // 10)])


@pytest.mark.parametrize("class_N", [None, CLASSES])
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_batch_depends_on_its_number_alone(class_N: torch.Tensor | None, prefetch: bool) -> None:
    first, second = (loader(of_classes(), 16, class_N=class_N, prefetch=prefetch) for _ in range(2))
    in_turn = [first.batch(number, number) for number in range(12)]
    for number in (11, 3, 7, 0):
        found = second.batch(number, number)
        assert all(torch.equal(found[name], value) for name, value in in_turn[number].items())
    first.close()
    second.close()


def test_a_batch_says_how_often_each_of_its_samples_was_drawn_before() -> None:
    seen: dict[int, int] = {}
    for class_N in (None, CLASSES):
        batches = loader(of_classes(), 16, class_N=class_N)
        seen.clear()
        for number in range(20):
            found = batches.batch(number, number)
            for index, epoch in sorted(zip(found["input"].tolist(), found["epoch"].tolist(), strict=True)):
                assert epoch == seen.get(index, 0)
                seen[index] = epoch + 1


def test_balanced_classes_are_drawn_equally_often_in_every_epoch() -> None:
    batches = loader(of_classes(), 10, class_N=CLASSES)
    index = drawn(batches, epochs=6).view(6, N)
    for epoch in index:
        counts = torch.bincount(CLASSES[epoch], minlength=3)
        assert int(counts.max() - counts.min()) <= 1
    over_all = torch.bincount(CLASSES[index.flatten()], minlength=3)
    assert over_all.tolist() == [140, 140, 140]


def test_balanced_draws_use_each_of_a_classs_samples_evenly() -> None:
    index = drawn(loader(of_classes(), 10, class_N=CLASSES), epochs=6)
    counts = torch.bincount(index, minlength=N)
    for k in range(3):
        of_class = counts[k == CLASSES]
        assert int(of_class.max() - of_class.min()) <= 1


def test_a_sample_drawn_twice_in_a_batch_has_random_numbers_of_its_own() -> None:
    batch = loader(of_classes(), 60, class_N=CLASSES).batch(0, 0)
    assert len(batch["input"].unique()) < 60
    assert len(batch["sample"].unique()) == 60


def test_without_balance_samples_are_numbered_as_they_lie() -> None:
    batch = loader(of_classes(), 60).batch(3, 3)
    assert torch.equal(batch["sample"], batch["input"])


def test_reading_ahead_stops_at_its_bound() -> None:
    split = Slow(1000)
    batches = loader(split, 10, prefetch=True)
    for number in range(3):
        batches.batch(number, number)
    deadline = time.monotonic() + 5
    while split.reads < 3 + BATCHES_AHEAD and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert split.reads == 3 + BATCHES_AHEAD
    batches.close()


def test_evaluation_reads_ahead_in_order_and_every_sample_once() -> None:
    split = Slow(103)
    found = [batch["input"] for batch in in_order(split, 10, CPU)]
    assert torch.cat(found)[:, 0].tolist() == list(range(103)) and split.reads == 11


def test_an_evaluation_that_is_left_stops_reading() -> None:
    split = Slow(1000)
    batches = in_order(split, 1, CPU)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    assert split.reads <= 2 + BATCHES_AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("in order")]


def unequal(tmp_path: Any, counts: tuple[int, ...]) -> str:
    rows = [f"{k * 7 % 5},{k * 3 % 11},{'abc'[name]}" for name, count in enumerate(counts) for k in range(count)]
    (tmp_path / "t.csv").write_text("p,q,target\n" + "\n".join(rows))
    return str(tmp_path / "t.csv")


def test_unequal_classes_are_noted_with_what_can_be_done(tmp_path: Any) -> None:
    notes = open_data(DataConfig(source=unequal(tmp_path, (100, 30, 40)), test=0.0, validation=0.0)).notes
    said = [note for note in notes if "task.class_weights=balanced" in note]
    assert len(said) == 1
    assert "'a' has 100 training samples and 'b' 30" in said[0] and "data.balance=true" in said[0]


def test_nearly_equal_classes_are_not_noted(tmp_path: Any) -> None:
    notes = open_data(DataConfig(source=unequal(tmp_path, (60, 30, 40)), test=0.0, validation=0.0)).notes
    assert not [note for note in notes if "balance" in note]


def test_balance_says_how_often_a_sample_is_seen(tmp_path: Any) -> None:
    source = unequal(tmp_path, (100, 20))
    data = open_data(DataConfig(source=source, test=0.0, validation=0.0, balance=True))
    assert data.balance
    said = [note for note in data.notes if note.startswith("data.balance")]
    assert len(said) == 1 and "'b' 3 times an epoch" in said[0] and "'a' 0.6 times" in said[0]


def test_balance_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.balance draws classes equally often, and 'diabetes' has none"):
        open_data(DataConfig(source="diabetes", balance=True))


def test_balance_and_class_weights_at_once_are_refused(tmp_path: Any) -> None:
    data = open_data(DataConfig(source=unequal(tmp_path, (100, 20)), balance=True))
    with pytest.raises(ConfigError, match=r"data.balance and task.class_weights both .* Leave one out"):
        Classify(class_weights="balanced").resolve(data)
