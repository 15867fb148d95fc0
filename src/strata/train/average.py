"""An exponential moving average of a model's weights (Polyak and Juditsky 1992, with a fading memory).

Parameters and the floating-point buffers that are saved with the model, such as a batch norm's running statistics, are
averaged alike, in float32 at least: the statistics then belong to about the weights they are used with. Integer
buffers stay the model's own. Early on the memory is shorter, so that the average does not remember the random start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from strata.errors import CheckpointError

_UPDATES = "num_updates"


class Average:
    """The average of a model's weights, updated after each step.

    Args:
        model: already on its device and in its memory format.
        decay: how much of the average stays at each update, in the long run: 0.999 averages about 1000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        assert 0 <= decay < 1, f"decay {decay}"
        self.decay = decay
        self.num_updates = 0
        saved = model.state_dict(keep_vars=True)  # leaves out buffers that are not saved: constants, such as masks
        live = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
        self._live: dict[str, Tensor] = {name: tensor for name, tensor in live if tensor.is_floating_point()}
        self._average: dict[str, Tensor] = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in self._live.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model, by 1 - min(decay, (1 + n) / (10 + n)) at update n."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages = list(self._average.values())
        live = [tensor.to(average.dtype) for tensor, average in zip(self._live.values(), averages, strict=True)]
        torch._foreach_lerp_(averages, live, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Have the average in the model for a while; the model's own weights come back to the last bit.

        What happens to the model's weights inside is lost.
        """
        with torch.no_grad():
            own = {name: tensor.detach().clone() for name, tensor in self._live.items()}
            self._copy(self._average)
        try:
            yield
        finally:
            with torch.no_grad():
                self._copy(own)

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        torch._foreach_copy_(list(self._live.values()), [values[name] for name in self._live])

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state; the live tensors, not copies."""
        averages = {f"average/{name}": tensor for name, tensor in self._average.items()}
        return {_UPDATES: torch.tensor(self.num_updates), **averages}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave. Raises CheckpointError for the average of another model."""
        wanted = {_UPDATES: (), **{f"average/{name}": tuple(tensor.shape) for name, tensor in self._average.items()}}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != found:
            wrong = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
            raise CheckpointError(f"The checkpoint's averaged weights are of another model: {wrong!r} does not fit.")
        self.num_updates = int(tensors[_UPDATES])
        for name, average in self._average.items():
            average.copy_(tensors[f"average/{name}"])
