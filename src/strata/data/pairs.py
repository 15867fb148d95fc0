"""Pictures whose targets are pictures: a class for each pixel (a mask), other pixels, or the picture without its noise.

A folder holds two folders of equally named pictures, such as ``images/`` and ``masks/``, below ``train/``, ``val/`` and
``test/`` where it is divided already, or above them. Pictures keep their own size and shape unless data.image_size
brings them to a square; networks are trained on parts of them, cut out at random, and evaluated on whole ones.

N pictures, B samples in a batch, C channels, H and W pixels, P pixels of many pictures, V levels of grey.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from strata import rng
from strata.data import images, overlap, pictures, splits
from strata.data.dataset import DataConfig, Dataset, TensorSplit, digest
from strata.data.files import NAMED
from strata.data.preprocess import ImagePreprocess
from strata.device import available_memory_bytes
from strata.errors import ConfigError, DataError, suggest

INPUTS = frozenset(
    ("image", "images", "img", "imgs", "input", "inputs", "photo", "photos", "picture", "pictures", "noisy", "degraded")
)
TARGETS = frozenset(
    (
        *("mask", "masks", "label", "labels", "target", "targets", "output", "outputs", "clean", "gt", "groundtruth"),
        *(
            "ground_truth",
            "annotation",
            "annotations",
            "annot",
            "segmentation",
            "segmentations",
            "manual",
            "1st_manual",
        ),
    )
)
REGIONS = frozenset(("fov", "roi", "region", "regions"))
"""What folders are called, in small letters, that hold each kind of picture."""
_LOSSY = (".jpg", ".jpeg", ".jfif")
NO_VALUE = -1
"""What no pixel of a mask is."""
MASK_VALUES_AT_MOST = 64
"""Targets with more distinct values than this are pictures, not masks ..."""
MANY_VALUES_AT_MOST, SHARE_EQUAL = 1024, 0.8
"""... unless none of them alone has more, all together have no more than the first of these, and that share of their
neighbouring pixels are equal: masks of many classes, of which a scene shows some, in patches."""
NEAR_BLACK_OR_WHITE = 32
"""Levels by which a mask that was saved as JPEG may be off, for ..."""
SHARE_NEAR = 0.98
"""... this share of its pixels at least."""
WHOLE_SIDE, CROP_SIDE, LONGEST_SIDE = 160, 128, 1024
"""Up to the first, pictures of one size are trained on whole; the second is the crops' side of larger ones; the third
is what pictures without targets are shrunk to, since noise can be removed at any size."""
FILES_AT_FIRST = 64
"""Pictures, evenly spread, from which constants are measured, and targets that are no masks are told."""
UNMEASURED, UNMEASURED_OF_MANY = 128, 16384
"""Added to a mask's pixels outside the region, uint8 or int16: they are learned, so that a model knows what to say
there too."""


def unmeasured(bytes_each: int) -> int:
    """Return what is added to pixels outside the region, of masks whose pixels have so many bytes."""
    return UNMEASURED if bytes_each == 1 else UNMEASURED_OF_MANY


@dataclass(frozen=True)
class Pair:
    """The files of one sample."""

    input: Path
    target: Path | None = None
    region: Path | None = None


@dataclass
class _Folders:
    """Where one part's inputs, targets and regions lie."""

    input: Path
    target: Path
    region: Path | None = None
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where one part's folders of inputs and targets lie."""

    folder: Path
    part: str | None = None
    """Of each of them, the folder that is called after this part: ``images/train``."""

    def within(self, chosen: Path) -> Path:
        """Return the part's own folder in one of inputs, targets or regions."""
        if self.part is None:
            return chosen
        if self.part not in (folders := images.divided(chosen)):
            raise DataError(f"{chosen} has no folder for its {self.part} split, as others beside it have.")
        return folders[self.part]

    def pictures(self) -> list[Path]:
        """Return all pictures of the part, whatever folder they lie in."""
        if self.part is None:
            return images.pictures_in(self.folder)
        own = (images.divided(folder).get(self.part) for folder in _folders_in(self.folder))
        return [file for folder in own if folder is not None for file in images.pictures_in(folder)]


def is_paired(root: Path) -> bool:
    """Say whether a folder is one of pairs, by the names of its folders alone."""
    for place in _parts(root).values():
        names = {path.name.lower() for path in _folders_in(place.folder)}
        if names & INPUTS and names & TARGETS:
            return True
    return False


def _parts(root: Path) -> dict[str, _Place]:
    """Return the place of each split; the whole folder is "train" where it is not divided."""
    order, found = ("train", *splits.HELD_OUT), images.divided(root)
    if "train" in found:
        return {part: _Place(found[part]) for part in order if part in found}
    known = INPUTS | TARGETS | REGIONS
    inner = [set(images.divided(f)) for f in _folders_in(root) if f.name.lower() in known or images.divided(f)]
    shared = set.intersection(*inner) if len(inner) > 1 else set()
    if "train" in shared:
        return {part: _Place(root, part) for part in order if part in shared}
    return {"train": _Place(root)}


def _folders_in(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in images.visible(folder) if entry.is_dir()]


def _choose(folder: Path, config: DataConfig) -> _Folders:
    """Decide which folder holds what. Raises DataError where that is not plain."""
    with_pictures = {path.name: path for path in _folders_in(folder) if images.pictures_in(path)}
    listed = ", ".join(with_pictures) or "none"

    def named(setting: str, wanted: str | None, known: frozenset[str]) -> Path | None:
        if wanted is not None:
            if wanted not in with_pictures:
                hint = suggest(wanted, with_pictures)
                raise DataError(f"data.{setting}={wanted}: {folder} has no such folder of pictures.{hint}")
            return with_pictures.pop(wanted)
        found = [name for name in with_pictures if name.lower() in known]
        if len(found) > 1:
            raise DataError(
                f"{folder} has {len(found)} folders that may hold the {setting} pictures: {', '.join(found)}. "
                f"Say which: data.{setting}={found[0]}"
            )
        return with_pictures.pop(found[0]) if found else None

    target = named("target", config.target, TARGETS)
    region = named("region", config.region, REGIONS)
    inputs = [path for name, path in with_pictures.items() if name.lower() in INPUTS] or list(with_pictures.values())
    if target is None and len(with_pictures) == 2 and len(inputs) == 1:
        target = next(path for path in with_pictures.values() if path not in inputs)
    if target is None or len(inputs) != 1:
        raise DataError(
            f"{folder} has these folders of pictures: {listed}. Pairs need one of inputs, called images or input, "
            "and one of targets, called masks or target, or named by data.target=FOLDER."
        )
    unused = [name for name, path in with_pictures.items() if path not in (inputs[0], target)]
    if unused and config.target is None:
        raise DataError(
            f"{folder} has {len(unused)} more folder{'s' * (len(unused) > 1)} of pictures than {inputs[0].name} and "
            f"{target.name}: {', '.join(unused)}. Say which holds the targets: data.target={target.name}"
        )
    return _Folders(inputs[0], target, region, unused)


def _number_first(stem: str) -> str | None:
    found = re.match(r"\d+", stem)
    return found.group().lstrip("0") if found else None


def _number_last(stem: str) -> str | None:
    found = re.findall(r"\d+", stem)
    return found[-1].lstrip("0") if found else None


def _first_words(stem: str) -> str | None:
    return re.split(r"[_\-. ]", stem[::-1], maxsplit=1)[-1][::-1]


_KEYS: tuple[tuple[Callable[[str], str | None], Callable[[str], str | None]], ...] = (
    (str, str),
    (str, _first_words),
    (_first_words, str),
    (_first_words, _first_words),
    (_number_first, _number_first),
    (_number_last, _number_last),
)
"""What has to be equal of an input's and its target's name, without extension, in small letters: tried in turn."""


def match(
    inputs: Sequence[Path], targets: Sequence[Path], input_root: Path = Path(), target_root: Path = Path()
) -> list[Path]:
    """Return each input's target: of the same name but for the extension, else but for a last word ("cat_mask"), else
    of the same number; in the same folder below the roots, else in any.

    Raises DataError that names files which have no partner, or several.
    """
    beside = [path.relative_to(input_root) for path in inputs], [path.relative_to(target_root) for path in targets]
    for is_same_folder in (True, False):
        for key_of_input, key_of_target in _KEYS:
            key_I = [_key(path, key_of_input, is_same_folder) for path in beside[0]]
            key_T = [_key(path, key_of_target, is_same_folder) for path in beside[1]]
            by_target = dict(zip(key_T, targets, strict=True))
            is_plain = len(set(key_I)) == len(inputs) and len(by_target) == len(targets) and None not in by_target
            if is_plain and set(key_I) == by_target.keys():
                return [by_target[key] for key in key_I]
    raise DataError(
        f"{len(inputs)} pictures in {input_root} and {len(targets)} in {target_root} do not pair up by name: "
        + _why_none((inputs, targets), beside)
        + " If these folders are classes: data.kind=image."
    )


def _key(path: Path, key: Callable[[str], str | None], is_same_folder: bool) -> tuple[Path, str] | None:
    found = key(path.stem.lower())
    return None if found is None else (path.parent if is_same_folder else Path(), found)


def _why_none(files: tuple[Sequence[Path], Sequence[Path]], beside: tuple[Sequence[Path], Sequence[Path]]) -> str:
    """Say which inputs and targets have no partner of their name, or else which have several, and what to do."""
    names = [[str(path.with_suffix("")).lower() for path in paths] for paths in beside]
    lonely, alike = [], []
    for own, others, paths in zip(names, map(set, names[::-1]), files, strict=True):
        count = Counter(own)
        lonely += [path for name, path in zip(own, paths, strict=True) if name not in others]
        alike += [path for name, path in zip(own, paths, strict=True) if count[name] > 1]
    found = lonely or alike
    named = ", ".join(str(Path(*path.parts[-2:])) for path in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    if lonely:
        return f"{named}{more} have no partner. Give partners the same name, or remove what has none."
    return f"{named}{more} have one name but for the extension. Keep one of each."


def _pairs_of(place: _Place, config: DataConfig) -> tuple[list[Pair], list[str]]:
    """Return one part's pairs, and what was decided, in words."""
    chosen = _choose(place.folder, config)
    below = place.within(chosen.input)
    inputs = images.pictures_in(below)

    def partners(others: Path) -> list[Path]:
        others = place.within(others)
        return match(inputs, images.pictures_in(others), below, others)

    targets = partners(chosen.target)
    regions: list[Path] = partners(chosen.region) if chosen.region is not None else []
    note = (
        f"{place.part or place.folder.name}: {chosen.input.name}/ are learned to be turned into {chosen.target.name}/"
    )
    if chosen.region is not None:
        note += f"; what is black in {chosen.region.name}/ is not measured"
    if chosen.unused:
        note += f"; left out: {', '.join(f'{name}/' for name in chosen.unused)}"
    return [Pair(inputs[k], targets[k], regions[k] if regions else None) for k in range(len(inputs))], [note]


@dataclass(frozen=True)
class Masks:
    """How a mask's pixels become classes."""

    values: tuple[int, ...]
    """Of each class: a level of grey, or 0xRRGGBB."""
    is_grey: bool
    is_nearest: bool = False
    """Every level of grey is the class of the nearest value."""
    ignore: int | None = None
    """Value of pixels that do not count."""

    def numbers(self, mask_CHW: np.ndarray, file: Path) -> np.ndarray:
        """Return each pixel's class plus one, 0 where it does not count: uint8 (H, W), int16 of many classes.

        Raises DataError for a value that is no class's.
        """
        code_HW = _codes(mask_CHW)
        known = np.array(self.values)
        counts_HW = code_HW != (NO_VALUE if self.ignore is None else self.ignore)
        if self.is_nearest:
            middles = (known[1:] + known[:-1]) / 2
            class_HW = np.searchsorted(middles, code_HW, side="right")
        else:
            class_HW = np.searchsorted(known, code_HW).clip(0, len(known) - 1)
            strange_HW = (known[class_HW] != code_HW) & counts_HW
            if strange_HW.any():
                stranger = int(code_HW[strange_HW][0])
                raise DataError(
                    f"{file} has pixels of value {_shown(stranger, self.is_grey)}, which no training mask has. If it "
                    f"is a class, training needs masks that have it; data.ignore={stranger} if it is not to count."
                )
        return ((class_HW + 1) * counts_HW).astype(np.uint8 if self.bytes_each == 1 else np.int16)

    @property
    def bytes_each(self) -> int:
        """Bytes of a pixel's number."""
        return 1 if len(self.values) < UNMEASURED else 2


def _codes(mask_CHW: np.ndarray) -> np.ndarray:
    if len(mask_CHW) == 1:
        return mask_CHW[0].astype(np.int64)
    red, green, blue = mask_CHW.astype(np.int64)
    return (red << 16) | (green << 8) | blue


def _shown(value: int, is_grey: bool) -> str:
    return str(value) if is_grey else f"#{value:06x}"


@dataclass
class _Seen:
    """What one target's pixels are, or those of many: their values, and how many are nearly black or white."""

    values: set[int] = field(default_factory=set)
    in_one: int = 0
    """Values of the target that has most."""
    equal: int = 0
    """Pixels that are as their left neighbour, of all that have one."""
    neighbours: int = 0
    black: int = 0
    white: int = 0
    """Pixels that are nearly so; counted where they are grey, and so is the ..."""
    total: int = 0

    def add(self, other: _Seen) -> None:
        self.values |= other.values
        self.in_one = max(self.in_one, other.in_one)
        self.equal += other.equal
        self.neighbours += other.neighbours
        self.black += other.black
        self.white += other.white
        self.total += other.total

    @property
    def are_masks(self) -> bool:
        """Whether so few values are those of classes, or many are in patches."""
        in_patches = self.in_one <= MASK_VALUES_AT_MOST and self.equal >= SHARE_EQUAL * self.neighbours
        return len(self.values) <= (MANY_VALUES_AT_MOST if in_patches else MASK_VALUES_AT_MOST)


def _look_at(target_CHW: np.ndarray, ignore: int | None) -> _Seen:
    code_HW = _codes(target_CHW)
    values = set(np.unique(code_HW).tolist())
    equal_HW = code_HW[:, 1:] == code_HW[:, :-1]
    seen = _Seen(values, len(values), int(equal_HW.sum()), equal_HW.size)
    if len(target_CHW) > 1:
        return seen
    counted = code_HW if ignore is None else code_HW[code_HW != ignore]
    black, white = (counted <= NEAR_BLACK_OR_WHITE).sum(), (abs(counted - 255) <= NEAR_BLACK_OR_WHITE).sum()
    return dataclasses.replace(seen, black=int(black), white=int(white), total=counted.size)


def find_masks(
    read: Callable[[Pair], np.ndarray], found: Sequence[Pair], config: DataConfig, *, is_grey: bool, is_lossy: bool
) -> Masks | None:
    """Return how targets become classes, or None where they are pictures.

    All are looked at, so that no rare class is missed, unless the first, evenly spread, show already that they are
    no masks.

    Args:
        read: gives a target's pixels as the file has them: (C, H, W).
        is_grey: C is 1.
        is_lossy: they were saved in a way that smears black and white into their neighbours.

    Raises DataError where they are to be classes and are not.
    """
    if config.target_kind == "number":
        return None
    seen, every = _Seen(), max(1, len(found) // FILES_AT_FIRST)
    rest = [pair for k, pair in enumerate(found) if k % every]
    for some in (found[::every], rest):
        if seen.are_masks:
            for one in pictures.in_threads(lambda pair: _look_at(read(pair), config.ignore), some):
                seen.add(one)
    values = seen.values - {NO_VALUE if config.ignore is None else config.ignore}
    if len(values) <= 1:
        only = _shown(values.pop(), is_grey) if values else "to be ignored"
        clear = "" if is_grey else " Transparency does not count: save masks in black and white."
        raise DataError(f"Every target pixel is {only}. There is nothing to learn.{clear}")
    near = seen.black + seen.white
    is_black_and_white = is_grey and near >= SHARE_NEAR * seen.total and min(values) < 128 <= max(values)
    has_soft_edges = len(values) > MASK_VALUES_AT_MOST and seen.white >= seen.total - near  # and not many classes
    is_blurred = is_black_and_white and (is_lossy or has_soft_edges)
    if seen.are_masks and not is_blurred:
        return Masks(tuple(sorted(values)), is_grey, ignore=config.ignore)
    if is_black_and_white or (is_grey and config.target_kind == "class" and max(values) <= 255):
        return Masks((0, 255), is_grey, is_nearest=True, ignore=config.ignore)
    if config.target_kind == "class":
        what = "values" if is_grey else "colours"
        blurred = "JPEG has blurred their labels: s" if is_lossy else "S"
        raise DataError(
            f"data.target_kind=class: the target pictures have more than {MASK_VALUES_AT_MOST} {what}, and not in "
            f"patches, so they are no masks. {blurred}ave masks as PNG, which keeps every pixel as it is."
        )
    return None


def _told_pictures(*, is_grey: bool, is_lossy: bool) -> str:
    """Say that targets are pictures, and how they would be masks."""
    if not is_grey:
        return "targets are pictures"
    told = "targets are pictures; data.target_kind=class makes masks of black and white of them"
    return told + ", but JPEG has blurred the labels of masks: save those as PNG" * is_lossy


class Reader:
    """Reads one pair: the picture as uint8 (C, H, W), and its target.

    A mask comes as uint8 (H, W), its class plus one, for 0 is what does not count, and `UNMEASURED` more outside its
    region; of many classes as int16, with `UNMEASURED_OF_MANY`; a picture as uint8 (C, H, W).
    """

    def __init__(self, config: DataConfig, channels: int, target_channels: int, *, alone: bool) -> None:
        self.config, self.channels, self.target_channels, self.alone = config, channels, target_channels, alone
        self.masks: Masks | None = None

    def input(self, pair: Pair) -> np.ndarray:
        """Return the picture."""
        found = self._pixels(pair.input, self.channels, as_labels=False)
        if self.alone and self.config.image_size is None and max(found.shape) > LONGEST_SIDE:
            factor = math.ceil(max(found.shape) / LONGEST_SIDE)
            return F.avg_pool2d(torch.from_numpy(found.copy()).float(), factor).round().byte().numpy()
        return found

    def raw_target(self, pair: Pair) -> np.ndarray:
        """Return the target's pixels as they are in the file, deep ones too: (C, H, W)."""
        assert pair.target is not None
        return self._pixels(pair.target, self.target_channels, as_labels=True)

    def __call__(self, pair: Pair) -> tuple[Tensor, Tensor | None]:
        """Return picture and target. Raises DataError for a file that cannot be read, and for sizes that differ."""
        image = self.input(pair)
        if pair.target is None:
            return torch.from_numpy(image.copy()), None
        target = self._pixels(pair.target, self.target_channels, as_labels=self.masks is not None)
        _check_size(image, pair.input, target, pair.target)
        if self.masks is not None:
            target = self.masks.numbers(target, pair.target)
            if pair.region is not None:
                region = self._pixels(pair.region, 1, as_labels=True)
                _check_size(image, pair.input, region, pair.region)
                outside = np.where((region[0] > 127) | (target == 0), 0, unmeasured(target.itemsize))
                target = target | outside.astype(target.dtype)
        return tuple(torch.from_numpy(x.copy()) for x in (image, target))  # type: ignore[return-value]

    def _pixels(self, path: Path, channels: int, *, as_labels: bool) -> np.ndarray:
        """Return a picture's pixels; as labels those of the file, without any in between."""
        framing, side = self.config.framing, self.config.image_size
        try:
            with pictures.quiet():
                if side is None:
                    return pictures.read_whole(path, channels, as_labels=as_labels)
                if as_labels:
                    framing = dataclasses.replace(framing, interpolation="nearest")
                return pictures.read_picture(path, side, channels, framing, as_labels=as_labels)
        except pictures.BadPicture as error:
            raise DataError(f"{path} cannot be read: {error}. Repair it, or remove it and its partner.") from None


def _check_size(image: np.ndarray, path: Path, other: np.ndarray, beside: Path) -> None:
    if image.shape[-2:] != other.shape[-2:]:
        (high, wide), (other_high, other_wide) = image.shape[-2:], other.shape[-2:]
        raise DataError(
            f"{path} is {wide} x {high} pixels and {beside} is {other_wide} x {other_high}: the two of a pair must be "
            "of one size. data.image_size=N data.fit=stretch brings both to N x N."
        )


class PairSplit:
    """Pictures and their targets, in memory or read when a batch wants them.

    A batch holds ``input`` uint8 (B, C, H, W) and, where there are targets, ``target``, (B, H, W) of classes as
    `Reader` gives them or uint8 (B, C, H, W) of pixels. Where pictures differ in size they are filled up to the
    largest, and ``size`` (B, 2) holds each one's height and width.

    Args:
        read: gives a pair by its number.
        crop: side of the parts that training sees.
        per_picture: parts of each picture in an epoch.
        seed: with epoch and sample number decides where a part is cut out.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        read: Callable[[int], tuple[Tensor, Tensor | None]],
        *,
        in_memory: bool,
        crop: int | None,
        per_picture: int,
        seed: int,
        is_cropped: bool = False,
    ) -> None:
        self.pairs, self.read, self.in_memory = list(pairs), read, in_memory
        self.crop, self.per_picture, self.seed, self.is_cropped = crop, per_picture, seed, is_cropped

    def __len__(self) -> int:
        return len(self.pairs) * (self.per_picture if self.is_cropped else 1)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the sample's file."""
        return {"file": str(self.pairs[index].input)} if self.pairs[index].input.name else {}

    def cropped(self) -> PairSplit:
        """Return the same pictures as training sees them: parts of one size, cut out at random."""
        if self.crop is None:
            return self
        return PairSplit(
            self.pairs,
            self.read,
            in_memory=self.in_memory,
            crop=self.crop,
            per_picture=self.per_picture,
            seed=self.seed,
            is_cropped=True,
        )

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the samples of these numbers, as they are in these epochs."""
        numbers = index_B.tolist()
        if self.is_cropped:
            assert self.crop is not None
            at_B2 = rng.uniform(self.seed, "crop", epoch_B, index_B, 2).tolist()
            found = []
            for number, at in zip(numbers, at_B2, strict=True):
                image, target = self.read(number // self.per_picture)
                found.append((_cut(image, self.crop, at), None if target is None else _cut(target, self.crop, at)))
        else:
            found = [self.read(number) for number in numbers]
        sizes = [tuple(image.shape[1:]) for image, _ in found]
        high, wide = max(size[0] for size in sizes), max(size[1] for size in sizes)
        batch = {"input": torch.stack([_filled(image, high, wide) for image, _ in found])}
        targets = [_filled(target, high, wide) for _, target in found if target is not None]
        if targets:
            batch["target"] = torch.stack(targets)
        if len(set(sizes)) > 1:
            batch["size"] = torch.tensor(sizes)
        return batch


def _filled(picture: Tensor, high: int, wide: int) -> Tensor:
    return F.pad(picture, (0, wide - picture.shape[-1], 0, high - picture.shape[-2]))


def _cut(picture: Tensor, side: int, at: Sequence[float]) -> Tensor:
    """Return a part (..., S, S) whose place is `at` in [0, 1) along both axes; smaller pictures are filled up."""
    high, wide = picture.shape[-2:]
    top, left = (int(u * (max(0, size - side) + 1)) for u, size in zip(at, (high, wide), strict=True))
    part = picture[..., top : top + side, left : left + side]
    return _filled(part, side, side)


def _refuse_mixing(config: DataConfig) -> None:
    augment = config.augment
    if augment.mixup or augment.cutmix:
        raise ConfigError("data.augment.mixup and cutmix mix classes; a picture whose target is a picture has none.")
    if augment.policy != "none":
        raise ConfigError(
            "data.augment.policy moves pictures in ways that their targets could not follow. Use rotate, ..."
        )


def open_pairs(root: Path, config: DataConfig) -> Dataset:
    """Read a folder of pairs, or of pictures alone, which are then their own target.

    Raises DataError for pictures without partner or of another size than it, folders whose meaning is not plain,
    pictures that cannot be read, and targets that say nothing; ConfigError for settings that contradict the data.
    """
    _refuse_mixing(config)
    places = _parts(root)
    alone = not is_paired(root) and config.target is None
    given = [part for part in places if part != "train"]
    plan = splits.plan(config, given, root)
    for part in plan.unused:
        places.pop(part)
    places |= {part: _Place(path) for part, path in plan.paths.items()}
    notes = list(plan.notes)
    parts: dict[str, list[Pair]] = {}
    for part, place in places.items():
        if not place.folder.is_dir():
            raise DataError(f"data.{part}={place.folder} has to be a folder like the training data's.")
        if part in plan.paths:
            there = _parts(place.folder)
            place = there.get(part, there["train"])
        if alone:
            parts[part] = [Pair(file) for file in place.pictures()]
        else:
            parts[part], said = _pairs_of(place, config)
            notes += said
        if not parts[part]:
            raise DataError(f"{place.folder} holds no pictures.")
    if alone:
        if config.target_kind is not None or config.region is not None or config.ignore is not None:
            raise ConfigError(
                f"data.target_kind, data.region and data.ignore need pairs, and {root} has no folder of targets."
            )
        notes.append("no folders of inputs and targets: the pictures are learned from alone, noise added to them")

    everything = [pair for found in parts.values() for pair in found]
    headers, bad = pictures.read_headers([pair.input for pair in everything])
    if bad:
        number, reason = next(iter(bad.items()))
        raise DataError(f"{everything[number].input} cannot be read: {reason}. Repair or remove it.")
    found_headers = [header for header in headers if header is not None]
    grey = all(header.is_grey for header in found_headers)
    channels = config.channels or (1 if grey else 3)
    notes += pictures.told_dim(
        [pair.input for pair, header in zip(everything, headers, strict=True) if header is not None and header.is_deep]
    )
    reader = Reader(config, channels, 0 if alone else _target_channels(everything, headers), alone=alone)
    if not alone:
        is_lossy = any(pair.target is not None and pair.target.suffix.lower() in _LOSSY for pair in parts["train"])
        is_grey = reader.target_channels == 1
        reader.masks = find_masks(reader.raw_target, parts["train"], config, is_grey=is_grey, is_lossy=is_lossy)
        if reader.masks is None:
            notes.append(_told_pictures(is_grey=is_grey, is_lossy=is_lossy))
            if config.kind is None:
                notes.append(
                    "folders of inputs and targets were told by their names: data.kind=image if they are classes"
                )
        elif is_lossy and not reader.masks.is_nearest:
            notes.append("masks are saved as JPEG, which makes values that are no class's: save them as PNG")
        if reader.masks is None and any(pair.region for pair in everything):
            raise ConfigError("data.region says which pixels of a mask count; these targets are no masks.")
    bytes_of_target = reader.target_channels if reader.masks is None else reader.masks.bytes_each
    area = config.image_size**2 if config.image_size else None
    total_bytes = sum(area or header.width * header.height for header in found_headers) * (channels + bytes_of_target)
    fits = total_bytes <= images.MEMORY_SHARE * available_memory_bytes()
    if not fits:
        notes.append("pictures do not fit in memory and are read for each batch")
    index, said = splits.divide(plan, len(parts["train"]), None, config.split_seed)
    index["train"], limited = splits.limit(index["train"], None, config.limit, config.split_seed)
    chosen = {part: [parts["train"][k] for k in numbers.tolist()] for part, numbers in index.items()}
    chosen |= {part: found for part, found in parts.items() if part != "train"}
    repeated = overlap.of_files({part: [pair.input for pair in found] for part, found in chosen.items()})
    said += overlap.told(repeated, chosen, "pictures")
    kept = {part: [reader(pair) for pair in found] for part, found in chosen.items()} if fits else {}
    content = [t for found in kept.values() for pair in found for t in pair if t is not None]
    names = [f"{pair.input.name}/{pair.input.stat().st_size}" for found in chosen.values() for pair in found]
    return _assemble(
        root.name,
        config,
        chosen,
        {part: _reading(found, kept.get(part), reader) for part, found in chosen.items()},
        reader.masks,
        in_memory=fits,
        notes=[*notes, *said, *limited],
        fingerprint=digest(*content, *names, repr(reader.masks)),
        path=str(root),
    )


def _target_channels(pairs: Sequence[Pair], headers: Sequence[pictures.Header | None]) -> int:
    """Return how many channels targets are read with. Raises DataError for one that does not lie as its picture does.

    Args:
        headers: the pictures'.
    """
    of_targets, bad = pictures.read_headers([pair.target for pair in pairs if pair.target is not None])
    if bad:
        number, reason = next(iter(bad.items()))
        raise DataError(f"{pairs[number].target} cannot be read: {reason}. Repair it, or remove it and its partner.")
    for pair, header, other in zip(pairs, headers, of_targets, strict=True):
        if header is not None and other is not None and header.is_turned != other.is_turned:
            _refuse_turned(pair, header, other)
    return 1 if all(header.is_grey for header in of_targets if header is not None) else 3


def _refuse_turned(pair: Pair, header: pictures.Header, other: pictures.Header) -> None:
    """Refuse a pair of which EXIF turns one, where only without that the two would be of one size."""
    if header[:2] == other[:2] or header[:2] != other[1::-1]:
        return
    turned, still = (pair.input, pair.target) if header.is_turned else (pair.target, pair.input)
    raise DataError(
        f"{turned} is turned by the orientation in its EXIF, and {still} is not: the two do not lie alike. If "
        "the target fits the picture as stored, remove the orientation (exiftool -Orientation= FILES); else turn it."
    )


def _reading(
    pairs: Sequence[Pair], kept: Sequence[tuple[Tensor, Tensor | None]] | None, reader: Reader
) -> Callable[[int], tuple[Tensor, Tensor | None]]:
    if kept is not None:
        return kept.__getitem__
    return lambda number: reader(pairs[number])


def alone(dataset: Dataset, config: DataConfig) -> Dataset:
    """Return a data set of pictures and classes as one of pictures alone."""
    _refuse_mixing(config)
    chosen, reading = {}, {}
    for part, split in dataset.splits.items():
        assert isinstance(split, TensorSplit), "named pictures lie in memory"
        chosen[part] = [Pair(Path())] * len(split)
        reading[part] = _reading((), [(image, None) for image in split.input], Reader(config, 0, 0, alone=True))
    notes = [*dataset.notes, "classes are left aside: the pictures are learned from alone, noise added to them"]
    found = _assemble(
        dataset.name, config, chosen, reading, None, in_memory=True, notes=notes, fingerprint=dataset.fingerprint
    )
    return found.replace(details=dataset.details)


def _assemble(
    name: str,
    config: DataConfig,
    chosen: Mapping[str, list[Pair]],
    reading: Mapping[str, Callable[[int], tuple[Tensor, Tensor | None]]],
    masks: Masks | None,
    *,
    in_memory: bool,
    notes: list[str],
    fingerprint: str,
    path: str = "",
) -> Dataset:
    """Measure what was read, and decide what training sees of it."""
    train = len(chosen["train"])
    sample = [reading["train"](k) for k in range(0, train, max(1, train // FILES_AT_FIRST))]
    channels = len(sample[0][0])
    sizes = {tuple(image.shape[1:]) for image, _ in sample}
    largest = max(max(size) for size in sizes)
    crop, said = _decide_crop(sizes, config)
    area = sum(high * wide for high, wide in sizes) / len(sizes)
    per_picture = 1 if crop is None else max(1, round(area / crop**2))
    notes = [*notes, said + (f", {per_picture} of each picture an epoch" if per_picture > 1 else "")]
    target_kind: str | None = None
    labels: tuple[str, ...] = ()
    details: dict[str, Any] = {"path": path} if path else {}
    if masks is not None:
        target_kind, labels = "pixel_class", tuple(_shown(value, masks.is_grey) for value in masks.values)
        details["values"], details["values_are_grey"] = masks.values, masks.is_grey
        how = "; levels between count as the nearer one" if masks.is_nearest else ""
        notes.append(
            f"targets are masks of {len(labels)} classes: {', '.join(labels[:8])}{', ...' * (len(labels) > 8)}{how}"
        )
    elif sample[0][1] is not None:
        target_kind = "pixel_number"
        plain = dataclasses.replace(config, mean=None, std=None)
        found = _measured([target for _, target in sample if target is not None], plain)
        details["target_mean"], details["target_std"] = found
    mean, std = _measured([image for image, _ in sample], config)
    preprocess = ImagePreprocess(
        image_size=config.image_size,
        channels=1 if channels == 1 else 3,
        mean=mean,
        std=std,
        labels=labels,
        **dataclasses.asdict(config.framing),
    )
    return Dataset(
        name=name,
        kind="pairs",
        target_kind=target_kind,
        splits={
            part: PairSplit(
                found,
                reading[part],
                in_memory=in_memory,
                crop=crop,
                per_picture=per_picture,
                seed=config.split_seed,
            )
            for part, found in ((part, chosen[part]) for part in ("train", *splits.HELD_OUT) if part in chosen)
        },
        sizes={"in_channels": channels, "image_size": crop or largest},
        preprocess=preprocess,
        labels=labels,
        notes=tuple(notes),
        fingerprint=fingerprint,
        details=details,
    )


def _decide_crop(sizes: set[tuple[int, ...]], config: DataConfig) -> tuple[int | None, str]:
    """Return the side of what is cut out for training, or None where whole pictures are, and why, in words."""
    largest, smallest = max(max(size) for size in sizes), min(min(size) for size in sizes)
    if config.crop_size is not None:
        return config.crop_size, f"training sees parts of {config.crop_size} x {config.crop_size}: asked for"
    if len(sizes) == 1 and largest <= WHOLE_SIDE:
        return None, "training sees whole pictures"
    side = CROP_SIDE if smallest >= CROP_SIDE or largest > 2 * CROP_SIDE else largest
    return side, f"training sees parts of {side} x {side}, and data.crop_size=N others; whole pictures are evaluated"


def _measured(found: Sequence[Tensor], config: DataConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel of some pictures (C, H, W)."""
    pixel_1C1P = torch.cat([picture.flatten(1) for picture in found], 1)[None, :, None]
    return images.constants(TensorSplit(pixel_1C1P), config, pixel_1C1P.shape[1])
