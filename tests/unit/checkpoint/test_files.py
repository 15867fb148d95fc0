"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from strata.checkpoint.files import (
    read_json,
    read_model,
    read_tensors,
    sha256,
    write_bytes,
    write_json,
    write_model,
    write_shards,
    write_tensors,
)
from strata.errors import CheckpointError, RunError


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.json"
    write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"Cannot write .*recipe\.json: No space left on device"):
        write_bytes(path, b"half")
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None])
def test_json_that_is_damaged_or_missing_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RunError, match=r"Cannot read .*x\.json"):
        read_json(tmp_path / "x.json")


def test_tensors_come_back_to_the_last_bit_whatever_their_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {
        "plain": base,
        "shared": base[1:3],
        "transposed": torch.randn(3, 5).T,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    found = read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in found)


def test_a_damaged_tensor_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="It is damaged, or not a safetensors file"):
        read_tensors(tmp_path / "t.safetensors")
    with pytest.raises(CheckpointError, match="Cannot write"):
        write_tensors(tmp_path / "nowhere" / "t.safetensors", {})


def test_a_models_tied_weights_are_written_once_and_read_back_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    one, two = Tied(), Tied()
    write_model(tmp_path / "m.safetensors", one)
    read_model(tmp_path / "m.safetensors", two)
    assert len(read_tensors(tmp_path / "m.safetensors")) == 1
    assert torch.equal(two.b.weight, one.a.weight) and two.b.weight is two.a.weight
    with pytest.raises(CheckpointError, match=r"m\.safetensors does not fit its config\.json"):
        read_model(tmp_path / "m.safetensors", nn.Linear(2, 2))


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_tensors_beyond_the_limit_are_written_in_shards_that_the_index_names(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(4), "b": torch.zeros(4), "great": torch.ones(100), "c": torch.ones(2)}
    files = write_shards(tmp_path, tensors, limit_bytes=40)
    assert [sorted(read_tensors(file)) for file in files] == [["a", "b"], ["great"], ["c"]]
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == 4 * 110
    assert index["weight_map"] == {"a": files[0].name, "b": files[0].name, "great": files[1].name, "c": files[2].name}
    assert files[2].name == "model-00003-of-00003.safetensors"


def test_writing_in_another_number_of_shards_leaves_nothing_of_the_former(tmp_path: Path) -> None:
    tensors = {name: torch.ones(4) for name in "abc"}
    for limit in (16, 32, 1000, 32):
        files = write_shards(tmp_path, tensors, limit_bytes=limit)
        index = [tmp_path / "model.safetensors.index.json"] if limit < 1000 else []
        assert sorted(tmp_path.iterdir()) == sorted([*files, *index])
