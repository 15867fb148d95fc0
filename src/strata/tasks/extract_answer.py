"""The answer to a question as a part of a text (Rajpurkar et al. 2016), or that there is none (2018).

For each token of the context the model says how likely the answer begins and ends there (Devlin et al. 2019, section
4.2). Scored as SQuAD's script does: exact match, and the F1 of the words that answer and truth share, the best over all
right answers; of texts without spaces between words, such as Japanese, the F1 of characters (So et al. 2022, JaQuAD).
Unusual here: windows of a long context are compared by log-probabilities and not by raw scores, so that each has the
chance to say that the answer is in another.

B questions, R windows of them, T tokens.
"""

from __future__ import annotations

import dataclasses
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from strata import losses
from strata.config import Positive
from strata.data.dataset import Dataset, Split
from strata.data.questions import AskedSplit, asked_of, references_of
from strata.errors import DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Evaluation, Measure, Sums, Task, sums_of

EXAMPLES = 5
"""Questions that a report shows with what was answered."""
CHARACTERS_SHOWN = 300
"""Of a context, in such an example."""
FEW_SPACES = 0.03
"""Share of spaces below which a text is of a writing that does not part its words."""
WINDOWS_AT_ONCE = 64
_ARTICLE = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, kw_only=True)
class ExtractAnswer(Task):
    """An answer that stands in a text."""

    kind: ClassVar[str] = "extract_answer"
    model_fields: ClassVar[tuple[str, ...]] = ("num_segments", "head")

    answer_length: Positive = 30
    """Tokens of the longest answer that is given."""
    scores: Literal["words", "characters"] | None = None
    """What F1 counts; None: characters where the texts have hardly any spaces, and words elsewhere."""
    may_lack: bool = False
    """Some questions have no answer; filled in from the data."""
    threshold: float = 0.0
    """By how much the answer's log-probability must be above that of there being none; fitted to validation data."""

    @property
    def main_metric(self) -> str:
        """F1 of answers."""
        return "answer_f1"

    def resolve(self, dataset: Dataset) -> Task:
        """Fill in what F1 counts and whether answers may lack. Raises DataError for data without questions."""
        if dataset.kind != "questions":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from questions on texts: "
                "SQuAD's JSON, or records with question, context and answers."
            )
        scores = self.scores or ("characters" if dataset.details["spaces"] < FEW_SPACES else "words")
        return dataclasses.replace(self, scores=scores, may_lack=dataset.details["unanswerable"] > 0)

    def notes(self, dataset: Dataset) -> list[str]:
        """Return what F1 counts."""
        return [f"F1 is of the {self.scores} that answer and truth share (task.scores)"]

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, and the head that gives starts and ends."""
        return dataset.sizes | {"head": "span"}

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return windows to learn from; outside training, questions with all of theirs."""
        of_split: Any = dataset.splits[name]
        found: Split = of_split if training else of_split.asked
        return found

    def _log_probabilities(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return those of each place to be the answer's start, and its end: (R, T) each.

        An answer is in the context; the first token stands for none in this window.
        """
        segment = {}
        if model.config.num_segments > 1:
            segment["segment_BT"] = batch["segment"]
            if model.config.num_segments > 2:
                segment["segment_BT"] = batch["segment"] + occurs_in_question(batch)
        logits_RTX = model(batch["input"], mask_BT=batch["mask"], **segment)
        logits_RTX = logits_RTX if logits_RTX.dtype == torch.float64 else logits_RTX.float()
        allowed_RT = batch["context"].clone()
        allowed_RT[:, 0] = True
        start_RT, end_RT = logits_RTX.masked_fill(~allowed_RT[..., None], -torch.inf).log_softmax(1).unbind(-1)
        return start_RT, end_RT

    def _loss(self, start_RT: Tensor, end_RT: Tensor, batch: Mapping[str, Tensor]) -> LossSum:
        starts, ends = (
            losses.cross_entropy(x_RT, batch[name]) for x_RT, name in ((start_RT, "start"), (end_RT, "end"))
        )
        return LossSum((starts.total + ends.total) / 2, starts.count)

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy of starts and of ends, the mean of both, summed over windows, in nats."""
        return self._loss(*self._log_probabilities(model, batch), batch)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss, exact matches and F1, and of each question what a threshold is fitted by."""
        start_RT, end_RT = self._log_probabilities(model, batch)
        loss = self._loss(start_RT, end_RT, batch)
        rows = []
        for best, right in zip(self._best(start_RT, end_RT, batch), references_of(batch), strict=True):
            exact, f1 = score(best.text, right, self.scores or "words")
            rows.append((best.margin, exact, f1, float(bool(right))))
        margin_B, exact_B, f1_B, has_answer_B = torch.tensor(rows, dtype=torch.float64).unbind(1)
        says_none_B = self._says_none(margin_B)
        exact_now_B, f1_now_B = (x_B.where(~says_none_B, 1 - has_answer_B) for x_B in (exact_B, f1_B))
        sums = sums_of(
            loss=loss.total.cpu(),
            windows=torch.as_tensor(loss.count).cpu(),
            questions=len(rows),
            answerable=has_answer_B.sum(),
            exact=exact_now_B.sum(),
            f1=f1_now_B.sum(),
            f1_answerable=(f1_now_B * has_answer_B).sum(),
        )
        return Measure(sums, {"margin": margin_B, "f1": f1_B, "has_answer": has_answer_B})

    def _says_none(self, margin_B: Tensor) -> Tensor:
        return margin_B <= self.threshold if self.may_lack else torch.zeros_like(margin_B, dtype=torch.bool)

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return F1 and exact match over questions and, where some have no answer, F1 over those that have one and the
        share of the others that are known as such; and the loss over windows."""
        questions, answerable = int(sums["questions"]), float(sums["answerable"])
        found = {"answer_f1": float(sums["f1"]) / questions, "exact_match": float(sums["exact"]) / questions}
        if self.may_lack:
            found |= {"answer_f1_answerable": float(sums["f1_answerable"]) / answerable} if answerable else {}
            without = questions - answerable
            known = float(sums["f1"] - sums["f1_answerable"])
            found |= {"no_answer_accuracy": known / without} if without else {}
        return found | {"loss": float(sums["loss"]) / int(sums["windows"])}

    def after_training(self, validation: Evaluation) -> Task:
        """Return the task with the threshold that gives validation data the best F1, where answers may lack."""
        if not self.may_lack or "margin" not in validation.per_sample:
            return self
        margin_N, order_N = validation.per_sample["margin"].sort(descending=True, stable=True)
        gain_N = (validation.per_sample["f1"] - (1 - validation.per_sample["has_answer"]))[order_N]
        answered = int(torch.cat([gain_N.new_zeros(1), gain_N.cumsum(0)]).argmax())
        edges = [float(margin_N[0]) + 1, *margin_N.tolist(), float(margin_N[-1]) - 1]
        return dataclasses.replace(self, threshold=(edges[answered] + edges[answered + 1]) / 2)

    def _best(self, start_RT: Tensor, end_RT: Tensor, batch: Mapping[str, Tensor]) -> list[Best]:
        """Return the best answer to each question, over all of its windows."""
        none_R = start_RT[:, 0] + end_RT[:, 0]
        start_RT, end_RT = (x_RT.masked_fill(~batch["context"], -torch.inf) for x_RT in (start_RT, end_RT))
        score_R, first_R, last_R = best_spans(start_RT, end_RT, self.answer_length)
        start_R, end_R = (
            batch[name].gather(1, place_R[:, None])[:, 0] for name, place_R in (("from", first_R), ("upto", last_R))
        )
        found: dict[int, tuple[float, int, int]] = {}
        none: dict[int, float] = {}
        columns = (x_R.tolist() for x_R in (batch["asked"], score_R, start_R, end_R, none_R))
        for asked, value, start, end, of_none in zip(*columns, strict=True):
            if asked not in found or value > found[asked][0]:
                found[asked] = value, start, end
            none[asked] = min(none.get(asked, of_none), of_none)
        texts = batch["text"].tolist()
        return [
            Best("".join(map(chr, texts[asked][start:end])), start, end, value, value - none[asked])
            for asked, (value, start, end) in sorted(found.items())
        ]

    def examples(self, model: nn.Module, dataset: Dataset, split: str, context: Answering) -> list[dict[str, Any]]:
        """Return some questions of a split with what was answered."""
        asked: Any = dataset.splits[split].asked  # type: ignore[attr-defined]
        step = max(1, len(asked) // EXAMPLES)
        shown = [asked.describe(number) for number in range(0, len(asked), step)][:EXAMPLES]
        answers = self.answers_to(model, [(one["question"], one["context"]) for one in shown], context)
        return [
            {
                "source": f"{one['question']} | {_cut(one['context'])}",
                "written": answer["answer"] or "(no answer)",
                "references": one["references"] or ["(no answer)"],
            }
            for one, answer in zip(shown, answers, strict=True)
        ]

    def answers_to(self, model: nn.Module, raws: Sequence[Any], context: Answering) -> list[dict[str, Any]]:
        """Return for each question the answer, its probability and its place in the context ("start", "end"); an empty
        answer where there is none."""
        split, numbers = asked_of([context.preprocess.asked(raw) for raw in raws], context.preprocess)
        found: dict[int, dict[str, Any]] = {}
        for index_B in _together(split):
            batch = {name: x.to(context.device) for name, x in split.gather(index_B, torch.zeros_like(index_B)).items()}
            answers = self._best(*self._log_probabilities(model, batch), batch)
            for number, best in zip(index_B.tolist(), answers, strict=True):
                chance = min(1.0, float(torch.tensor(best.score, dtype=torch.float64).exp()))
                given = {"answer": best.text, "start": best.start, "end": best.end, "probability": chance}
                if bool(self._says_none(torch.tensor(best.margin, dtype=torch.float64))):
                    given = {"answer": "", "likeliest": given}
                found[numbers[number]] = given
        return [found[number] for number in range(len(numbers))]


class Best(NamedTuple):
    """The best answer to a question."""

    text: str
    start: int
    end: int
    """From where up to where in the characters of the context."""
    score: float
    """Log-probability."""
    margin: float
    """By how much that is above the log-probability of there being none, in the window that doubts it most."""


def best_spans(start_RT: Tensor, end_RT: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each row the greatest sum of a start's score and an end's, and where both are: (R,) each.

    The end is not before the start, and they are of at most ``longest`` tokens.
    """
    T = start_RT.shape[1]
    best_R, first_R = start_RT.new_full((len(start_RT),), -torch.inf), torch.zeros(len(start_RT), dtype=torch.int64)
    first_R = first_R.to(start_RT.device)
    last_R = first_R.clone()
    for more in range(min(longest, T)):
        value_R, place_R = (start_RT[:, : T - more] + end_RT[:, more:]).max(1)
        is_better_R = value_R > best_R
        best_R = value_R.where(is_better_R, best_R)
        first_R, last_R = place_R.where(is_better_R, first_R), (place_R + more).where(is_better_R, last_R)
    return best_R, first_R, last_R


def occurs_in_question(batch: Mapping[str, Tensor]) -> Tensor:
    """Return 1 where a token of the context also occurs in the question, int64 (R, T).

    The strongest of the features that readers had before they were pretrained (Chen et al. 2017, table 5: "exact
    match"); a model with a third segment is told by it.
    """
    longest = int((batch["mask"] & (batch["segment"] == 0)).sum(1).max())
    is_question_RQ = (batch["mask"] & (batch["segment"] == 0))[:, 1:longest]
    is_same_RTQ = batch["input"][:, :, None] == batch["input"][:, None, 1:longest]
    return ((is_same_RTQ & is_question_RQ[:, None]).any(-1) & batch["context"]).long()


def score(answer: str, right: Sequence[str], unit: Literal["words", "characters"]) -> tuple[float, float]:
    """Return exact match, 0 or 1, and F1 of an answer, each the best over the right ones; none is right to be empty."""
    found = units(answer, unit)
    wanted = [units(text, unit) for text in right] or [[]]
    return max(float(found == one) for one in wanted), max(_f1(found, one) for one in wanted)


def units(text: str, unit: Literal["words", "characters"]) -> list[str]:
    """Return what answers are compared by: in small letters, without punctuation; words also without articles."""
    if unit == "characters":
        return [c for c in text.lower() if not c.isspace() and not unicodedata.category(c).startswith("P")]
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLE.sub(" ", plain).split()


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))


def _together(split: AskedSplit) -> list[Tensor]:
    """Return the numbers of questions that go through the model at once, by their windows."""
    found: list[list[int]] = [[]]
    rows = 0
    for number, count in enumerate(split.row_N1.diff().tolist()):
        if found[-1] and rows + count > WINDOWS_AT_ONCE:
            found.append([])
            rows = 0
        found[-1].append(number)
        rows += count
    return [torch.tensor(numbers) for numbers in found]


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else f"{text[:CHARACTERS_SHOWN]} ..."
