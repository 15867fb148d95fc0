"""A linear probe's data: what a trained network's head reads of every picture, computed once and kept.

The trunk stands still, so its features never change: one pass over the data replaces one in every epoch. They are kept
in the cache folder by what they depend on (weights, data, preparation, precision), so that a second probe, with another
learning rate or seed, begins at once.

B samples, F features.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from strata.cache import cache_folder
from strata.checkpoint.files import read_tensors, write_tensors
from strata.config import to_json
from strata.data.dataset import Dataset, Split, TensorSplit, digest
from strata.data.loader import in_order
from strata.device import Setup
from strata.errors import CheckpointError
from strata.tasks.base import mask_of

log = logging.getLogger(__name__)
BATCH_SIZE = 64


def feature_splits(
    model: Any, dataset: Dataset, setup: Setup, *, flip_test: bool = False
) -> tuple[dict[str, TensorSplit], str]:
    """Return each split with features in the place of pictures, and in words where they came from.

    Args:
        model: offers ``features(image) -> (B, F)``; on its device, in its memory format.
        flip_test: a held-out picture's features are the mean of its own and its mirror image's: a linear head says of
            them the mean of what it says of both.
    """
    began, read_back = time.perf_counter(), 0
    weights = [
        part for name, value in model.state_dict().items() if name.split(".")[0] != "head" for part in (name, value)
    ]
    of_weights = digest(*[part if isinstance(part, str) else part.float() for part in weights])
    found: dict[str, TensorSplit] = {}
    for name, split in dataset.splits.items():
        preparation = json.dumps(to_json(dataset.preprocess), sort_keys=True)
        flips = flip_test and name != "train"
        key = digest(
            of_weights, dataset.fingerprint, name, str(len(split)), preparation, setup.precision, *["flipped"] * flips
        )
        tensors, was_there = kept(key, lambda s=split, flips=flips: _compute(model, s, dataset, setup, flips))  # type: ignore[misc]
        read_back += was_there
        describe: Any = getattr(split, "describe", lambda index: {})
        found[name] = TensorSplit(tensors["input"], tensors.get("target"), describe)
    samples, seconds = sum(len(split) for split in found.values()), time.perf_counter() - began
    how = "read back from the cache" if read_back == len(found) else f"computed once, in {seconds:.1f} s"
    return found, f"features of {samples:,} samples {how}; the trunk stands still and is not run again"


def kept(key: str, compute: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
    """Return tensors from the cache folder, or compute them and put them there; and whether they were there.

    Args:
        key: a digest of all that they depend on.
    """
    file = cache_folder() / "features" / f"{key}.safetensors"
    with contextlib.suppress(CheckpointError):  # damaged: computed anew
        if file.is_file():
            return read_tensors(file), True
    tensors = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{time.monotonic_ns()}.tmp")
    write_tensors(aside, tensors)
    aside.replace(file)
    return tensors, False


@torch.no_grad()
def _compute(model: Any, split: Split, dataset: Dataset, setup: Setup, flips: bool) -> dict[str, Tensor]:
    was_training = model.training
    module: nn.Module = model.eval()
    parts: dict[str, list[Tensor]] = {}
    for raw in in_order(split, BATCH_SIZE, setup.device):
        input_B = setup.arrange(dataset.preprocess.normalize(raw["input"]))
        with setup.autocast():
            features_BF = model.features(input_B, **mask_of(raw)).float()
            if flips and input_B.ndim == 4:
                features_BF = (features_BF + model.features(input_B.flip(-1)).float()) / 2
        parts.setdefault("input", []).append(features_BF.cpu())
        if "target" in raw:
            parts.setdefault("target", []).append(raw["target"].cpu())
    module.train(was_training)
    return {name: torch.cat(tensors) for name, tensors in parts.items()}
