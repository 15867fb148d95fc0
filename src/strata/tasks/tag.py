"""A tag for each word: entities, found as spans, or parts of speech.

Spans are counted as the conlleval script does (Tjong Kim Sang and Buchholz 2000): one is right if it begins and ends
where it should and is of the right type; an I- without a B- before it, or of another type than that, begins a span.

B sentences, T tokens, C tags, N words of a batch, K types of spans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from strata import losses
from strata.config import Probability
from strata.data.dataset import Dataset
from strata.data.sequences import Ragged
from strata.data.tags import UNTAGGED, types_of
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Findings, Measure, Sums, Task, mask_of, sums_of

EXAMPLES = 5
"""Sentences that a report shows with what was found in them."""


@dataclass(frozen=True, kw_only=True)
class Tag(Task):
    """A tag for each word."""

    kind: ClassVar[str] = "tag"
    model_fields: ClassVar[tuple[str, ...]] = ("num_classes", "head")

    label_smoothing: Probability = 0.0
    """Share of the target spread evenly over all tags; the loss that is measured is without."""
    main: Literal["span_f1", "accuracy", "loss"] | None = None
    """What early stopping looks at; None: F1 of spans, or accuracy where tags are of single words."""
    types: tuple[str, ...] = ()
    """Types of spans; filled in from the data, and none where tags are of single words."""

    @property
    def main_metric(self) -> str:
        """F1 of spans, accuracy of words, or the loss."""
        return self.main or ("span_f1" if self.types else "accuracy")

    @property
    def higher_is_better(self) -> bool:
        """Whether it is not the loss."""
        return self.main != "loss"

    def resolve(self, dataset: Dataset) -> Task:
        """Fill in the types of spans. Raises DataError for data without tags, ConfigError where F1 has no spans."""
        if dataset.kind != "tags":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from words with a tag each: "
                "CoNLL files, or records with lists of words and tags."
            )
        types = types_of(dataset.labels)
        if self.main == "span_f1" and not types:
            raise ConfigError(
                "task.main=span_f1 is of spans, and these tags are of single words. Use task.main=accuracy."
            )
        return dataclasses.replace(self, types=types)

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, and the head that gives each token's tags."""
        return dataset.sizes | {"head": "token_class"}

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over all words, in nats."""
        logits_BTC = model(batch["input"], **mask_of(batch))
        return losses.cross_entropy(logits_BTC, batch["target"], label_smoothing=self.label_smoothing)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss, the words tagged rightly, and of each type how many spans there are, were found, and were
        found rightly."""
        logits_BTC, target_BT = model(batch["input"], **mask_of(batch)), batch["target"]
        loss = losses.cross_entropy(logits_BTC, target_BT)
        is_word_BT = target_BT != UNTAGGED
        found_N, true_N = logits_BTC.argmax(-1)[is_word_BT], target_BT[is_word_BT]
        sums = sums_of(loss=loss.total, words=loss.count, hits=(found_N == true_N).sum())
        if self.types:
            is_first_N = ((is_word_BT.cumsum(1) == 1) & is_word_BT)[is_word_BT]
            sums |= span_sums(found_N, true_N, is_first_N, len(self.types))
        return Measure(sums)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return F1, precision and recall of all spans together, accuracy of words, and the loss."""
        words = int(sums["words"])
        found = {"accuracy": int(sums["hits"]) / words, "loss": float(sums["loss"]) / words}
        if not self.types:
            return found
        right_K, found_K, true_K = (sums[name] for name in ("spans_right", "spans_found", "spans_true"))
        return _ratios(int(right_K.sum()), int(found_K.sum()), int(true_K.sum())) | found

    def findings(self, sums: Sums, per_sample: dict[str, Tensor], labels: Sequence[str]) -> Findings:
        """Return how well each type of spans is found."""
        rows = []
        for k, name in enumerate(self.types):
            right, found, true = (int(sums[f"spans_{which}"][k]) for which in ("right", "found", "true"))
            ratios = _ratios(right, found, true)
            rows.append(
                {
                    "label": name,
                    "support": true,
                    "precision": ratios["span_precision"] if found else None,
                    "recall": ratios["span_recall"] if true else None,
                    "f1": ratios["span_f1"] if found or true else None,
                }
            )
        return Findings(classes=rows)

    def examples(self, model: nn.Module, dataset: Dataset, split: str, context: Answering) -> list[dict[str, Any]]:
        """Return the first sentences of a split that have a span or, where tags are of single words, the first."""
        of_split: Any = dataset.splits[split]
        found: list[dict[str, Any]] = []
        for number in range(len(of_split)):
            target_T = of_split.columns["target"][number]
            tag_W = target_T[target_T != UNTAGGED]
            if len(found) == EXAMPLES:
                break
            if self.types and not bool(tag_W.any()):
                continue
            words = of_split.describe(number)["words"]
            answer = self.answers_to(model, [words], context)[0]
            text, places = " ".join(words), context.preprocess.words(words)[1]
            truth = self._named(tag_W, torch.ones(len(words)), places, text, context)
            found.append({"source": text, "written": _shown(answer), "references": [_shown(truth)]})
        return found

    def answers_to(self, model: nn.Module, raws: Sequence[Any], context: Answering) -> list[dict[str, Any]]:
        """Return the spans of each sentence, with text, type, probability and place in the text ("start", "end"); where
        tags are of single words, those.

        The probability of a span is the product of those of its words' tags.
        """
        preprocess = context.preprocess
        read = [preprocess.words(raw) for raw in raws]
        pieces = [preprocess.pieces(tokens) for tokens in preprocess.encode([words for words, _, _ in read])]
        flat = [piece for of_sentence in pieces for piece in of_sentence]
        token_BT, mask_BT = Ragged.of([piece.token_T for piece in flat]).padded(torch.arange(len(flat)))
        logits_BTC = model(token_BT.to(context.device), mask_BT=mask_BT.to(context.device)).float().cpu()
        probability_BT, tag_BT = logits_BTC.softmax(-1).max(-1)
        rows = iter(range(len(flat)))
        found = []
        for (_, places, text), of_sentence in zip(read, pieces, strict=True):
            taken = [(next(rows), torch.from_numpy(piece.start_W)) for piece in of_sentence]
            tag_W = torch.cat([tag_BT[row, start_W] for row, start_W in taken])
            probability_W = torch.cat([probability_BT[row, start_W] for row, start_W in taken])
            found.append(self._named(tag_W, probability_W, places, text, context))
        return found

    def _named(
        self, tag_W: Tensor, probability_W: Tensor, places: Sequence[tuple[int, int]], text: str, context: Answering
    ) -> dict[str, Any]:
        """Return what tags say of a text."""
        if not self.types:
            rows = zip(places, tag_W.tolist(), probability_W.tolist(), strict=True)
            return {
                "tags": [
                    {"text": text[a:b], "tag": context.labels[tag], "probability": p, "start": a, "end": b}
                    for (a, b), tag, p in rows
                ]
            }
        is_first_W = torch.arange(len(tag_W)) == 0
        spans = spans_of(tag_W, is_first_W)
        found = []
        for word in spans.begins_N.nonzero()[:, 0].tolist():
            last = int(spans.last_N[word])
            start, end = places[word][0], places[last][1]
            found.append(
                {
                    "text": text[start:end],
                    "type": self.types[int(spans.type_N[word])],
                    "probability": float(probability_W[word : last + 1].prod()),
                    "start": start,
                    "end": end,
                }
            )
        return {"entities": found}


class Spans(NamedTuple):
    """The spans among words: of each word whether one begins there, of which type, and where it ends."""

    begins_N: Tensor
    type_N: Tensor
    """-1 outside of spans."""
    last_N: Tensor
    """Number of the last word of the span; the word's own outside of spans."""


def spans_of(tag_N: Tensor, is_first_N: Tensor) -> Spans:
    """Return the spans that tags mark, by conlleval's rules.

    Args:
        tag_N: 0 is O, 1 + 2k is B- and 2 + 2k is I- of type k.
        is_first_N: whether a word is the first of its sentence.
    """
    n = len(tag_N)
    type_N = (tag_N - 1).div(2, rounding_mode="floor")
    before_N = torch.cat([type_N.new_full((min(1, n),), -1), type_N[:-1]])
    is_inside_N = tag_N > 0
    begins_N = is_inside_N & ((tag_N % 2 == 1) | is_first_N | (before_N != type_N))
    goes_on_N = is_inside_N & ~begins_N
    is_last_N = ~torch.cat([goes_on_N[1:], goes_on_N.new_zeros(min(1, n))])
    place_N = torch.arange(n, device=tag_N.device)
    last_N = place_N.where(is_last_N, n).flip(0).cummin(0).values.flip(0)
    return Spans(begins_N, type_N, last_N)


def span_sums(found_N: Tensor, true_N: Tensor, is_first_N: Tensor, types: int) -> Sums:
    """Return by type how many spans there are, were found, and were found rightly: int64 (K,) each."""
    found, true = spans_of(found_N, is_first_N), spans_of(true_N, is_first_N)
    is_right_N = found.begins_N & true.begins_N & (found.type_N == true.type_N) & (found.last_N == true.last_N)

    def by_type(type_N: Tensor, is_one_N: Tensor) -> Tensor:
        counts_K = torch.zeros(types, dtype=torch.int64, device=type_N.device)
        return counts_K.scatter_add_(0, type_N.clamp(min=0), is_one_N.long())

    return {
        "spans_right": by_type(true.type_N, is_right_N),
        "spans_found": by_type(found.type_N, found.begins_N),
        "spans_true": by_type(true.type_N, true.begins_N),
    }


def _ratios(right: int, found: int, true: int) -> dict[str, float]:
    """Return F1, precision and recall; 0 where there is nothing to divide by, as conlleval has it."""
    return {
        "span_f1": 2 * right / max(1, found + true),
        "span_precision": right / max(1, found),
        "span_recall": right / max(1, true),
    }


def _shown(answer: Mapping[str, Any]) -> str:
    """Return an answer in a line."""
    if "tags" in answer:
        return " ".join(f"{word['text']}/{word['tag']}" for word in answer["tags"])
    return ", ".join(f"{span['text']} ({span['type']})" for span in answer["entities"]) or "nothing"
