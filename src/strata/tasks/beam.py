"""Beam search: the likeliest texts are kept side by side, and those that ended are compared by their length.

A text's score is its log-probability divided by its length to the power of ``length_penalty`` (Wu et al. 2016, section
7, without their constant). It ends, as transformers' `generate` does by default, when as many texts have ended as there
are beams and the best of those that go on would not come before the worst of them at the length reached.

B rows, each a beam of some text; V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata.tasks.decoding import Path, Rules
from strata.tasks.reading import Reader

if TYPE_CHECKING:
    from strata.tasks.writing import Language, Writing


@dataclass
class Beam:
    """A text that goes on, and the log-probability of what was written of it."""

    path: Path
    total: float


@dataclass
class Search:
    """The beams of one prompt, the best first, and the texts of it that ended."""

    beams: list[Beam]
    ended: list[tuple[float, Path]] = field(default_factory=list)


@torch.no_grad()
def beam_search(reader: Reader, texts: Sequence[Sequence[Writing]], rules: Rules, language: Language) -> Iterator[None]:
    """Search for the best texts of each prompt; they are written at the end, all at once."""
    width, penalty = rules.settings.beams, rules.settings.length_penalty
    searches = [Search([Beam(several[0].path, 0.0)]) for several in texts]
    live = [*searches]
    score_BV = reader.begin()
    for length in range(1, rules.most + 1):
        beams = [beam for search in live for beam in search.beams]
        score_BV = rules.scores(score_BV.log_softmax(-1), [beam.path for beam in beams])
        for beam, dead, search in zip(beams, rules.exhausted(score_BV), _owners(live), strict=True):
            if dead:
                search.ended.append((beam.total / max(1, length - 1) ** penalty, beam.path))
        rows: list[int] = []
        for search, first, best in _best(score_BV, live, max(2, 1 + len(rules.stop_tokens)) * width):
            came_from = _extend(search, best, rules, language)
            search.ended = sorted(search.ended, key=lambda ended: -ended[0])[:width]
            if _is_over(search, width, length**penalty):
                search.beams = []
            else:
                rows += [first + row for row in came_from]
        yield
        live = [search for search in live if search.beams]
        if not live:
            break
        reader.reorder(rows)
        score_BV = reader.read([beam.path.tokens[-1] for search in live for beam in search.beams])
    for several, search in zip(texts, searches, strict=True):
        for text, (_, path) in zip(several, search.ended, strict=False):
            for token in path.tokens:
                text.add(token)
        for text in several:
            if not text.ended:
                text.end("exhausted")


def _owners(searches: Sequence[Search]) -> Iterator[Search]:
    for search in searches:
        yield from [search] * len(search.beams)


def _best(
    score_BV: Tensor, searches: Sequence[Search], count: int
) -> Iterator[tuple[Search, int, list[tuple[float, int, int]]]]:
    """Yield each prompt's search, its first row, and the best ways to go on: (log-probability, beam, token).

    Args:
        count: ways, so many that those which end leave a full width of others.
    """
    V = score_BV.shape[1]
    total_B = score_BV.new_tensor([beam.total for search in searches for beam in search.beams])
    score_BV = score_BV + total_B[:, None]
    first = 0
    for width, group in itertools.groupby(searches, lambda search: len(search.beams)):  # mostly one: one call of topk
        several = [*group]
        score_NX = score_BV[first : first + width * len(several)].view(len(several), width * V)
        found, place = score_NX.topk(min(count, width * V))
        for search, scores, places in zip(several, found.tolist(), place.tolist(), strict=True):
            yield search, first, [(score, *divmod(n, V)) for score, n in zip(scores, places, strict=True)]
            first += width


def _extend(search: Search, best: Sequence[tuple[float, int, int]], rules: Rules, language: Language) -> list[int]:
    """Extend a prompt's beams by a token, set apart what ends; return the beam that each new one came from."""
    width, penalty = rules.settings.beams, rules.settings.length_penalty
    found: list[tuple[int, Beam]] = []
    for rank, (total, row, token) in enumerate(best):
        if total == -math.inf or len(found) == width:
            break
        path = rules.extended(search.beams[row].path, token)
        if rules.ends(path) or _holds_stop(path, rules, language):
            if rank < width:
                search.ended.append((total / len(path.tokens) ** penalty, path))
        else:
            found.append((row, Beam(path, total)))
    search.beams = [beam for _, beam in found]
    return [row for row, _ in found]


def _holds_stop(path: Path, rules: Rules, language: Language) -> bool:
    decode = language.decoder(path.prompt) if rules.settings.stop else None
    if decode is None or len(path.tokens) < rules.settings.min_tokens:
        return False
    text = "".join(map(decode, path.tokens))
    return any(stop in text for stop in rules.settings.stop)


def _is_over(search: Search, width: int, divisor: float) -> bool:
    """Return whether no text that goes on can still come before those that ended."""
    if not search.beams:
        return True
    return len(search.ended) == width and search.beams[0].total / divisor <= search.ended[-1][0]
