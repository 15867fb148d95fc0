"""Dropout with its bits drawn many at a time: the share, the scale and the mean are those of torch's."""

from __future__ import annotations

import torch

from strata.layers.dropout import Dropout


def test_the_share_that_is_dropped_and_the_mean_are_as_asked() -> None:
    torch.manual_seed(0)
    layer, n = Dropout(0.3), 1_000_003
    y = layer(torch.ones(n))
    deviation = (0.3 * 0.7 / n) ** 0.5
    assert abs(float((y == 0).float().mean()) - 0.3) < 5 * deviation
    assert set(y.unique().tolist()) == {0.0, float(y.max())}
    assert abs(float(y.max()) - 1 / 0.7) < 1e-4 and abs(float(y.mean()) - 1) < 5 * deviation / 0.7


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        correlation = float((dropped[distance:] * dropped[:-distance]).mean()) * 4
        assert abs(correlation) < 5 / 400_000**0.5


def test_the_gradient_goes_where_the_values_went_and_the_seed_decides() -> None:
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(2)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())
    torch.manual_seed(2)
    assert torch.equal(Dropout(0.4)(x), y)


def test_outside_training_and_without_a_share_nothing_changes() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
    assert not Dropout(1.0)(x).any()
