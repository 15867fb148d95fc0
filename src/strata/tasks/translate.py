"""Texts turned into other texts by an encoder-decoder: translation (Sutskever et al. 2014), summaries.

Trained on the target's next token, given the source and the target so far (Vaswani et al. 2017, section 5.4: labels
smoothed by 0.1); scored by what the model writes when it is left alone: BLEU and chrF, or ROUGE.

B pairs, S source tokens, T target tokens, D width, N target tokens of a batch that are no padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from strata import losses, metrics, scores
from strata.config import NotNegative, Positive, Probability
from strata.data.dataset import Dataset, Split
from strata.data.text_pairs import WrittenSplit, references_of
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.models import Reading, family_of
from strata.scores import ScoreName
from strata.tasks.base import Answering, Draw, Measure, Sums, Task, parts_below_head, sums_of
from strata.tasks.decoding import Decoding
from strata.tasks.writing import Language, write

EXAMPLES = 5
"""Texts that a report shows with what the model wrote; of some, what it looked at."""
TOKENS_IN_PICTURE = 40
"""Of either side, up to which a report shows where a model looked."""
ROOM = 1.5
"""Times as many tokens as the longest target learned that are written at most."""


@dataclass(frozen=True, kw_only=True)
class Translate(Task):
    """A text from a text."""

    kind: ClassVar[str] = "translate"
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size",)
    reading: ClassVar[Reading | None] = "pairs"

    label_smoothing: Probability = 0.1
    """Share of the target spread evenly over the vocabulary; the loss that is measured is without."""
    scores: ScoreName = "bleu"
    judge: Literal["scores", "loss"] = "scores"
    """What early stopping looks at: BLEU or ROUGE-L, or the loss."""
    beams: Positive = 5
    """Texts kept at each step while the test data's are written, and in use; 1 is greedy."""
    length_penalty: float = 1.0
    """Texts are ranked by log-probability / tokens ** this; greater prefers longer ones."""
    written_at_most: NotNegative = 500
    """Validation texts written, greedily, at each evaluation, the first ones; 0 writes none, nor the test data's."""

    @property
    def main_metric(self) -> str | None:
        """BLEU, ROUGE-L, or the loss."""
        if self.judge == "loss" or self.written_at_most == 0:
            return "loss"
        return "bleu" if self.scores == "bleu" else "rouge_l"

    @property
    def higher_is_better(self) -> bool:
        """Whether it is not the loss."""
        return self.main_metric != "loss"

    def resolve(self, dataset: Dataset) -> Translate:
        """Check that the data is pairs of texts, and that what counts the scores is there."""
        if dataset.kind != "text_pairs":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from texts and what each "
                "becomes: data.column= and data.target= name them."
            )
        if self.written_at_most:
            scores.check_installed(self.scores)
        return self

    def notes(self, dataset: Dataset) -> list[str]:
        """Return how texts are written for the scores, and the scores' signatures."""
        if not self.written_at_most:
            return ["task.written_at_most=0: nothing is written out, and only the loss is measured"]
        said = []
        validation = dataset.splits.get("validation")
        if validation is not None:
            shown = f"the first {self.written_at_most:,}" if len(validation) > self.written_at_most else "all"
            said.append(f"validation scores are of {shown} of {len(validation):,} texts, written greedily")
        if "test" in dataset.splits:
            how = f"with {self.beams} beams" if self.beams > 1 else "greedily"
            said.append(f"test scores are of all {len(dataset.splits['test']):,} texts, written {how}")
        return [*said, *self.signatures(dataset, "test" if "test" in dataset.splits else "validation")]

    def signatures(self, dataset: Dataset, split: str) -> list[str]:
        """Return what another needs to know to get the same scores of a split: "BLEU: nrefs:1|case:mixed|..."."""
        of_split: Any = dataset.splits.get(split)
        if of_split is None or not self.written_at_most:
            return []
        counts = {len(wanted) for wanted in of_split.references}
        return [f"{name}: {said}" for name, said in scores.signatures(self.scores, counts).items()]

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return pairs; outside training in the order of their length, with how each is to be written."""
        split: Any = dataset.splits[name]
        if training:
            found: Split = split
            return found
        beams_N = torch.zeros(len(split), dtype=torch.int64)
        if name == "test" and self.written_at_most:
            beams_N[:] = self.beams
        else:
            beams_N[: self.written_at_most] = 1
        return WrittenSplit(split, beams_N)

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the modules below the head, whose `features` the loss reads."""
        return parts_below_head(model)

    def _read(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what the head reads (N, D) and the targets (N,) of tokens that are no padding; it reads no others."""
        token_BT, mask_BT = batch["target"], batch["target_mask"]
        kept_BT = mask_BT[:, 1:]
        x_BTD = model.features(batch["input"], token_BT[:, :-1], source_mask_BS=batch["mask"])
        return x_BTD[kept_BT], token_BT[:, 1:][kept_BT]

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over all target tokens, labels smoothed, in nats."""
        x_ND, target_N = self._read(model, batch)
        head: Any = model.head
        return losses.linear_cross_entropy(
            x_ND, head.weight, target_N, bias_V=head.bias, label_smoothing=self.label_smoothing
        )

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the summed loss, the hits and the number of target tokens."""
        x_ND, target_N = self._read(model, batch)
        logits_NV = model.head(x_ND)  # type: ignore[operator]
        loss = losses.cross_entropy(logits_NV, target_N)
        return Measure(sums_of(loss=loss.total, n=loss.count, hits=(logits_NV.argmax(-1) == target_N).sum()))

    def written(self, model: nn.Module, batch: Mapping[str, Tensor], context: Answering) -> Measure:
        """Return what the texts that the model writes add to the scores' counts."""
        found: Sums = {}
        wanted = references_of(batch)
        for beams in batch["beams"].unique().tolist():
            if beams == 0:
                continue
            rows = (batch["beams"] == beams).nonzero()[:, 0]
            sources = [batch["input"][row][batch["mask"][row]].tolist() for row in rows]
            texts = [context.preprocess.decode(tokens) for tokens in self._write(model, sources, context, beams)]
            for name, value in scores.sums(self.scores, texts, [wanted[row] for row in rows.tolist()]).items():
                found[name] = found[name] + value if name in found else value
        return Measure(found)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss in nats a token, perplexity, token accuracy, and the scores of what was written."""
        n, total = int(sums["n"]), float(sums["loss"])
        found = {"loss": total / n, "perplexity": metrics.perplexity(total, n), "accuracy": int(sums["hits"]) / n}
        return (scores.scores(self.scores, sums) if "texts" in sums else {}) | found

    def _write(self, model: Any, sources: Sequence[Sequence[int]], context: Answering, beams: int) -> list[list[int]]:
        """Return the tokens, without marks, that the model makes of sources."""
        preprocess = context.preprocess
        most = math.ceil(ROOM * preprocess.longest_target)
        settings = (
            Decoding(tokens=most, beams=beams, length_penalty=self.length_penalty)
            if beams > 1
            else Decoding(tokens=most, temperature=0)
        )
        language = Language(None, (preprocess.end,), preprocess.start)
        texts = write(model, sources, settings, language, device=context.device)
        return [best.tokens for best, *_ in texts]

    def attention(
        self, model: Any, source: Sequence[int], context: Answering, written: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return where in a source a model looks while it writes: "source" and "target" tokens, "weights" (T, S).

        Of several layers it is the last but one, whose mean over heads shows best which word became which (Garg et al.
        2019, "Jointly learning to align and translate with Transformer models", section 5.3).

        Raises ConfigError for a model that looks at nothing.
        """
        if not looks_at_source(model):
            raise ConfigError(f"This {family_of(model.config)} has no attention to look at: it keeps a state alone.")
        written = self._write(model, [source], context, self.beams)[0] if written is None else written
        preprocess, device = context.preprocess, context.device
        source_BS = torch.tensor([[*source]], device=device)
        target_BT = torch.tensor([[preprocess.start, *written]], device=device)
        weight_LBHTS = model.attention_weights(source_BS, target_BT)
        weight_TS = weight_LBHTS[-2 if len(weight_LBHTS) > 1 else -1, 0].float().mean(0)
        spelled = preprocess.text.token_text
        return {
            "source": [spelled(token).strip() for token in source],
            "target": [spelled(token).strip() for token in (*written, preprocess.end)],
            "weights": [[round(weight, 3) for weight in row] for row in weight_TS.tolist()],
        }

    def examples(self, model: nn.Module, dataset: Dataset, split: str, context: Answering) -> list[dict[str, Any]]:
        """Return the first texts of a split with what the model made of them, and where it looked."""
        if not self.written_at_most:
            return []
        of_split: Any = dataset.splits[split]
        numbers = range(min(EXAMPLES, len(of_split)))
        sources = [of_split.columns["input"][number].tolist() for number in numbers]
        found = []
        texts = self._write(model, sources, context, self.beams if split == "test" else 1)
        for number, source, tokens in zip(numbers, sources, texts, strict=True):
            example = of_split.describe(number) | {"written": context.preprocess.decode(tokens)}
            if looks_at_source(model) and len(source) <= TOKENS_IN_PICTURE >= len(tokens):
                example["attention"] = self.attention(model, source, context, tokens)
            found.append(example)
        return found

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return what each text becomes."""
        found = self._write(model, input_B.tolist(), context, self.beams)
        return [{"text": context.preprocess.decode(tokens)} for tokens in found]


def looks_at_source(model: Any) -> bool:
    """Say whether a model attends to its source, and can say where."""
    return hasattr(model, "attention_weights") and getattr(model.config, "attention", "") != "none"
