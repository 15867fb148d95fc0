from __future__ import annotations

import dataclasses

import pytest
import torch

from strata.errors import ConfigError
from strata.models.swin import TINY, Swin, SwinConfig, relative_index, shift_mask, window_of

TOLERANCE = {torch.float64: 1e-10}


@pytest.mark.parametrize(
    ("image_size", "patch", "window", "last"),
    [(8, 1, 8, 1), (28, 2, 7, 2), (32, 2, 8, 2), (64, 4, 8, 2), (224, 4, 7, 7), (256, 4, 8, 8)],
)
def test_small_pictures_get_patches_and_windows_that_fit(image_size: int, patch: int, window: int, last: int) -> None:
    config = SwinConfig(image_size=image_size)
    assert window_of(config) == window
    with torch.device("meta"):
        model = Swin(config).eval()
        assert model.patches.stride == (patch, patch)
        sizes: list[tuple[int, ...]] = []
        model.stages.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape)))
        assert model(torch.zeros(2, 3, image_size, image_size)).shape == (2, 1000)
    assert sizes == [(2, last, last, 768)]


def test_the_state_holds_only_what_is_learned() -> None:
    model = Swin(TINY)
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def test_pairs_of_places_equally_far_apart_share_a_bias() -> None:
    side = 3
    index_NN = relative_index(side, window=side).view(side, side, side, side)
    assert index_NN[0, 0, 1, 2] == index_NN[1, 0, 2, 2]
    assert len(index_NN.unique()) == (2 * side - 1) ** 2
    # A smaller window reads the middle of the same table
    smaller = relative_index(2, window=side).view(2, 2, 2, 2)
    assert torch.equal(smaller, index_NN[:2, :2, :2, :2])


def test_after_a_shift_places_see_only_those_that_were_their_neighbours() -> None:
    side, shift, length = 4, 2, 8
    place = torch.arange(length)
    rolled = torch.stack([place[:, None].expand(length, length), place[None, :].expand(length, length)], dim=-1).roll(
        (-shift, -shift), dims=(0, 1)
    )
    windows = rolled.view(2, side, 2, side, 2).transpose(1, 2).reshape(4, side * side, 2)
    apart = (windows[:, :, None] - windows[:, None, :]).abs().amax(dim=-1)
    assert torch.equal(shift_mask(length, length, side, shift)[:, 0] == 0, apart < side)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 20), (7, 13), (4, 4)])
def test_pictures_of_another_size_are_read_as_by_a_model_built_for_it(height: int, width: int) -> None:
    torch.manual_seed(0)
    model = Swin(TINY).double().eval()
    image_BCHW = torch.randn(2, 3, height, width, dtype=torch.float64)
    other = Swin(dataclasses.replace(TINY, image_size=height)).double().eval()
    other.load_state_dict(model.state_dict())
    tolerance = TOLERANCE[image_BCHW.dtype]
    with torch.no_grad():
        torch.testing.assert_close(model(image_BCHW), other(image_BCHW), rtol=tolerance, atol=tolerance)


def test_without_shift_a_change_stays_in_its_window_and_with_it_spreads() -> None:
    torch.manual_seed(0)
    model = Swin(dataclasses.replace(TINY, image_size=16)).eval()
    x_BHWD = torch.randn(1, 8, 8, TINY.width)
    changed = x_BHWD.clone()
    changed[0, 3, 3] += torch.randn(TINY.width)
    for block, rows in ((model.stages[0][0], [2, 3]), (model.stages[0][1], [3, 4])):
        with torch.no_grad():
            touched = (block(x_BHWD) != block(changed)).any(dim=-1)[0]
        assert touched.any(dim=1).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_flow_in_either_precision(dtype: torch.dtype) -> None:
    model = Swin(TINY).to(dtype)
    model(torch.randn(2, 3, 8, 8, dtype=dtype)).sum().backward()
    gradient = model.stages[0][1].attention.bias_RA.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1, 2, 4)}, "depths has 2 stages and num_heads 3"),
        ({"num_heads": (1, 3)}, "Stage 2 has width 16, which num_heads=3 does not divide"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Swin(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
