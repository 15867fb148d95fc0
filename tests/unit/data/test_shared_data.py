"""Real sets, read as a user's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from strata.data import DataConfig, open_data, recognize

HERE = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("STRATA_SHARED_DATA") or HERE.parent / "shared" / "data")

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no development data at {FOLDER}; set STRATA_SHARED_DATA"),
]


@pytest.mark.parametrize(
    ("name", "settings", "kind", "lengths", "sizes"),
    [
        ("mnist", {}, "image", (55_000, 5000, 10_000), {"image_size": 28, "in_channels": 1}),
        ("fashion_mnist", {"pixels": "tanh"}, "image", (55_000, 5000, 10_000), {"image_size": 28}),
        ("pneumoniamnist", {}, "image", (4708, 524, 624), {"image_size": 28, "num_classes": 2}),
        ("bccd/JPEGImages", {"limit": 20}, "image", (20, 55, 55), {"image_size": 224, "in_channels": 3}),
        ("etth", {"target": "OT"}, "table", (12_194, 2613, 2613), {"num_classes": 1}),
        ("tinyshakespeare", {"validation": 0.1, "test": 0}, "text", (1_003_854, 111_540), {"vocab_size": 65}),
        ("wnut17", {}, "tags", (3394, 1009, 1287), {"num_classes": 13}),
        ("names", {}, "text", (205_330, 11_407, 11_407), {"vocab_size": 27}),
    ],
)
def test_a_real_set_is_recognized_and_read(
    name: str, settings: dict[str, object], kind: str, lengths: tuple[int, ...], sizes: dict[str, int]
) -> None:
    began = time.perf_counter()
    data = open_data(DataConfig(source=str(FOLDER / name), **settings))  # type: ignore[arg-type]
    assert time.perf_counter() - began < 20
    assert recognize(FOLDER / name) == data.kind == kind
    assert all(abs(len(split) - n) <= 1 for split, n in zip(data.splits.values(), lengths, strict=True))
    assert {key: data.sizes[key] for key in sizes} == sizes
