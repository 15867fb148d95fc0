"""The learning rate as a pure function of the step, as a factor of the highest.

A schedule has no state: the step number decides. Warm-up comes before any of them. No step before the last has been
taken gets a factor of zero, so none is wasted, the first least of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from strata.errors import UnknownNameError

SCHEDULES: dict[str, str] = {
    "constant": "The highest rate all the time",
    "step": "A drop by step_factor every step_every of the run (He et al. 2016)",
    "cosine": "Half a cosine from the highest to final (Loshchilov and Hutter 2017)",
    "linear": "A straight line from the highest to final",
    "one_cycle": "Up by a cosine, for 30 percent of the run or warmup, then down (Smith and Topin 2018)",
    "warmup": "A straight line up, in a tenth of the run unless warmup says otherwise, then constant",
    "warmup_stable_decay": "Constant, then a straight line to final in the last `decay` of the run (Hu et al. 2024)",
}
_ALIASES = {"wsd": "warmup_stable_decay"}
_BY_LETTERS = {name.replace("_", ""): name for name in SCHEDULES} | _ALIASES

ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
"""Both as torch's OneCycleLR has them."""
WARMUP_SHARE = 0.1


def canonical(name: str) -> str:
    """Return a schedule's name, from any spelling with dashes or underscores, or "wsd". Raises UnknownNameError."""
    letters = name.lower().replace("-", "").replace("_", "")
    if letters not in _BY_LETTERS:
        raise UnknownNameError("schedule", name, SCHEDULES)
    return _BY_LETTERS[letters]


def warmup_steps(name: str, total: int, warmup: float) -> int:
    """Return the number of steps that rise: ``warmup`` steps, or below 1 a share of ``total``."""
    name = canonical(name)
    if warmup == 0:
        warmup = {"one_cycle": ONE_CYCLE_RISE, "warmup": WARMUP_SHARE}.get(name, 0.0)
    return round(warmup * total) if warmup < 1 else round(warmup)


def factor(
    name: str,
    step: int,
    total: int,
    *,
    warmup: float = 0.0,
    decay: float = 0.2,
    final: float = 0.0,
    step_every: float = 0.3333,
    step_at: Sequence[float] = (),
    step_factor: float = 0.1,
) -> float:
    """Return the learning rate of one step, as a factor of the highest: from 0 to 1.

    Args:
        step: steps taken before this one; from ``total`` on, the schedule stays where it ended.
        total: steps of the whole run.
        warmup: steps of linear warm-up, whose last has the full rate; below 1, a share of all steps. A warm-up as
            long as the run or longer is all there is of it.
        decay: share of all steps in which warmup_stable_decay decays.
        final: the factor that cosine, linear, one_cycle and warmup_stable_decay arrive at when the run is over.
        step_every: step: share of all steps between drops, counted from the first step; 0 never drops.
        step_at: step: shares of all steps after which it drops, in place of ``step_every``.
        step_factor: step: factor of each drop.

    Raises UnknownNameError for a schedule that does not exist.
    """
    name = canonical(name)
    assert step >= 0 and total >= 1, f"step {step} of {total}"
    rise = warmup_steps(name, total, warmup)
    if step < rise:
        risen = (step + 1) / rise
        if name == "one_cycle":
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * risen)) / 2
        return risen
    # From 0 at the first step after the warm-up to 1 when the run is over.
    progress = min(1.0, (step - rise) / (total - rise)) if total > rise else 1.0
    if name in ("cosine", "one_cycle"):
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    if name == "linear":
        return final + (1 - final) * (1 - progress)
    if name == "warmup_stable_decay":
        falling = min(round(decay * total), total - rise)
        left = max(0, total - step)
        return final + (1 - final) * left / falling if left < falling else 1.0
    if name == "step" and step_at:
        return step_factor ** sum(step >= round(share * total) for share in step_at)
    if name == "step" and step_every > 0:
        # A third is written 0.3333: the drop in the run's very last steps that this would bring is not meant.
        most = max(0, math.ceil(1 / step_every - 0.01) - 1)
        return step_factor ** min(most, math.floor(min(step, total) / (step_every * total)))
    return 1.0
