"""A model that reads along with texts while they are written, each token once.

Texts of unequal length stand flush right, padded on the left, and a row's padding is never looked at. When a text fills
the model's context its window slides: the later half is kept and all is read anew, so that each further token costs one
step again. A row slides by its own length alone, so that it is written as it would be by itself.

B texts side by side, T tokens read now, S source tokens, D width, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strata.errors import ConfigError


def context_of(model: Any, device: torch.device) -> int:
    """Return how many tokens a model can look back on: any number where nothing says otherwise."""
    context: int = getattr(model.config, "context", sys.maxsize)
    if getattr(model, "is_encoder_decoder", False) or context == sys.maxsize:
        return context
    grows = model.new_cache(1, 1, device=device).length == 1
    return context if grows else sys.maxsize  # a recurrent net's state, whose context is that of training


class Reader:
    """Texts in front of a model, with its cache: gives the scores of what may follow them.

    Args:
        model: decoder-only or recurrent, ``model(token_BT, cache=, mask_BT=)`` with ``new_cache``, or an
            encoder-decoder with ``new_cache(source_BS, source_mask_BS, length)`` and ``decode``.
        texts: what stands there already, a token at least each (may be empty if `read_on` follows); an
            encoder-decoder's start token.
        room: tokens that will be added at most.
        sources: what an encoder-decoder reads, one for each text.
        keeps_hidden: keep what the head read last, in `hidden_BTD`.
    """

    def __init__(
        self,
        model: Any,
        texts: Sequence[Sequence[int]],
        *,
        room: int,
        device: torch.device,
        sources: Sequence[Sequence[int]] | None = None,
        keeps_hidden: bool = False,
    ) -> None:
        self.model, self.device, self.keeps_hidden = model, device, keeps_hidden
        self.hidden_BTD: Tensor | None = None
        self.mask_BT: Tensor | None = None
        """Of the texts last read from their beginning; None where they were equally long."""
        self._sources = sources
        self._room = room
        self.context = context = context_of(model, device)
        self.windows = [[*text[-context:]] for text in texts]
        self._cache: Any = None

    @property
    def can_rewind(self) -> bool:
        """Whether tokens that were read can be taken back."""
        return bool(self._cache is None or self._cache.can_rewind)

    @property
    def free(self) -> int:
        """Tokens that the longest text can take before its window slides."""
        return self.context - max(map(len, self.windows))

    def begin(self) -> Tensor:
        """Read the texts from their beginning; return the scores of what follows each, (B, V)."""
        return self._begin(1)[:, -1]

    def _begin(self, places: int) -> Tensor:
        length = max(map(len, self.windows))
        capacity = min(self.context, length + self._room)
        token_BT = torch.zeros(len(self.windows), length, dtype=torch.int64)
        real_BT = torch.zeros(len(self.windows), length, dtype=torch.bool)
        for row, window in enumerate(self.windows):
            token_BT[row, length - len(window) :] = torch.tensor(window)
            real_BT[row, length - len(window) :] = True
        self.mask_BT = None if bool(real_BT.all()) else real_BT.to(self.device)
        if self._sources is None:
            self._cache = self.model.new_cache(len(self.windows), capacity, device=self.device)
        else:
            source_BS, mask_BS = self._padded_sources(self._sources)
            self._cache = self.model.new_cache(source_BS, mask_BS, capacity)
        return self._scores(token_BT.to(self.device), self.mask_BT, places)

    def _padded_sources(self, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        source_BS = torch.zeros(len(sources), max(map(len, sources)), dtype=torch.int64)
        mask_BS = torch.zeros_like(source_BS, dtype=torch.bool)
        for row, source in enumerate(sources):
            source_BS[row, : len(source)] = torch.tensor(source)
            mask_BS[row, : len(source)] = True
        return source_BS.to(self.device), None if bool(mask_BS.all()) else mask_BS.to(self.device)

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of each text; return the scores of what follows it, (B, V)."""
        slides = False
        for window, token in zip(self.windows, tokens, strict=True):
            window.append(token)
            slides |= self._slid(window)
        if slides or self._cache.position >= self._cache.length:  # full of rows that have ended
            return self.begin()
        return self._scores(torch.tensor(tokens, device=self.device)[:, None], None, 1)[:, -1]

    def _slid(self, window: list[int]) -> bool:
        """Cut a window that is longer than the context to its later half; return whether it was."""
        if len(window) <= self.context:
            return False
        if self._sources is not None:
            raise ConfigError(f"The text is longer than this model's context of {self.context} tokens.")
        del window[: len(window) - max(1, self.context // 2)]
        return True

    def read_on(self, tokens: Sequence[int]) -> Tensor:
        """Read several more tokens of the only text; return the scores of what follows each, (T, V).

        Where the window has to slide there is one score alone: of what follows the last.
        """
        window = self.windows[0]
        window += tokens
        if self._slid(window):
            return self._begin(1)[0]
        if self._cache is None:
            return self._begin(len(tokens))[0]
        return self._scores(torch.tensor([tokens], device=self.device), None, len(tokens))[0]

    def rewind(self, count: int) -> None:
        """Take back the last tokens of the only text."""
        if count:
            del self.windows[0][-count:]
            self._cache.position -= count

    def reorder(self, rows: Sequence[int]) -> None:
        """Let text b be what text ``rows[b]`` was; there may be fewer or more of them than before."""
        if [*rows] == [*range(len(self.windows))]:
            return
        self.windows = [[*self.windows[row]] for row in rows]
        if self._sources is not None:
            self._sources = [self._sources[row] for row in rows]
        self._cache.reorder(torch.tensor(rows, device=self.device))

    def _scores(self, token_BT: Tensor, mask_BT: Tensor | None, places: int) -> Tensor:
        """Return logits at the last places, (B, places, V), in fp32 at least: a prompt's other logits never exist."""
        masks = {} if mask_BT is None else {"mask_BT": mask_BT}
        if self._sources is not None:
            score_BTV = self.model.decode(token_BT, self._cache)[:, -places:]
        elif self.keeps_hidden or (token_BT.shape[1] > places and hasattr(self.model, "features")):
            hidden_BTD = self.model.features(token_BT, cache=self._cache, **masks)
            if self.keeps_hidden:
                self.hidden_BTD = hidden_BTD
            score_BTV = self.model.head(hidden_BTD[:, -places:])
        else:
            score_BTV = self.model(token_BT, cache=self._cache, **masks)[:, -places:]
        if score_BTV.device.type == "mps":
            score_BTV = score_BTV.cpu()  # tokens are drawn in float64, which it lacks
        return score_BTV if score_BTV.dtype == torch.float64 else score_BTV.float()
