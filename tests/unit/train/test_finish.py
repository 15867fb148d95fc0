"""What a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import torch

from strata.checkpoint.run_folder import RunFolder
from strata.data.dataset import Dataset, TensorSplit
from strata.tasks.base import Findings
from strata.train.finish import write_mistakes


def test_a_worst_mistake_is_told_with_its_file_below_the_data_so_that_a_wrong_label_is_found(tmp_path: Path) -> None:
    files = [tmp_path / "photos" / "cat" / "1.jpg", tmp_path / "elsewhere" / "2.jpg"]
    split = TensorSplit(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), describe=lambda k: {"file": str(files[k])})
    dataset = Dataset(
        name="photos",
        kind="image",
        target_kind="class",
        splits={"test": split},
        sizes={},
        preprocess=None,  # type: ignore[arg-type]
        details={"path": str(tmp_path / "photos")},
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    found = write_mistakes(
        Findings(mistakes=[{"sample": 0}, {"sample": 1}]), split, RunFolder(tmp_path / "run"), dataset
    )
    assert [mistake["place"] for mistake in found["mistakes"]] == ["cat/1.jpg", str(files[1])]
    assert [mistake["file"] for mistake in found["mistakes"]] == [f"samples/mistakes/{k}.png" for k in range(2)]
