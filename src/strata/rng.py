"""Every random number as a function of (seed, stream, step or sample): nothing is drawn from a hidden state.

Two kinds of stream:

* **Counter-based** (`bits`, `uniform`, `normal`, `integers`): the number depends on its key and on nothing else, so the
  augmentation of sample 17 at step 90 is the same in any batch, on any device, before and after a resume. The mixer is
  SplitMix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), applied once
  per word of the key, in wrapping int64 arithmetic that CPU and GPU share.
* **Seeded** (`seed_everything_for`, `permutation`): torch's own generators, set anew from the key where a library
  draws for us (dropout, weight initialisation).

So no generator state has to be saved: the step number in the checkpoint is the state of every stream.

B samples in a batch, N numbers per sample.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLY_1, _MULTIPLY_2, _STEP = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB), _signed(_GOLDEN)


def derive(seed: int, stream: str, *counters: int) -> int:
    """Return a 63-bit seed for the stream of that name; unlike names and counters give independent seeds."""
    digest = hashlib.blake2b(repr((int(seed), stream, *map(int, counters))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything_for(seed: int, stream: str, *counters: int) -> None:
    """Set torch's generators on all devices, so that what torch draws next is a function of the key."""
    value = derive(seed, stream, *counters)
    torch.default_generator.manual_seed(value)  # torch.manual_seed does the same, at ten times the cost a step
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)


def permutation(n: int, seed: int, stream: str, *counters: int) -> Tensor:
    """Return a random order of ``range(n)``, int64 (n,), on the CPU."""
    generator = torch.Generator().manual_seed(derive(seed, stream, *counters))
    return torch.randperm(n, generator=generator)


def _shift(x: Tensor, places: int) -> Tensor:
    return (x >> places).bitwise_and_((1 << (64 - places)) - 1)  # int64 shifts copy the sign: clear it


def _mix(x: Tensor) -> Tensor:
    """Mix in place: ``x`` is always a tensor just made, and large ones are bound by memory traffic."""
    x.bitwise_xor_(_shift(x, 30)).mul_(_MULTIPLY_1)
    x.bitwise_xor_(_shift(x, 27)).mul_(_MULTIPLY_2)
    return x.bitwise_xor_(_shift(x, 31))


def bits(seed: int, stream: str, step: int | Tensor, sample_B: Tensor, n: int = 1) -> Tensor:
    """Return 64 random bits for each (seed, stream, step, sample, position): int64 (B, N), on ``sample_B``'s device."""
    key = derive(seed, stream)
    x_B = _mix(sample_B.to(torch.int64) * _STEP + key)
    if isinstance(step, Tensor):
        x_B = _mix(x_B + step.to(sample_B.device, torch.int64) * _STEP)
    else:  # as a number in the kernel's arguments: a tensor would have to be copied to the device
        x_B = _mix(x_B + _signed(step * _STEP))
    position_N = torch.arange(1, n + 1, dtype=torch.int64, device=sample_B.device) * _STEP
    return _mix(x_B[:, None] + position_N[None, :])


def uniform(seed: int, stream: str, step: int | Tensor, sample_B: Tensor, n: int = 1) -> Tensor:
    """Return numbers in [0, 1): float32 (B, N)."""
    return _shift(bits(seed, stream, step, sample_B, n), 40).to(torch.float32) * (1.0 / (1 << 24))


def normal(seed: int, stream: str, step: int | Tensor, sample_B: Tensor, n: int = 1) -> Tensor:
    """Return standard normal numbers by the Box-Muller transform: float32 (B, N)."""
    u = uniform(seed, stream, step, sample_B, 2 * n)
    radius = torch.sqrt(-2.0 * torch.log1p(-u[:, :n]))
    return radius * torch.cos(2.0 * math.pi * u[:, n:])


def integers(high: int, seed: int, stream: str, step: int | Tensor, sample_B: Tensor, n: int = 1) -> Tensor:
    """Return integers in [0, high): int64 (B, N). ``high`` is far below 2**63, so the bias of the remainder is nil."""
    return _shift(bits(seed, stream, step, sample_B, n), 1) % high
