"""Inception: each block looks at its input through several filters at once and lays their answers side by side.

Paper: Szegedy et al. 2015, "Going deeper with convolutions", Table 1 (GoogLeNet), and Szegedy et al. 2016, "Rethinking
the Inception architecture for computer vision", Table 1 and figures 5 to 7, 10 (Inception-v3). Unusual here: both
networks are written as tables, which a few lines build; small pictures get a stem that keeps more of their size.

B samples, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, cat, nn
from torch.nn import functional as F

from strata.config import Positive, PositiveFloat, Probability
from strata.errors import ConfigError
from strata.layers.activations import Activation, activation
from strata.layers.stem import resolve


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Sizes of an Inception network; the defaults are GoogLeNet's."""

    version: Literal["v1", "v3"] = "v1"
    """GoogLeNet, or Inception-v3."""
    width: PositiveFloat = 1.0
    """Multiplies every number of channels."""
    auxiliary: bool = True
    """In training, heads half-way up learn too: two in GoogLeNet, one in Inception-v3."""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """As in the paper, or without the first stride and the first pool; "auto" takes the second up to 64 pixels."""
    activation: Activation = "relu"
    dropout: Probability = 0.4
    """Before the head; 2015, section 5."""
    auxiliary_dropout: Probability = 0.7
    """In GoogLeNet's auxiliary heads; 2015, section 5."""
    in_channels: Positive = 3
    image_size: Positive = 224
    num_classes: Positive = 1000


PRESETS = {
    "googlenet": InceptionConfig(),
    "inception_v3": InceptionConfig(version="v3", dropout=0.5, image_size=299),
}
TINY = InceptionConfig(width=0.125, auxiliary=False, dropout=0.0, image_size=8, num_classes=3)


class Conv(NamedTuple):
    """A convolution with its norm and activation."""

    channels: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padded: bool = True


class Pool(NamedTuple):
    """The greatest value or the average of each window."""

    kind: Literal["max", "average"]
    kernel: int = 3
    stride: int = 2
    padded: bool = False
    ceil: bool = False
    """A window that hangs over the edge counts too."""


Step = Conv | Pool | tuple["Branch", ...]
"""A layer, or branches side by side."""
Branch = tuple[Step, ...]
"""Layers one after another."""
AVERAGE = Pool("average", stride=1, padded=True)
GREATEST = Pool("max", stride=1, padded=True)
HALVE_V1 = Pool("max", ceil=True)
HALVE_V3 = Pool("max")


def _v1(one: int, reduced3: int, three: int, reduced5: int, five: int, pooled: int) -> Step:
    """Return a block of GoogLeNet, by the columns of its Table 1."""
    return (
        (Conv(one, 1),),
        (Conv(reduced3, 1), Conv(three, 3)),
        (Conv(reduced5, 1), Conv(five, 3)),
        (GREATEST, Conv(pooled, 1)),
    )


def _a(pooled: int) -> Step:
    """Return a block of two 3x3 convolutions for one of 5x5 (2016, figure 5)."""
    return (
        (Conv(64, 1),),
        (Conv(48, 1), Conv(64, 5)),
        (Conv(64, 1), Conv(96, 3), Conv(96, 3)),
        (AVERAGE, Conv(pooled, 1)),
    )


def _c(width: int) -> Step:
    """Return a block whose 7x7 convolutions are a row and a column (2016, figure 6)."""
    row, column, last_row, last_column = Conv(width, (1, 7)), Conv(width, (7, 1)), Conv(192, (1, 7)), Conv(192, (7, 1))
    return (
        (Conv(192, 1),),
        (Conv(width, 1), row, last_column),
        (Conv(width, 1), column, row, column, last_row),
        (AVERAGE, Conv(192, 1)),
    )


_B: Step = (
    (Conv(384, 3, 2, padded=False),),
    (Conv(64, 1), Conv(96, 3), Conv(96, 3, 2, padded=False)),
    (HALVE_V3,),
)
_D: Step = (
    (Conv(192, 1), Conv(320, 3, 2, padded=False)),
    (Conv(192, 1), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, padded=False)),
    (HALVE_V3,),
)
"""They halve the map by strides and pooling side by side (2016, figure 10)."""
_ROW_AND_COLUMN: Step = ((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))
_E: Step = (
    (Conv(320, 1),),
    (Conv(384, 1), _ROW_AND_COLUMN),
    (Conv(448, 1), Conv(384, 3), _ROW_AND_COLUMN),
    (AVERAGE, Conv(192, 1)),
)
"""Wide rather than deep, for the coarsest map (2016, figure 7)."""

STEMS: dict[str, Branch] = {
    "v1": (Conv(64, 7, 2), HALVE_V1, Conv(64, 1), Conv(192, 3), HALVE_V1),
    "v3": (
        Conv(32, 3, 2, padded=False),
        Conv(32, 3, padded=False),
        Conv(64, 3),
        HALVE_V3,
        Conv(80, 1),
        Conv(192, 3, padded=False),
        HALVE_V3,
    ),
}
STAGES: dict[str, tuple[Branch, ...]] = {
    "v1": (
        (_v1(64, 96, 128, 16, 32, 32), _v1(128, 128, 192, 32, 96, 64)),
        (
            HALVE_V1,
            _v1(192, 96, 208, 16, 48, 64),
            _v1(160, 112, 224, 24, 64, 64),
            _v1(128, 128, 256, 24, 64, 64),
            _v1(112, 144, 288, 32, 64, 64),
            _v1(256, 160, 320, 32, 128, 128),
        ),
        (Pool("max", kernel=2, ceil=True), _v1(256, 160, 320, 32, 128, 128), _v1(384, 192, 384, 48, 128, 128)),
    ),
    "v3": ((_a(32), _a(64), _a(64)), (_B, _c(128), _c(160), _c(160), _c(192)), (_D, _E, _E)),
}
LEAST = {"v1": 15, "v3": 75}
"""Pixels a side that ImageNet's stem and what follows it need."""
TAPS = {"v1": ((1, 1), (1, 4)), "v3": ((1, 4),)}
"""Stage and place of the blocks whose output an auxiliary head reads."""


class Inception(nn.Module):
    """GoogLeNet (Szegedy et al. 2015) or Inception-v3 (Szegedy et al. 2016): pictures (B, C, H, W) to logits (B, K).

    In training mode and with ``auxiliary``, a tuple: the logits, then each auxiliary head's, in order of depth.

    Differs from the paper: GoogLeNet is torchvision's, whose weights fit. It normalises after each convolution in place
    of the local response normalisation, has a 3x3 convolution where the paper's branch has 5x5 (a mistake that
    torchvision keeps for its weights' sake), pools by 2x2 and not 3x3 before the last stage, and averages what the
    auxiliary heads read to 4 x 4 at any size.
    """

    config_class = InceptionConfig
    takes_any_size: ClassVar[bool] = True

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.config = config
        is_small = resolve(config.stem, config.image_size) == "cifar"
        if not is_small and config.image_size < LEAST[config.version]:
            raise ConfigError(
                f"image_size={config.image_size} is too small for ImageNet's stem, which needs {LEAST[config.version]} "
                "pixels a side. Take larger pictures or model.stem=cifar."
            )
        stem = _for_small(STEMS[config.version]) if is_small else STEMS[config.version]
        self.stem, channels = _chain(config, config.in_channels, stem)
        self.stages = nn.Sequential()
        heads: list[nn.Module] = []
        for s, steps in enumerate(STAGES[config.version]):
            stage = nn.Sequential()
            for b, step in enumerate(_for_small(steps, keep=True) if is_small else steps):
                layer, channels = _layer(config, channels, step)
                stage.append(layer)
                if config.auxiliary and (s, b) in TAPS[config.version]:
                    heads.append((AuxiliaryV1 if config.version == "v1" else AuxiliaryV3)(config, channels))
            self.stages.append(stage)
        self.auxiliary = nn.ModuleList(heads)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.num_classes)
        deviation = 0.01 if config.version == "v1" else 0.1
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2.0, b=2.0)
        for head in heads:
            if isinstance(head, AuxiliaryV3):
                nn.init.trunc_normal_(head.conv2.conv.weight, std=0.01, a=-2.0, b=2.0)
                nn.init.trunc_normal_(head.head.weight, std=0.001, a=-2.0, b=2.0)

    def _maps(self, image_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last map, and those that the auxiliary heads read."""
        x, tapped = self.stem(image_BCHW), []
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage.children()):
                x = block(x)
                if (s, b) in TAPS[self.config.version]:
                    tapped.append(x)
        return x, tapped

    def feature_map(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H, W)."""
        return self.stages(self.stem(image_BCHW))

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return what the head reads: (B, C), the mean over all places of the last stage's map."""
        return self.dropout(self.feature_map(image_BCHW).mean(dim=(2, 3)))

    def forward(self, image_BCHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits (B, K) for pictures (B, C, H, W), with the auxiliary heads' in training."""
        if not (self.training and self.config.auxiliary):
            return self.head(self.features(image_BCHW))
        x_BCHW, tapped = self._maps(image_BCHW)
        auxiliary = [head(tap_BCHW) for head, tap_BCHW in zip(self.auxiliary, tapped, strict=True)]
        return (self.head(self.dropout(x_BCHW.mean(dim=(2, 3)))), *auxiliary)


class ConvUnit(nn.Module):
    """Convolution, norm and activation: (B, C, H, W) to (B, channels, ., .)."""

    def __init__(self, config: InceptionConfig, before: int, channels: int, step: Conv) -> None:
        super().__init__()
        sides = (step.kernel, step.kernel) if isinstance(step.kernel, int) else step.kernel
        padding = (sides[0] // 2, sides[1] // 2) if step.padded else (0, 0)
        self.conv = nn.Conv2d(before, channels, sides, stride=step.stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = activation(config.activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the activated map."""
        return self.act(self.norm(self.conv(x_BCHW)))


class Branches(nn.Module):
    """Runs its branches on the same map and joins their channels: (B, C, H, W) to (B, sum of theirs, ., .)."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the joined maps."""
        return cat([branch(x_BCHW) for branch in self.branches], dim=1)


class AuxiliaryV1(nn.Module):
    """GoogLeNet's auxiliary head (2015, section 5): (B, C, H, W) to logits (B, K)."""

    def __init__(self, config: InceptionConfig, channels: int) -> None:
        super().__init__()
        width, hidden = _scaled(config, 128), _scaled(config, 1024)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = ConvUnit(config, channels, width, Conv(128, 1))
        self.linear = nn.Linear(width * 4 * 4, hidden)
        self.act = activation(config.activation)
        self.dropout = nn.Dropout(config.auxiliary_dropout)
        self.head = nn.Linear(hidden, config.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv(self.pool(x_BCHW)).flatten(1)
        return self.head(self.dropout(self.act(self.linear(x))))


class AuxiliaryV3(nn.Module):
    """Inception-v3's auxiliary head (2016, figure 8): (B, C, H, W) to logits (B, K)."""

    def __init__(self, config: InceptionConfig, channels: int) -> None:
        super().__init__()
        width, hidden = _scaled(config, 128), _scaled(config, 768)
        self.conv1 = ConvUnit(config, channels, width, Conv(128, 1))
        self.conv2 = ConvUnit(config, width, hidden, Conv(768, 5, padded=False))
        self.head = nn.Linear(hidden, config.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits."""
        if min(x_BCHW.shape[2:]) >= 17:
            x = F.avg_pool2d(x_BCHW, kernel_size=5, stride=3)
        else:  # the paper's window would leave too little for the 5x5 convolution
            x = F.adaptive_avg_pool2d(x_BCHW, 5)
        return self.head(self.conv2(self.conv1(x)).mean(dim=(2, 3)))


def _scaled(config: InceptionConfig, channels: int) -> int:
    return max(1, round(channels * config.width))


def _layer(config: InceptionConfig, before: int, step: Step) -> tuple[nn.Module, int]:
    """Return the module of one entry of the tables, and its number of output channels."""
    if isinstance(step, Conv):
        channels = _scaled(config, step.channels)
        return ConvUnit(config, before, channels, step), channels
    if isinstance(step, Pool):
        kind = nn.MaxPool2d if step.kind == "max" else nn.AvgPool2d
        padding = step.kernel // 2 if step.padded else 0
        return kind(step.kernel, stride=step.stride, padding=padding, ceil_mode=step.ceil), before
    built = [_chain(config, before, branch) for branch in step]
    return Branches(module for module, _ in built), sum(channels for _, channels in built)


def _chain(config: InceptionConfig, before: int, steps: Branch) -> tuple[nn.Sequential, int]:
    """Return layers one after another, and the last one's number of output channels."""
    chain, channels = nn.Sequential(), before
    for step in steps:
        layer, channels = _layer(config, channels, step)
        chain.append(layer)
    return chain, channels


def _for_small(steps: Branch, keep: bool = False) -> Branch:
    """Return steps for small pictures: no edge is cut off, and, of a stem, the first stride and first pool are gone.

    Args:
        keep: leave strides and pools where they are.
    """
    found: list[Step] = []
    pools = 0
    for step in steps:
        if isinstance(step, Conv):
            kernel = step.kernel if keep or not isinstance(step.kernel, int) else min(step.kernel, 3)
            found.append(step._replace(kernel=kernel, stride=step.stride if keep else 1, padded=True))
        elif isinstance(step, Pool):
            pools += 1
            if keep or pools > 1:
                found.append(step._replace(padded=True, ceil=False) if step.kernel == 3 else step)
        else:
            found.append(tuple(_for_small(branch, keep=True) for branch in step))
    return tuple(found)
