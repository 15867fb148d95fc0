"""Perceptron and multilayer perceptron: fully connected layers, and with no hidden layer one perceptron.

Paper: Rosenblatt 1958, "The perceptron", Psychological Review 65; hidden layers trained by back-propagation:
Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors", Nature 323.

B samples, F features, K classes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.layers.activations import Activation, activation, gain

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Sizes of a multilayer perceptron."""

    hidden: tuple[Positive, ...] = (256, 256)
    """Width of each hidden layer; empty for one perceptron."""
    activation: Activation = "relu"
    dropout: Probability = 0.0
    """After each hidden layer."""
    batch_norm: bool = False
    """Before each activation."""
    in_features: Positive = 784
    """Of a picture: channels x height x width."""
    num_classes: Positive = 10


PRESETS = {"perceptron": MLPConfig(hidden=())}
TINY = MLPConfig(hidden=(16, 8), dropout=0.1, batch_norm=True, in_features=12, num_classes=3)


class MLP(nn.Module):
    """A multilayer perceptron (Rumelhart et al. 1986): features (B, F) or pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: ReLU in place of the sigmoid, and weights from a normal distribution of variance 2 / fan-in
    (He et al. 2015), 1 / fan-in for bounded activations and for the output. Dropout and batch norm are options.
    """

    config_class = MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        if not config.hidden and (config.dropout or config.batch_norm):
            log.warning("Without hidden layers, dropout=%s and batch_norm=%s of the mlp have no effect.",
                        config.dropout, config.batch_norm)  # fmt: skip
        self.layers = nn.Sequential()
        width = config.in_features
        for next_width in config.hidden:
            linear = nn.Linear(width, next_width)
            nn.init.normal_(linear.weight, std=gain(config.activation) / math.sqrt(width))
            nn.init.zeros_(linear.bias)
            self.layers.append(linear)
            if config.batch_norm:
                self.layers.append(nn.BatchNorm1d(next_width))
            self.layers.append(activation(config.activation))
            self.layers.append(nn.Dropout(config.dropout))
            width = next_width
        self.head = nn.Linear(width, config.num_classes)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.head.bias)

    def features(self, input: Tensor) -> Tensor:
        """Return what the head reads: (B, last hidden width)."""
        return self.layers(input.flatten(1))

    def forward(self, input: Tensor) -> Tensor:
        """Return logits (B, K) for features (B, F) or pictures (B, C, H, W)."""
        return self.head(self.features(input))
