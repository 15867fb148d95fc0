"""Weights from elsewhere: a run of ours, a Hugging Face folder, or a file in torchvision's layout, opened alike.

`open_weights` says which model the weights are, how its pictures are prepared, and what its classes are called, without
reading a tensor; `Weights.state` then reads them, under our names. `write_huggingface` and `write_torchvision` go the
other way. Each architecture's two-way table lies in the file of its name.
"""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from strata.checkpoint.files import (
    read_json,
    read_metadata,
    read_shapes,
    read_tensors,
    write_json,
    write_shards,
    write_tensors,
)
from strata.config import from_json
from strata.errors import ConfigError, WeightsError
from strata.models import build, config_class, family_of, settled
from strata.weights import preprocessing, torchvision
from strata.weights.table import Table

__all__ = [
    "Weights",
    "head_is_new",
    "load_into",
    "marks_of",
    "model_of",
    "open_weights",
    "write_huggingface",
    "write_torchvision",
]

T = TypeVar("T")
FAMILY_OF_TYPE = {
    "resnet": "resnet",
    "vit": "vit",
    "convnext": "convnext",
    "mobilenet_v2": "mobilenet",
    "swin": "swin",
    "efficientnet": "efficientnet",
    "gpt2": "gpt",
    "llama": "gpt",
    "mistral": "gpt",
    "qwen2": "gpt",
    "qwen3": "gpt",
    "bert": "bert",
    "roberta": "bert",
    "distilbert": "bert",
    "t5": "t5",
    "marian": "transformer",
}
"""Our family of each ``model_type`` in a Hugging Face ``config.json``."""
_PICKLES = (".pt", ".pth", ".bin")
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_SAVE_ALONE = "Where it was made, torch.save(model.state_dict(), PATH) writes the tensors alone."
SHARD_BYTES = 5 * 10**9
"""Size above which a folder's weights are written in several files, as transformers long did."""
_EPS_APART = 1e-5
"""Of two norms, at most, that give the same to a few digits."""
_PREPARED = ("image_size", "channels", "fit", "crop_share", "interpolation", "mean", "std")
"""Fields of `DataConfig` that say how pictures are prepared."""
_PREPARED_KEY = "strata.preprocess"
"""Where they stand in the metadata of a file."""
_SPECIAL = {"start": "bos_token_id", "end": "eos_token_id", "pad": "pad_token_id"}
"""Our names of special tokens, and theirs in ``config.json`` and ``generation_config.json``."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that have been found, and are read when `state` is called."""

    source: str
    layout: str
    """"strata", "Hugging Face" or "torchvision"."""
    config: Any
    """Of our model that these are the weights of; nothing in it is "auto"."""
    preprocess: dict[str, Any]
    """Fields of `DataConfig`: how its pictures are prepared, or what its texts are cut into."""
    labels: tuple[str, ...]
    """Names of its classes; empty where nothing says."""
    state: Callable[[], dict[str, Tensor]]
    """Read the tensors, by our names. Raises WeightsError where they are not this model's."""


def open_weights(source: Path | str, config: Any = None) -> Weights:
    """Find out what lies at a path: a run or its ``model/`` folder, a Hugging Face folder, or a file of tensors.

    Args:
        config: of our architecture; needed only for a file in torchvision's layout whose name says no preset. Its
            sizes may be of other data, for the file's tensors say their own.

    Raises WeightsError for what is not understood, or not safe to read.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise WeightsError(
            f"There are no weights at {source}. Give a run, a Hugging Face folder, or a .safetensors file."
        )
    if path.is_file():
        return _open_file(path, config)
    if (path / "model" / "config.json").is_file():
        path = path / "model"
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path} holds no weights: config.json is missing. Give a run or a Hugging Face folder.")
    content = read_json(path / "config.json")
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path / 'config.json'} holds no settings of a model, but a {type(content).__name__}.")
    if isinstance(content.get("model"), Mapping) and "kind" in content["model"]:
        return _open_ours(path, content)
    return _open_huggingface(path, content)


def _open_ours(path: Path, content: Mapping[str, Any]) -> Weights:
    config = settled(from_json(config_class(content["model"]["kind"]), content["model"], "model"))
    prepared = read_json(path / "preprocess.json")
    return Weights(
        source=str(path),
        layout="strata",
        config=config,
        preprocess={key: _tuple(prepared[key]) for key in _PREPARED if key in prepared} | _tokenizer_in(path),
        labels=tuple(content.get("labels", ())),
        state=lambda: _with_tied(config, read_tensors(path / "model.safetensors")),
    )


def _with_tied(config: Any, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a run's file, where what is tied is once, under all of their names."""
    with torch.device("meta"):
        ours = build(config).state_dict(keep_vars=True)
    value_of = {id(ours[name]): value for name, value in stored.items() if name in ours}
    tied = {name: value_of[id(parameter)] for name, parameter in ours.items() if id(parameter) in value_of}
    return {**stored, **tied}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _open_huggingface(path: Path, content: Mapping[str, Any]) -> Weights:
    kind = content.get("model_type")
    if kind not in FAMILY_OF_TYPE:
        known = ", ".join(sorted(FAMILY_OF_TYPE))
        raise WeightsError(
            f"{path / 'config.json'} has model_type={kind!r}, which Strata cannot read. It can: {known}."
        )
    room = _room(FAMILY_OF_TYPE[kind])
    beside = room.read_beside(path) if hasattr(room, "read_beside") else {}
    try:
        config = settled(room.config_from(dict(content) | beside))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise WeightsError(f"{path / 'config.json'} holds a setting that cannot be understood: {error}.") from error
    as_usual = getattr(room, "as_usual", lambda content, theirs: theirs)
    prepared: dict[str, Any] = _tokenizer_in(path)
    if not _reads_text(config):
        prepared = preprocessing.of_folder(path, kind, config.in_channels, int(getattr(config, "image_size", 224)))
    return Weights(
        source=str(path),
        layout="Hugging Face",
        config=config,
        preprocess=prepared,
        labels=_labels_of(path, content),
        state=lambda: _translated(room.HUGGINGFACE, config, as_usual(content, _read_folder(path))),
    )


def _labels_of(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    labels = content.get("id2label") or {}
    if not isinstance(labels, Mapping) or not all(str(key).isdecimal() for key in labels):
        file = path / "config.json"
        raise WeightsError(f'The id2label in {file} has to give names by numbers, such as {{"0": "cat"}}.')
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def _tokenizer_in(path: Path) -> dict[str, Any]:
    """Return the fields of `DataConfig` that give texts the tokens of a folder; none where it has no tokenizer."""
    if not (path / "tokenizer.json").is_file():
        return {}
    return {"tokenizer": str(path.resolve()), "tokens": None, "vocab_size": None, "lowercase": False}


def _reads_text(config: Any) -> bool:
    return hasattr(config, "vocab_size")


def _open_file(path: Path, config: Any) -> Weights:
    if path.suffix not in (*_PICKLES, ".safetensors"):
        raise WeightsError(f"{path} is no file of weights; those end in .safetensors, .pth or .pt.")
    config = torchvision.by_name(path) if config is None else config
    family = str(family_of(config))
    table = getattr(_room_or_none(family), "TORCHVISION", None)
    if table is None:
        raise WeightsError(
            f"A file of weights has to be in torchvision's layout, and Strata has no table for its {family}. Give a "
            "run or a Hugging Face folder."
        )
    room = _room(family)
    usual = room.preprocess(config) if hasattr(room, "preprocess") else preprocessing.imagenet()
    prepared = torchvision.prepared(path, usual) | _prepared_in(path)
    config = torchvision.as_in_file(config, table, _shapes(path), prepared["image_size"])
    return Weights(
        source=str(path),
        layout="torchvision",
        config=config,
        preprocess=preprocessing.of_channels(prepared, config.in_channels) | {"image_size": config.image_size},
        labels=(),
        state=lambda: _translated(table, config, _without_wrappers(_read_file(path))),
    )


def _prepared_in(path: Path) -> dict[str, Any]:
    """Return how pictures are prepared, where a file that we wrote says it."""
    text = read_metadata(path).get(_PREPARED_KEY) if path.suffix == ".safetensors" else None
    return {name: _tuple(value) for name, value in json.loads(text).items()} if text else {}


def _shapes(path: Path) -> dict[str, torch.Size]:
    """Return the shapes of a file's tensors by their names; of all but torch's oldest files without reading these."""
    if path.suffix == ".safetensors":
        return _without_wrappers(read_shapes(path))
    return _without_wrappers({name: value.shape for name, value in _read_file(path).items()})


def _without_wrappers(found: Mapping[str, T]) -> dict[str, T]:
    """Return what belongs to names under these without what a trainer put before all of them."""
    found = dict(found)
    for prefix in (*_WRAPPERS, "model."):  # Lightning's; in other libraries' folders it is part of the name
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _room(family: str) -> Any:
    """Return the module that holds a family's tables."""
    try:
        return importlib.import_module(f"strata.weights.{family}")
    except ModuleNotFoundError as error:
        if error.name != f"strata.weights.{family}":
            raise
        raise WeightsError(f"Strata has no table for other libraries' weights of {family!r}.") from None


def _translated(table: Table, config: Any, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.device("meta"):
        ours = build(config).state_dict()
    return table.read(config, ours, theirs)


def _read_folder(path: Path) -> dict[str, Tensor]:
    """Read a Hugging Face folder's tensors: safetensors, whole or in shards, else torch's file by its safe reader."""
    for name, read in (("model.safetensors", read_tensors), ("pytorch_model.bin", _read_file)):
        if (path / name).is_file():
            return read(path / name)
        if (path / f"{name}.index.json").is_file():
            index = read_json(path / f"{name}.index.json")
            if not isinstance(index, Mapping) or not isinstance(index.get("weight_map"), Mapping):
                raise WeightsError(f"{path / name}.index.json does not say which file holds what: no weight_map in it.")
            shards = sorted(set(index["weight_map"].values()))
            return {key: value for shard in shards for key, value in read(path / shard).items()}
    raise WeightsError(f"{path} holds no model.safetensors. Other files, such as TensorFlow's, are not read.")


def _read_file(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors; a pickle by torch's reader that runs no code. Raises WeightsError."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch's reader meets what is no file of torch's with errors of many kinds
        raise WeightsError(
            f"{path} cannot be read by torch's weights-only reader, the only one that runs no foreign code: "
            f"{_why(error)}"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{path} holds no state dict, but a {type(found).__name__}. {_SAVE_ALONE}")
    tensors = {str(key): value for key, value in found.items()}
    for prefix in _WRAPPERS:
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _why(error: Exception) -> str:
    """Return in one line why torch did not read a file."""
    beside = re.search(r"GLOBAL ([\w.]+)", str(error))
    if beside is not None:
        return f"it holds a {beside[1]} beside tensors. {_SAVE_ALONE}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def model_of(weights: Weights) -> nn.Module:
    """Return the model that weights are of, with them in it. Raises WeightsError where they are not this model's."""
    model: nn.Module = build(weights.config)
    load_into(model, weights)
    return model


def load_into(model: nn.Module, weights: Weights, *, labels: tuple[str, ...] | None = None) -> str:
    """Put weights into a model of the same architecture and say in words what was taken.

    The head stays fresh where it is of other classes; a model's learned positions are brought to its picture size.
    Tokens that the weights do not know begin as the mean of all others, so that they are neither likely nor unlikely
    (Hewitt 2021, "Initializing new word embeddings for pretrained language models").

    Args:
        labels: of the classes that the model is to tell apart; None keeps the head.

    Raises WeightsError for weights of another architecture or size.
    """
    ours, theirs = model.state_dict(), weights.state()
    config: Any = model.config
    family = family_of(config)
    if family != family_of(weights.config):
        raise WeightsError(f"{weights.source} is of family {family_of(weights.config)}, but the model of {family}.")
    if getattr(config, "image_size", None) != getattr(weights.config, "image_size", None):
        fit = getattr(_room_or_none(family), "fit_positions", None)
        theirs = fit(theirs, weights.config, config) if fit is not None else theirs
    more = new_tokens(config, weights)
    if more:
        theirs = {name: _with_more_rows(value, ours.get(name), more) for name, value in theirs.items()}
    head = [name for name in ours if "head" in name.split(".")]  # an auxiliary head's last layer too
    is_new = labels is not None and head_is_new(config, weights, labels)
    wrong = [name for name in ours if not (is_new and name in head) and _differ(ours, theirs, name)]
    if wrong and set(wrong) <= set(head):
        raise WeightsError(
            f"{weights.source} holds a network without a head, which answers nothing by itself. Train one on it: "
            f"strata train DATA weights={weights.source}"
        )
    if wrong:
        name = wrong[0]
        sides = [getattr(c, "image_size", None) for c in (weights.config, config)]
        if sides[0] != sides[1] and config == replace(weights.config, **_sizes(config)):
            raise WeightsError(
                f"{weights.source} is of a network for pictures of {sides[0]} pixels, which takes no other size: "
                f"data.image_size={sides[0]}"
            )
        has = tuple(theirs[name].shape) if name in theirs else "nothing"
        raise WeightsError(
            f"{weights.source} does not fit the model: {name} is {tuple(ours[name].shape)} there and {has} in the "
            f"weights. Leave model= out, and the weights say what it is."
        )
    taken = {name: value for name, value in theirs.items() if name in ours and not (is_new and name in head)}
    model.load_state_dict(taken, strict=False)
    number = sum(value.numel() for value in taken.values())
    said = f"{number:,} numbers from {weights.source} ({weights.layout}); the head is {'new' if is_new else 'kept'}"
    return said + (f"; {more:,} tokens are new to it, and the embedding has as many rows more" if more else "")


def _sizes(config: Any) -> dict[str, Any]:
    """Return what a model takes from the data."""
    names = ("image_size", "num_classes", "in_channels")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def new_tokens(config: Any, weights: Weights) -> int:
    """Return how many tokens a model has more than weights know."""
    return max(0, getattr(config, "vocab_size", 0) - getattr(weights.config, "vocab_size", 0))


def _with_more_rows(value: Tensor, ours: Tensor | None, more: int) -> Tensor:
    """Return what is a row for each token with rows for the new ones; anything else as it is."""
    if ours is None or ours.shape != (value.shape[0] + more, *value.shape[1:]):
        return value
    return torch.cat([value, value.mean(0, keepdim=True).expand(more, *value.shape[1:])])


def head_is_new(config: Any, weights: Weights, labels: tuple[str, ...]) -> bool:
    """Say whether a model's head cannot come from weights, since it answers something else.

    Args:
        config: the model's.
        labels: of the classes that it is to tell apart; empty where there are none.
    """
    fields = ("head", "num_classes")
    differs = any(getattr(config, name, None) != getattr(weights.config, name, None) for name in fields)
    return differs or (bool(labels) and labels != weights.labels)


def _differ(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], name: str) -> bool:
    return name not in theirs or theirs[name].shape != ours[name].shape


def _room_or_none(family: str | None) -> Any:
    try:
        return _room(str(family))
    except WeightsError:
        return None


def marks_of(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the roles of the tokens that a family's texts begin and end with; None for none."""
    marks: tuple[str | None, str | None] = getattr(_room_or_none(family_of(model.config)), "MARKS", (None, None))
    return marks


def write_huggingface(
    folder: Path | str,
    model: nn.Module,
    preprocess: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    *,
    special: Mapping[str, int | None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a folder that transformers opens with ``from_pretrained``.

    Args:
        preprocess: fields of `DataConfig`, or of a run's ``preprocess.json``, of pictures; None leaves the file out.
        special: ids of a text's special tokens: "start", "end", "pad"; generation there begins and stops by them.
        shard_bytes: size above which the weights are written in several files.

    Raises WeightsError for a model that has no counterpart there.
    """
    config: Any = model.config
    family = family_of(config)
    room = _room(str(family))
    if not hasattr(room, "HUGGINGFACE"):
        raise WeightsError(f"transformers has no counterpart of {family!r}.")
    content = room.config_to(config)
    if labels:
        content |= {"id2label": dict(enumerate(labels)), "label2id": {label: k for k, label in enumerate(labels)}}
    elif hasattr(config, "num_classes"):
        content |= {"num_labels": config.num_classes}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error
    theirs = room.HUGGINGFACE.write(config, model.state_dict())
    known = {key: (special or {}).get(name) for name, key in _SPECIAL.items()}
    known = {key: token for key, token in known.items() if token is not None}
    if known and "decoder_start_token_id" in content:
        start = known.get("bos_token_id", known.get("pad_token_id"))
        known["decoder_start_token_id"] = content["decoder_start_token_id"] if start is None else start
    content |= known
    if hasattr(room, "as_padded"):
        content, theirs = room.as_padded(content, theirs)
    write_shards(folder, theirs, {"format": "pt"}, limit_bytes=shard_bytes)
    if known:
        write_json(folder / "generation_config.json", known)
    write_json(folder / "config.json", json.loads(json.dumps(content)))
    for name, further in room.write_beside(config).items() if hasattr(room, "write_beside") else ():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, further)
    if preprocess is not None and not _reads_text(config):
        prepared = preprocessing.to_huggingface(preprocess, content["model_type"])
        write_json(folder / preprocessing.FILE, prepared)
    return folder


def write_torchvision(path: Path | str, model: nn.Module, preprocess: Mapping[str, Any] | None = None) -> Path:
    """Write a safetensors file in torchvision's layout.

    Args:
        preprocess: fields of a run's ``preprocess.json``, of pictures; they are kept in the file's metadata, which
            `open_weights` reads and torchvision does not.

    Raises WeightsError for a model that torchvision has not.
    """
    config: Any = model.config
    family = family_of(config)
    room = _room(str(family))
    if not hasattr(room, "TORCHVISION"):
        raise WeightsError(f"Strata has no table for torchvision's layout of {family!r}.")
    if Path(path).suffix != ".safetensors":
        raise ConfigError(f"{path} has to end in .safetensors; torch.load's pickles are not written.")
    activation = "gelu" if family == "vit" else "relu"
    if getattr(config, "activation", activation) != activation:
        raise WeightsError(
            f"torchvision's {family} has activation {activation!r}, and this one {config.activation!r}: with the same "
            "tensors it would answer otherwise."
        )
    if family == "vit" and abs(config.norm_eps - 1e-6) > _EPS_APART:
        raise WeightsError(f"torchvision's ViT has norm_eps=1e-06, and this one {config.norm_eps:g}.")
    kept = {name: (preprocess or {})[name] for name in _PREPARED if name in (preprocess or {})}
    metadata = {"format": "pt"} | ({_PREPARED_KEY: json.dumps(kept)} if kept else {})
    write_tensors(Path(path), room.TORCHVISION.write(config, model.state_dict()), metadata)
    return Path(path)
