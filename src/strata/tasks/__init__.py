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
TASKS.add("tag", "strata.tasks.tag:Tag", "a tag for each word: entities, parts of speech")
TASKS.add("extract_answer", "strata.tasks.extract_answer:ExtractAnswer", "the part of a text that answers a question")
TASKS.add("masked_token", "strata.tasks.masked_token:MaskedToken", "tokens that were hidden from a text")
TASKS.add("span_corruption", "strata.tasks.span_corruption:SpanCorruption", "spans that were left out of a text")
TASKS.add("translate", "strata.tasks.translate:Translate", "another text: a translation, a summary")
TASKS.add("chat", "strata.tasks.chat:Chat", "the answers of an assistant in conversations")
TASKS.add("prefer", "strata.tasks.prefer:Prefer", "answers that people prefer to others: DPO")
TASKS.add("embed", "strata.tasks.embed:Embed", "one vector a text, near those of texts that mean the same")
TASKS.add("adversarial", "strata.tasks.adversarial:Adversarial", "a generator against a discriminator")
