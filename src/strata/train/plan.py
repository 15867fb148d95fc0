"""What a run will do, as a function of the step alone: sizes, stages, learning rate, and when to log and evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from strata.errors import ConfigError
from strata.tasks import Stage
from strata.train.recipe import TrainConfig
from strata.train.schedule import factor


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage, and the steps from `start` up to but not including `end` that it has."""

    stage: Stage
    start: int
    end: int

    @property
    def batches_per_step(self) -> int:
        """Batches of data that a step draws."""
        return sum(phase.repeats for phase in self.stage.phases if phase.needs_data)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a run that is settled before its first step."""

    config: TrainConfig
    batch_size: int
    """Samples in one forward pass."""
    total_steps: int
    steps_per_epoch: float
    evaluate_every: int
    log_every: int
    stages: tuple[PlannedStage, ...]

    @property
    def samples_per_step(self) -> int:
        """Samples of one batch and all that are accumulated with it."""
        return self.batch_size * self.config.accumulate

    def at(self, step: int) -> PlannedStage:
        """Return the stage that takes this step; after the last step, the last stage."""
        return next((planned for planned in self.stages if planned.start <= step < planned.end), self.stages[-1])

    def rate(self, step: int) -> float:
        """Return the schedule's factor of the learning rate; each stage runs through the schedule anew."""
        config, planned = self.config, self.at(step)
        return factor(
            config.schedule,
            step - planned.start,
            planned.end - planned.start,
            warmup=config.warmup,
            decay=config.decay,
            final=config.final,
            step_every=config.step_every,
            step_at=config.step_at,
            step_factor=config.step_factor,
        )

    def side(self, step: int, full: int) -> int:
        """Return the pixels of a side that pictures have at a step, where they grow (`TrainConfig.grow_from`)."""
        config = self.config
        grown = 1.0 if config.grow_until == 0 else min(1.0, step / (config.grow_until * self.total_steps))
        missing = (1 - config.grow_from) * (1 - grown) * full
        return full - config.grow_step * min(round(missing / config.grow_step), (full - 1) // config.grow_step)

    def samples_between(self, first: int, last: int) -> int:
        """Return how many samples the steps from ``first`` up to but not including ``last`` take."""
        return self.samples_per_step * sum(
            planned.batches_per_step * max(0, min(last, planned.end) - max(first, planned.start))
            for planned in self.stages
        )


def make_plan(config: TrainConfig, samples: int, stages: Sequence[Stage]) -> Plan:
    """Plan a run over so many training samples. Raises ConfigError for settings that contradict each other."""
    batch_size = samples if config.batch_size == "full" else min(config.batch_size, samples)
    steps_per_epoch = samples / (batch_size * config.accumulate)
    if (config.steps is None) == (config.epochs is None):
        raise ConfigError("Give either train.steps or train.epochs.")
    if config.steps is not None:
        total_steps = config.steps
    else:
        assert config.epochs is not None
        total_steps = max(1, math.ceil(config.epochs * steps_per_epoch - 1e-9))
    planned, passed, start = [], 0.0, 0
    for stage in stages:
        passed += stage.share
        end = total_steps if stage is stages[-1] else round(passed * total_steps)
        planned.append(PlannedStage(stage=stage, start=start, end=end))
        start = end
    return Plan(
        config=config,
        batch_size=batch_size,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        evaluate_every=config.evaluate_every or max(1, round(total_steps / 10)),
        log_every=config.log_every or max(1, total_steps // 200),
        stages=tuple(planned),
    )
