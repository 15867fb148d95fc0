"""AlexNet: five convolutions and three fully connected layers, with rectifiers, overlapping pools and dropout.

Paper: Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural networks",
section 3; the default is the one-tower shape of Krizhevsky 2014, "One weird trick for parallelizing convolutional
neural networks", and the preset alexnet_2012 has the first paper's two towers, as grouped convolutions. Unusual here:
small pictures get a first convolution that keeps their size, by themselves.

B samples, C channels, H and W pixels, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from strata.config import Positive, Probability
from strata.layers.activations import Activation, activation
from strata.layers.stem import resolve

GRID = 6
"""Side of the map that the fully connected layers read, of pictures of 224 pixels."""


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig:
    """Sizes of an AlexNet; the defaults are the one-tower shape's."""

    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (64, 192, 384, 256, 256)
    """Channels of each convolution."""
    groups: tuple[Positive, Positive, Positive, Positive, Positive] = (1, 1, 1, 1, 1)
    """Towers in each convolution that do not see each other; section 3.5 has two in the second, fourth and fifth."""
    hidden: tuple[Positive, Positive] = (4096, 4096)
    """Units of the fully connected layers before the head."""
    local_norm: bool = False
    """Local response normalisation after the first two rectifiers; section 3.3."""
    start: Literal["auto", "uniform", "he", "gaussian"] = "auto"
    """Initial weights: PyTorch's, as in torchvision; those of He et al. 2015, eq. 10, which keep the signal's size;
    normal with deviation 0.01 and biases of 1 where section 5 has them. "auto" is "uniform" with ImageNet's stem, and
    "he" with the other: from PyTorch's weights, small pictures stay on a plateau for long."""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """First convolution: 11x11 stride 4, or 5x5 stride 1; "auto" takes the second up to 64 pixels."""
    activation: Activation = "relu"
    dropout: Probability = 0.5
    """Before each fully connected layer but the head; section 4.2."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


PRESETS = {
    "alexnet_2012": AlexNetConfig(
        widths=(96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), local_norm=True, start="gaussian"
    ),
}
TINY = AlexNetConfig(
    widths=(16, 16, 16, 16, 16),
    groups=(1, 2, 1, 2, 2),
    hidden=(32, 24),
    local_norm=True,
    dropout=0.0,
    image_size=15,
    num_classes=3,
)
POOLED = (0, 1, 4)
"""The convolutions that a pool follows."""


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky 2014; Krizhevsky et al. 2012, section 3): pictures (B, C, H, W) to logits (B, K).

    Differs from the paper: dropout comes before the two hidden layers and not after them, as in torchvision, whose
    weights fit; the head therefore sees every unit. The preset alexnet_2012 reads pictures of 224 pixels with two zeros
    around them, without which the paper's 55 x 55 map does not come out.

    A picture of another size than the config's is averaged to the map that the fully connected layers read.
    """

    config_class = AlexNetConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: AlexNetConfig) -> None:
        super().__init__()
        self.config = config
        is_small = resolve(config.stem, config.image_size) == "cifar"
        kernels = (5 if is_small else 11, 5, 3, 3, 3)
        side = config.image_size if is_small else (config.image_size + 4 - 11) // 4 + 1
        channels = config.in_channels
        self.stages = nn.Sequential()
        for i, (width, groups, kernel) in enumerate(zip(config.widths, config.groups, kernels, strict=True)):
            stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
            conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, groups=groups)
            stage = nn.Sequential(conv, activation(config.activation))
            if config.local_norm and i < 2:
                # torch divides alpha by the number of channels, which the paper does not
                stage.append(nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
            if i in POOLED and side >= 3:
                stage.append(nn.MaxPool2d(3, stride=2))
                side = (side - 3) // 2 + 1
            self.stages.append(stage)
            channels = width
        grid = min(side, GRID)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.hidden = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(channels * grid * grid, config.hidden[0]),
            activation(config.activation),
            nn.Dropout(config.dropout),
            nn.Linear(*config.hidden),
            activation(config.activation),
        )
        self.head = nn.Linear(config.hidden[1], config.num_classes)
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for i, layer in enumerate(layers):
            assert layer.bias is not None
            if config.start == "gaussian":
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 1.0 if i in (1, 3, 4, 5, 6) else 0.0)
            elif layer is not self.head and (config.start == "he" or (config.start == "auto" and is_small)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last convolution's map (B, C, H, W), pooled."""
        return self.stages(image_BCHW)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, F), the second hidden layer."""
        return self.hidden(self.pool(self.feature_map(image_BCHW)).flatten(1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, K) for pictures (B, C, H, W)."""
        return self.head(self.features(image_BCHW))
