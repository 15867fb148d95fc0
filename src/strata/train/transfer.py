"""Beginning from weights that were trained before: all of them, a new head alone, or small additions.

Papers: Howard and Ruder 2018, "Universal language model fine-tuning", sections 3.2 and 3.3 (a learning rate for each
layer, gradual unfreezing); Kornblith, Shlens and Le 2019, "Do better ImageNet models transfer better?" (linear probes
against fine-tuning); Hu et al. 2022 for LoRA, see `strata.train.lora`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from strata.config import Fraction, NotNegative, Positive, PositiveFloat
from strata.errors import ConfigError
from strata.tasks import Stage
from strata.train import lora

HEAD = "head."
"""What the names of the output layer's parameters begin with, in every model."""
EMBEDDING = "token_embedding."
"""Likewise of the table of tokens, in models that have learned vectors for them."""
HEAD_RATE = 10.0
"""Learning rate of a head that learns alone, as a multiple of the network's, where its input has mean square 1: one
layer bears more than many. The step that a method such as AdamW takes does not depend on the input's size, and what it
does to the output does; hence the division."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Which weights a run begins from, and what of the model it trains."""

    HEAD: ClassVar[str] = "source"

    source: str | None = None
    """A run, a Hugging Face folder, or a file in torchvision's layout; None: from nothing."""
    tune: Literal["full", "probe", "lora"] = "full"
    """The whole network; the head alone, on features that are computed once (a linear probe); or the head and small
    additions to each layer (LoRA)."""
    frozen: Fraction = 0.2
    """Share of the steps in which a new head learns alone before the rest does; of "full" and "lora"."""
    new_head: bool = True
    """The head answers something else than the weights' own, and so begins anew; filled in from weights and data."""
    new_tokens: NotNegative = 0
    """Tokens of the data that the weights do not know, so that "lora" trains the embedding too; filled in likewise."""
    first_layer_rate: PositiveFloat = 0.1
    """Learning rate of the first layer as a share of the head's; those between lie on a geometric line."""
    rank: Positive = 8
    """Of LoRA's additions."""
    alpha: PositiveFloat = 16.0
    """LoRA's additions are scaled by alpha / rank."""


def prepare(config: TransferConfig, model: nn.Module) -> None:
    """Add to a model what is to be trained. Raises ConfigError where the model has no place for it."""
    if config.source is not None and not hasattr(model, "head"):
        raise ConfigError(f"weights.tune needs a model with a head to exchange, and {type(model).__name__} has none.")
    if config.source is not None and config.tune == "probe" and not hasattr(model, "features"):
        raise ConfigError(f"weights.tune=probe needs a model with features, and {type(model).__name__} has none.")
    if config.source is not None and config.tune == "lora":
        lora.add(model, config.rank, config.alpha)


def stages(
    config: TransferConfig, usual: Sequence[Stage], model: nn.Module, features_BF: Tensor | None = None
) -> tuple[Stage, ...]:
    """Return the task's stages as they are when the run begins from weights.

    Args:
        features_BF: what the head reads of some training samples; a head alone learns the faster the smaller they are.
    """
    if config.source is None:
        return tuple(usual)
    if len(usual) > 1 or len(usual[0].phases) > 1:
        raise ConfigError(f"weights.tune={config.tune} is for tasks with one phase; this has several.")
    whole = usual[0].phases[0]
    rate = HEAD_RATE
    if features_BF is not None:
        rate /= max(1e-3, float(features_BF.float().square().mean().sqrt()))
    head_alone = dataclasses.replace(whole, learning_rate_factor=rate)
    if config.tune == "probe":
        return (dataclasses.replace(usual[0], phases=(head_alone,)),)
    if config.tune == "lora":
        added = tuple(name for name, _ in model.named_parameters() if lora.is_added(name))
        trained = (*added, HEAD) if config.new_head else added
        trained += (EMBEDDING, HEAD) if config.new_tokens else ()
        then = dataclasses.replace(whole, parameters=trained)
    else:
        then = dataclasses.replace(whole, first_layer_rate=config.first_layer_rate)
    has_head = any(name.startswith(HEAD) for name, _ in model.named_parameters())
    if config.frozen == 0 or not config.new_head or not has_head:
        return (dataclasses.replace(usual[0], phases=(then,)),)
    return (
        Stage(name="head", share=config.frozen, phases=(dataclasses.replace(head_alone, parameters=(HEAD,)),)),
        Stage(name="whole", share=1 - config.frozen, phases=(then,)),
    )


def layer_rates(names: Iterable[str], first_layer_rate: float) -> dict[str, float]:
    """Return a learning rate factor for each name, from ``first_layer_rate`` at the bottom to 1 at the head.

    Names come in the order of depth, as models register them; what is numbered is a layer each (``stages.0.1``, or
    ``conv1`` with ``norm1``), and what lies before the first and after the last of them is one layer each.
    """
    layer_of: dict[str, int] = {}
    layers = -1
    previous: str | None = None
    for name in names:
        layer = _layer(name)
        if layer != previous or layers < 0:
            layers += 1
        previous = layer
        layer_of[name] = layers
    return {name: first_layer_rate ** ((layers - k) / max(1, layers)) for name, k in layer_of.items()}


def _layer(name: str) -> str:
    """Return ``stages.0.1`` of ``stages.0.1.conv1.weight``, ``1`` of ``conv1.weight``, nothing of ``head.weight``."""
    parts = name.split(".")
    if not parts[0].isdigit() and (number := re.search(r"\d+$", parts[0])):
        return number[0]
    first = next((k for k, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return ""
    end = first
    while end < len(parts) and parts[end].isdigit():
        end += 1
    return ".".join(parts[:end])
