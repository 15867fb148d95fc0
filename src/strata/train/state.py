"""Everything that can change the rest of a run, in one place. If it is not here it may not affect training.

Random streams, the loader's place and the learning rate are functions of the step (see `strata.rng`,
`strata.data.loader`, `strata.train.schedule`), so the step number stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from strata.errors import CheckpointError
from strata.train.average import Average
from strata.train.optim import load_optimizer_tensors, optimizer_tensors

Named = list[tuple[str, nn.Parameter]]


@dataclass(kw_only=True)
class TrainState:
    """Weights, optimisers, averages, metric sums in flight, counters."""

    model: nn.Module
    optimizers: dict[str, tuple[torch.optim.Optimizer, Named]] = field(default_factory=dict)
    """Of each phase of the present stage, with the parameters that it trains by name."""
    average: Average | None = None
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Losses and counts since the last log line, on the device."""
    carried: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What each phase's micro-batches hand on to those of the next step: a recurrent net's state, row by row."""
    logged_step: int = 0
    logged_seconds: float = 0.0
    """What `seconds` was then; likewise reported alone."""
    seconds: float = 0.0
    """Of training proper, over all processes of the run; reported, never used."""
    wall_seconds: float = 0.0
    """Up to the checkpoint, with evaluating and saving; likewise."""
    best_value: float | None = None
    best_loss: float = 0.0
    """Beside it; decides between equal values, since an accuracy soon meets its limit on little data."""
    best_step: int = 0
    evaluations_since_best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Kept only where early stopping will want them back."""
    stopped: bool = False

    def add(self, name: str, value: Tensor) -> None:
        """Add to a sum without waiting for the device."""
        value = value.detach().to(torch.float64 if value.device.type != "mps" else torch.float32)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state, by name."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for phase, (optimizer, named) in self.optimizers.items():
            kept = optimizer_tensors(optimizer, named)
            found |= {f"optimizer/{phase}/{name}": tensor for name, tensor in kept.items()}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.tensors().items()}
        found |= {f"best/{name}": tensor for name, tensor in self.best_weights.items()}
        for place, tensors in self.carried.items():
            found |= {f"carried/{place}/{name}": tensor for name, tensor in tensors.items()}
        return found | {f"sums/{name}": tensor for name, tensor in self.sums.items()}

    def numbers(self) -> dict[str, Any]:
        """Return every number of the state, by name."""
        return {
            "step": self.step,
            "logged_step": self.logged_step,
            "logged_seconds": self.logged_seconds,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "best_value": self.best_value,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "evaluations_since_best": self.evaluations_since_best,
            "stopped": self.stopped,
        }

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over what `tensors` and `numbers` gave. Raises CheckpointError when it is of another model."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        try:
            self.model.load_state_dict(under("model/"))
            for phase, (optimizer, named) in self.optimizers.items():
                load_optimizer_tensors(optimizer, named, under(f"optimizer/{phase}/"))
            if self.average is not None:
                self.average.load(under("average/"))
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"The checkpoint does not fit this run's model or optimiser: {error}") from error
        device = next(self.model.parameters()).device
        self.best_weights = {name: tensor.to(device) for name, tensor in under("best/").items()}
        self.sums = {name: tensor.to(device) for name, tensor in under("sums/").items()}
        self.carried = {}
        for path, tensor in under("carried/").items():
            place, _, name = path.partition("/")
            self.carried.setdefault(place, {})[name] = tensor.to(device)
        # Checkpoints of before lack two of them.
        numbers = {"wall_seconds": numbers["seconds"], "logged_seconds": numbers["seconds"], **numbers}
        for name in self.numbers():
            setattr(self, name, numbers[name])
