"""The exponential moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strata.errors import CheckpointError
from strata.train.average import Average


def _model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).to(dtype)


def _wander(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
            else:
                tensor.add_(1)


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_average_follows_its_formula_and_forgets_the_start_early() -> None:
    model = _model()
    average = Average(model, 0.5)
    expected = model[3].weight.detach().double().clone()
    for n in range(12):
        _wander(model, n)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model[3].weight.detach().double()
    torch.testing.assert_close(average.tensors()["average/3.weight"].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_average_is_swapped_in_and_out_to_the_last_bit(dtype: torch.dtype) -> None:
    model = _model(dtype).to(memory_format=torch.channels_last)
    average = Average(model, 0.9)
    for n in range(3):
        _wander(model, n)
        average.update()
    before = _copy(model)
    averages = {name: tensor.clone() for name, tensor in average.tensors().items()}
    with average.swapped_in():
        inside = _copy(model)
    after = _copy(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(tensor, averages[name]) for name, tensor in average.tensors().items())
    assert torch.equal(inside["0.weight"], averages["average/0.weight"].to(dtype))
    assert torch.equal(inside["1.running_var"], averages["average/1.running_var"].to(dtype))
    assert not torch.equal(inside["0.weight"], before["0.weight"])


def test_the_weights_come_back_after_an_error() -> None:
    model = _model()
    average = Average(model, 0.9)
    _wander(model, 0)
    before = _copy(model)
    with pytest.raises(ZeroDivisionError), average.swapped_in():
        raise ZeroDivisionError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_average_that_is_saved_and_loaded_goes_on_to_the_last_bit() -> None:
    model = _model()
    average = Average(model, 0.99)
    for n in range(4):
        _wander(model, n)
        average.update()
    saved = {name: tensor.clone() for name, tensor in average.tensors().items()}
    resumed = Average(model, 0.99)
    resumed.load(saved)
    for n in range(4, 8):
        _wander(model, n)
        average.update()
        resumed.update()
    assert resumed.num_updates == 8
    found, expected = resumed.tensors(), average.tensors()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_averages_of_bfloat16_weights_are_float32() -> None:
    average = Average(_model(torch.bfloat16), 0.9)
    assert {tensor.dtype for name, tensor in average.tensors().items() if "/" in name} == {torch.float32}


def test_buffers_that_are_not_saved_are_left_alone() -> None:
    model = _model()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf), persistent=False)
    average = Average(model, 0.9)
    average.update()
    with average.swapped_in():
        assert bool((model.mask == -torch.inf).all())
    assert "average/mask" not in average.tensors()


def test_tied_weights_are_averaged_once() -> None:
    model = nn.Module()
    model.first = nn.Linear(3, 3)
    model.second = nn.Linear(3, 3)
    model.second.weight = model.first.weight
    assert "average/second.weight" not in Average(model, 0.9).tensors()


def test_the_average_of_another_model_is_refused() -> None:
    average = Average(_model(), 0.9)
    with pytest.raises(CheckpointError, match=r"'average/0.weight' does not fit"):
        average.load(Average(nn.Sequential(nn.Linear(2, 2)), 0.9).tensors())
