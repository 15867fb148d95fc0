"""Answers that people prefer to others: direct preference optimisation.

Paper: Rafailov et al. 2023, "Direct preference optimization: your language model is secretly a reward model", equation
7: the policy is the model, the reference the model as it began. What the reference says of an answer never changes, so
it is calculated once, before training, and no second model is kept. Label smoothing is Mitchell 2023's, "A note on DPO
with noisy preferences", equation 3.

B pairs of answers, T tokens of one with what it answers, D width, V vocabulary, N tokens of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from strata import losses
from strata.config import PositiveFloat
from strata.data.chat import NOT_LEARNED
from strata.data.dataset import Dataset, Split
from strata.errors import DataError
from strata.losses import LossSum
from strata.tasks.base import Draw, Measure, Sums, sums_of
from strata.tasks.chat import Chat


@dataclass(frozen=True, kw_only=True)
class Prefer(Chat):
    """The better of two answers."""

    kind: ClassVar[str] = "prefer"
    main_metric: ClassVar[str | None] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    beta: PositiveFloat = 0.1
    """How dearly it is paid to move away from the reference: the reward is beta * log(policy / reference)."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Share of the pairs that are taken to be the wrong way round."""

    def resolve(self, dataset: Dataset) -> Prefer:
        """Check that the data is pairs of answers."""
        if dataset.kind != "preferences":
            raise DataError(
                f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from pairs of answers: JSON "
                'lines such as {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"}.'
            )
        return self

    def split(self, dataset: Dataset, name: str, model_config: Any, *, training: bool) -> Split:
        """Return pairs, padded: a pack would tear them apart."""
        return dataset.splits[name]

    def reference(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log-probability of the answer that was chosen and of the other, (B, 2)."""
        return {"reference": log_probabilities(model, batch)}

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return nothing: pairs are of many lengths."""
        return ()

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return equation 7, smoothed, summed over the pairs."""
        loss_B = self._loss(self.rewards(model, batch), self.label_smoothing)
        return LossSum(loss_B.sum(), len(loss_B))

    def rewards(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the implicit reward of the answer that was chosen and of the other, (B, 2)."""
        return self.beta * (log_probabilities(model, batch) - batch["reference"])

    @staticmethod
    def _loss(reward_B2: Tensor, smoothing: float) -> Tensor:
        margin_B = reward_B2[:, 0] - reward_B2[:, 1]
        return -(1 - smoothing) * F.logsigmoid(margin_B) - smoothing * F.logsigmoid(-margin_B)

    def measure(self, model: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return the loss without smoothing, how often the reward is greater for what was chosen, and the rewards."""
        reward_B2 = self.rewards(model, batch)
        is_right_B = reward_B2[:, 0] > reward_B2[:, 1]
        chosen, rejected = reward_B2.double().sum(0)
        loss = self._loss(reward_B2, 0.0).sum()
        return Measure(sums_of(loss=loss, n=len(reward_B2), hits=is_right_B.sum(), chosen=chosen, rejected=rejected))

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracy and margin of the implicit reward, the rewards of both answers, and the loss."""
        n, chosen, rejected = int(sums["n"]), float(sums["chosen"]), float(sums["rejected"])
        return {
            "accuracy": int(sums["hits"]) / n,
            "margin": (chosen - rejected) / n,
            "reward_chosen": chosen / n,
            "reward_rejected": rejected / n,
            "loss": float(sums["loss"]) / n,
        }


def log_probabilities(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probability of the answer that was chosen and of the other, float32 at least, (B, 2).

    Both go through the model at once, and logits are calculated of the answers' tokens alone, some at a time; with
    gradients they are calculated again on the way back, so that they are never all there.
    """
    token_XT, target_XT = (
        _stacked(batch[one], batch[other], filler)
        for one, other, filler in (("input", "rejected", 0), ("target", "rejected_target", NOT_LEARNED))
    )
    hidden_XTD = model.features(token_XT)
    row_N, place_N = (target_XT != NOT_LEARNED).nonzero(as_tuple=True)
    hidden_ND, target_N = hidden_XTD[row_N, place_N], target_XT[row_N, place_N]
    parts = losses.token_chunks(len(target_N), model.head.out_features)
    pieces = [(hidden_ND[k : k + parts.step], target_N[k : k + parts.step]) for k in parts]
    if len(pieces) > 1:
        found = [checkpoint(_of_tokens, model.head, *piece, use_reentrant=False) for piece in pieces]
    else:
        found = [_of_tokens(model.head, *piece) for piece in pieces]
    of_token_N = torch.cat(found)
    total_X = of_token_N.new_zeros(len(token_XT)).index_add(0, row_N, of_token_N)
    return total_X.view(2, -1).T


def _of_tokens(head: nn.Module, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
    """Return each token's log-probability (N,)."""
    return -losses.cross_entropy_per_sample(head(hidden_ND), target_N).loss


def _stacked(one_BT: Tensor, other_BT: Tensor, filler: int) -> Tensor:
    """Return both below each other (2B, T), padded to the longer."""
    longest = max(one_BT.shape[1], other_BT.shape[1])
    return torch.cat([F.pad(part, (0, longest - part.shape[1]), value=filler) for part in (one_BT, other_BT)])
