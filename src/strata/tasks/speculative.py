"""Speculative decoding: a small model guesses some tokens ahead, and the large one checks them all in one pass.

Paper: Leviathan et al. 2023, "Fast inference from Transformers via speculative decoding", algorithm 1. A guess is kept
with probability min(1, p / q), else a token is drawn from what p has more than q: what is written is distributed as if
the large model had written alone, and is the same where nothing is drawn. Both see the same rules.

T tokens checked at once, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata.errors import ConfigError
from strata.tasks.decoding import Rules, drawn
from strata.tasks.reading import Reader

if TYPE_CHECKING:
    from strata.tasks.writing import Writing


@torch.no_grad()
def speculative(reader: Reader, draft: Reader, text: Writing, rules: Rules) -> Iterator[None]:
    """Write one text, several tokens at a step.

    Args:
        reader, draft: of the large model and the small one, neither of which has read anything yet.
    """
    unread = reader.windows[0].pop()
    owed = [draft.windows[0].pop()]  # what the draft has not read yet
    while not text.ended:
        wanted = min(rules.settings.draft_tokens, rules.most - len(text.path.tokens) - 1, reader.free - 1)
        guesses, chances, read = _guess(draft, owed, text, rules, wanted)
        score_TV = reader.read_on([unread, *guesses])
        if not (reader.can_rewind and draft.can_rewind):
            raise ConfigError("Guesses have to be taken back, and a recurrent net cannot. Leave out the draft.")
        kept, token = _check(score_TV, guesses, chances, text, rules)
        for written in [*guesses[:kept], token]:
            if written is None:
                text.end("exhausted")
            elif not text.ended:
                text.add(written)
        yield
        reader.rewind(len(guesses) - kept)
        draft.rewind(max(0, read - kept))
        if token is not None:
            owed = [*(guesses[read:kept] if wanted > 0 else owed), token]
            unread = token


def _guess(
    draft: Reader, owed: list[int], text: Writing, rules: Rules, wanted: int
) -> tuple[list[int], list[Tensor], int]:
    """Return what the draft expects next, at most ``wanted`` tokens, what it drew each from, and how many it read."""
    guesses: list[int] = []
    chances: list[Tensor] = []
    path = text.path
    read, unread = 0, owed
    while len(guesses) < wanted and (not guesses or (draft.free > 0 and not rules.ends(path))):
        score_1V = rules.scores(draft.read_on(unread)[-1:], [path])
        read = len(guesses)
        if bool(score_1V.isneginf().all()):
            break
        chance_1V = rules.probabilities(score_1V)
        (guess,) = drawn(chance_1V, [text.random.random()])
        guesses.append(guess)
        chances.append(chance_1V[0])
        path, unread = rules.extended(path, guess), [guess]
    return guesses, chances, read


def _check(
    score_TV: Tensor, guesses: list[int], chances: list[Tensor], text: Writing, rules: Rules
) -> tuple[int, int | None]:
    """Return how many guesses stand, and the token after them; None where no token may follow."""
    paths = [text.path]
    for guess in guesses:
        paths.append(rules.extended(paths[-1], guess))
    score_TV = rules.scores(score_TV, paths)
    chance_TV = rules.probabilities(score_TV)
    for k, guess in enumerate(guesses):
        stands = text.random.random() * float(chances[k][guess]) < float(chance_TV[k, guess])  # False for nan
        if not stands:
            if bool(score_TV[k].isneginf().all()):
                return k, None
            more_V = (chance_TV[k] - chances[k]).clamp(min=0)
            rest_V = more_V if float(more_V.sum()) > 0 else chance_TV[k]  # equal up to rounding
            return k, drawn(rest_V[None], [text.random.random()])[0]
    if bool(score_TV[-1].isneginf().all()):
        return len(guesses), None
    return len(guesses), drawn(chance_TV[-1:], [text.random.random()])[0]
