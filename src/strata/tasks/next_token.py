"""Prediction of the next token: the objective of every GPT (Radford et al. 2018, section 3.1, equation 1).

B windows in a batch, T tokens in a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from strata import losses, metrics, rng
from strata.data.dataset import Dataset, Split
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Measure, Sample, Sums, Task, sums_of


@dataclass(frozen=True, kw_only=True)
class NextToken(Task):
    """The next token of a text, at every place of a window."""

    kind: ClassVar[str] = "next_token"
    main_metric: ClassVar[str | None] = "loss"
    higher_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size", "context")

    def resolve(self, dataset: Dataset) -> NextToken:
        """Check that the data is text."""
        if dataset.kind != "text":
            raise DataError(f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from text.")
        return self

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return windows of the model's context, whose grid moves each epoch in training."""
        split: Any = dataset.splits[name]
        return split.windows(model_config.context, shift=training)

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over all tokens, in nats."""
        return losses.cross_entropy(model(batch["input"]), batch["target"])

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the summed loss, the hits and the number of tokens."""
        logits_BTV = model(batch["input"])
        loss = losses.cross_entropy(logits_BTV, batch["target"])
        hits = (logits_BTV.argmax(-1) == batch["target"]).sum()
        return Measure(sums_of(loss=loss.total, n=loss.count, hits=hits))

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss in nats a token, perplexity, bits a token, and next-token accuracy."""
        n, total = int(sums["n"]), float(sums["loss"])
        return {
            "loss": total / n,
            "perplexity": metrics.perplexity(total, n),
            "bits_per_token": metrics.bits_per_token(total, n),
            "accuracy": int(sums["hits"]) / n,
        }

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return the most likely next tokens of each text, of which the last context is read."""
        context_size = int(model.config.context)  # type: ignore[union-attr, arg-type]
        logits_BV = model(input_B[:, -context_size:])[:, -1].float()
        probability_BK, token_BK = logits_BV.softmax(-1).topk(min(5, logits_BV.shape[-1]))
        decode = context.preprocess.decode
        likeliest = zip(token_BK.tolist(), probability_BK.tolist(), strict=True)
        return [
            {"next": [{"text": decode([t]), "probability": p} for t, p in zip(tokens, chances, strict=True)]}
            for tokens, chances in likeliest
        ]

    def sample(self, model: nn.Module, context: Answering, **options: Any) -> Sample:
        """Continue a prompt.

        Args:
            options: prompt (str), tokens (int), temperature (0 is greedy), top_k (int or None), seed (int),
                stream (called with each piece of text as it comes).
        """
        prompt = options.get("prompt") or "\n"
        try:
            prompt_T = context.preprocess.read(prompt)
        except DataError:
            if options.get("prompt"):
                raise
            prompt, prompt_T = "", torch.zeros(1, dtype=torch.int64)  # a vocabulary without a line break
        text = prompt if options.get("prompt") else ""
        stream, decode = options.get("stream"), context.preprocess.decoder()
        for token in generate_tokens(
            model,
            prompt_T.to(context.device),
            count=options.get("tokens", 300),
            temperature=options.get("temperature", 0.8),
            top_k=options.get("top_k"),
            seed=options.get("seed", 0),
        ):
            piece = decode(token)
            text += piece
            if stream:
                stream(piece)
        return Sample(text=text)


@torch.no_grad()
def generate_tokens(
    model: Any, prompt_T: Tensor, *, count: int, temperature: float, top_k: int | None, seed: int
) -> Any:
    """Yield ``count`` tokens after a prompt, drawn from a generator of their own: the same seed, the same text.

    A static cache of keys and values serves until the context is full; then the window slides: its later half is kept
    and the cache filled anew, so that each further token costs one step again.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature={temperature} is not allowed: it has to be 0 (greedy) or greater.")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k={top_k} is not allowed: it has to be at least 1.")
    generator = torch.Generator(prompt_T.device).manual_seed(rng.derive(seed, "generated tokens"))
    context = model.config.context
    window_T = prompt_T[-context:]
    cache, feed_T = model.new_cache(1, context, device=prompt_T.device), window_T
    for _ in range(count):
        logits_V = model(feed_T[None], cache=cache)[0, -1].float()
        if temperature == 0:
            token = logits_V.argmax(keepdim=True)
        else:
            logits_V = (logits_V - logits_V.max()) / temperature  # no overflow, however cold
            if top_k is not None and top_k < logits_V.numel():
                logits_V = logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], float("-inf"))
            token = torch.multinomial(logits_V.softmax(-1), 1, generator=generator)
        yield int(token)
        window_T, feed_T = torch.cat([window_T, token]), token
        if window_T.numel() > context:
            window_T = feed_T = window_T[-max(1, context // 2) :]
            cache = model.new_cache(1, context, device=prompt_T.device)
