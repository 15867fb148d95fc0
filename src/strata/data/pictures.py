"""One picture file into pixels: upright, on white where it is transparent, brought to a square.

What is read as labels keeps the values of the file instead: deep ones are not scaled, and transparency has no effect.

Pictures come from strangers: a file that claims more pixels than `PIL.Image.MAX_IMAGE_PIXELS` is not decoded, and any
failure of a decoder is a `BadPicture` with its reason.

C channels, S side of the square, H height, W width.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from annotated_types import Gt, Le
from PIL import Image
from torch import Tensor

EXTENSIONS = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
_GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"))
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that EXIF knows."""
_LYING = (5, 6, 7, 8)
"""Those that exchange width and height."""
_FILES_PER_TASK = 32
FILES_FOR_DEPTH = 64
"""Deep pictures that are decoded to see how much of their range they use."""
DIM = 0.25
"""Share of the range, below which pictures are called nearly black."""

Given = TypeVar("Given")
Made = TypeVar("Made")
Fit = Literal["crop", "stretch"]
CropShare = Annotated[float, Gt(0), Le(1)]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]


class BadPicture(Exception):
    """A file that is not a picture which can be decoded; the message is the reason."""


class Header(NamedTuple):
    """What a picture's first bytes say: its size once it is upright, and its kind."""

    width: int
    height: int
    is_grey: bool
    is_deep: bool = False
    """Its levels of grey take more than 8 bits."""
    is_turned: bool = False
    """Its file holds it lying on a side, and EXIF says so."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a picture is brought to a square."""

    fit: Fit = "crop"
    """The short side resized and the middle cut out, or both sides stretched to the square."""
    crop_share: CropShare = 1.0
    """Side of what is cut out, as a share of the resized short side: 0.875 is 224 of 256."""
    interpolation: Interpolation = "bilinear"
    """With antialiasing, as Pillow has it; "nearest" has none."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of what is kept of a picture."""
        if self.fit == "stretch":
            wide, high = width * self.crop_share, height * self.crop_share
        else:
            wide = high = min(width, height) * self.crop_share
        left, top = (width - wide) / 2, (height - high) / 2
        return left, top, left + wide, top + high


MIDDLE = Framing()
"""The largest square in the middle."""


@contextlib.contextmanager
def _opened(source: Path | IO[bytes]) -> Iterator[Image.Image]:
    try:
        with Image.open(source, formats=_FORMATS) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise BadPicture(f"{pixels:,} pixels, more than the {limit:,} that are safe: a decompression bomb")
            yield image
    except BadPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture(
            f"more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are safe: a decompression bomb"
        ) from None
    except Exception as error:  # decoders fail on foreign bytes with whatever their parsing trips over
        if type(error).__name__ == "UnidentifiedImageError":
            raise BadPicture("not a picture, or a damaged one") from None
        raise BadPicture(str(error).strip() or type(error).__name__) from None


def read_header(source: Path | IO[bytes]) -> Header:
    """Return size and colour without decoding. Raises BadPicture."""
    with _opened(source) as image:
        palette = image.getpalette("RGB") if image.mode == "P" else None
        is_grey = image.mode in _GREY_MODES
        if palette is not None:
            is_grey = palette[0::3] == palette[1::3] == palette[2::3]
        # Without EXIF at the file's beginning, getexif would decode a PNG to look for it behind the pixels.
        is_turned = ("exif" in image.info or image.format == "TIFF") and _orientation(image) in _LYING
        size = image.size
        if is_turned and image.format != "TIFF":  # Pillow gives a TIFF's size as it is once it is upright
            size = size[::-1]
        return Header(*size, is_grey, _is_deep(image), is_turned)


def read_picture(
    source: Path | IO[bytes], side: int, channels: int, framing: Framing = MIDDLE, *, as_labels: bool = False
) -> np.ndarray:
    """Decode a file: uint8 (C, S, S); int32 of deep labels. Raises BadPicture."""
    with _opened(source) as image:
        if image.format in ("JPEG", "MPO") and framing.interpolation != "nearest":
            # The decoder scales by 1/2, 1/4 or 1/8 for free; twice the size wanted is left for a good resize.
            scale = 2 * side / (min(image.size) * framing.crop_share)
            image.draft("RGB", (math.ceil(image.width * scale), math.ceil(image.height * scale)))
        return to_square(image, side, channels, framing, as_labels=as_labels)


def read_whole(source: Path | IO[bytes], channels: int, *, as_labels: bool = False) -> np.ndarray:
    """Decode a file at its own size: uint8 (C, H, W); int32 of deep labels. Raises BadPicture."""
    with _opened(source) as image:
        return whole(image, channels, as_labels=as_labels)


def whole(image: Image.Image, channels: int, *, as_labels: bool = False) -> np.ndarray:
    """Return a picture at its own size, upright: uint8 (C, H, W); int32 of deep labels. Raises BadPicture."""
    orientation = _orientation_to_undo(image)
    image = _flatten(image, channels, as_labels=as_labels)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _orientation_to_undo(image: Image.Image) -> int:
    """Return the orientation that the decoded pixels still have: Pillow undoes a TIFF's itself as it decodes."""
    image.load()
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF does not make the pixels bad
        return 1


def to_square(
    image: Image.Image, side: int, channels: int, framing: Framing = MIDDLE, *, as_labels: bool = False
) -> np.ndarray:
    """Return a picture as uint8 (C, S, S), framed as asked for; deep labels as int32. Raises BadPicture.

    One resize of the part that is kept, so that a pixel at its edge is made of those beyond as well: the same as the
    whole picture resized and then cut, as torchvision and Hugging Face do it, but for their rounding of the long
    side to whole pixels.
    """
    orientation = _orientation_to_undo(image)
    image = _flatten(image, channels, as_labels=as_labels)
    box = framing.box(*image.size)
    if box != (0, 0, side, side):
        left, top, right, bottom = box
        if right - left == bottom - top == side:  # only cut: no pixel is touched
            image = image.crop((int(left), int(top), int(left) + side, int(top) + side))
        else:
            image = image.resize((side, side), Image.Resampling[framing.interpolation.upper()], box=box)
    if orientation in _UPRIGHT:  # the middle square may as well be turned after it is cut out
        image = image.transpose(_UPRIGHT[orientation])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _flatten(image: Image.Image, channels: int, *, as_labels: bool) -> Image.Image:
    """Return a picture in mode L or RGB, or deep labels in mode I."""
    if image.mode == "F":
        raise BadPicture("floating-point pixels have no agreed range")
    if _is_deep(image):
        level_HW, white = _levels(image)
        if as_labels and white > 255:
            if channels == 3:
                raise BadPicture("levels of grey of more than 8 bits, among masks in colour")
            return Image.fromarray(level_HW.astype(np.int32))
        image = Image.fromarray(((level_HW * 255 + white // 2) // white).astype(np.uint8))
    if not as_labels and (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _levels(image: Image.Image) -> tuple[np.ndarray, int]:
    """Return the levels of a deep picture, int64 (H, W), and which one is white. Raises BadPicture.

    White is always 65535, so that pictures stay comparable; but where 32 bits hold only levels that 8 bits could, 255.
    """
    level_HW = np.asarray(image).astype(np.int64)
    low, high = int(level_HW.min()), int(level_HW.max())
    if low < 0 or high > 65535:
        raise BadPicture(f"32-bit levels from {low} to {high} have no agreed range: save it with 8 or 16 bits")
    return level_HW, 255 if image.mode == "I" and high <= 255 else 65535


def told_dim(files: Sequence[Path]) -> list[str]:
    """Return a line where deep pictures use so little of their range that they are nearly black; none elsewhere.

    Args:
        files: those that are deep; some of them are decoded.
    """
    highest = 0.0
    for file in files[:: max(1, len(files) // FILES_FOR_DEPTH)]:
        with contextlib.suppress(BadPicture), quiet(), _opened(file) as image:
            level_HW, white = _levels(image)
            highest = max(highest, int(level_HW.max()) / white)
    if not 0 < highest < DIM:
        return []
    factor = 2 ** int(math.log2(1 / highest))
    return [
        f"the 16-bit pictures are nearly black: 65535 is white, and their highest level is {highest * 65535:.0f}. "
        f"Multiply all their pixels by one factor, such as {factor}, and save them again"
    ]


def from_array(pixels: np.ndarray) -> Image.Image:
    """Return uint8 (H, W), (H, W, C) or (C, H, W), C 1 or 3, as a picture. Raises BadPicture for other shapes."""
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[-1] == 3):
        raise BadPicture(f"an array of shape {tuple(pixels.shape)} is no picture: (H, W), (H, W, C) or (C, H, W) is")
    return Image.fromarray(np.ascontiguousarray(pixels))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # Pillow decodes without the GIL, so threads are enough and nothing has to be copied between processes.
    return ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="pictures")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_context: Any = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings, but make that of a bomb an error; in every thread, once for all who ask."""
    global _quiet_depth, _quiet_context
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_context = warnings.catch_warnings()
            _quiet_context.__enter__()
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_context.__exit__(None, None, None)


def read_headers(paths: Sequence[Path]) -> tuple[list[Header | None], dict[int, str]]:
    """Read many headers in threads; return them, and why those that are None are bad, by number."""
    headers: list[Header | None] = [None] * len(paths)

    def read(k: int) -> None:
        headers[k] = read_header(paths[k])

    return headers, _for_each(len(paths), read)


def read_pictures(
    paths: Sequence[Path], side: int, channels: int, framing: Framing = MIDDLE
) -> tuple[Tensor, dict[int, str]]:
    """Decode many files in threads: uint8 (N, C, S, S), black where one is bad, and why, by number."""
    images = torch.zeros((len(paths), channels, side, side), dtype=torch.uint8)
    pixels = images.numpy()

    def read(k: int) -> None:
        pixels[k] = read_picture(paths[k], side, channels, framing)

    return images, _for_each(len(paths), read)


def in_threads(make: Callable[[Given], Made], given: Sequence[Given]) -> Iterator[Made]:
    """Give what is made of each, in order, while later ones are made in threads."""
    with quiet():
        yield from _pool().map(make, given)


def _for_each(n: int, read: Any) -> dict[int, str]:
    bad: dict[int, str] = {}

    def read_some(start: int) -> None:
        for k in range(start, min(start + per_task, n)):
            try:
                read(k)
            except BadPicture as error:
                bad[k] = str(error)

    per_task = max(1, min(_FILES_PER_TASK, n // (os.cpu_count() or 1)))
    with quiet():
        list(_pool().map(read_some, range(0, n, per_task)))
    return dict(sorted(bad.items()))
