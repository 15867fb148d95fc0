"""Checkpoints are whole or absent, and the newest that verifies is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from strata.checkpoint import store
from strata.errors import CheckpointError


def save(folder: Path, *numbers: int, keep: int = 5) -> None:
    for step in numbers:
        store.save(folder, step, {"w": torch.full((8,), float(step))}, {"step": step}, keep=keep)


def flip_a_byte(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_newest_checkpoint_is_read(tmp_path: Path) -> None:
    assert store.load_newest(tmp_path) is None
    save(tmp_path, 2, 10)
    loaded = store.load_newest(tmp_path)
    assert loaded is not None
    step, tensors, numbers, warnings = loaded
    assert (step, numbers, warnings) == (10, {"step": 10}, []) and torch.equal(tensors["w"], torch.full((8,), 10.0))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 9, 10, keep=2)
    assert store.steps(tmp_path) == [9, 10]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    store.save(tmp_path, 3, {"w": torch.zeros(1)}, {"step": 3}, keep=2)
    loaded = store.load_newest(tmp_path)
    assert loaded is not None and loaded[1]["w"].shape == (1,)


def test_what_a_kill_left_half_written_is_ignored_and_swept_up(tmp_path: Path) -> None:
    save(tmp_path, 1)
    half = tmp_path / ".writing-step-2-999"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    loaded = store.load_newest(tmp_path)
    assert loaded is not None and loaded[0] == 1 and loaded[3] == []
    save(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-3"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_any_flipped_byte_is_found_and_the_checkpoint_before_is_used(name: str, tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    flip_a_byte(tmp_path / "step-2" / name, {"manifest.json": 3}.get(name, -3))
    loaded = store.load_newest(tmp_path)
    assert loaded is not None and loaded[0] == 1 and torch.equal(loaded[1]["w"], torch.full((8,), 1.0))
    assert len(loaded[3]) == 1
    assert "Checkpoint step-2 is damaged" in loaded[3][0] and "the one before it is used" in loaded[3][0]


def test_a_missing_or_shortened_file_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "step-2" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "bytes and not" in (store.verify(tmp_path / "step-2") or "")
    path.unlink()
    assert store.verify(tmp_path / "step-2") == "state.safetensors is missing"
    (tmp_path / "step-2" / "manifest.json").write_text("[]")
    assert "manifest.json is of no use" in (store.verify(tmp_path / "step-2") or "")
    (tmp_path / "step-2" / "manifest.json").write_text(json.dumps({"step": 2, "files": {}}))
    assert "manifest.json" in (store.verify(tmp_path / "step-2") or "")


def test_when_none_verifies_the_error_names_each(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip_a_byte(tmp_path / f"step-{step}" / "state.safetensors")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* verifies: .*step-2 is damaged.*step-1 is damaged"):
        store.load_newest(tmp_path)


def test_damaged_checkpoints_of_later_steps_do_not_crowd_out_good_ones(tmp_path: Path) -> None:
    save(tmp_path, 10, 20)
    flip_a_byte(tmp_path / "step-20" / "state.safetensors")
    save(tmp_path, 15, keep=1)
    assert store.steps(tmp_path) == [15]


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(CheckpointError, match=r"step-2 could not be written: No space left on device\. The last good"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    with pytest.raises(CheckpointError, match="There is no earlier one"):
        save(tmp_path / "fresh", 1)
