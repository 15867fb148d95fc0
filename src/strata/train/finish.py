"""What a run leaves behind: the model's folder, samples, and the worst mistakes as pictures."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from strata.checkpoint.files import sync_folder, write_json, write_model, write_text
from strata.checkpoint.run_folder import RunFolder
from strata.config import to_json
from strata.data import save_preprocess
from strata.data.dataset import Dataset, Split
from strata.device import Setup, versions
from strata.models import family_of
from strata.tasks import Task
from strata.tasks.base import Answering, Findings
from strata.train.recipe import Recipe


def save_model(folder: Path, recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Write everything that using the model needs: config, weights, labels, preprocessing. Whole or not at all."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    config = {
        "versions": versions(),
        "model": to_json(recipe.model, family_of),
        "task": to_json(recipe.task, lambda config: config.kind if isinstance(config, Task) else None),
        "labels": list(dataset.labels),
    }
    write_json(aside / "config.json", config)
    write_model(aside / "model.safetensors", model)
    save_preprocess(dataset.preprocess, aside)
    sync_folder(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync_folder(folder.parent)


def draw_sample(task: Task, model: nn.Module, context: Answering, folder: Path, step: int, setup: Setup) -> str:
    """Let a generative model make something at this step and return the file's name in ``folder``."""
    with torch.no_grad(), setup.autocast():
        sample = task.sample(model, context, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    if sample.images is not None:
        return save_grid(sample.images, folder / f"step-{step}.png").name
    write_text(folder / f"step-{step}.txt", sample.text or "")
    return f"step-{step}.txt"


def save_grid(image_NCHW: Tensor, path: Path) -> Path:
    """Write pictures, uint8, as one grid as near to square as can be; small ones are enlarged to be seen."""
    n, channels, height, width = image_NCHW.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    gap = 1
    grid = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for k in range(n):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image_NCHW[k]
    zoom = max(1, 640 // grid.shape[2])
    picture = to_picture(grid)
    aside = path.with_name(f".{path.name}.tmp")
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(aside, format="PNG")
    aside.replace(path)
    return path


def to_picture(image_CHW: Tensor) -> Image.Image:
    """Return one uint8 picture, grey or colour, as Pillow has it."""
    array = image_CHW.cpu().numpy()
    return Image.fromarray(array[0] if array.shape[0] == 1 else numpy.ascontiguousarray(array.transpose(1, 2, 0)))


def write_mistakes(findings: Findings, split: Split, folder: RunFolder, dataset: Dataset) -> dict[str, Any]:
    """Write the worst mistakes' pictures and return what the last line of metrics.jsonl says of the findings."""
    found: dict[str, Any] = {}
    if findings.confusion is not None:
        found["confusion"] = {"labels": list(dataset.labels), "counts": findings.confusion}
    for name in ("classes", "calibration", "detection"):
        if getattr(findings, name):
            found[name] = getattr(findings, name)
    if findings.examples is not None:
        folder.samples.mkdir(parents=True, exist_ok=True)
        below_CHW = torch.cat([*findings.examples], 1)
        to_picture(below_CHW).save(folder.samples / "examples.png")
        found["examples"] = {"file": "samples/examples.png", "count": len(findings.examples)}
    if findings.mistakes:
        shutil.rmtree(folder.samples / "mistakes", ignore_errors=True)
        number_N = torch.tensor([mistake["sample"] for mistake in findings.mistakes])
        input_N = split.gather(number_N, torch.zeros_like(number_N))["input"]
        describe: Any = getattr(split, "describe", lambda number: {})
        for k, mistake in enumerate(findings.mistakes):
            said = describe(mistake["sample"])
            mistake |= {key: value for key, value in said.items() if key in ("row", "place")}
            if "file" in said:
                mistake["place"] = _below(Path(said["file"]), dataset)
            if dataset.kind == "image":
                (folder.samples / "mistakes").mkdir(parents=True, exist_ok=True)
                to_picture(input_N[k]).save(folder.samples / "mistakes" / f"{k}.png")
                mistake["file"] = f"samples/mistakes/{k}.png"
        found["mistakes"] = findings.mistakes
    return found


def _below(file: Path, dataset: Dataset) -> str:
    """Return a sample's file as a person finds it: below the folder of the data, or whole where it lies elsewhere."""
    root = Path(dataset.details.get("path", ""))
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
