"""Every architecture, one file each; this page is their list. Reading it imports none of them.

A line holds the family's name, its class, and the presets that the file's ``PRESETS`` offers.
A new architecture costs its file and one line here; the contract tests find it by themselves.
"""

from __future__ import annotations

from typing import Any

from strata.errors import UnknownNameError
from strata.registry import Registry

MODELS = Registry("model")
_FAMILY_OF_PRESET: dict[str, str] = {}


def _add(name: str, target: str, summary: str, presets: str = "") -> None:
    MODELS.add(name, target, summary)
    for preset_name in presets.split():
        if preset_name in _FAMILY_OF_PRESET or preset_name in MODELS:
            raise ValueError(f"preset {preset_name!r} of {name!r} is already a model's name")
        _FAMILY_OF_PRESET[preset_name] = name


_add("mlp", "strata.models.mlp:MLP", "Perceptron and multilayer perceptron", "perceptron")
_add("lenet", "strata.models.lenet:LeNet", "LeNet-5, LeCun et al. 1998", "lenet5 lenet5_modern")
_add(
    "resnet",
    "strata.models.resnet:ResNet",
    "Residual networks, He et al. 2016",
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnet20 resnet32 resnet44 resnet56 resnet110",
)
_add("gpt", "strata.models.gpt:GPT", "GPT-2, Radford et al. 2019", "gpt2 gpt2_medium gpt2_large gpt2_xl")
_add("dcgan", "strata.models.dcgan:DCGAN", "Deep convolutional GAN, Radford et al. 2016", "dcgan_lsun")
_add("gan", "strata.models.gan:GAN", "The first GAN, of two perceptrons, Goodfellow et al. 2014")


def names() -> list[str]:
    """Return every family and preset."""
    return [*MODELS, *_FAMILY_OF_PRESET]


def presets_of(family: str) -> list[str]:
    """Return the presets of a family, besides its own name."""
    return [name for name, owner in _FAMILY_OF_PRESET.items() if owner == family]


def model_class(family: str) -> Any:
    """Return a family's nn.Module class."""
    return MODELS.get(family)


def config_class(family: str) -> Any:
    """Return a family's config dataclass."""
    return model_class(family).config_class


def family_of(config: Any) -> str | None:
    """Return the family whose config this is, or None."""
    module = type(config).__module__
    return next((name for name in MODELS if MODELS.target(name).startswith(f"{module}:")), None)


def preset(name: str) -> Any:
    """Return the config of a family or preset. Raises UnknownNameError with the nearest right name."""
    if name in MODELS:
        return config_class(name)()
    if name not in _FAMILY_OF_PRESET:
        raise UnknownNameError("model", name, names())
    import importlib

    family = _FAMILY_OF_PRESET[name]
    module = importlib.import_module(MODELS.target(family).split(":")[0])
    return module.PRESETS[name]


def build(config: Any) -> Any:
    """Return the nn.Module of a config, weights freshly initialised from torch's generator."""
    family = family_of(config)
    assert family is not None, f"{type(config).__name__} belongs to no registered model"
    return model_class(family)(config)
