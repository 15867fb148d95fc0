"""A generator against a discriminator (Goodfellow et al. 2014, algorithm 1).

Two phases a step: the discriminator learns to tell data from what the generator makes, ``discriminator_steps`` times;
then the generator learns to pass, by the non-saturating loss of the paper's section 3.

B samples in a batch, Z latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata import rng
from strata.config import Positive, Probability
from strata.data.dataset import Dataset
from strata.errors import ConfigError, DataError
from strata.losses import LossSum
from strata.tasks.base import Answering, Draw, Measure, Phase, Sample, Stage, Sums, Task, sums_of


@dataclass(frozen=True, kw_only=True)
class Adversarial(Task):
    """Pictures like those of the data, from noise."""

    kind: ClassVar[str] = "adversarial"
    generates: ClassVar[bool] = True
    model_fields: ClassVar[tuple[str, ...]] = ("latent_size",)

    discriminator_steps: Positive = 1
    generator_loss: Literal["non_saturating", "minimax"] = "non_saturating"
    real_label_smoothing: Probability = 0.0
    """Real samples' label is 1 minus this (Salimans et al. 2016, section 3.4)."""

    def resolve(self, dataset: Dataset) -> Adversarial:
        """Check that the data is pictures, scaled as a tanh generator makes them."""
        if dataset.kind != "image":
            raise DataError(f"Data {dataset.name!r} is of kind {dataset.kind!r}; this recipe learns from pictures.")
        scale: Any = dataset.preprocess
        if {*scale.mean, *scale.std} != {0.5}:
            raise ConfigError("A generator makes pixels from -1 to 1, so the data has to be so too: data.pixels=tanh.")
        return self

    def stages(self) -> tuple[Stage, ...]:
        """Return one stage: discriminator, then generator."""
        discriminator = Phase(name="discriminator", parameters=("discriminator.",), repeats=self.discriminator_steps)
        generator = Phase(name="generator", parameters=("generator.",), needs_data=False)
        return (Stage(phases=(discriminator, generator)),)

    def compiled_parts(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return generator and discriminator."""
        return (model.generator, model.discriminator)  # type: ignore[return-value]

    def objective(self, model: Any, batch: Mapping[str, Tensor], phase: str, draw: Draw) -> LossSum:
        """Return one player's loss, summed over samples."""
        noise_BZ = draw.normal(f"{phase} noise", model.config.latent_size)
        if phase == "generator":
            fake_B = model.discriminator(model.generator(noise_BZ)).float()
            if self.generator_loss == "minimax":
                return LossSum(-F.softplus(fake_B).sum(), fake_B.numel())
            return LossSum(F.softplus(-fake_B).sum(), fake_B.numel())
        with torch.no_grad():
            made = model.generator(noise_BZ)
        real_B = model.discriminator(batch["input"]).float()
        fake_B = model.discriminator(made.detach()).float()
        label_B = torch.full_like(real_B, 1.0 - self.real_label_smoothing)
        real = F.binary_cross_entropy_with_logits(real_B, label_B, reduction="sum")
        return LossSum(real + F.softplus(fake_B).sum(), real_B.numel())

    def measure(self, model: Any, batch: Mapping[str, Tensor], draw: Draw) -> Measure:
        """Return how the discriminator judges held-out data and fresh samples."""
        made = model.generator(draw.normal("evaluation noise", model.config.latent_size))
        real_B = model.discriminator(batch["input"]).float()
        fake_B = model.discriminator(made).float()
        return Measure(
            sums_of(
                n=real_B.numel(),
                real=torch.sigmoid(real_B).sum(),
                fake=torch.sigmoid(fake_B).sum(),
                right=(real_B > 0).sum() + (fake_B <= 0).sum(),
                loss=F.softplus(-real_B).sum() + F.softplus(fake_B).sum(),
            )
        )

    def metrics(self, sums: Sums, per_sample: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the discriminator's loss, its hits (0.5 is a generator it cannot tell from data), its mean beliefs."""
        n = int(sums["n"])
        return {
            "discriminator_loss": float(sums["loss"]) / n,
            "discriminator_accuracy": int(sums["right"]) / (2 * n),
            "belief_in_real": float(sums["real"]) / n,
            "belief_in_fake": float(sums["fake"]) / n,
        }

    def sample(self, model: Any, context: Answering, **options: Any) -> Sample:
        """Make ``options["count"]`` pictures from ``options["seed"]``; picture k is the same for any count."""
        number_B = torch.arange(options.get("count", 64), device=context.device)
        noise_BZ = rng.normal(options.get("seed", 0), "sample noise", 0, number_B, model.config.latent_size)
        made = model.generator(noise_BZ).float()
        return Sample(images=((made + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
