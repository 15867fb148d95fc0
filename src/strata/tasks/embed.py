"""One vector a text, near those of texts that mean the same and far from all others.

Papers: Reimers and Gurevych 2019, "Sentence-BERT", for the shape (mean of the last states) and the loss where pairs
have a score; Gao, Yao and Chen 2021, "SimCSE", for learning to tell each text's partner from those of all others in the
batch (InfoNCE, van den Oord et al. 2018, equation 4), and for texts that are their own partners, by another dropout.

Unusual here: both sides of a pair are sought by the other. A batch cut into parts (train.accumulate) has fewer others.

B texts, N of a whole split, T tokens, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata import losses, metrics
from strata.config import PositiveFloat
from strata.data.dataset import Dataset, Split
from strata.data.sequences import Ragged, SequenceSplit
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Measure, Sums, Task, mask_of, sums_of

Judge = Literal["mrr", "spearman", "neighbour_accuracy", "loss"]
ROWS_AT_ONCE = 1024
"""Of a table of similarities."""


@dataclass(frozen=True, kw_only=True)
class Embed(Task):
    """A vector for each text."""

    kind: ClassVar[str] = "embed"
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size", "head")

    temperature: PositiveFloat = 0.05
    """Cosines are divided by it; the smaller, the more the nearest of the others count."""
    judge: Judge | None = None
    """What early stopping looks at; filled in from the data: how well partners are found, how well cosines go with
    scores, how often the nearest text is of the same class, or the loss."""
    greatest_score: PositiveFloat | None = None
    """The score that a cosine of 1 stands for, where pairs have one; filled in from the data."""

    @property
    def main_metric(self) -> str:
        """See `judge`."""
        return self.judge or "loss"

    @property
    def higher_is_better(self) -> bool:
        """Whether it is not the loss."""
        return self.main_metric != "loss"

    def resolve(self, dataset: Dataset) -> Embed:
        """Check that the data is texts, alone or in pairs, and fill in what is judged."""
        if dataset.kind not in ("text_pairs", "sentences"):
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from pairs of texts that mean "
                "the same (data.kind=text_pairs), or from texts alone, each its own partner: data.target=FIELD, the "
                "same field as data.column."
            )
        greatest = dataset.details.get("greatest_score")
        judge: Judge = "spearman" if greatest else "mrr"
        if is_alone(dataset):
            judge = "neighbour_accuracy" if dataset.target_kind == "class" else "loss"
        return dataclasses.replace(self, judge=self.judge or judge, greatest_score=greatest)

    def notes(self, dataset: Dataset) -> list[str]:
        """Return what is learned from the data."""
        if dataset.details.get("greatest_score"):
            return [f"cosines are to be the scores, of which the greatest is {self.greatest_score:g}"]
        if is_alone(dataset):
            return ["each text is its own partner, under another dropout (SimCSE)"]
        return []

    def check_model(self, config: Any, dataset: Dataset) -> None:
        """Raise ConfigError for a model without room for the longest text, or without dropout where it needs some."""
        if dataset.kind == "text_pairs":  # a source is begun too, see `split`
            longest = min(dataset.details["longest"] + 1, dataset.preprocess.max_length)  # type: ignore[attr-defined]
            dataset = dataset.replace(details=dataset.details | {"longest": longest})
        super().check_model(config, dataset)
        if is_alone(dataset) and not getattr(config, "dropout", 0.0):
            raise ConfigError("A text is told from its own copy by dropout alone, and model.dropout=0. Set it to 0.1.")

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, and the head that gives a vector."""
        return dataset.sizes | {"head": "embedding"}

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return texts, or pairs of which both sides stand between the same marks."""
        split: Any = dataset.splits[name]
        if dataset.kind != "text_pairs":
            return split
        preprocess: Any = dataset.preprocess
        source = _begun(split.columns["input"], preprocess.start, preprocess.max_length)
        columns = {"input": source, "target": split.columns["target"]}
        return SequenceSplit(columns, split.values, describe=split.describe)

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the loss summed over the texts of both sides, or over the scores."""
        one_BD, other_BD = self._vectors(model, batch)
        return self._loss(one_BD, other_BD, batch)

    def _vectors(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the vectors of both sides, float32; of texts alone, twice those of the same."""
        one_BD = model(batch["input"], **mask_of(batch))
        if "target_mask" in batch:
            other_BD = model(batch["target"], mask_BT=batch["target_mask"])
        else:
            other_BD = model(batch["input"], **mask_of(batch)) if model.training else one_BD
        return _wide(one_BD), _wide(other_BD)

    def _loss(self, one_BD: Tensor, other_BD: Tensor, batch: Mapping[str, Tensor]) -> LossSum:
        if "score" in batch:
            wanted_B = batch["score"].to(one_BD.dtype) / float(self.greatest_score or 1.0)
            return LossSum((F.cosine_similarity(one_BD, other_BD) - wanted_B).square().sum(), len(one_BD))
        logits_BB = one_BD @ other_BD.T / self.temperature
        own_B = torch.arange(len(one_BD), device=one_BD.device)
        there, back = losses.cross_entropy(logits_BB, own_B), losses.cross_entropy(logits_BB.T, own_B)
        return LossSum(there.total + back.total, 2 * len(one_BD))

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss within the batch, and the vectors."""
        one_BD, other_BD = self._vectors(model, batch)
        loss = self._loss(one_BD, other_BD, batch)
        kept = {"vector": one_BD}
        if "target_mask" in batch:
            kept |= {"partner": other_BD} | {name: batch[name] for name in ("score",) if name in batch}
        elif not batch["target"].is_floating_point():
            kept["class"] = batch["target"]
        return Measure(sums_of(loss=loss.total, n=loss.count), kept)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return how surely partners are found among all of the split, both ways, or what else `judge` names; how near
        partners are and how evenly all are spread (Wang and Isola 2020, section 4.1); and the loss in a batch."""
        loss = {"loss": float(sums["loss"]) / int(sums["n"])}
        vector_ND, partner_ND = per_sample.get("vector"), per_sample.get("partner")
        if vector_ND is None or len(vector_ND) < 2:
            return loss
        found: dict[str, float] = {}
        if "class" in per_sample:
            found["neighbour_accuracy"] = neighbour_accuracy(vector_ND, per_sample["class"])
        if partner_ND is not None and "score" in per_sample:
            cosine_N = F.cosine_similarity(vector_ND, partner_ND)
            found["spearman"] = metrics.spearman(cosine_N, per_sample["score"])
        elif partner_ND is not None:
            for name, one_ND, other_ND in (("", vector_ND, partner_ND), ("_back", partner_ND, vector_ND)):
                accuracy, mrr = retrieval(one_ND, other_ND)
                found |= {f"retrieval{name}_accuracy": accuracy, f"mrr{name}": mrr}
            found["alignment"] = float((vector_ND - partner_ND).square().sum(-1).mean())
        return found | {"uniformity": uniformity(vector_ND)} | loss

    def read(self, raw: Any, preprocess: Any) -> Tensor:
        """Turn a text, or a record that holds one, into tokens between their marks."""
        token_T: Tensor = preprocess.read(raw)
        if preprocess.kind == "text_pairs":
            return _begun(Ragged.of([token_T]), preprocess.start, preprocess.max_length)[0]
        return token_T

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return each text's vector, of length one."""
        return [{"vector": vector} for vector in model(input_B).float().tolist()]


def is_alone(dataset: Dataset) -> bool:
    """Say whether each text of the data is its own partner."""
    sides = dataset.details.get("sides")
    return dataset.kind == "sentences" or (sides is not None and sides[0] == sides[1])


def _wide(vector_BD: Tensor) -> Tensor:
    return vector_BD if vector_BD.dtype == torch.float64 else vector_BD.float()


def _begun(column: Ragged, token: int, most: int) -> Ragged:
    """Return sequences with a token before each; one that has as many as may be loses its last but one."""
    is_full_N = column.length_N >= most
    is_kept_M = torch.ones(len(column.value_M), dtype=torch.bool)
    is_kept_M[column.start_N1[1:][is_full_N] - 2] = False
    length_N = column.length_N - is_full_N.long() + 1
    start_N1 = torch.cat([column.start_N1[:1], length_N.cumsum(0)])
    value_M = torch.full((int(start_N1[-1]),), token, dtype=column.value_M.dtype)
    is_old_M = torch.ones(len(value_M), dtype=torch.bool)
    is_old_M[start_N1[:-1]] = False
    value_M[is_old_M] = column.value_M[is_kept_M]
    return Ragged(value_M, start_N1)


def retrieval(one_ND: Tensor, other_ND: Tensor) -> tuple[float, float]:
    """Return how often a text's nearest among all others' partners is its own, and the mean of 1 / its place.

    Where several are equally near, the place is the one that chance would give: vectors that are all the same find
    nothing.
    """
    hits = reciprocal = 0.0
    for begin in range(0, len(one_ND), ROWS_AT_ONCE):
        similarity_RN = one_ND[begin : begin + ROWS_AT_ONCE] @ other_ND.T
        own_R1 = similarity_RN.gather(1, torch.arange(begin, begin + len(similarity_RN))[:, None])
        nearer_R = (similarity_RN > own_R1).sum(1).double()
        equal_R = (similarity_RN == own_R1).sum(1).double()  # itself too
        hits += float(((nearer_R == 0) / equal_R).sum())
        reciprocal += float((1 / (nearer_R + (equal_R + 1) / 2)).sum())
    return hits / len(one_ND), reciprocal / len(one_ND)


def neighbour_accuracy(vector_ND: Tensor, class_N: Tensor) -> float:
    """Return how often the nearest other text is of the same class."""
    hits = 0
    for begin in range(0, len(vector_ND), ROWS_AT_ONCE):
        similarity_RN = vector_ND[begin : begin + ROWS_AT_ONCE] @ vector_ND.T
        row_R = torch.arange(len(similarity_RN))
        similarity_RN[row_R, begin + row_R] = -torch.inf
        hits += int((class_N[similarity_RN.argmax(1)] == class_N[begin + row_R]).sum())
    return hits / len(vector_ND)


def uniformity(vector_ND: Tensor) -> float:
    """Return the logarithm of the mean of exp(-2 d^2) over all pairs of vectors at distance d; lower is more even."""
    total, n = 0.0, len(vector_ND)
    for begin in range(0, n, ROWS_AT_ONCE):
        similarity_RN = vector_ND[begin : begin + ROWS_AT_ONCE] @ vector_ND.T
        total += float((4 * similarity_RN - 4).exp().double().sum())  # d^2 is 2 - 2 cosines
    return float(torch.tensor(max(total - n, 1e-300) / (n * (n - 1)), dtype=torch.float64).log())
