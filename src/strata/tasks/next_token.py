"""Prediction of the next token: the objective of every GPT (Radford et al. 2018, section 3.1, equation 1).

B windows in a batch, T tokens in a window.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from strata import losses, metrics
from strata.data.dataset import Dataset, Split
from strata.errors import DataError
from strata.losses import LossSum
from strata.models import Reading, family_of, model_class
from strata.tasks.base import Answering, Draw, Measure, Sample, Sums, Task, parts_below_head, sums_of
from strata.tasks.decoding import Decoding
from strata.tasks.writing import Language, write

logger = logging.getLogger(__name__)
BIG_VOCABULARY = 4096
"""From this on the loss is calculated some tokens at a time: it is then as fast as from all logits at once, which are
the largest tensor of the whole step."""


WINDOWS_MEASURED = 64
"""Of a split, over which the flow of gradients is averaged."""


def big_head(model: nn.Module) -> nn.Linear | None:
    """Return the output layer of a language model if its logits are too many to be calculated at once."""
    head = getattr(model, "head", None)
    is_big = type(head) is nn.Linear and head.out_features >= BIG_VOCABULARY and hasattr(model, "features")
    return head if is_big else None


@contextlib.contextmanager
def _beside(model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Iterator[dict[str, Any]]:
    """Give what a model is told beside the tokens: of which document each is, where documents are told apart.

    A model that carries its state is given that too, as the last batch left it, and leaves it for the next.
    """
    told: dict[str, Any] = {"document_BT": batch["document"]} if "document" in batch else {}
    if "begins" not in batch:
        yield told
        return
    cache: Any = model.new_cache(len(batch["begins"]))  # type: ignore[operator]
    cache.take_up(draw.carried, batch["begins"])
    yield told | {"cache": cache}
    draw.carried.update(cache.carried())


def measured(hidden_BTD: Tensor, head: nn.Module, target_BT: Tensor, vocab_size: int) -> Sums:
    """Return the summed loss, the hits and the number of targets, some logits at a time; -100 is no target."""
    hidden_ND, target_N = hidden_BTD.flatten(0, -2), target_BT.flatten()
    total = hidden_ND.new_zeros((), dtype=torch.float32)
    count, right = target_N.new_zeros(()), target_N.new_zeros(())
    chunks = losses.token_chunks(len(target_N), vocab_size)
    for begin in chunks:
        part = slice(begin, begin + chunks.step)
        logits_NV = head(hidden_ND[part])
        loss = losses.cross_entropy(logits_NV, target_N[part])
        total, count = total + loss.total, count + loss.count
        right = right + (logits_NV.argmax(-1) == target_N[part]).sum()
    return sums_of(loss=total, n=count, hits=right)


def _characters(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return how many characters the targets stand for, where that is known."""
    return {"characters": batch["characters"].double().sum()} if "characters" in batch else {}


@dataclass(frozen=True, kw_only=True)
class NextToken(Task):
    """The next token of a text, at every place of a window."""

    kind: ClassVar[str] = "next_token"
    main_metric: ClassVar[str | None] = "loss"
    higher_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size", "context")
    reading: ClassVar[Reading | None] = "forwards"

    def resolve(self, dataset: Dataset) -> NextToken:
        """Check that the data is text."""
        if dataset.kind != "text":
            raise DataError(f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from text.")
        return self

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, and the head that gives each token's successor."""
        return dataset.sizes | {"head": "token"}

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return windows of the model's context, whose grid moves each epoch in training.

        A model that carries its state reads them in the order of the text instead.
        """
        split: Any = dataset.splits[name]
        if getattr(model_class(str(family_of(model_config))), "carries_state", False):
            return split.stream(model_config.context)
        return split.windows(model_config.context, shift=training)

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over all tokens, in nats."""
        head = big_head(model)
        if head is None:
            with _beside(model, batch, draw) as told:
                logits_BTV = model(batch["input"], **told)
            return losses.cross_entropy(logits_BTV, batch["target"])
        with _beside(model, batch, draw) as told:
            hidden_BTD = model.features(batch["input"], **told)  # type: ignore[operator]
        return losses.linear_cross_entropy(hidden_BTD, head.weight, batch["target"], bias_V=head.bias)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the summed loss, the hits and the number of tokens."""
        head = big_head(model)
        if head is None:
            with _beside(model, batch, draw) as told:
                logits_BTV = model(batch["input"], **told)
            loss = losses.cross_entropy(logits_BTV, batch["target"])
            hits = (logits_BTV.argmax(-1) == batch["target"]).sum()
            return Measure(sums_of(loss=loss.total, n=loss.count, hits=hits, **_characters(batch)))
        with _beside(model, batch, draw) as told:
            hidden_BTD = model.features(batch["input"], **told)  # type: ignore[operator]
        sums = measured(hidden_BTD, head, batch["target"], head.out_features)
        return Measure(sums | sums_of(**_characters(batch)))

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return what the loss calls: the model, or its parts where the logits are not calculated at once.

        Nothing of a recurrent net.
        """
        if getattr(model, "carries_state", False):  # its time goes into one fused kernel, which stays what it is
            return ()
        if big_head(model) is None:
            return (model,)
        return parts_below_head(model)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss in nats a token, perplexity, bits a token and a character, and next-token accuracy."""
        n, total = int(sums["n"]), float(sums["loss"])
        characters = float(sums.get("characters", 0))
        of_text = {"bits_per_character": metrics.bits_per_token(total, characters)} if characters else {}
        return {
            "loss": total / n,
            "perplexity": metrics.perplexity(total, n),
            "bits_per_token": metrics.bits_per_token(total, n),
            **of_text,
            "accuracy": int(sums["hits"]) / n,
        }

    def gradient_flow(self, model: nn.Module, dataset: Dataset, split: str, device: torch.device) -> list[list[float]]:
        """Return the norms of a recurrent net's gradients at each step, averaged over the first windows of a split."""
        if not hasattr(model, "gradient_flow"):
            return []
        windows = self.split(dataset, split, model.config, training=False)
        index_B = torch.arange(min(WINDOWS_MEASURED, len(windows)))
        input_BT = windows.gather(index_B, torch.zeros_like(index_B))["input"].to(device)
        norm_LT: Tensor = model.gradient_flow(input_BT)  # type: ignore[operator]
        return [[float(f"{norm:.4g}") for norm in norms] for norms in norm_LT.tolist()]

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
        """Continue a prompt, or each of a list of them.

        Args:
            options: prompt (a str, or a list of them), stream (called with each piece of text as it comes), draft (a
                smaller model that guesses ahead), and those of `strata.tasks.decoding.Decoding`.

        Raises ConfigError for an option that is not known, not allowed, or excluded by another.
        """
        prompt, stream, draft = (options.pop(name, None) for name in ("prompt", "stream", "draft"))
        settings = Decoding.of(options)
        for words in settings.without_effect():
            logger.warning(words)
        language = Language.of(context.preprocess)
        prompts = [prompt or ""] if prompt is None or isinstance(prompt, str) else [*prompt]
        found = write(
            model,
            [self._begin(text, context.preprocess) for text in prompts],
            settings,
            language,
            device=context.device,
            draft=draft,
            stream=stream,
        )
        texts = [text + one.text for text, several in zip(prompts, found, strict=True) for one in several]
        alone = settings.number == 1 and (prompt is None or isinstance(prompt, str))
        return Sample(text=texts[0]) if alone else Sample(texts=texts)

    def _begin(self, prompt: str, preprocess: Any) -> list[int]:
        """Return a prompt's tokens; without one, what texts of this vocabulary begin after."""
        if prompt:
            return [*preprocess.prefix, *preprocess.read(prompt).tolist()]
        if preprocess.prefix or preprocess.end is not None:
            return [*preprocess.prefix] or [preprocess.end]  # a document follows the end of another
        try:
            return [*preprocess.read("\n").tolist()]
        except DataError:  # a vocabulary without a line break
            return [0]
