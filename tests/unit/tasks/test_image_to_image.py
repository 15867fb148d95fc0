"""Pictures from pictures: masks, other pixels, less noise; measured by sums, answered as pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

import strata
from strata import losses, metrics
from strata.data import open_data
from strata.data.dataset import DataConfig
from strata.errors import ConfigError, DataError
from strata.tasks import image_to_image
from strata.tasks.base import Answering, Draw
from strata.tasks.image_to_image import ImageToImage, tiled
from strata.train.evaluate import evaluate

TINY = {"model.widths": (8, 16), "train.device": "cpu", "train.precision": "fp32", "train.batch_size": 8}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def discs(
    root: Path, n: int = 24, side: int = 24, target: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> Path:
    """Write pictures of a bright disc on noise, and where the disc is."""
    for k in range(n):
        random = np.random.default_rng(k)
        y, x = random.integers(6, side - 6, 2)
        yy, xx = np.mgrid[:side, :side]
        inside = (yy - y) ** 2 + (xx - x) ** 2 < 25
        picture = random.integers(0, 100, (side, side)) + 120 * inside
        write(root / "images" / f"{k}.png", picture)
        write(root / "masks" / f"{k}.png", inside * 255 if target is None else target(picture, inside))
    return root


def resolved(root: Path, task: ImageToImage | None = None, **settings: Any) -> tuple[Any, ImageToImage]:
    dataset = open_data(DataConfig(source=str(root), **settings))
    return dataset, (task or ImageToImage()).resolve(dataset)


class Knows(nn.Module):
    """Gives as scores what it was told to."""

    def __init__(self, give: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.give = give

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.give(x)


def measured(task: ImageToImage, model: nn.Module, dataset: Any, part: str = "test") -> dict[str, float]:
    from strata.device import decide

    def prepare(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch | {"input": dataset.preprocess.normalize(batch["input"])}

    setup = decide(device="cpu", precision="fp32", compile=False, model=model)
    context = Answering(dataset.labels, dataset.preprocess, setup.device)
    return evaluate(task, model, dataset.splits[part], setup, prepare, context, batch_size=3).metrics


def test_a_little_training_finds_discs_and_the_run_answers_with_masks(
    tmp_path: Path, strata_command: Callable[..., Any]
) -> None:
    root = discs(tmp_path / "discs")
    run = strata.train("unet", TINY | {"data": str(root), "train.steps": 40, "train.evaluate_every": 40}, runs=tmp_path)
    assert run.metrics["test"]["dice"] > 0.9
    assert run.metrics["test"]["auroc"] > 0.98
    assert (run.folder / "samples" / "examples.png").is_file()
    assert "What it makes of pictures" in (run.folder / "report.html").read_text(encoding="utf-8")

    answer = run.predict(str(root / "images" / "0.png"))
    truth = np.asarray(Image.open(root / "masks" / "0.png"))
    assert (np.asarray(answer["picture"]) == truth).mean() > 0.97
    assert sum(answer["shares"].values()) == pytest.approx(1.0)
    near = next(iter(run.predictor(precision="int8").predict([str(root / "images" / "0.png")])))
    assert (np.asarray(near["picture"]) == truth).mean() > 0.97

    done = strata_command("predict", str(run.folder), str(root / "images"), "--out", "made", "--json")
    told = [prediction["file"] for prediction in done.answer["predictions"]]
    assert len(told) == 24 and all(np.asarray(Image.open(file)).shape == (24, 24) for file in told)
    done = strata_command("predict", str(run.folder), str(root / "images" / "0.png"), "--out", "made")
    assert done.out.strip().endswith("0-2.png"), "nothing is overwritten"


def test_a_little_training_removes_noise(tmp_path: Path) -> None:
    settings = TINY | {
        "train.steps": 80,
        "train.evaluate_every": 80,
        "train.learning_rate": 0.01,
        "task.noise": 0.3,
        "data.limit": 600,
    }
    run = strata.train("unet", settings, runs=tmp_path)
    found = run.metrics["test"]
    assert found["psnr"] > found["noisy_psnr"] + 1
    answer = run.predict(np.zeros((30, 17), dtype=np.uint8))
    assert answer["picture"].size == (17, 30)


def test_pictures_can_be_learned_from_pictures(tmp_path: Path) -> None:
    root = discs(tmp_path / "discs", target=lambda picture, inside: 255 - picture)
    run = strata.train(
        "unet",
        TINY | {"data": str(root), "train.steps": 60, "train.evaluate_every": 60, "train.learning_rate": 0.01},
        runs=tmp_path,
    )
    assert run.metrics["test"]["psnr"] > 20
    picture = np.asarray(Image.open(root / "images" / "3.png")).astype(int)
    made = np.asarray(run.predict(str(root / "images" / "3.png"))["picture"]).astype(int)
    assert np.abs(255 - picture - made).mean() < 20


def test_right_answers_measure_as_right_also_of_pictures_that_differ_in_size(tmp_path: Path) -> None:
    for k, size in enumerate([(20, 30), (12, 25), (30, 14), (20, 30)]):
        picture = np.random.default_rng(k).integers(0, 256, size)
        write(tmp_path / "test" / "images" / f"{k}.png", picture)
        write(tmp_path / "test" / "masks" / f"{k}.png", (picture > 127) * 255)
    discs(tmp_path / "train", 4)
    dataset, task = resolved(tmp_path)
    middle = float(dataset.preprocess.normalize(torch.full((1, 1, 1, 1), 127.5)))
    right = Knows(lambda x: torch.cat([middle - x, x - middle], 1))
    found = measured(task, right, dataset)
    assert found["dice"] == found["mean_iou"] == found["accuracy"] == 1.0
    wrong = measured(task, Knows(lambda x: torch.cat([x - middle, middle - x], 1)), dataset)
    assert wrong["dice"] == 0.0 and wrong["auroc"] < 0.01


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (3.0, 0.0), (12.0, 14.0), (300.0, -900.0)])
def test_the_auroc_from_counts_is_scikit_learns(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 20, 20, generator=generator) * 3
    target = (logits[:, 1] + torch.randn(3, 20, 20, generator=generator) * 4 > 2).long()
    logits = logits * scale
    logits[:, 1] += shift
    sums = image_to_image._mask_sums(logits, target)
    score = (logits[:, 1] - logits[:, 0]).flatten()
    expected = roc_auc_score(target.flatten().numpy(), score.numpy())
    assert metrics.auroc_of_counts(sums["scores"]) == pytest.approx(expected, abs=1e-4)


def test_dice_and_iou_are_those_of_the_definition() -> None:
    found = metrics.segmentation_metrics(torch.tensor([[50, 10], [5, 35]]))
    assert found["dice"] == pytest.approx(2 * 35 / (2 * 35 + 10 + 5))
    assert found["mean_iou"] == pytest.approx((50 / 65 + 35 / 50) / 2)
    assert found["accuracy"] == pytest.approx(0.85)


def test_a_class_that_is_nowhere_has_no_dice_and_one_that_is_made_up_has_none_of_it_right() -> None:
    found = metrics.segmentation_metrics(torch.tensor([[100, 0], [0, 0]]))
    assert math.isnan(found["dice"]) and found["mean_iou"] == found["accuracy"] == 1.0
    assert metrics.segmentation_metrics(torch.tensor([[90, 10], [0, 0]]))["dice"] == 0.0
    assert metrics.segmentation_metrics(torch.diag(torch.tensor([5, 0, 5])))["dice"] == 1.0


def test_the_ssim_is_that_of_its_equation_at_every_place() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(1, 1, 14, 13, generator=generator), torch.rand(1, 1, 14, 13, generator=generator)
    place = torch.arange(11.0) - 5
    window = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2)).double()
    window /= window.sum()
    found = []
    for top in range(4):
        for left in range(3):
            a, b = (x[0, 0, top : top + 11, left : left + 11].double() for x in (one, other))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            high = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            found.append(high / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    assert float(metrics.ssim(one, other)) == pytest.approx(float(torch.stack(found).mean()), abs=1e-5)
    assert float(metrics.ssim(one, one)) == pytest.approx(1.0)
    assert metrics.ssim(one[..., :4, :4], one[..., :4, :4]).shape == (1,)


def test_the_psnr_of_an_error_of_a_tenth_is_twenty_decibels() -> None:
    zero = torch.zeros(2, 3, 12, 12)
    sums = metrics.picture_sums(zero + 0.1, zero)
    assert metrics.picture_metrics(sums)["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert metrics.picture_metrics(metrics.picture_sums(zero, zero))["psnr"] == metrics.PSNR_AT_MOST


def test_the_loss_of_masks_is_entropy_and_dice_and_leaves_out_what_does_not_count() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0]).view(1, 1, 2, 2)
    logits = torch.cat([torch.zeros_like(logits), logits], 1)
    target = torch.tensor([[[1, 0], [-1, 1]]])
    chance = torch.sigmoid(torch.tensor([2.0, -1.0, 3.0]))
    true = torch.tensor([1.0, 0.0, 1.0])
    entropy = -(true * chance.log() + (1 - true) * (1 - chance).log()).mean()
    dice = 1 - (2 * (chance * true).sum() + 1) / ((chance**2).sum() + true.sum() + 1)
    parts = {
        name: losses.segmentation_per_sample(logits, target, cross_entropy="c" in name, dice="d" in name).sum()
        for name in ("c", "d", "cd")
    }
    assert float(parts["c"].total) == pytest.approx(float(entropy), abs=1e-6)
    assert float(parts["d"].total) == pytest.approx(float(dice), abs=1e-6)
    assert float(parts["cd"].total) == pytest.approx(float(entropy + dice), abs=1e-6)
    nothing = losses.segmentation_per_sample(logits, torch.full_like(target, -1)).sum()
    assert float(nothing.total) == 0 and float(nothing.count) == 0


def test_a_large_picture_in_tiles_gives_what_it_gives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_to_image, "TILE_SIDE", 32)
    monkeypatch.setattr(image_to_image, "TILE_MARGIN", 16)
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
    ).double()
    image = torch.randn(1, 1, 110, 72, dtype=torch.float64)
    torch.testing.assert_close(tiled(conv, image), conv(image), rtol=1e-12, atol=1e-12)


def test_pictures_without_targets_get_the_same_noise_for_a_step_and_other_noise_in_the_next(tmp_path: Path) -> None:
    discs(tmp_path, 6)
    dataset = open_data(DataConfig(source=str(tmp_path / "images"), kind="pairs"))
    task = ImageToImage(noise=0.2).resolve(dataset)
    batch = {
        "input": dataset.preprocess.normalize(dataset.splits["train"].gather(torch.arange(4), torch.zeros(4))["input"])
    }
    seen, clean = task._posed(batch, Draw(0, 5, torch.arange(4)), measured=False)
    again, _ = task._posed(batch, Draw(0, 5, torch.arange(4)), measured=False)
    later, _ = task._posed(batch, Draw(0, 6, torch.arange(4)), measured=False)
    assert torch.equal(seen, again) and not torch.equal(seen, later)
    assert torch.equal(clean, batch["input"])
    assert float(((seen - clean) * dataset.preprocess.std[0]).std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("values", "mode"),
    [((0, 255), "L"), ((0, 1, 2), "P"), ((0, 0xFF0000), "RGB"), ((0, 300, 1100), "I;16")],
)
def test_a_mask_is_given_in_the_values_it_was_learned_in_and_dark_ones_can_be_seen(
    values: tuple[int, ...], mode: str
) -> None:
    task = ImageToImage(target="class", difference=False, values=values, values_are_grey=mode != "RGB")
    given = torch.arange(len(values)).view(1, 1, -1).expand(1, 4, -1)
    model = Knows(lambda x: nn.functional.one_hot(given, len(values)).permute(0, 3, 1, 2).float())
    context = Answering(tuple(map(str, values)), None, torch.device("cpu"))
    picture = task.answers(model, torch.zeros(1, 1, 4, len(values)), context)[0]["picture"]
    assert picture.mode == mode
    if mode != "RGB":
        assert np.asarray(picture)[0].tolist() == list(values)
    seen = np.asarray(picture.convert("RGB")).max(2)[0].tolist()
    assert seen[0] == 0 and min(seen[1:]) > 100


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        (ImageToImage(loss="l1"), {}, "task.loss=l1 does not fit these targets. It may be: cross_entropy_dice"),
        (ImageToImage(loss="dice"), {"target_kind": "number"}, "task.loss=dice does not fit .* It may be: l1, mean"),
        (ImageToImage(difference=True), {}, "task.difference=true needs target pictures with as many channels"),
    ],
)
def test_a_setting_that_does_not_suit_the_targets_is_refused(
    task: ImageToImage, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    discs(tmp_path, 6)
    with pytest.raises(ConfigError, match=words):
        resolved(tmp_path, task, **settings)


def test_data_of_another_kind_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"'iris' is of kind 'table'; .* Use data.kind=pairs with a folder"):
        ImageToImage().resolve(open_data(DataConfig(source="iris")))


def test_a_resolved_task_resolves_to_itself(tmp_path: Path) -> None:
    dataset, task = resolved(discs(tmp_path, 6))
    assert task.resolve(dataset) == task
    assert dataclasses.replace(task, loss="dice").resolve(dataset).loss == "dice"
