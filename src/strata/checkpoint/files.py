"""Files that are whole or absent: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strata.errors import CheckpointError, RunError


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a written file's content survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, now or after a crash, finds the old one or the new one, never half of either."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for what `json` can write."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"Cannot read {path}: {error}.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors and sync; the caller renames. Raises CheckpointError when the disk refuses."""
    import safetensors
    from safetensors.torch import save_file

    ready = {name: tensor.detach().to("cpu", copy=False).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(_unshared(ready), path, metadata)
        sync_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot write {path}: {error}.") from error


def write_shards(
    folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, *, limit_bytes: int
) -> list[Path]:
    """Write tensors as ``model.safetensors``, or in shards and their index where they exceed the limit.

    The index is written last, so that a folder with an index is whole; what an earlier writing left under the other
    names is removed. A tensor greater than the limit has a shard of its own.

    Returns the files of tensors. Raises CheckpointError when the disk refuses.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    before = {whole, index, *folder.glob("model-*-of-*.safetensors")}
    if len(shards) == 1:
        files = [whole]
        write_tensors(whole, tensors, metadata)
    else:
        files = [folder / f"model-{k:05}-of-{len(shards):05}.safetensors" for k in range(1, len(shards) + 1)]
        for file, shard in zip(files, shards, strict=True):
            write_tensors(file, shard, metadata)
        place = {name: file.name for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": place})
        before.discard(index)
    for file in before.difference(files):
        file.unlink(missing_ok=True)
    return files


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy every tensor that shares memory with an earlier one: safetensors refuses those."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        if tensor.numel() and pointer in seen:
            tensors[name] = tensor.clone()
        seen.add(pointer)
    return tensors


@contextlib.contextmanager
def _read_whole(path: Path) -> Iterator[None]:
    """Turn what the library says of a file that is not whole into CheckpointError."""
    import safetensors

    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}. It is damaged, or not a safetensors file.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises CheckpointError for anything that is not whole."""
    from safetensors.torch import load_file

    with _read_whole(path):
        return dict(load_file(path))


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """Return the shapes in a safetensors file, of which no more is read. Raises CheckpointError as `read_tensors`."""
    import safetensors

    with _read_whole(path), safetensors.safe_open(path, "pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises CheckpointError as `read_tensors`."""
    import safetensors

    with _read_whole(path), safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def write_model(path: Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors and sync; what is tied is written once. `read_model` is its inverse."""
    import safetensors
    from safetensors.torch import save_model

    try:
        save_model(model, str(path))
        sync_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot write {path}: {error}.") from error


def read_model(path: Path, model: nn.Module) -> None:
    """Read a model's weights into it. Raises CheckpointError for a file that is damaged or of another model."""
    import safetensors
    from safetensors.torch import load_model

    try:
        load_model(model, str(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}. It is damaged, or not a safetensors file.") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its config.json: {error}") from error


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
