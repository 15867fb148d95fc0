"""Scores of text: their sums over batches give what sacrebleu and rouge-score say of the whole corpus."""

from __future__ import annotations

import sys

import pytest
import torch

from strata import scores
from strata.errors import ConfigError

WRITTEN = [
    "Ein Mann fährt Rad.",
    "die Katze sitzt auf der Matte.",
    "Zwei Hunde",
    "",
    "Eine Frau liest ein Buch im Park.",
]
REFERENCES = [
    ["Ein Mann fährt auf einem Rad."],
    ["Die Katze sitzt auf der Matte.", "Eine Katze liegt auf der Matte."],
    ["Zwei Hunde spielen im Schnee."],
    ["Ein leerer Satz."],
    ["Eine Frau liest ein Buch im Park.", "Im Park liest eine Frau.", "Eine Frau sitzt im Park."],
]


def added_up(name: scores.ScoreName, batches: list[list[int]]) -> dict[str, float]:
    total: dict[str, torch.Tensor] = {}
    for batch in batches:
        found = scores.sums(name, [WRITTEN[k] for k in batch], [REFERENCES[k] for k in batch])
        total = {key: total[key] + value if total else value for key, value in found.items()}
    return scores.scores(name, total)


def test_bleu_and_chrf_of_batches_are_those_of_the_whole_corpus() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    streams = [[texts[k] if k < len(texts) else None for texts in REFERENCES] for k in range(3)]
    found = added_up("bleu", [[0, 1], [2], [3, 4]])
    for name, scorer in (("bleu", BLEU()), ("bleu_lowercase", BLEU(lowercase=True)), ("chrf", CHRF())):
        assert found[name] == pytest.approx(scorer.corpus_score(WRITTEN, streams).score, abs=1e-9)
    assert found["bleu_lowercase"] > found["bleu"]  # one text begins with a small letter


def test_the_signature_is_sacrebleus_own() -> None:
    from sacrebleu.metrics import BLEU

    scorer = BLEU()
    scorer.corpus_score(WRITTEN, [[texts[0] for texts in REFERENCES]])
    assert scores.signatures("bleu", {1})["bleu"] == str(scorer.get_signature())
    assert "nrefs:var" in scores.signatures("bleu", {1, 2})["chrf"]


def test_rouge_is_the_mean_of_the_best_reference() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in texts)
        for text, texts in zip(WRITTEN, REFERENCES, strict=True)
    ]
    assert added_up("rouge", [[0, 1, 2], [3, 4]])["rouge_l"] == pytest.approx(100 * sum(best) / 5, abs=1e-9)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    scores._scorers.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'strata\[text\]'"):
        scores.check_installed("bleu")
    scores._scorers.cache_clear()
