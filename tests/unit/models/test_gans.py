"""What both GANs share: the interface, the range of pixels, the noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from strata import models
from strata.errors import ConfigError
from strata.models.dcgan import DCGAN, DCGANConfig
from strata.models.gan import GAN, GANConfig, Maxout

SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 4, "latent_size": 6},
    "gan": {"generator_hidden": (8,), "discriminator_hidden": (8,), "latent_size": 6},
}


def build(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return models.build(models.config_class(family)(**SMALL[family] | changes))


@pytest.mark.parametrize("family", ["dcgan", "gan"])
@pytest.mark.parametrize("image_size", [4, 7, 8, 12, 20, 28, 30, 32, 36, 48, 64, 100])
def test_any_picture_size_works(family: str, image_size: int) -> None:
    model = build(family, image_size=image_size, in_channels=3)
    image_BCHW = model.generator(torch.randn(2, 6))
    assert image_BCHW.shape == (2, 3, image_size, image_size)
    assert image_BCHW.abs().max() <= 1
    assert model.discriminator(image_BCHW).shape == (2,)


@pytest.mark.parametrize("family", ["dcgan", "gan"])
def test_forward_is_the_generator(family: str) -> None:
    model, noise_BZ = build(family).eval(), torch.randn(2, 6)
    assert torch.equal(model(noise_BZ), model.generator(noise_BZ))


@pytest.mark.parametrize(("family", "bound"), [("dcgan", 1.0), ("gan", 3**0.5)])
def test_uniform_noise_is_made_from_normal_noise(family: str, bound: float) -> None:
    model = build(family, noise="uniform")
    first = model.generator.project if family == "dcgan" else model.generator.layers[0]
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.generator(torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)))
    share = seen[0].flatten() / bound
    assert share.abs().max() <= 1
    assert share.histc(10, -1, 1).div(share.numel()).sub(0.1).abs().max() < 0.01


@pytest.mark.parametrize("family", ["dcgan", "gan"])
def test_normal_noise_is_left_alone(family: str) -> None:
    model = build(family, noise="normal")
    first = model.generator.project if family == "dcgan" else model.generator.layers[0]
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    noise_BZ = torch.randn(3, 6)
    model.generator(noise_BZ)
    assert torch.equal(seen[0], noise_BZ)


def test_dcgan_of_64_pixels_has_the_channels_of_figure_1() -> None:
    with torch.device("meta"):
        generator = DCGAN(models.preset("dcgan_lsun")).generator
    assert (generator.project.out_features, generator.start) == (1024 * 4 * 4, 4)
    convolutions = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in convolutions] == [512, 256, 128, 3]


def test_dcgan_has_no_batch_norm_where_pictures_leave_and_enter() -> None:
    model = DCGAN(DCGANConfig())
    assert isinstance(model.generator.head, nn.ConvTranspose2d)
    assert [type(m) for m in model.discriminator.layers[:3]] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d]
    leak = model.discriminator.layers[1].negative_slope
    assert leak == 0.2


def test_dcgan_weights_start_with_the_deviation_of_the_paper() -> None:
    torch.manual_seed(0)
    for name, parameter in DCGAN(DCGANConfig()).named_parameters():
        if parameter.ndim > 1 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_dcgan_refuses_pictures_too_small_to_halve() -> None:
    with pytest.raises(ConfigError, match="image_size=3 is too small"):
        DCGAN(DCGANConfig(image_size=3))


def test_maxout_takes_the_greatest_piece_of_each_unit() -> None:
    assert Maxout(3)(torch.tensor([[1.0, 5.0, 2.0, -3.0, -1.0, -2.0]])).tolist() == [[5.0, -1.0]]


def test_the_discriminator_of_a_gan_can_have_another_activation() -> None:
    kinds = {type(m) for m in GAN(GANConfig(discriminator_activation="leaky_relu")).discriminator.modules()}
    assert nn.LeakyReLU in kinds
    assert Maxout not in kinds
