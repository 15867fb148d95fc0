"""Contrastive search: among the likeliest tokens, the one that is least like what was written before.

Paper: Su et al. 2022, "A contrastive framework for neural text generation", equation 5: (1 - a) times a token's
probability, less a times the greatest cosine between its hidden state and an earlier token's.

B texts side by side, C candidates of each, T tokens read, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from strata.tasks.decoding import DEFAULT_CANDIDATES, Rules
from strata.tasks.reading import Reader

if TYPE_CHECKING:
    from strata.tasks.writing import Writing


@torch.no_grad()
def contrastive_search(reader: Reader, texts: Sequence[Writing], rules: Rules) -> Iterator[None]:
    """Write texts token by token; every candidate is read once, in a row of its own."""
    score_BV = reader.begin()
    C = min(rules.settings.top_k or DEFAULT_CANDIDATES, score_BV.shape[-1])
    weight = float(rules.settings.contrastive or 0.0)
    live = [*texts]
    before_BTD = _unit(reader)
    if reader.mask_BT is not None:
        before_BTD = before_BTD * reader.mask_BT[:, :, None]  # padding is like nothing
    before_BT1 = reader.mask_BT
    reader.reorder([row for row in range(len(live)) for _ in range(C)])
    while True:
        score_BV = rules.scores(score_BV, [text.path for text in live])
        dead_B = rules.exhausted(score_BV)
        probability_BC, token_BC = score_BV.softmax(-1).nan_to_num().topk(C)
        candidates = token_BC.tolist()
        score_NV = reader.read([token for several in candidates for token in several])
        state_BCD = _unit(reader)[:, -1].view(len(live), C, -1)
        cosine_BCT = state_BCD @ before_BTD.transpose(1, 2)
        if before_BT1 is not None:
            cosine_BCT = cosine_BCT.masked_fill(~before_BT1[:, None], -1.0)
        worth_BC = (1 - weight) * probability_BC - weight * cosine_BCT.amax(-1)
        best_B = worth_BC.masked_fill(probability_BC == 0, -torch.inf).argmax(-1)
        chosen = best_B.tolist()
        for row, text in enumerate(live):
            if dead_B[row]:
                text.end("exhausted")
            else:
                text.add(candidates[row][chosen[row]])
        yield
        kept = [row for row, text in enumerate(live) if not text.ended]
        if not kept:
            return
        live = [live[row] for row in kept]
        index_B = torch.tensor(kept, device=state_BCD.device)
        taken_BD = state_BCD[index_B, best_B[index_B]]
        before_BTD = torch.cat([before_BTD[index_B], taken_BD[:, None]], dim=1)
        if before_BT1 is not None:
            before_BT1 = F.pad(before_BT1[index_B], (0, 1), value=True)
        rows = [row * C + chosen[row] for row in kept]
        score_BV = score_NV[torch.tensor(rows, device=score_NV.device)]
        reader.reorder([row for row in rows for _ in range(C)])


def _unit(reader: Reader) -> Tensor:
    """Return the hidden states last read, each of length 1."""
    assert reader.hidden_BTD is not None
    state_BTD = reader.hidden_BTD
    return F.normalize(state_BTD if state_BTD.dtype == torch.float64 else state_BTD.float(), dim=-1)
