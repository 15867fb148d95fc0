from __future__ import annotations

import typing

import pytest
import torch

from strata.errors import UnknownNameError
from strata.layers.activations import ACTIVATIONS, Activation, activation, gain

X = torch.tensor([[-2.0, -0.5, 0.0, 1.0, 3.0]], dtype=torch.float64)
FORMULAS = {
    "relu": X.clamp(min=0),
    "leaky_relu": torch.where(X > 0, X, 0.01 * X),
    "elu": torch.where(X > 0, X, X.exp() - 1),
    "gelu": X * 0.5 * (1 + (X / 2**0.5).erf()),
    "gelu_tanh": 0.5 * X * (1 + ((2 / torch.pi) ** 0.5 * (X + 0.044715 * X**3)).tanh()),
    "sigmoid": 1 / (1 + (-X).exp()),
    "tanh": (X.exp() - (-X).exp()) / (X.exp() + (-X).exp()),
    "softmax": X.exp() / X.exp().sum(),
    "silu": X / (1 + (-X).exp()),
}


def test_the_names_that_a_config_allows_are_those_that_exist() -> None:
    assert set(typing.get_args(Activation)) == set(ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_each_name_computes_its_formula(name: str) -> None:
    torch.testing.assert_close(activation(name)(X), FORMULAS[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_none_writes_into_its_input(name: str) -> None:
    x = X.clone()
    activation(name)(x)
    assert torch.equal(x, X)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4, 5), 1), ((2, 3), 1), ((2, 3, 4), 2)])
def test_softmax_runs_over_features(shape: tuple[int, ...], dim: int) -> None:
    sums = activation("softmax")(torch.randn(shape, dtype=torch.float64)).sum(dim)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_the_leak_can_be_set() -> None:
    assert activation("leaky_relu", leak=0.2)(torch.tensor([-1.0])).item() == pytest.approx(-0.2)


@pytest.mark.parametrize("function", [activation, gain])
def test_a_wrong_name_is_refused_with_the_nearest_right_one(function: typing.Callable[[str], object]) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown activation 'leaky_rely'. Did you mean 'leaky_relu'"):
        function("leaky_rely")
