"""Hidden words, filled in from both sides: what BERT learns from (Devlin et al. 2019, section 3.1).

Of 15 % of a window's tokens most are replaced by a mask, some by any other token, and some stay as they are, so that
the model has to doubt every token that it sees. Words are hidden whole, as in the authors' later release: the rest of a
word would tell too much. Unusual here: what is hidden is drawn anew whenever a window is seen, and the vocabulary's
layer reads the hidden places alone.

B windows in a batch, T tokens in a window, K hidden places of a window, W words, D width, V vocabulary, M masks in use.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from strata import losses, metrics
from strata.config import Fraction, NotNegative, Probability
from strata.data.dataset import Dataset, Split
from strata.data.text import WindowSplit
from strata.data.tokens import TextPreprocess, one_newline
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.models import Reading
from strata.tasks.base import Answering, Draw, Measure, Sums, Task, parts_below_head
from strata.tasks.next_token import measured

MASKS = ("[MASK]", "<mask>")
"""How people write a mask, whatever the tokenizer calls it."""
LIKELIEST = 5
"""Tokens that an answer gives for each mask."""
_ROUNDS = 3
"""In which words are taken: a word too long for what is left of the share makes room for shorter ones behind it."""


@dataclass(frozen=True, kw_only=True)
class MaskedToken(Task):
    """Tokens that were hidden from a text."""

    kind: ClassVar[str] = "masked_token"
    main_metric: ClassVar[str | None] = "loss"
    higher_is_better: ClassVar[bool] = False
    model_fields: ClassVar[tuple[str, ...]] = ("vocab_size", "context")
    reading: ClassVar[Reading | None] = "whole"

    share: Probability = 0.15
    """Of a window's tokens that are to be guessed, at most."""
    masked: Fraction = 0.8
    """Share of these that a mask replaces."""
    replaced: Fraction = 0.1
    """Share of these that any token replaces; the rest stays as it is."""
    whole_words: bool = True
    """A word is hidden whole or not at all, where the tokens say where words begin."""
    mask_token: NotNegative | None = None
    """Filled in from the tokenizer, as are the following."""
    special_tokens: tuple[NotNegative, ...] = ()
    """Never hidden, nor put in place of another."""
    num_tokens: NotNegative = 0
    """Those of the tokenizer; a model may have room for more."""

    def resolve(self, dataset: Dataset) -> MaskedToken:
        """Fill in the special tokens. Raises DataError for data without running text, or without a mask."""
        if dataset.kind != "text":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from running text. "
                "Of records that hold a text, data.kind=text makes one."
            )
        if self.masked + self.replaced > 1:
            raise ConfigError(
                f"task.masked={self.masked} and task.replaced={self.replaced} are shares of the hidden tokens, and add "
                "up to more than 1."
            )
        return self.of(dataset.tokenizer)

    def of(self, text: TextPreprocess) -> MaskedToken:
        """Return the task with a tokenizer's special tokens filled in. Raises DataError where it has no mask."""
        if text.mask is None:
            raise DataError(
                f"These tokens ({text.tokens}) have no mask to hide others behind. Use data.tokens=wordpiece, bpe or "
                "unigram, or a data.tokenizer that has one."
            )
        special = tuple(sorted(text.special_ids.values()))
        return dataclasses.replace(self, mask_token=text.mask, special_tokens=special, num_tokens=text.vocab_size)

    def notes(self, dataset: Dataset) -> list[str]:
        """Return how much is hidden, and that documents are not told apart."""
        what = "whole words" if self.whole_words else "single tokens"
        said = [f"{self.share:.3g} of a window's tokens are hidden, in {what} (task.share, task.whole_words)"]
        if getattr(dataset.splits["train"], "end", None) is not None:
            said.append("data.separate_documents has no effect: a token sees the whole window")
        return said

    def sizes(self, dataset: Dataset) -> dict[str, Any]:
        """Return the data's sizes, and the head that gives words."""
        return dataset.sizes | {"head": "token"}

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return windows of the model's context, whose grid moves each epoch in training."""
        text, whole = dataset.tokenizer, self.whole_words
        room = model_config.context - len(_marks(text)[0]) - len(_marks(text)[1])
        if room < 1:
            raise ConfigError(f"model.context={model_config.context} leaves no room for text. Take at least 16.")
        split: Any = dataset.splits[name]
        return MaskableSplit(split.windows(room, shift=training), text, whole_words=whole)

    def hide(self, token_BT: Tensor, word_BT: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Hide tokens: return what the model sees (B, T), the places (B, K), and what stood there (B, K).

        K is the same for all windows; where fewer tokens are hidden, the last of what stood there is -100.

        Args:
            word_BT: the number of each token's word, from 0; -1 for special tokens.
        """
        T = token_BT.shape[1]
        K = max(1, round(self.share * T))
        chosen_BT = chosen_words(word_BT, K, draw.uniform("words to hide", T))
        place_BK = chosen_BT.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :K]
        is_hidden_BK = torch.arange(K, device=token_BT.device) < chosen_BT.sum(1, keepdim=True)
        true_BK = token_BT.gather(1, place_BK)
        assert self.mask_token is not None, "resolve() fills it in"
        how_BK = draw.uniform("how to hide", K)
        other_BK = self._ordinary(draw.uniform("other tokens", K))
        seen_BK = torch.where(how_BK < self.masked + self.replaced, other_BK, true_BK)
        seen_BK = seen_BK.masked_fill(how_BK < self.masked, self.mask_token)
        seen_BT = token_BT.scatter(1, place_BK, seen_BK.where(is_hidden_BK, true_BK))
        return seen_BT, place_BK, true_BK.masked_fill(~is_hidden_BK, -100)

    def _ordinary(self, uniform_BK: Tensor) -> Tensor:
        """Turn numbers in [0, 1) into tokens, all but the special ones equally often."""
        special_S = torch.tensor(self.special_tokens, dtype=torch.int64, device=uniform_BK.device)
        before_S = special_S - torch.arange(len(special_S), device=uniform_BK.device)  # ordinary ones, of each
        rank_BK = (uniform_BK.double() * (self.num_tokens - len(special_S))).long()
        return rank_BK + torch.searchsorted(before_S, rank_BK, right=True)

    def _read(self, model: Any, batch: Mapping[str, Tensor], draw: Draw) -> tuple[Tensor, Tensor]:
        """Return what the vocabulary's layer reads at the hidden places (B, K, D), and what stood there (B, K)."""
        seen_BT, place_BK, true_BK = self.hide(batch["input"], batch["word"], draw)
        x_BTD = model.features(seen_BT)
        x_BKD = x_BTD.gather(1, place_BK[..., None].expand(-1, -1, x_BTD.shape[-1]))
        return model.head.transform(x_BKD), true_BK

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return the cross-entropy summed over the hidden tokens, in nats."""
        x_BKD, true_BK = self._read(model, batch, draw)
        decoder: Any = model.head.decoder  # type: ignore[union-attr]
        return losses.linear_cross_entropy(x_BKD, decoder.weight, true_BK, bias_V=decoder.bias)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the summed loss, the hits and the number of hidden tokens, which are the same each time."""
        x_BKD, true_BK = self._read(model, batch, draw)
        decoder: Any = model.head.decoder  # type: ignore[union-attr]
        return Measure(measured(x_BKD, decoder, true_BK, decoder.out_features))

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return loss in nats a hidden token, the perplexity that follows from it, and the share guessed rightly.

        The perplexity is no language model's: the words around a hidden one are known.
        """
        n, total = max(1, int(sums["n"])), float(sums["loss"])
        return {"loss": total / n, "perplexity": metrics.perplexity(total, n), "accuracy": int(sums["hits"]) / n}

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the parts below the head."""
        return parts_below_head(model)

    def read(self, raw: Any, preprocess: Any) -> Tensor:
        """Turn a text with masks into tokens between marks. Raises DataError where it has none."""
        if not isinstance(raw, str):
            raise DataError(f"A text is a str, not {type(raw).__name__}.")
        name = preprocess.token_text(preprocess.mask)
        names = "|".join(re.escape(mask) for mask in dict.fromkeys((name, *MASKS)))
        parts = re.split(f" ?(?:{names})", one_newline(raw))  # a space before a word is often a part of its token
        if len(parts) == 1:
            raise DataError(f"The text has no mask to fill in. Write {MASKS[0]} in the place of a word.")
        first, last = _marks(preprocess)
        tokens = preprocess.encode(name.join(parts), marked=True)
        return torch.tensor([*first, *tokens.tolist(), *last], dtype=torch.int64)

    def answers(self, model: nn.Module, input_B: Tensor, context: Answering) -> list[dict[str, Any]]:
        """Return the likeliest tokens for each mask of each text, and the text with the likeliest filled in."""
        assert self.mask_token is not None, "resolve() fills it in"
        row_M, place_M = input_B.eq(self.mask_token).nonzero().unbind(1)
        x_MD = model.features(input_B)[row_M, place_M]  # type: ignore[operator]
        chance_MV = model.head(x_MD).float().softmax(-1)  # type: ignore[operator]
        chance_MV[:, self.num_tokens :] = 0
        chance_MV[:, list(self.special_tokens)] = 0
        chance_MK, token_MK = chance_MV.topk(min(LIKELIEST, self.num_tokens - len(self.special_tokens)))
        filled_BT = input_B.clone()
        filled_BT[row_M, place_M] = token_MK[:, 0]
        found: list[dict[str, Any]] = [{"text": context.preprocess.decode(row), "masks": []} for row in filled_BT]
        spelled = context.preprocess.token_text
        for row, chances, tokens in zip(row_M.tolist(), chance_MK.tolist(), token_MK.tolist(), strict=True):
            likeliest = zip(tokens, chances, strict=True)
            found[row]["masks"].append([{"text": spelled(token).strip(), "probability": p} for token, p in likeliest])
        return found


class MaskableSplit:
    """Windows of a text between the marks of a beginning and an end, with the number of each token's word.

    A batch has ``input`` and ``word``, int64 (B, T): words are numbered from 0 in each window, special tokens have -1.
    """

    in_memory = True

    def __init__(self, windows: WindowSplit, text: TextPreprocess, *, whole_words: bool) -> None:
        self.windows = windows
        self.first, self.last = _marks(text)
        self.context = windows.context + len(self.first) + len(self.last)
        begins_V = text.word_starts() if whole_words else np.ones(text.vocab_size, dtype=bool)
        special_V = np.zeros(text.vocab_size, dtype=bool)
        special_V[list(text.special_ids.values())] = True
        self._begins_V, self._is_special_V = torch.from_numpy(begins_V | special_V), torch.from_numpy(special_V)

    def __len__(self) -> int:
        return len(self.windows)

    def gather(self, index_B: Tensor, epoch_B: Tensor) -> dict[str, Tensor]:
        """Return windows and the words in them."""
        token_BT = self.windows.gather(index_B, epoch_B)["input"]
        marks = [token_BT.new_tensor(marks).expand(len(token_BT), -1) for marks in (self.first, self.last)]
        token_BT = torch.cat([marks[0], token_BT, marks[1]], dim=1)
        begins_BT, is_special_BT = (
            table_V.to(token_BT.device)[token_BT] for table_V in (self._begins_V, self._is_special_V)
        )
        begins_BT[:, 0] = True  # or goes on with a word that the window cuts
        return {"input": token_BT, "word": (begins_BT.cumsum(1) - 1).masked_fill(is_special_BT, -1)}


def chosen_words(word_BT: Tensor, most: int, uniform_BT: Tensor) -> Tensor:
    """Choose words at random until ``most`` tokens are chosen, or almost: bool (B, T), never more.

    Args:
        word_BT: the number of each token's word, below T; -1 for tokens that may not be chosen.
        uniform_BT: a random number for each word; those with the lowest come first.
    """
    word_BT, may_BT = word_BT.clamp(min=0), word_BT >= 0
    size_BW = torch.zeros_like(word_BT).scatter_add_(1, word_BT, may_BT.long())
    order_BW = uniform_BT.argsort(dim=1, stable=True)
    size_BW = size_BW.gather(1, order_BW)
    taken_BW = torch.zeros_like(size_BW, dtype=torch.bool)
    for _ in range(_ROUNDS):
        left_B1 = most - (size_BW * taken_BW).sum(1, keepdim=True)
        fits_BW = ~taken_BW & (size_BW <= left_B1)
        taken_BW |= fits_BW & ((size_BW * fits_BW).cumsum(1) <= left_B1)
    taken_BW = torch.zeros_like(taken_BW).scatter(1, order_BW, taken_BW)
    return taken_BW.gather(1, word_BT) & may_BT


def _marks(text: TextPreprocess) -> tuple[list[int], list[int]]:
    """Return what stands before and after each text, as where it is told apart from others later."""
    return tuple([] if mark is None else [mark] for mark in (text.cls, text.sep))  # type: ignore[return-value]
