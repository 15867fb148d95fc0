"""Spans left out of a text, and written: what T5 learns from (Raffel et al. 2020, section 3.1.4).

15 % of a window's tokens are left out, in spans of 3 on average. In the source a sentinel stands for each span; the
target is the sentinels, each with what it stands for. A window's length is chosen so that every source has the same
length and every target too: nothing is padded.

B windows in a batch, L tokens in a window, S tokens of a source, T of a target, N spans, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from strata import losses, metrics
from strata.config import NotNegative
from strata.data.dataset import Dataset, Split
from strata.data.text import WindowSplit
from strata.data.tokens import one_newline, sentinels
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.models import Reading
from strata.tasks.base import Answering, Draw, Measure, Sums, Task, parts_below_head
from strata.tasks.decoding import Decoding
from strata.tasks.next_token import measured
from strata.tasks.writing import Language, write

SENTINELS = 100
"""T5's."""
TOKENS_WRITTEN = 64
"""For one text with sentinels, at most."""


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(Task):
    """What was left out of a text."""

    kind: ClassVar[str] = "span_corruption"
    main_metric: ClassVar[str | None] = "loss"
    higher_is_better: ClassVar[bool] = False
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size",)
    reading: ClassVar[Reading | None] = "pairs"

    source_length: Annotated[int, Ge(8)] = 512
    """Tokens that the model reads at once, sentinels and the mark of the end included."""
    share: Annotated[float, Gt(0), Lt(1)] = 0.15
    """Of a window's tokens that are left out."""
    mean_span: Annotated[float, Ge(1)] = 3.0
    """Tokens of a span, on average."""
    sentinel_tokens: tuple[NotNegative, ...] = ()
    """Filled in from the tokenizer, as are the following."""
    start_token: NotNegative | None = None
    end_token: NotNegative | None = None

    def resolve(self, dataset: Dataset) -> SpanCorruption:
        """Fill in the special tokens. Raises DataError for data without running text, or without what it takes."""
        if dataset.kind != "text":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from running text. "
                "Of records that hold a text, data.kind=text makes one."
            )
        text = dataset.tokenizer
        start = text.pad if text.start is None else text.start
        if start is None or text.end is None:
            raise DataError(
                f"These tokens ({text.tokens}) have no marks of a text's beginning and end. Use data.tokens=unigram, "
                "bpe or wordpiece, or a data.tokenizer that has them."
            )
        there = [name for name in sentinels(len(text.special_ids)) if name in text.special_ids]
        needed = spans_of(window_length(self.source_length, self.share, self.mean_span), self.share, self.mean_span)[1]
        if len(there) < needed:
            raise DataError(
                f"A text of {self.source_length} tokens has {needed} spans left out, and the tokenizer has "
                f"{len(there)} sentinels to stand for them. Set data.sentinels={max(needed, SENTINELS)}, or a smaller "
                "task.source_length."
            )
        tokens = tuple(text.special_ids[name] for name in there)
        return dataclasses.replace(self, sentinel_tokens=tokens, start_token=start, end_token=text.end)

    def notes(self, dataset: Dataset) -> list[str]:
        """Return how long everything is, and that documents are not told apart."""
        length = window_length(self.source_length, self.share, self.mean_span)
        left_out, spans = spans_of(length, self.share, self.mean_span)
        said = [
            f"of {length} tokens {left_out} are left out, in {spans} spans: sources of {length - left_out + spans + 1} "
            f"tokens, targets of {left_out + spans + 1} (task.source_length)"
        ]
        if getattr(dataset.splits["train"], "end", None) is not None:
            said.append("data.separate_documents has no effect: a token sees the whole window")
        return said

    def check_model(self, config: Any, dataset: Dataset) -> None:
        """Raise ConfigError for a model that does not read one text and write another, or has too little room."""
        super().check_model(config, dataset)
        context = getattr(config, "context", None)
        if context is not None and self.source_length > context:
            raise ConfigError(
                f"task.source_length={self.source_length} is more than model.context={context}. Make them equal."
            )

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return windows that make sources of the length asked for; their grid moves each epoch in training."""
        split: Any = dataset.splits[name]
        found: WindowSplit = split.windows(
            window_length(self.source_length, self.share, self.mean_span), shift=training
        )
        return found

    def leave_out(self, token_BL: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Leave spans out: return sources (B, S) and targets (B, T), both with the mark of the end."""
        B, L = token_BL.shape
        left_out, spans = spans_of(L, self.share, self.mean_span)
        out_BL = random_spans(L, left_out, spans, draw)
        sentinel_N = torch.tensor(self.sentinel_tokens[:spans], device=token_BL.device)
        end_B1 = token_BL.new_full((B, 1), int(self.end_token or 0))
        return tuple(  # type: ignore[return-value]
            torch.cat([with_sentinels(token_BL, gone_BL, sentinel_N, length), end_B1], dim=1)
            for gone_BL, length in ((out_BL, L - left_out + spans), (~out_BL, left_out + spans))
        )

    def _read(self, model: Any, batch: Mapping[str, Tensor], draw: Draw) -> tuple[Tensor, Tensor]:
        """Return what the head reads (B, T, D), and the targets (B, T)."""
        source_BS, target_BT = self.leave_out(batch["input"], draw)
        start_B1 = target_BT.new_full((len(target_BT), 1), int(self.start_token or 0))
        return model.features(source_BS, torch.cat([start_B1, target_BT[:, :-1]], dim=1)), target_BT

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over the targets' tokens, sentinels too, in nats."""
        x_BTD, target_BT = self._read(model, batch, draw)
        head: Any = model.head
        return losses.linear_cross_entropy(x_BTD, head.weight, target_BT, bias_V=head.bias)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the summed loss, the hits and the number of target tokens, of spans that are the same each time."""
        x_BTD, target_BT = self._read(model, batch, draw)
        head: Any = model.head
        return Measure(measured(x_BTD, head, target_BT, head.out_features))

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss in nats a target token, perplexity, and the share guessed rightly, given those before."""
        n, total = int(sums["n"]), float(sums["loss"])
        return {"loss": total / n, "perplexity": metrics.perplexity(total, n), "accuracy": int(sums["hits"]) / n}

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the parts below the head."""
        return parts_below_head(model)

    def read(self, raw: Any, preprocess: Any) -> Tensor:
        """Turn a text with sentinels into a source. Raises DataError where it has none."""
        if not isinstance(raw, str):
            raise DataError(f"A text is a str, not {type(raw).__name__}.")
        tokens = preprocess.encode(one_newline(raw), marked=True).tolist()
        if not set(tokens) & set(self.sentinel_tokens):
            name = sentinels(1)[0]
            raise DataError(f"The text has no gap to fill. Write {name} in the place of some words.")
        return torch.tensor([*tokens, self.end_token], dtype=torch.int64)

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return what the model writes for each sentinel, and the text with that filled in."""
        assert self.end_token is not None, "resolve() fills it in"
        written = write(
            model,
            input_B.tolist(),
            Decoding(tokens=TOKENS_WRITTEN, temperature=0),
            Language(None, (self.end_token,), self.start_token),
            device=context.device,
        )
        found = []
        for source, (best, *_) in zip(input_B.tolist(), written, strict=True):
            spans = spans_written(best.tokens, self.sentinel_tokens)
            filled = [token for first in source for token in spans.get(first, [first])]
            decode = context.preprocess.decode
            asked = [token for token in source if token in self.sentinel_tokens]
            found.append({"text": decode(filled), "spans": [decode(spans.get(token, [])).strip() for token in asked]})
        return found


def spans_of(length: int, share: float, mean_span: float) -> tuple[int, int]:
    """Return how many tokens of a window are left out, and in how many spans: at least 1 each, and not all."""
    left_out = min(max(round(length * share), 1), length - 1)
    return left_out, min(max(round(left_out / mean_span), 1), length - left_out)


def window_length(source_length: int, share: float, mean_span: float) -> int:
    """Return the most tokens whose source, with sentinels and the mark of the end, is no longer than asked."""

    def source_of(length: int) -> int:
        left_out, spans = spans_of(length, share, mean_span)
        return length - left_out + spans + 1

    length = 2
    while source_of(length + 1) <= source_length:
        length += 1
    return length


def random_spans(length: int, left_out: int, spans: int, draw: Draw) -> Tensor:
    """Return which tokens are left out, bool (B, L): all ways of cutting into that many spans are equally likely.

    A window begins with a token that stays, ends with one that does not, and spans do not touch.
    """
    kept_BN = random_lengths(length - left_out, spans, draw, "tokens kept")
    out_BN = random_lengths(left_out, spans, draw, "tokens left out")
    end_BN = (kept_BN + out_BN).cumsum(1)
    place_L = torch.arange(length, device=end_BN.device).expand(len(end_BN), -1).contiguous()
    span_BL = torch.searchsorted(end_BN, place_L, right=True)  # whose kept tokens, and then left out ones, these are
    return place_L >= (end_BN - out_BN).gather(1, span_BL)


def random_lengths(total: int, parts: int, draw: Draw, stream: str) -> Tensor:
    """Return lengths of at least 1 that add up to a total, int64 (B, N)."""
    if total == parts:
        return torch.ones(len(draw.sample_B), parts, dtype=torch.int64, device=draw.sample_B.device)
    cut_BN = draw.uniform(stream, total - 1).argsort(dim=1, stable=True)[:, : parts - 1].sort(dim=1).values + 1
    edge_B1 = cut_BN.new_zeros((len(cut_BN), 1))
    return torch.cat([edge_B1, cut_BN, edge_B1 + total], dim=1).diff(dim=1)


def with_sentinels(token_BL: Tensor, gone_BL: Tensor, sentinel_N: Tensor, length: int) -> Tensor:
    """Return the tokens that are not gone, (B, length), with a sentinel in the place of each span that is."""
    begins_BL = gone_BL.clone()
    begins_BL[:, 1:] &= ~gone_BL[:, :-1]
    number_BL = (begins_BL.cumsum(1) - 1).clamp(min=0)
    shown_BL = torch.where(begins_BL, sentinel_N[number_BL], token_BL)
    place_BT = (~gone_BL | begins_BL).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :length]
    return shown_BL.gather(1, place_BT)


def spans_written(tokens: Sequence[int], sentinel_tokens: Sequence[int]) -> dict[int, list[int]]:
    """Return the tokens that were written after each sentinel; of one that was written twice, the first."""
    found: dict[int, list[int]] = {}
    current: list[int] = []
    for token in tokens:
        if token in sentinel_tokens:
            current = []
            found.setdefault(token, current)
        else:
            current.append(token)
    return found
