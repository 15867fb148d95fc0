"""A generator against a discriminator: the losses of the paper, and samples that are functions of their seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from strata.models.dcgan import DCGAN, TINY
from strata.tasks import Draw
from strata.tasks.adversarial import Adversarial
from strata.tasks.base import Answering

DRAW = Draw(0, 3, torch.arange(6))
CONTEXT = Answering((), None, torch.device("cpu"))


@pytest.fixture
def model() -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(TINY)


def real() -> dict[str, torch.Tensor]:
    return {"input": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1}


def test_the_players_losses_are_those_of_the_paper(model: DCGAN) -> None:
    model.eval()
    made = model.generator(DRAW.normal("discriminator noise", TINY.latent_size))
    real_B, fake_B = model.discriminator(real()["input"]), model.discriminator(made)
    expected = F.softplus(-real_B).sum() + F.softplus(fake_B).sum()  # -log D(x) - log(1 - D(G(z)))
    torch.testing.assert_close(Adversarial().objective(model, real(), "discriminator", DRAW).total, expected)
    smooth = Adversarial(real_label_smoothing=0.1).objective(model, real(), "discriminator", DRAW).total
    torch.testing.assert_close(smooth, expected + 0.1 * real_B.sum())

    fake_B = model.discriminator(model.generator(DRAW.normal("generator noise", TINY.latent_size)))
    found = Adversarial().objective(model, {}, "generator", DRAW)
    torch.testing.assert_close(found.total, F.softplus(-fake_B).sum())
    found = Adversarial(generator_loss="minimax").objective(model, {}, "generator", DRAW)
    torch.testing.assert_close(found.total, -F.softplus(fake_B).sum())
    assert found.count == 6


def test_the_discriminators_loss_does_not_reach_the_generator(model: DCGAN) -> None:
    Adversarial().objective(model, real(), "discriminator", DRAW).total.backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.discriminator.parameters())


def test_the_discriminator_runs_as_often_as_it_is_told(model: DCGAN) -> None:
    (stage,) = Adversarial(discriminator_steps=5).stages()
    assert [(p.name, p.repeats, p.needs_data) for p in stage.phases] == [
        ("discriminator", 5, True),
        ("generator", 1, False),
    ]


def test_metrics_say_how_often_the_discriminator_is_right(model: DCGAN) -> None:
    model.eval()
    task = Adversarial()
    metrics = task.metrics(task.measure(model, real(), DRAW).sums, {})
    assert 0 <= metrics["discriminator_accuracy"] <= 1 and metrics["discriminator_loss"] > 0
    assert 0 < metrics["belief_in_fake"] < 1


def test_picture_k_of_a_seed_is_the_same_for_any_count(model: DCGAN) -> None:
    model.eval()

    def make(**options: Any) -> torch.Tensor:
        images = Adversarial().sample(model, CONTEXT, **options).images
        assert images is not None
        return images

    nine = make(count=9, seed=5)
    assert nine.shape == (9, 1, 8, 8) and nine.dtype == torch.uint8
    assert (make(count=3, seed=5).int() - nine[:3].int()).abs().max() <= 1
    assert not torch.equal(make(count=9, seed=6), nine)
