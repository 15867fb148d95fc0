"""Scores of written texts against references, as sums that add up over batches: BLEU, chrF and ROUGE.

What is counted, and how counts become a score, is sacrebleu's (Post 2018, "A call for clarity in reporting BLEU
scores") and rouge-score's. BLEU (Papineni et al. 2002) and chrF (Popović 2015) are of a whole corpus: their counts are
summed and the score is taken once. ROUGE (Lin 2004) is a mean over texts of the F-measure against the best of the
references.

Texts are written as people write them, with capitals and without spaces before full stops; sacrebleu splits them into
words itself. BLEU is also taken of lower-cased texts, as much of what is published is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from strata.errors import ConfigError

Sums = dict[str, Tensor]
ScoreName = Literal["bleu", "rouge"]
"""BLEU, of translations, comes with chrF."""
CORPUS = ("bleu", "bleu_lowercase", "chrf")
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names and rouge-score's."""


@functools.cache
def _scorers(name: ScoreName) -> dict[str, Any]:
    """Return what counts, by the score's name. Raises ConfigError where the extra is not installed."""
    try:
        if name == "rouge":
            from rouge_score.rouge_scorer import RougeScorer

            return {"rouge": RougeScorer(list(ROUGE.values()), use_stemmer=True)}
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ConfigError(
            f"Scores of text need the package {error.name!r}, which is not installed. "
            "Install it with: pip install 'strata[text]' (or set task.written_at_most=0: only the loss counts then)"
        ) from None
    return {"bleu": BLEU(force=True), "bleu_lowercase": BLEU(lowercase=True, force=True), "chrf": CHRF()}


def check_installed(name: ScoreName) -> None:
    """Raise ConfigError, naming the extra to install, where these scores cannot be taken."""
    _scorers(name)


def sums(name: ScoreName, written: Sequence[str], references: Sequence[Sequence[str]]) -> Sums:
    """Return what some texts add to their scores, float64 on the CPU.

    Args:
        references: one or more of each text.
    """
    assert len(written) == len(references) and all(references)
    found: Sums = {"texts": torch.tensor(len(written))}
    if name == "rouge":
        total = dict.fromkeys(ROUGE, 0.0)
        for text, wanted in zip(written, references, strict=True):
            of_text = _scorers(name)["rouge"].score_multi(list(wanted), text)
            for ours, theirs in ROUGE.items():
                total[ours] += of_text[theirs].fmeasure
        return found | {ours: torch.tensor(value, dtype=torch.float64) for ours, value in total.items()}
    most = max(map(len, references), default=0)
    streams = [[wanted[k] if k < len(wanted) else None for wanted in references] for k in range(most)]
    for score, scorer in _scorers(name).items():
        # The one way by which sacrebleu gives chrF's counts and not only its score; a test holds it to corpus_score.
        counts = scorer._extract_corpus_statistics(written, streams)
        found[score] = torch.tensor(counts, dtype=torch.float64).sum(0)
    return found


def scores(name: ScoreName, total: Mapping[str, Tensor]) -> dict[str, float]:
    """Turn the sums over a corpus into scores: BLEU and chrF from 0 to 100, ROUGE too, as they are published."""
    n = int(total["texts"])
    if name == "rouge":
        return {ours: 100 * float(total[ours]) / n if n else math.nan for ours in ROUGE}
    return {
        score: float(scorer._aggregate_and_compute([_whole(total[score])]).score) if n else math.nan
        for score, scorer in _scorers(name).items()
    }


def _whole(counts: Tensor) -> list[int]:
    return [int(count) for count in counts.tolist()]


def signatures(name: ScoreName, reference_counts: Collection[int]) -> dict[str, str]:
    """Return by score what another needs to know to get the same number; sacrebleu's signatures.

    Args:
        reference_counts: how many references texts have.
    """
    if name == "rouge":
        from importlib.metadata import version

        said = f"rouge-score {version('rouge-score')}, stemmed, F-measure, best of the references"
        return dict.fromkeys(ROUGE, said)
    found = {}
    for score, scorer in _scorers(name).items():
        scorer.num_refs = next(iter(reference_counts)) if len(reference_counts) == 1 else -1
        found[score] = str(scorer.get_signature())
    return found
