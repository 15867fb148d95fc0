"""What a model is trained for; this page is the list."""

from __future__ import annotations

from strata.registry import Registry
from strata.tasks.base import Draw, Measure, Phase, Sample, Stage, Task

__all__ = ["TASKS", "Draw", "Measure", "Phase", "Sample", "Stage", "Task"]

TASKS = Registry("task")
TASKS.add("classify", "strata.tasks.classify:Classify", "one of several classes")
TASKS.add("regress", "strata.tasks.regress:Regress", "a number")
TASKS.add("image_to_image", "strata.tasks.image_to_image:ImageToImage", "a picture: masks, other pixels, less noise")
TASKS.add("next_token", "strata.tasks.next_token:NextToken", "the next token of a text")
TASKS.add("adversarial", "strata.tasks.adversarial:Adversarial", "a generator against a discriminator")
