"""How raw input becomes what a model sees, for each kind of data; kept with the weights as ``preprocess.json``.

Each class reads one raw sample exactly as the training data was read, and normalises a batch.

B samples in a batch, C channels, S side of a picture, F features, T tokens.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strata.config import Positive, from_json, to_json
from strata.data import pictures, tokens
from strata.data.tokens import TextPreprocess as TextPreprocess
from strata.errors import ConfigError, DataError, suggest

FILE = "preprocess.json"
MISSING_CATEGORY = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "null", "?"))
"""What stands for a missing value in a table, whatever its case; "none" may well be a category."""
MISSING = MISSING_CATEGORY | {"none", "nil", "-"}
"""Likewise among numbers and dates."""
FLAGS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}
OTHER = "(other)"
_EPOCH = datetime(2000, 1, 1)
_PERIODS_DAYS = {"year": 365.2425, "week": 7.0, "day": 1.0}


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """Pictures: upright, square, of one size, and scaled to what the network was trained on."""

    kind: ClassVar[str] = "image"

    image_size: Positive | None
    """Side of the square that a picture is brought to; None leaves it at its own size."""
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    """Of each channel, where pixels are 0 to 1."""
    std: tuple[float, ...]
    labels: tuple[str, ...] = ()
    target_mean: float = 0.0
    """Of a number to predict."""
    target_std: float = 1.0
    fit: pictures.Fit = "crop"
    crop_share: pictures.CropShare = 1.0
    interpolation: pictures.Interpolation = "bilinear"
    """How a picture is brought to the square: see `pictures.Framing`."""

    @property
    def framing(self) -> pictures.Framing:
        """How a picture is brought to the square."""
        return pictures.Framing(fit=self.fit, crop_share=self.crop_share, interpolation=self.interpolation)

    def read(self, raw: Any) -> Tensor:
        """Turn a path, a Pillow picture, or an array or tensor (H, W), (H, W, C) or (C, H, W) into uint8 (C, S, S).

        Floating-point arrays hold 0 to 1, all others 0 to 255. Raises DataError for what is no picture.
        """
        try:
            with pictures.quiet():
                if isinstance(raw, str | Path):
                    if not Path(raw).is_file():
                        raise DataError(f"{raw} is not there, or is not a file. Give the path of a picture.")
                    raw = Path(raw)
                    if self.image_size is None:
                        pixels = pictures.read_whole(raw, self.channels)
                    else:
                        pixels = pictures.read_picture(raw, self.image_size, self.channels, self.framing)
                else:
                    image = raw if isinstance(raw, Image.Image) else pictures.from_array(as_bytes(raw))
                    if self.image_size is None:
                        pixels = pictures.whole(image, self.channels)
                    else:
                        pixels = pictures.to_square(image, self.image_size, self.channels, self.framing)
        except pictures.BadPicture as error:
            named = raw if isinstance(raw, str | Path) else "The picture"
            raise DataError(f"{named} cannot be read: {error}.") from None
        return torch.from_numpy(pixels.copy())

    def normalize(self, input_B: Tensor) -> Tensor:
        """Turn pictures 0 to 255 (B, C, S, S), uint8 or float, into float32 about 0, of deviation 1 in training."""
        shift, scale = self._constants(input_B.device)
        return torch.addcmul(shift, input_B.to(torch.float32), scale)

    def denormalize(self, input_B: Tensor) -> Tensor:
        """Turn what the model sees back into uint8 pictures."""
        shift, scale = self._constants(input_B.device)
        return ((input_B.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._kept:  # made once: a copy to the GPU in each step would wait for it
            shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)])
            scale = torch.tensor([1.0 / (255.0 * std) for std in self.std])
            self._kept[device] = shift.view(-1, 1, 1).to(device), scale.view(-1, 1, 1).to(device)
        return self._kept[device]

    @functools.cached_property
    def _kept(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}


def as_bytes(raw: Any) -> np.ndarray:
    """Return an array or tensor as uint8 pixels, values 0 to 1 of floating-point ones stretched to 0 to 255.

    Raises BadPicture for what is no array or has values outside.
    """
    try:
        array = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    except (ValueError, TypeError):
        raise pictures.BadPicture(f"a {type(raw).__name__} is no path, picture, array or tensor") from None
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise pictures.BadPicture(f"an array of type {array.dtype} and shape {array.shape} holds no pixels")
    low, high = float(array.min()), float(array.max())
    top = 1.0 if array.dtype.kind == "f" else 255.0
    if not (low >= 0.0 and high <= top):
        raise pictures.BadPicture(f"pixels of type {array.dtype} have to be 0 to {top:g}, not {low:g} to {high:g}")
    return np.round(array * (255.0 / top)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one column of a table becomes features; all figures are of the training rows."""

    name: str
    kind: Literal["number", "flag", "date", "category"]
    mean: float = 0.0
    std: float = 1.0
    levels: tuple[str, ...] = ()
    """Of a category, each a feature; the last is `OTHER` where rare levels were put together."""
    has_missing: bool = False
    """A feature of its own says that the value is missing."""
    periods: tuple[Literal["year", "week", "day"], ...] = ()
    """Of a date: sine and cosine of its place in each."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        if self.kind == "category":
            named = tuple(f"{self.name}={level}" for level in self.levels)
        else:
            named = (self.name, *(f"{self.name}:{f}({p})" for p in self.periods for f in ("sin", "cos")))
        return named + ((f"{self.name} is missing",) if self.has_missing else ())

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Turn values as `PARSERS` gives them (float64 with NaN, or objects with None) into float32 (B, features)."""
        found = np.zeros((len(values), len(self.features)), dtype=np.float32)
        if self.kind == "category":
            place = {level: k for k, level in enumerate(self.levels)}
            other = place.get(OTHER)
            for row, value in enumerate(values):
                k = None if value is None else place.get(value, other)
                if k is not None:
                    found[row, k] = 1.0
            absent = np.array([value is None for value in values], dtype=bool)
        else:
            absent = np.isnan(values)
            found[:, 0] = np.where(absent, 0.0, (values - self.mean) / self.std)  # missing: the mean
            for k, period in enumerate(self.periods):
                turn = np.where(absent, 0.0, values / _PERIODS_DAYS[period] * 2.0 * math.pi)
                found[:, 1 + 2 * k] = np.where(absent, 0.0, np.sin(turn))
                found[:, 2 + 2 * k] = np.where(absent, 0.0, np.cos(turn))
        if self.has_missing:
            found[:, -1] = absent
        return found


def parse_number(value: Any, decimal: str = ".") -> float:
    """Return a number, NaN where it is missing. Raises ValueError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value.strip().lower() in MISSING:
            return math.nan
        if decimal != ".":
            value = value.replace(decimal, ".")
        if "_" in value:
            raise ValueError
    return float(value)


def parse_flag(value: Any, decimal: str = ".") -> float:
    """Return 1 for true, 0 for false, NaN where it is missing. Raises ValueError for anything else."""
    if isinstance(value, str) and value.strip().lower() in FLAGS:
        return FLAGS[value.strip().lower()]
    number = parse_number(value, decimal)
    if number not in (0.0, 1.0) and not math.isnan(number):
        raise ValueError
    return number


def parse_date(value: Any, decimal: str = ".") -> float:
    """Return an ISO 8601 date or time in days since 2000, NaN where missing. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if len(text) < 8 or text[4:5] not in "-/":  # 20160701 may as well be a number
            raise ValueError
        value = datetime.fromisoformat(text.replace("/", "-"))
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ValueError
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return (value - _EPOCH).total_seconds() / 86400.0


def parse_category(value: Any, decimal: str = ".") -> str | None:
    """Return a level's name, None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a category read as 3.0 from one file and as 3 from another is the same
    text = str(value).strip()
    return None if text.lower() in MISSING_CATEGORY else text


PARSERS: dict[str, Callable[..., Any]] = {
    "number": parse_number,
    "flag": parse_flag,
    "date": parse_date,
    "category": parse_category,
}


@dataclass(frozen=True, kw_only=True)
class TablePreprocess:
    """Rows of a table: numbers standardised, categories one-hot, missing values said."""

    kind: ClassVar[str] = "table"

    columns: tuple[Column, ...]
    """Those that the model sees."""
    inputs: tuple[str, ...]
    """All columns of the file but the target, in its order."""
    target: str = ""
    labels: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0
    decimal: Literal[".", ","] = "."

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(name for column in self.columns for name in column.features)

    def read(self, raw: Any) -> Tensor:
        """Turn a row, by column name or in the file's order, into float32 (F,).

        A column that a dict lacks is missing; a level that training never saw is none of the known ones.
        Raises DataError for a column that does not exist, a wrong length, or a value that is not of its column's kind.
        """
        if isinstance(raw, Tensor | np.ndarray):
            raw = raw.tolist()
        if not isinstance(raw, Mapping):
            if isinstance(raw, str | bytes) or not isinstance(raw, Sequence):
                raise DataError(f"A row is a dict or a list of values, not {raw!r}.")
            seen = tuple(column.name for column in self.columns)
            names = next((names for names in (self.inputs, seen) if len(names) == len(raw)), None)
            if names is None:
                columns = ", ".join(self.inputs)
                raise DataError(f"A row has {len(raw)} values; it needs {len(self.inputs)}: {columns}.")
            raw = dict(zip(names, raw, strict=True))
        for name in raw:
            if name not in self.inputs and name != self.target:
                raise DataError(f"The model's table has no column {name!r}.{suggest(str(name), self.inputs)}")
        parts = [column.encode(self._parse(column, raw.get(column.name))) for column in self.columns]
        found_F = np.concatenate(parts, axis=1)[0]
        if not np.isfinite(found_F).all():
            name = next(c.name for c, part in zip(self.columns, parts, strict=True) if not np.isfinite(part).all())
            raise DataError(f"{name}={raw.get(name)!r} is not allowed: it is beyond all that the training data held.")
        return torch.from_numpy(found_F)

    def _parse(self, column: Column, value: Any) -> np.ndarray:
        try:
            parsed = PARSERS[column.kind](value, self.decimal)
        except (ValueError, TypeError, OverflowError):
            raise DataError(
                f"{column.name}={value!r} is not allowed: the column holds {PLURALS[column.kind]}."
            ) from None
        if isinstance(parsed, float) and math.isinf(parsed):
            raise DataError(f"{column.name}={value!r} is not allowed: it has to be finite.")
        return np.array([parsed], dtype=object if column.kind == "category" else np.float64)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return rows as they are: `read` has standardised them."""
        return input_B


PLURALS = {
    "number": "numbers",
    "flag": "true or false",
    "date": "dates such as 2024-12-31 or 2024-12-31 23:59:59",
    "category": "categories",
}


KINDS: dict[str, type] = {"image": ImagePreprocess, "table": TablePreprocess, "text": TextPreprocess}
BESIDE_READER = {
    "sentences": "strata.data.sentences:SentencePreprocess",
    "tags": "strata.data.tags:TagPreprocess",
    "questions": "strata.data.questions:QuestionPreprocess",
    "text_pairs": "strata.data.text_pairs:PairPreprocess",
}
"""Kinds whose preprocessing stands where their data is read, imported when one is loaded."""


def _class_of(kind: str) -> Any:
    if kind not in BESIDE_READER:
        return KINDS[kind]
    module, name = BESIDE_READER[kind].split(":")
    return getattr(importlib.import_module(module), name)


def save(preprocess: Any, folder: Path | str) -> Path:
    """Write ``preprocess.json``, of text ``tokenizer.json`` too, each whole or not at all; return the first's path."""
    path = Path(folder) / FILE
    values = {"kind": preprocess.kind} | to_json(preprocess)
    text = preprocess if isinstance(preprocess, TextPreprocess) else getattr(preprocess, "text", None)
    if isinstance(text, TextPreprocess):
        _tokens_of(values).pop("tokenizer")
        _write(path.with_name(tokens.FILE), text.file())
    _write(path, json.dumps(values, indent=1) + "\n")
    return path


def _tokens_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a file's values that says how text becomes tokens; empty where nothing does."""
    found = values if values.get("kind") == TextPreprocess.kind else values.get("text")
    return found if isinstance(found, dict) else {}


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load(folder: Path | str) -> Any:
    """Read what `save` wrote, equal. Raises DataError when it is missing or damaged."""
    path = Path(folder) / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        text = _tokens_of(values)
        if text.get("tokens", "byte") not in ("character", "byte"):
            text["tokenizer"] = tokens.read_file(path.with_name(tokens.FILE))
        return from_json(_class_of(values["kind"]), values)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the folder is not a model's, or is not whole.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path} is damaged: {error}.") from None
