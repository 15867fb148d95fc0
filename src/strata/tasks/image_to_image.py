"""A picture from a picture: a class for each pixel, other pixels, or the same ones without noise.

What comes out follows from the data's targets: masks are classified pixel by pixel, pictures are predicted, and
pictures without targets get Gaussian noise that is to be removed.

B samples in a batch, C channels, H and W pixels, K classes, M bins.
"""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from strata import losses, metrics
from strata.config import NotNegativeFloat
from strata.data.dataset import Dataset, Split
from strata.data.pairs import unmeasured
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Findings, Measure, Sums, Task, sums_of

EXAMPLES_SHOWN, PANEL_SIDE, PANEL_GAP = 4, 256, 6
PIXELS_AT_ONCE = 2**19
"""Of all pictures that go through the model together when whole ones are measured."""
TILE_SIDE, TILE_MARGIN = 512, 96
"""Larger pictures go through the model in tiles, each with so many pixels around it that are not kept. Multiples of 32,
so that poolings fall on the same pixels in every tile."""
_LOSSES = {
    "class": ("cross_entropy_dice", "cross_entropy", "dice"),
    "number": ("l1", "mean_squared_error"),
    "clean": ("mean_squared_error", "l1"),
}
"""By target; the first is what "auto" stands for."""


@dataclass(frozen=True, kw_only=True)
class ImageToImage(Task):
    """A picture from a picture."""

    kind: ClassVar[str] = "image_to_image"
    model_fields: ClassVar[tuple[str, ...]] = ("out_channels",)

    loss: Literal["auto", "cross_entropy", "dice", "cross_entropy_dice", "l1", "mean_squared_error"] = "auto"
    """For masks cross-entropy, Dice (Milletari et al. 2016) or their sum, each picture counting the same; for pictures
    l1 or mean_squared_error over pixels. "auto": the sum for masks, l1 for pictures, squared error for noise."""
    noise: NotNegativeFloat = 0.1
    """Standard deviation, where pixels are 0 to 1, of the noise that pictures without targets are to be freed of."""
    difference: bool | Literal["auto"] = "auto"
    """The model gives the target less the input (Zhang et al. 2017, "Beyond a Gaussian denoiser", section III); "auto":
    where noise is to be removed."""
    target: Literal["auto", "class", "number", "clean"] = "auto"
    """What a pixel becomes: a class, other numbers, its own without noise. Decided from the data, as what follows."""
    values: tuple[int, ...] = ()
    """Of each class in a mask: a level of grey, or 0xRRGGBB."""
    values_are_grey: bool = True
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    """Of each channel, where pixels are 0 to 1."""
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    @property
    def main_metric(self) -> str | None:
        """Dice for masks, signal-to-noise ratio for pictures."""
        return "dice" if self.target == "class" else "psnr"

    def resolve(self, dataset: Dataset) -> ImageToImage:
        """Fill in what the targets are, and check that the settings suit them."""
        if dataset.kind != "pairs":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this task turns pictures into pictures. "
                "Use data.kind=pairs with a folder of pictures."
            )
        kinds: dict[str | None, Literal["class", "number", "clean"]] = {
            "pixel_class": "class",
            "pixel_number": "number",
        }
        target = kinds.get(dataset.target_kind, "clean")
        if self.loss not in ("auto", *_LOSSES[target]):
            raise ConfigError(
                f"task.loss={self.loss} does not fit these targets. It may be: {', '.join(_LOSSES[target])}."
            )
        scale, details = dataset.preprocess, dataset.details
        mean, std = tuple(getattr(scale, "mean", ())), tuple(getattr(scale, "std", ()))
        target_mean = tuple(details.get("target_mean", () if target == "class" else mean))
        difference = target == "clean" if self.difference == "auto" else self.difference
        if difference and (target == "class" or len(target_mean) != len(mean)):
            raise ConfigError("task.difference=true needs target pictures with as many channels as the inputs have.")
        if target == "clean" and self.noise == 0:
            raise ConfigError("task.noise=0 leaves nothing to learn from pictures without targets.")
        loss: Any = _LOSSES[target][0] if self.loss == "auto" else self.loss
        return dataclasses.replace(
            self,
            loss=loss,
            difference=difference,
            target=target,
            values=tuple(details.get("values", ())),
            values_are_grey=bool(details.get("values_are_grey", True)),
            input_mean=mean,
            input_std=std,
            target_mean=target_mean,
            target_std=tuple(details.get("target_std", () if target == "class" else std)),
        )

    def notes(self, dataset: Dataset) -> list[str]:
        """Say what is learned."""
        found = {
            "class": f"learned: the class of each pixel, by {self.loss}",
            "number": f"learned: the target picture's pixels, by {self.loss}",
            "clean": f"learned: to remove noise of deviation {self.noise:g} where pixels are 0 to 1 (task.noise)",
        }[self.target]
        idle = self.target != "clean" and self.noise != ImageToImage.noise
        return [found, *(["task.noise has no effect: the data has targets"] * idle)]

    def sizes(self, dataset: Dataset) -> dict[str, int]:
        """Return the data's sizes, with as many channels out as there are classes, or channels of the target."""
        return dataset.sizes | {"out_channels": len(self.values) or len(self.target_mean)}

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return whole pictures to measure, parts of them to train on."""
        found: Any = dataset.splits[name]
        return found.cropped() if training else found

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss: over pictures for masks, over numbers for pixels."""
        seen_BCHW, target = self._posed(batch, draw, measured=False)
        return self._loss(self._scores(model, seen_BCHW), target)

    def _posed(self, batch: Mapping[str, Tensor], draw: Draw, *, measured: bool) -> tuple[Tensor, Tensor]:
        """Return what the model sees, and the target: classes (B, H, W), -1 where none counts, or scaled pixels.

        Args:
            measured: count only what lies in the masks' regions.
        """
        image_BCHW = batch["input"]
        if self.target == "class":
            target_BHW, outside = batch["target"].long(), unmeasured(batch["target"].element_size())
            counted_BHW = target_BHW < outside if measured else target_BHW >= 0
            return image_BCHW, (target_BHW % outside - 1).where(counted_BHW, -1)
        if self.target == "number":
            pixel_BCHW = batch["target"].float() / 255.0
            return image_BCHW, (pixel_BCHW - _of(self.target_mean, pixel_BCHW)) / _of(self.target_std, pixel_BCHW)
        noise_BCHW = draw.normal("noise to remove", image_BCHW[0].numel()).view(image_BCHW.shape)
        return image_BCHW + noise_BCHW * (self.noise / _of(self.input_std, image_BCHW)), image_BCHW

    def _scores(self, model: nn.Module, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K, H, W), or scaled pixels (B, C, H, W), in fp32."""
        scores_BCHW = model(image_BCHW).float()
        if self.difference is True:
            pixel_BCHW = image_BCHW * _of(self.input_std, image_BCHW) + _of(self.input_mean, image_BCHW)
            return scores_BCHW + (pixel_BCHW - _of(self.target_mean, pixel_BCHW)) / _of(self.target_std, pixel_BCHW)
        return scores_BCHW

    def _loss(self, scores_BCHW: Tensor, target: Tensor) -> LossSum:
        if self.target != "class":
            return losses.per_sample(self.loss)(scores_BCHW, target).sum()
        parts = losses.segmentation_per_sample(
            scores_BCHW, target, cross_entropy="cross_entropy" in self.loss, dice="dice" in self.loss
        )
        return parts.sum()

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss, what the metrics need of each picture, and a few pictures to look at."""
        found: Sums | None = None
        for part in _parts(batch):
            seen_BCHW, target = self._posed(part, Draw(draw.seed, draw.step, part["sample"]), measured=True)
            scores_BCHW = tiled(lambda x: self._scores(model, x), seen_BCHW, _margin(model))
            loss = self._loss(scores_BCHW, target)
            sums = sums_of(loss=loss.total, count=loss.count)
            if self.target == "class":
                sums |= _mask_sums(scores_BCHW, target)
            else:
                predicted, wanted = (self._pixels(x) for x in (scores_BCHW, target))
                sums |= metrics.picture_sums(predicted, wanted)
                if self.target == "clean":
                    noisy = metrics.picture_sums(self._pixels(seen_BCHW), wanted)
                    sums |= {"noisy_psnr": noisy["psnr"]}
            sums["examples"] = self._examples(part["sample"], seen_BCHW, scores_BCHW, target)
            found = metrics.add(found, sums)
        assert found is not None
        return Measure(found)

    def _pixels(self, scaled_BCHW: Tensor) -> Tensor:
        """Return pixels from 0 to 1 of scaled ones."""
        scale, shift = _of(self.target_std, scaled_BCHW), _of(self.target_mean, scaled_BCHW)
        return (scaled_BCHW.float() * scale + shift).clamp(0, 1)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return for masks Dice, mean IoU, pixel accuracy and, of two classes, AUROC; for pictures PSNR, SSIM, MAE.

        Dice is that of the second of two classes, else the mean over the classes that occur; the AUROC is of pixels in
        fine bins of their scores. Of masks all are NaN where a pixel's scores were. In a denoiser's metrics
        ``noisy_psnr`` is that of the pictures as they came.
        """
        found: dict[str, float] = {}
        if self.target == "class":
            is_decided = not int(sums.get("undecided", 0))
            found |= metrics.segmentation_metrics(sums["confusion"] * is_decided)
            area = metrics.auroc_of_counts(sums["scores"]) if "scores" in sums and is_decided else None
            found |= {} if area is None else {"auroc": area}
        else:
            found |= metrics.picture_metrics(sums)
            if "noisy_psnr" in sums:
                found["noisy_psnr"] = float(sums["noisy_psnr"]) / max(1, int(sums["pictures"]))
        return found | {"loss": float(sums["loss"]) / max(1e-12, float(sums["count"]))}

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Return the first pictures beside what was made of them and their targets."""
        made = sums["examples"]
        return Findings(examples=made[(made.flatten(1) > 0).any(1)])

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return ``{"picture": a Pillow picture}`` for each input, of its size; of masks also each class's share."""
        found: list[dict[str, Any]] = []
        for image_BCHW in input_B.split(_at_once(input_B)):
            scores_BCHW = tiled(lambda x: self._scores(model, x), image_BCHW, _margin(model))
            if self.target != "class":
                pixel_BCHW = (self._pixels(scores_BCHW) * 255.0).round().byte().cpu()
                found += [{"picture": _as_picture(pixel_CHW)} for pixel_CHW in pixel_BCHW]
                continue
            class_BHW = scores_BCHW.argmax(1).short().cpu()
            for class_HW in class_BHW:
                count_K = torch.bincount(class_HW.flatten(), minlength=len(self.values))
                shares = dict(zip(context.labels, (count_K / class_HW.numel()).tolist(), strict=True))
                found.append({"picture": self._mask(class_HW.numpy()), "shares": shares})
        return found

    def _mask(self, class_HW: np.ndarray) -> Image.Image:
        """Return a mask in the values of the training masks; dark ones get a palette, so that they can be seen."""
        if not self.values_are_grey:
            return Image.fromarray(_colours(self.values)[class_HW])
        made = Image.fromarray(np.array(self.values, dtype=np.uint8 if max(self.values) < 256 else np.uint16)[class_HW])
        if max(self.values) < 64:
            palette = np.zeros((256, 3), dtype=np.uint8)
            palette[list(self.values)] = self._seen_as()
            made.putpalette(palette.flatten().tolist())
        return made

    def _seen_as(self) -> np.ndarray:
        """Return a colour for each class, uint8 (K, 3)."""
        if not self.values_are_grey:
            return _colours(self.values)
        if len(self.values) == 2:
            return np.array([[0] * 3, [255] * 3], dtype=np.uint8)
        hues = [colorsys.hsv_to_rgb(k / (len(self.values) - 1), 0.75, 0.95) for k in range(len(self.values) - 1)]
        return (np.array([(0, 0, 0), *hues]) * 255).astype(np.uint8)

    def _examples(self, sample_B: Tensor, seen_BCHW: Tensor, scores_BCHW: Tensor, target: Tensor) -> Tensor:
        """Return a place for each of the first samples, uint8 (N, 3, S, 3 S and gaps); 0 where it is in another batch.

        Uncounted pixels of a mask are grey.
        """
        width = 3 * PANEL_SIDE + 2 * PANEL_GAP
        made = torch.zeros((EXAMPLES_SHOWN, 3, PANEL_SIDE + PANEL_GAP, width), dtype=torch.uint8)
        for row, number in enumerate(sample_B.tolist()):
            if number >= EXAMPLES_SHOWN:
                continue
            shown = seen_BCHW[row].float() * _of(self.input_std, seen_BCHW) + _of(self.input_mean, seen_BCHW)
            panels = [(shown[0].clamp(0, 1) * 255).round().byte()]
            if self.target == "class":
                colours = torch.from_numpy(np.concatenate([self._seen_as(), [[128] * 3]]).astype(np.uint8))
                for class_HW in (scores_BCHW[row].argmax(0), target[row]):
                    panels.append(colours[class_HW.cpu()].permute(2, 0, 1))
            else:
                panels += [(self._pixels(x[row])[0] * 255).round().byte() for x in (scores_BCHW, target)]
            made[number] = 255
            for k, panel_CHW in enumerate(panels):
                left = k * (PANEL_SIDE + PANEL_GAP)
                made[number, :, :PANEL_SIDE, left : left + PANEL_SIDE] = _panel(panel_CHW.cpu())
        return made.to(sample_B.device)


def _margin(model: nn.Module) -> int:
    """Return how far around a tile a U-Net of L halvings looks: 6 * 2**L - 4 pixels, in whole halvings."""
    halvings = len(getattr(getattr(model, "config", None), "widths", ())) - 1
    return max(TILE_MARGIN, 6 * 2 ** max(0, halvings))


def tiled(scores_of: Any, image_BCHW: Tensor, margin: int = TILE_MARGIN) -> Tensor:
    """Return what a model makes of pictures, large ones in tiles that overlap.

    Args:
        scores_of: pictures (B, C, H, W) to (B, K, H, W).
        margin: pixels around a tile that are looked at, too.
    """
    height, width = image_BCHW.shape[2:]
    if max(height, width) <= TILE_SIDE + 2 * margin:
        found: Tensor = scores_of(image_BCHW)
        return found
    rows = []
    for top in range(0, height, TILE_SIDE):
        row = []
        for left in range(0, width, TILE_SIDE):
            above, before = min(top, margin), min(left, margin)
            high, wide = min(TILE_SIDE, height - top), min(TILE_SIDE, width - left)
            tile = image_BCHW[:, :, top - above : top + high + margin, left - before : left + wide + margin]
            row.append(scores_of(tile)[:, :, above : above + high, before : before + wide])
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


def _at_once(image_BCHW: Tensor) -> int:
    return max(1, PIXELS_AT_ONCE // image_BCHW[0, 0].numel())


def _parts(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into parts that go through the model together, of pictures filled up to one size each alone."""
    kept = {name: batch[name] for name in ("input", "target", "sample") if name in batch}
    if "size" not in batch:
        step = _at_once(batch["input"])
        for start in range(0, len(batch["input"]), step):
            yield {name: value[start : start + step] for name, value in kept.items()}
        return
    for row, (high, wide) in enumerate(batch["size"].tolist()):
        one = {name: value[row : row + 1] for name, value in kept.items()}
        yield {name: value if name == "sample" else value[..., :high, :wide] for name, value in one.items()}


def _of(values: Sequence[float], like_BCHW: Tensor) -> Tensor:
    """Return one number a channel, so that it goes with pictures."""
    return torch.tensor(values, dtype=torch.float32, device=like_BCHW.device).view(1, -1, 1, 1)


def _mask_sums(logits_BKHW: Tensor, target_BHW: Tensor) -> Sums:
    counted_BHW = target_BHW >= 0
    classes = logits_BKHW.shape[1]
    true_P = target_BHW[counted_BHW]
    predicted_P = logits_BKHW.argmax(1).masked_fill(logits_BKHW.isnan().any(1), -1)[counted_BHW]
    found = {
        "confusion": metrics.confusion_counts(predicted_P, true_P, classes),
        "undecided": (predicted_P < 0).sum(),
    }
    if classes == 2:
        found["scores"] = metrics.score_counts((logits_BKHW[:, 1] - logits_BKHW[:, 0])[counted_BHW], true_P == 1)
    return found


def _colours(values: Sequence[int]) -> np.ndarray:
    return np.array([(value >> 16, value >> 8 & 255, value & 255) for value in values], dtype=np.uint8)


def _as_picture(pixel_CHW: Tensor) -> Image.Image:
    array = pixel_CHW.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def _panel(picture_CHW: Tensor) -> Tensor:
    """Return a picture on a white square, as large as fits: uint8 (3, S, S)."""
    found = torch.full((3, PANEL_SIDE, PANEL_SIDE), 255, dtype=torch.uint8)
    height, width = picture_CHW.shape[1:]
    scale = PANEL_SIDE / max(height, width)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    mode = "area" if scale < 1 else "nearest"
    fitted = F.interpolate(picture_CHW[None].float(), size=(high, wide), mode=mode)[0].round().byte()
    top, left = (PANEL_SIDE - high) // 2, (PANEL_SIDE - wide) // 2
    found[:, top : top + high, left : left + wide] = fitted
    return found
