"""How a model's scores become the next token: the settings, and what each of them does to the scores.

Greedy and temperature; top-k (Fan et al. 2018); top-p, the nucleus (Holtzman et al. 2020); min-p (Nguyen et al. 2024);
the repetition penalty of CTRL (Keskar et al. 2019, section 4.1); n-grams that may not come twice (Paulus et al. 2018,
section 2.5). They work in the order of transformers' `generate`, and give the same scores.

B texts side by side, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from strata import config
from strata.config import Fraction, NotNegative, NotNegativeFloat, Positive, PositiveFloat
from strata.errors import ConfigError, UnknownNameError
from strata.tasks.constrain import Constraint

Share = Annotated[float, Gt(0), Le(1)]
Number = Annotated[float, Gt(-math.inf), Lt(math.inf)]
DEFAULT_TEMPERATURE = 0.8
DEFAULT_CANDIDATES = 4
"""Of contrastive search; Su et al. 2022 take from 3 to 10."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a text is written; every setting is checked, and settings that exclude each other are refused."""

    tokens: Positive = 300
    """How many at most."""
    min_tokens: NotNegative = 0
    """How many at least, before a stop token or a stop string may end the text."""
    temperature: NotNegativeFloat | None = None
    """Scores are divided by it; 0 always takes the likeliest token. 0.8 if None, and 0 where nothing is drawn."""
    top_k: Positive | None = None
    """Draw among so many of the likeliest tokens; with ``contrastive``, how many candidates there are."""
    top_p: Share | None = None
    """Draw among the likeliest tokens that together have this probability."""
    min_p: Share | None = None
    """Draw among the tokens that have at least this share of the likeliest one's probability."""
    repetition_penalty: PositiveFloat = 1.0
    """Scores of tokens that are in the text already are divided by it, or multiplied where they are below zero."""
    no_repeat_ngram: Positive | None = None
    """No so many tokens in a row may come twice."""
    beams: Positive = 1
    """Keep so many of the likeliest texts at each step, and return the best."""
    length_penalty: Number = 1.0
    """A text's log-probability is divided by its number of tokens to this power; greater prefers longer texts."""
    contrastive: Fraction | None = None
    """Weight of the penalty for a token whose hidden state is like an earlier one's; Su et al. 2022 take 0.6."""
    regex: str | None = None
    """What is written matches this regular expression: see `strata.tasks.constrain` for what is understood."""
    stop: tuple[str, ...] = ()
    """Strings that end the text, and are cut off."""
    stop_tokens: tuple[Annotated[int, Ge(0)], ...] = ()
    """Tokens that end the text, beside the vocabulary's own end token."""
    seed: int = 0
    number: Positive = 1
    """Texts for each prompt: as many draws, or the best of the beams."""
    draft_tokens: Positive = 4
    """Tokens that a draft model guesses ahead."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, value in config.checked(self).items():
            object.__setattr__(self, name, value)
        if self.beams > 1:
            self._exclude("beams", "top_k", "top_p", "min_p", "contrastive")
            if self.number > self.beams:
                raise ConfigError(f"number={self.number} is more than beams={self.beams} find. Take more beams.")
        elif self.length_penalty != 1.0:
            raise ConfigError(f"length_penalty={self.length_penalty} compares beams. Set beams to more than 1.")
        elif self.is_greedy and self.number > 1:
            raise ConfigError(f"number={self.number} texts would be all the same: without chance there is only one.")
        if self.contrastive is not None:
            self._exclude("contrastive", "top_p", "min_p")
        if self.is_greedy and self.temperature:
            kind = "beams" if self.beams > 1 else "contrastive"
            raise ConfigError(f"temperature={self.temperature} has no meaning with {kind}, where nothing is drawn.")
        if self.min_tokens > self.tokens:
            raise ConfigError(f"min_tokens={self.min_tokens} is more than tokens={self.tokens}.")
        if "" in self.stop:
            raise ConfigError("stop='' is not allowed: it has to be a text of at least one character.")
        if self.regex is not None and (self.stop or self.min_tokens):
            other = "stop" if self.stop else "min_tokens"
            raise ConfigError(f"{other} and regex exclude each other: the expression says where the text ends.")

    def _exclude(self, setting: str, *others: str) -> None:
        for other in others:
            if getattr(self, other) is not None:
                raise ConfigError(f"{setting} and {other} exclude each other. Leave one of them out.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Decoding:
        """Return settings by name; those that are None keep their default. Raises ConfigError for an unknown one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownNameError("option", name, known)
        return cls(**{name: value for name, value in options.items() if value is not None})

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn by chance."""
        return self.beams > 1 or self.contrastive is not None or self.temperature == 0

    def without_effect(self) -> list[str]:
        """Return in words which settings change nothing here."""
        if not self.is_greedy or self.beams > 1 or self.contrastive is not None:
            return []
        given = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        return [f"{name} has no effect at temperature=0, which takes the likeliest token" for name in given]


@dataclass
class Path:
    """The tokens of a text so far, as the rules look at them."""

    prompt: Sequence[int]
    tokens: list[int]
    state: int = 0
    """Of the constraint, after the tokens."""


@dataclass(frozen=True)
class Rules:
    """What may come next in a text, and how likely."""

    settings: Decoding
    stop_tokens: tuple[int, ...] = ()
    """The settings' and the vocabulary's own."""
    constraint: Constraint | None = None
    most: int = 0
    """Tokens that there is room for: the settings' number, or fewer."""

    def extended(self, path: Path, token: int) -> Path:
        """Return a path with one more token."""
        state = path.state
        if self.constraint is not None and token not in self.stop_tokens:
            state = self.constraint.read(state, token)
        return Path(path.prompt, [*path.tokens, token], state)

    def ends(self, path: Path) -> bool:
        """Return whether a path that was extended can go no further."""
        if path.tokens[-1] in self.stop_tokens or len(path.tokens) >= self.most:
            return True
        return self.constraint is not None and self.constraint.is_complete(path.state)

    def scores(self, score_BV: Tensor, paths: Sequence[Path]) -> Tensor:
        """Return logits, or log-probabilities, after penalties; -inf for tokens that may not come next."""
        settings = self.settings
        plain = settings.repetition_penalty == 1.0 and settings.no_repeat_ngram is None and self.constraint is None
        if plain and not settings.min_tokens:
            return score_BV
        score_BV = score_BV.clone()
        for score_V, path in zip(score_BV, paths, strict=True):
            if settings.repetition_penalty != 1.0:
                seen = torch.tensor([*{*path.prompt, *path.tokens}], device=score_V.device)
                score_N, penalty = score_V[seen], settings.repetition_penalty
                score_V[seen] = torch.where(score_N < 0, score_N * penalty, score_N / penalty)
            if settings.no_repeat_ngram is not None:
                score_V[repeating([*path.prompt, *path.tokens], settings.no_repeat_ngram)] = -math.inf
            if len(path.tokens) < settings.min_tokens and self.stop_tokens:
                score_V[list(self.stop_tokens)] = -math.inf
            if self.constraint is not None:
                allowed = self.constraint.allowed(path.state, self.most - len(path.tokens)).tolist()
                if self.constraint.accepts(path.state):
                    allowed += self.stop_tokens
                else:
                    allowed = [token for token in allowed if token not in self.stop_tokens]
                kept_V = torch.full_like(score_V, -math.inf)
                kept_V[allowed] = score_V[allowed]
                score_V.copy_(kept_V)
        return score_BV

    def exhausted(self, score_BV: Tensor) -> list[bool]:
        """Return which texts no token may follow, because each would break a rule."""
        if self.settings.no_repeat_ngram is None and self.constraint is None and not self.settings.min_tokens:
            return [False] * len(score_BV)  # without waiting for the device
        dead_B: list[bool] = score_BV.isneginf().all(-1).tolist()
        return dead_B

    def probabilities(self, score_BV: Tensor) -> Tensor:
        """Return what the next tokens are drawn from, (B, V); all on one token where nothing is drawn."""
        settings = self.settings
        if settings.is_greedy:
            return torch.zeros_like(score_BV).scatter_(-1, score_BV.argmax(-1, keepdim=True), 1.0)
        temperature = DEFAULT_TEMPERATURE if settings.temperature is None else settings.temperature
        score_BV = (score_BV - score_BV.amax(-1, keepdim=True)) / temperature  # no overflow, however cold
        if settings.top_k is not None and settings.top_k < score_BV.shape[-1]:
            least_B1 = score_BV.topk(settings.top_k).values[:, -1:]
            score_BV = score_BV.masked_fill(score_BV < least_B1, -math.inf)
        if settings.top_p is not None and settings.top_p < 1.0:
            sorted_BV, token_BV = score_BV.sort(-1)
            outside_BV = sorted_BV.softmax(-1).cumsum(-1) <= 1 - settings.top_p
            outside_BV[:, -1] = False
            score_BV = score_BV.masked_fill(outside_BV.scatter(-1, token_BV, outside_BV), -math.inf)
        if settings.min_p is not None:
            probability_BV = score_BV.softmax(-1)
            least_B1 = settings.min_p * probability_BV.amax(-1, keepdim=True)
            score_BV = score_BV.masked_fill(probability_BV < least_B1, -math.inf)
        return score_BV.softmax(-1)

    def choose(self, score_BV: Tensor, uniform_B: Sequence[float]) -> list[int]:
        """Return the next token of each text, by one number from [0, 1) each where tokens are drawn."""
        if self.settings.is_greedy:
            return score_BV.argmax(-1).tolist()
        return drawn(self.probabilities(score_BV), uniform_B)


def drawn(probability_BV: Tensor, uniform_B: Sequence[float]) -> list[int]:
    """Return a token for each row, by the inverse of the summed probabilities, which need not add up to 1."""
    below_BV = probability_BV.cumsum(-1, dtype=torch.float64)
    uniform_B1 = torch.tensor(uniform_B, dtype=torch.float64, device=probability_BV.device)[:, None]
    return torch.searchsorted(below_BV, uniform_B1 * below_BV[:, -1:], right=True)[:, 0].tolist()


def repeating(tokens: Sequence[int], n: int) -> list[int]:
    """Return the tokens that would make the last n of a text a sequence that it holds already."""
    last = [*tokens[len(tokens) - n + 1 :]] if n > 1 else []
    if len(last) != n - 1:
        return []
    return [tokens[k + n - 1] for k in range(len(tokens) - n + 1) if [*tokens[k : k + n - 1]] == last]
