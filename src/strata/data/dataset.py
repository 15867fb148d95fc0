"""What a data set is to everything above it: splits of tensors, the sizes a model takes from them, and a way to treat
raw input at prediction time exactly as the training data was treated.

B samples in a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from strata.config import Fraction, NotNegative, Positive, PositiveFloat
from strata.data.augment import AugmentConfig
from strata.data.pictures import CropShare, Fit, Framing, Interpolation
from strata.data.tokens import Tokens

Kind = Literal["image", "pairs", "table", "text", "sentences", "tags", "text_pairs", "questions", "chat", "preferences"]
TEXTUAL = ("text", "sentences", "tags", "text_pairs", "questions", "chat", "preferences")
"""Kinds of data that a tokenizer reads."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how it is read. A field that is None is decided from the data, and the choice is said."""

    HEAD: ClassVar[str] = "source"

    source: str = "digits"
    """A name (`strata data` lists them) or a path."""
    kind: Kind | None = None
    """Pairs are pictures with a picture each as their target; of pictures alone, noise is to be removed. Text is one
    long text or many documents; the kinds after it are records: texts with a class or a number, words with a tag each,
    a text and what it becomes, questions on a text, conversations, answers of which one was preferred."""
    image_size: Positive | None = None
    """Height and width in pixels that pictures are brought to."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour."""
    fit: Fit = "crop"
    """A picture's short side resized and the middle cut out, or both sides stretched to the square."""
    crop_share: CropShare = 1.0
    """Side of what is cut out, as a share of the resized short side: 0.875 is 224 of 256."""
    interpolation: Interpolation = "bilinear"
    """Between pixels, where a picture is resized; with antialiasing, as Pillow has it."""
    pixels: Literal["standard", "tanh"] = "standard"
    """Pixel values a model sees: mean 0 and deviation 1 over the training data, or -1 to 1 for a tanh generator."""
    mean: tuple[float, ...] | None = None
    """What is taken off each channel, where pixels are 0 to 1: the training data's own where None."""
    std: tuple[PositiveFloat, ...] | None = None
    """What each channel is divided by then: the training data's own deviation where None."""
    target: str | None = None
    """Column to predict in a table, or folder of the target pictures of pairs."""
    target_kind: Literal["class", "number"] | None = None
    labels: tuple[str, ...] = ()
    """Names of the classes where the data only numbers them, the lowest number's first."""
    region: str | None = None
    """Folder of masks, of pairs, that are black where the answer is not measured."""
    ignore: NotNegative | None = None
    """Value of a mask's pixels that neither teach nor count, such as 255 for void; a colour as 0xRRGGBB's number."""
    crop_size: Positive | None = None
    """Side of the parts that pairs are trained on, cut out at random; whole pictures are evaluated."""
    tokens: Tokens | None = None
    """What a text is cut into: its characters or bytes, words, or parts of words as GPT-2 (bpe), BERT (wordpiece) and
    T5 (unigram) have them, found in the training text."""
    vocab_size: Positive | None = None
    """Tokens that are made of a text, where they are words or parts of words."""
    lowercase: bool = False
    """Take capitals for small letters."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder that holds one, to be used as it is in place of ``tokens``."""
    sentinels: NotNegative = 0
    """Special tokens that stand for spans left out of a text, <extra_id_0> and on; T5 has 100."""
    column: str | None = None
    """Field of a record (JSON lines, CSV, Parquet) that holds the text."""
    separate_documents: bool = False
    """A token of a corpus sees those of its own document only, though several share a window."""
    max_length: Positive | None = None
    """Tokens of a text, of records of text, that are read; the rest is cut off."""
    stride: Positive | None = None
    """Tokens after which the next window of a long context begins; a third of max_length where None."""
    encoding: str = "utf-8"
    """Of text files, as Python names it."""
    validation: str | Fraction | None = None
    """A share of the training data (0: none), or a path, or None: what the data gives, else a share that is said."""
    test: str | Fraction | None = None
    group: str | None = None
    """What belongs together, a patient or a scene, and never lies on both sides of a split made here: a regular
    expression whose first group, in a picture's path, names it, such as ``([^/_]+)_``; of a table, a column."""
    split_seed: NotNegative = 0
    """Decides which samples a made split holds out; apart from train.seed, so that seeds share one test set."""
    limit: Positive | None = None
    """Use at most this many training samples."""
    balance: bool = False
    """Draw training samples of all classes equally often, those of rarer classes again and again."""
    augment: AugmentConfig = AugmentConfig()

    @property
    def framing(self) -> Framing:
        """How a picture is brought to the square."""
        return Framing(fit=self.fit, crop_share=self.crop_share, interpolation=self.interpolation)


class Split(Protocol):
    """One part of a data set, read by sample number; ``in_memory = False`` where reading is work worth doing ahead.

    A batch is a dict with ``input`` and, where there is one, ``target``: pictures uint8 (B, C, H, W), tables float32
    (B, features), text int64 (B, T); classes int64 (B,), numbers float64 (B,), next tokens int64 (B, T).
    """

    def __len__(self) -> int: ...

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the samples of these numbers, as they are in these epochs."""
        ...


class TensorSplit:
    """A part of a data set that lies in memory.

    Args:
        input: all samples, (N, ...).
        target: (N,), where there is one.
        describe: gives what a person may want to know of a sample by its number: its file, its row.
    """

    in_memory = True

    def __init__(
        self, input: Tensor, target: Tensor | None = None, describe: Callable[[int], dict[str, Any]] = lambda index: {}
    ) -> None:
        assert target is None or len(target) == len(input)
        self.input, self.target, self.describe = input, target, describe

    def __len__(self) -> int:
        return len(self.input)

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return the samples of these numbers; they are the same in every epoch."""
        index_B = index_B.to(self.input.device)
        batch = {"input": self.input.index_select(0, index_B)}
        if self.target is not None:
            batch["target"] = self.target.index_select(0, index_B)
        return batch

    def to(self, device: torch.device | str) -> TensorSplit:
        """Return the same samples on a device."""
        target = None if self.target is None else self.target.to(device)
        return TensorSplit(self.input.to(device), target, self.describe)


def digest(*parts: Tensor | bytes | str) -> str:
    """Return the hex digest of some content, for `Dataset.fingerprint`."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr((tuple(part.shape), part.dtype)).encode())
            found.update(part.cpu().contiguous().numpy().tobytes())
        else:
            found.update(part if isinstance(part, bytes) else part.encode())
        found.update(b"\0")
    return found.hexdigest()


class Preprocess(Protocol):
    """How raw input becomes what the model sees; saved with the weights as ``preprocess.json``."""

    kind: ClassVar[str]

    def read(self, raw: Any) -> Tensor:
        """Turn one raw input (a path, a picture, an array, a row, a text) into one sample of ``input``."""
        ...

    def normalize(self, input_B: Tensor) -> Tensor:
        """Turn a batch of ``input`` into what the model's forward takes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data that is ready to be learned from."""

    name: str
    kind: str
    """One of `Kind`."""
    target_kind: str | None
    """"class", "number", "pixel_class", "pixel_number", or None where the data is its own target."""
    splits: dict[str, Split]
    """"train", and where there is one "validation" and "test"."""
    sizes: dict[str, int]
    """What models take from data, by the name of their config's field: in_channels, image_size, in_features,
    num_classes (1 for a number), vocab_size."""
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    """Class names, in the order of their numbers."""
    class_counts: tuple[int, ...] = ()
    """Training samples of each class."""
    balance: bool = False
    """Training draws all classes equally often."""
    notes: tuple[str, ...] = ()
    """What was decided or found while reading, for the run's log: splits made, pictures skipped."""
    repeated: Mapping[str, int] = field(default_factory=dict)
    """Held-out samples that equal a training one, by split; of a split that was not compared, nothing."""
    fingerprint: str = ""
    """Hex digest of the content; a resume compares it."""
    tokenizer: Any = None
    details: dict[str, Any] = field(default_factory=dict)
    """What a report may want to show beside: source paths, column names."""

    def replace(self, **changes: Any) -> Dataset:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)
