"""Continues texts with a language model, by whichever way the settings say: the loop under every generated text.

Plain choice (greedy or drawn) is here; beams, contrastive search and drafts have their own files. Each text draws from
a stream of its own, so that what it becomes does not depend on what is written beside it.

B texts side by side, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from strata import rng
from strata.errors import ConfigError, DataError
from strata.tasks.beam import beam_search
from strata.tasks.constrain import Constraint, spelling
from strata.tasks.contrastive import contrastive_search
from strata.tasks.decoding import Decoding, Path, Rules
from strata.tasks.reading import Reader
from strata.tasks.speculative import speculative

Ending = Literal["", "stop", "length", "complete", "exhausted"]
Decoder = Callable[[int], str]
"""Turns token after token into text."""


class Writing:
    """A text in the making.

    Args:
        prompt: what stands before it, as the rules look at it.
        number: of the stream of random numbers, among texts of one seed.
        decoder: gives the text of each token, in order; None where nobody reads it.
        stream: called with each piece of text as soon as it is certain.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        rules: Rules,
        *,
        number: int = 0,
        decoder: Decoder | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> None:
        self.rules, self.path = rules, Path([*prompt], [])
        self.random = random.Random(rng.derive(rules.settings.seed, "generated tokens", number))
        self.text = ""
        """Without what may yet turn out to be the beginning of a stop string."""
        self.ended: Ending = ""
        """Why: a stop token or string, the number of tokens, a regular expression complete, no token allowed."""
        self._decoder, self._stream, self._held = decoder, stream, ""

    @property
    def tokens(self) -> list[int]:
        """What was written, without a stop token; that of a stop string is there."""
        tokens = self.path.tokens
        return tokens[:-1] if tokens and tokens[-1] in self.rules.stop_tokens else tokens

    def add(self, token: int) -> None:
        """Write one more token."""
        self.path = self.rules.extended(self.path, token)
        if token in self.rules.stop_tokens:
            self.end("stop")
            return
        piece = self._decoder(token) if self._decoder is not None else ""
        if len(self.path.tokens) < self.rules.settings.min_tokens:
            self._say(piece)
        elif self._found_stop(piece):
            self.end("stop")
            return
        if self.rules.ends(self.path):
            self.end("length" if len(self.path.tokens) >= self.rules.most else "complete")

    def end(self, reason: Ending) -> None:
        """Write no more. Raises ConfigError for a text that has to match an expression and does not yet."""
        self._say(self._held)
        self._held, self.ended = "", reason
        constraint = self.rules.constraint
        if constraint is not None and not constraint.accepts(self.path.state):
            raise ConfigError(
                f"After {len(self.path.tokens)} tokens the text does not match regex={constraint.pattern} yet. "
                "Allow more tokens, or a shorter match."
            )

    def _found_stop(self, piece: str) -> bool:
        text = self._held + piece
        stops = self.rules.settings.stop
        places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
        if places:
            self._held = text[: min(places)]
            return True
        begun = max((begun_at_end(text, stop) for stop in stops), default=0)
        self._held = text[len(text) - begun :]
        self._say(text[: len(text) - begun])
        return False

    def _say(self, piece: str) -> None:
        self.text += piece
        if piece and self._stream is not None:
            self._stream(piece)


def begun_at_end(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


@dataclass(frozen=True)
class Language:
    """The two ends of a text: how a model's tokens are spelled, and which of them begin and end one."""

    preprocess: Any
    """With ``decoder(after)``, ``token_bytes`` and ``vocab_size``; None for tokens that nobody reads as text."""
    stop_tokens: tuple[int, ...] = ()
    start_token: int | None = None
    """What an encoder-decoder's target begins with."""

    @classmethod
    def of(cls, preprocess: Any) -> Language:
        """Return what a preprocess object says of its own special tokens."""
        end, start = getattr(preprocess, "end", None), getattr(preprocess, "start", None)
        return cls(preprocess, () if end is None else (end,), start)

    def decoder(self, prompt: Sequence[int]) -> Decoder | None:
        """Return what spells the tokens that come after a prompt."""
        if self.preprocess is None:
            return None
        decoder: Decoder = self.preprocess.decoder(prompt)
        return decoder


def write(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    settings: Decoding,
    language: Language,
    *,
    device: torch.device,
    draft: nn.Module | None = None,
    stream: Callable[[str], None] | None = None,
) -> list[list[Writing]]:
    """Continue each prompt, or for an encoder-decoder answer each source: ``settings.number`` texts each, best first.

    Args:
        prompts: at least one token each.
        draft: a smaller model of the same vocabulary, which guesses ahead; what is written stays the model's own
            (Leviathan et al. 2023).
        stream: called with each piece of the text as it comes; for one text alone.

    Raises ConfigError for settings that this model or these tokens do not allow.
    """
    texts, writing = begin(model, prompts, settings, language, device=device, draft=draft, stream=stream)
    for _ in writing:
        pass
    return texts


def begin(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Decoding,
    language: Language,
    *,
    device: torch.device,
    draft: Any = None,
    stream: Callable[[str], None] | None = None,
) -> tuple[list[list[Writing]], Iterator[None]]:
    """Return texts that are empty yet, and what writes them: each step of it adds what is certain next.

    The arguments are those of `write`.
    """
    if stream is not None and len(prompts) * settings.number != 1:
        raise ConfigError("Only one text can be streamed: give one prompt, and number=1.")
    if any(not prompt for prompt in prompts):
        raise DataError("A prompt has to hold at least one token.")
    is_pair = bool(getattr(model, "is_encoder_decoder", False))
    before = [[*prompt] for prompt in prompts]
    if is_pair:
        if language.start_token is None:
            raise ConfigError("This tokenizer has no start token, from which an encoder-decoder begins to write.")
        before = [[language.start_token] for _ in prompts]
    most = settings.tokens
    if is_pair:
        most = min(most, getattr(model.config, "context", most))
    constraint = None
    if settings.regex is not None:
        if language.preprocess is None:
            raise ConfigError("regex needs a tokenizer, which says how tokens are spelled.")
        constraint = Constraint(settings.regex, spelling(language.preprocess))
    stop_tokens = tuple(dict.fromkeys((*language.stop_tokens, *settings.stop_tokens)))
    size = getattr(model.config, "vocab_size", None)
    if size is not None and any(token >= size for token in settings.stop_tokens):
        raise ConfigError(f"stop_tokens={max(settings.stop_tokens)} is not one of this model's {size} tokens.")
    rules = Rules(settings, stop_tokens, constraint, most)

    def new(row: int, number: int) -> Writing:
        decoder = language.decoder([] if is_pair else prompts[row])
        return Writing(before[row], rules, number=number, decoder=decoder, stream=stream)

    texts = [[new(row, number) for number in range(settings.number)] for row in range(len(prompts))]

    def reader(model: Any, rows: Sequence[int], **options: Any) -> Reader:
        sources = [prompts[row] for row in rows] if is_pair else None
        return Reader(model, [before[row] for row in rows], room=most, device=device, sources=sources, **options)

    rows = range(len(prompts))
    if draft is not None:
        if settings.beams > 1 or settings.contrastive is not None:
            raise ConfigError("A draft model helps choosing token by token; leave out beams and contrastive.")
        check_draft(model, draft)
        steps = (
            speculative(reader(model, [row]), reader(draft, [row]), text, rules) for row in rows for text in texts[row]
        )
        return texts, _one_after_the_other(steps)
    if settings.beams > 1:
        return texts, beam_search(reader(model, rows), texts, rules, language)
    if settings.contrastive is not None:
        if is_pair or not hasattr(model, "features"):
            raise ConfigError("Contrastive search compares hidden states, which this model does not give. Use beams.")
        return texts, contrastive_search(reader(model, rows, keeps_hidden=True), [one for (one,) in texts], rules)
    copies = [row for row in rows for _ in range(settings.number)]
    return texts, plain(reader(model, rows), copies, [text for several in texts for text in several], rules)


def check_draft(model: Any, draft: Any) -> None:
    """Raise ConfigError for a draft that cannot guess for a model."""
    if draft.config.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"The draft has {draft.config.vocab_size} tokens and the model {model.config.vocab_size}. "
            "Both have to be trained with the same tokens."
        )
    if bool(getattr(draft, "is_encoder_decoder", False)) != bool(getattr(model, "is_encoder_decoder", False)):
        raise ConfigError("The draft and the model read differently: only one of them is an encoder-decoder.")


@torch.no_grad()
def plain(reader: Reader, copies: Sequence[int], texts: Sequence[Writing], rules: Rules) -> Iterator[None]:
    """Write texts token by token, each greedily or drawn, until all have ended.

    Args:
        copies: for each text, which of the reader's it continues.
    """
    score_BV = reader.begin()[torch.tensor(copies, device=reader.device)]
    reader.reorder(copies)
    live = [*texts]
    while True:
        score_BV = rules.scores(score_BV, [text.path for text in live])
        dead_B = rules.exhausted(score_BV)
        chosen = rules.choose(score_BV, [0.0 if rules.settings.is_greedy else text.random.random() for text in live])
        for text, token, dead in zip(live, chosen, dead_B, strict=True):
            if dead:
                text.end("exhausted")
            else:
                text.add(token)
        yield
        kept = [row for row, text in enumerate(live) if not text.ended]
        if not kept:
            return
        reader.reorder(kept)
        live = [live[row] for row in kept]
        score_BV = reader.read([chosen[row] for row in kept])


def _one_after_the_other(steps: Iterator[Iterator[None]]) -> Iterator[None]:
    for step in steps:
        yield from step
