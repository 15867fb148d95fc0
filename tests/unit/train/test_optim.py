"""Optimisers: they learn, decay what they should, and go on bit-exactly from saved state."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from strata.errors import CheckpointError, UnknownNameError
from strata.train.optim import (
    OPTIMIZERS,
    TOO_LARGE_AFTER_CONVOLUTIONS,
    build_optimizer,
    clip_gradients,
    load_optimizer_tensors,
    optimizer_tensors,
    orthogonalize,
    penalty_gradients,
)

every_optimizer = pytest.mark.parametrize("name", list(OPTIMIZERS))


class Net(nn.Module):
    """One of everything: an embedding, filters, a norm, matrices of equal and transposed shape, an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.conv_2 = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 48)
        self.down = nn.Linear(48, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, token_B4: Tensor) -> Tensor:
        x = self.embedding(token_B4)[:, None]
        x = torch.tanh(self.conv_2(torch.tanh(self.conv(x)))).mean(1).flatten(1)
        x = self.norm(x)
        return self.head(x + self.down(torch.tanh(self.up(x))))


def _net(channels_last: bool = False) -> Net:
    torch.manual_seed(0)
    net = Net()
    return net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]


def _build(net: nn.Module, name: str, **options: object) -> torch.optim.Optimizer:
    options = {"learning_rate": 1e-2, "weight_decay": 0.01} | options
    return build_optimizer(net, net.named_parameters(), name=name, **options)  # type: ignore[arg-type]


def _train(net: Net, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        token = torch.randint(7, (16, 4), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = group["base_learning_rate"] / (1 + 0.01 * step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(token), token[:, 0] % 3)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@every_optimizer
@pytest.mark.parametrize("channels_last", [False, True])
def test_training_goes_on_from_saved_state_to_the_last_bit(name: str, channels_last: bool) -> None:
    whole = _net(channels_last)
    optimizer = _build(whole, name)
    _train(whole, optimizer, range(4))
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    # As a file keeps them: contiguous, on the CPU.
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in _state(optimizer, whole).items()}
    _train(whole, optimizer, range(4, 8))

    resumed = _net(channels_last)
    resumed.load_state_dict(weights)
    fresh = _build(resumed, name)
    load_optimizer_tensors(fresh, resumed.named_parameters(), state)
    _train(resumed, fresh, range(4, 8))
    found, expected = resumed.state_dict(), whole.state_dict()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    found, expected = _state(fresh, resumed), _state(optimizer, whole)
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def _state(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, Tensor]:
    return optimizer_tensors(optimizer, net.named_parameters())


@every_optimizer
def test_every_optimizer_learns(name: str) -> None:
    net = _net()
    rate = {"sgd": 0.3, "momentum": 0.1, "nesterov": 0.1, "adagrad": 0.03}.get(name, 3e-3)
    losses = _train(net, _build(net, name, learning_rate=rate), range(120))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@every_optimizer
def test_the_memory_format_does_not_change_what_is_learned(name: str) -> None:
    plain, last = _net(), _net(channels_last=True)
    _train(plain, _build(plain, name, learning_rate=1e-3), range(3))
    _train(last, _build(last, name, learning_rate=1e-3), range(3))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(last.state_dict()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("nesterov", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.95)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.0}),
    ],
)
def test_an_optimizer_is_torchs_plain_one(name: str, reference: type, options: dict[str, object]) -> None:
    ours, theirs = Parameter(torch.ones(5, 4, dtype=torch.float64)), Parameter(torch.ones(5, 4, dtype=torch.float64))
    optimizer = build_optimizer(
        nn.Module(), [("w", ours)], name=name, learning_rate=0.01, weight_decay=0.0, betas=(0.9, 0.95)
    )
    plain = reference([theirs], lr=0.01, foreach=False, fused=False, **options) if name != "rmsprop" else None
    plain = plain or reference([theirs], lr=0.01, foreach=False, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ours.grad = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@every_optimizer
def test_weight_decay_acts_on_matrices_and_filters_only(name: str) -> None:
    net = _net()
    optimizer = _build(net, name, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for p in net.parameters() if p.ndim >= 2} == {0.1}
    assert {decay[id(p)] for p in net.parameters() if p.ndim < 2} == {0.0}
    assert len(decay) == len(list(net.parameters()))


@every_optimizer
def test_a_parameter_whose_gradient_comes_later_is_no_error(name: str) -> None:
    net = _net()
    optimizer = _build(net, name)
    net.up.weight.requires_grad_(False)
    _train(net, optimizer, range(2))
    before = net.up.weight.clone()
    net.up.weight.requires_grad_(True)
    _train(net, optimizer, range(2, 4))
    assert not torch.equal(before, net.up.weight)


def test_all_state_is_tensors_named_after_parameters() -> None:
    net = _net()
    optimizer = _build(net, "muon")
    _train(net, optimizer, range(1))
    names = set(_state(optimizer, net))
    assert {"momentum_buffer/up.weight", "momentum_buffer/conv.weight", "exp_avg_sq/head.weight"} <= names
    assert "step/embedding.weight" in names and "momentum_buffer/embedding.weight" not in names


def test_muon_takes_hidden_matrices_and_filters_and_leaves_the_rest_to_adamw() -> None:
    net = _net()
    names = {id(p): name for name, p in net.named_parameters()}
    groups = _build(net, "muon").param_groups
    taken = {names[id(p)] for group in groups if group["is_matrix"] for p in group["params"]}
    assert taken == {"conv.weight", "conv_2.weight", "up.weight", "down.weight"}


def test_muon_leaves_an_embedding_that_is_tied_to_a_layer_of_any_name_to_adamw() -> None:
    net = nn.Module()
    net.tokens, net.output = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
    net.output.weight = net.tokens.weight
    assert not any(group["is_matrix"] for group in _build(net, "muon").param_groups)


def test_muon_leaves_the_largest_layers_after_convolutions_to_adamw() -> None:
    side = TOO_LARGE_AFTER_CONVOLUTIONS
    with torch.device("meta"):
        net = nn.ModuleDict({"fc": nn.Linear(side, side), "narrow": nn.Linear(side, 8), "head": nn.Linear(8, 3)})

        def taken() -> set[str]:
            groups = [group for group in _build(net, "muon").param_groups if group["is_matrix"]]
            chosen = {id(p) for group in groups for p in group["params"]}
            return {name for name, p in net.named_parameters() if id(p) in chosen}

        assert taken() == {"fc.weight", "narrow.weight"}
        net["conv"] = nn.Conv2d(3, 4, 3)
        assert taken() == {"conv.weight", "narrow.weight"}


def test_muon_makes_updates_of_adamws_size_with_singular_values_near_one() -> None:
    torch.manual_seed(0)
    tall, wide = Parameter(torch.randn(96, 32)), Parameter(torch.randn(32, 4, 4, 6))
    before = tall.detach().clone(), wide.detach().clone()
    optimizer = build_optimizer(
        nn.Module(), [("tall", tall), ("wide", wide)], name="muon", learning_rate=0.01, weight_decay=0.0
    )
    tall.grad, wide.grad = torch.randn_like(tall), torch.randn_like(wide)
    optimizer.step()
    for old, new in zip(before, (tall, wide), strict=True):
        update = (old - new.detach()).flatten(1) / 0.01 / (0.2 * 96**0.5)
        singular = torch.linalg.svdvals(update)
        assert float(singular.min()) > 0.6 and float(singular.max()) < 1.3
        root_mean_square = float((old - new.detach()).square().mean().sqrt()) / 0.01
        assert 0.15 < root_mean_square < 0.25


def test_muon_moves_downhill_whatever_the_shape() -> None:
    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6), (8, 8), (5, 3, 3, 3), (1, 9), (9, 1)):
        weight = Parameter(torch.randn(shape))
        gradient = torch.randn(shape)
        before = weight.detach().clone()
        optimizer = build_optimizer(nn.Module(), [("w", weight)], name="muon", learning_rate=0.01)
        weight.grad = gradient.clone()
        optimizer.step()
        assert float(((weight.detach() - before) * gradient).sum()) < 0


def test_orthogonalizing_a_batch_is_orthogonalizing_each() -> None:
    x = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(orthogonalize(x)[1:2], orthogonalize(x[1:2]), rtol=1e-12, atol=1e-12)
    assert float((orthogonalize(x) - u @ v).abs().max()) < 0.4


def test_muon_multiplies_in_bfloat16_when_asked_and_keeps_its_state_in_float32() -> None:
    net = _net()
    optimizer = _build(net, "muon", learning_rate=3e-3, matmul_dtype=torch.bfloat16)
    losses = _train(net, optimizer, range(120))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert {value.dtype for value in _state(optimizer, net).values()} == {torch.float32}


def test_penalties_are_the_gradient_of_l1_and_l2_over_matrices() -> None:
    net = _net().double()
    token = torch.randint(7, (5, 4), generator=torch.Generator().manual_seed(0))
    net(token).square().mean().backward()
    penalty_gradients(net.parameters(), l1=0.3, l2=0.2)
    found = [p.grad for p in net.parameters()]
    net.zero_grad()
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    penalty = 0.3 * sum(p.abs().sum() for p in matrices) + 0.1 * sum(p.square().sum() for p in matrices)
    (net(token).square().mean() + penalty).backward()
    for ours, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-12)


def test_clipping_bounds_the_norm_over_all_parameters_and_returns_what_it_was() -> None:
    parameters = [Parameter(torch.zeros(3)), Parameter(torch.zeros(4)), Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.full((3,), 2.0), torch.full((4,), 1.0)
    assert float(clip_gradients(parameters, None)) == pytest.approx(4)
    assert float(clip_gradients(parameters, 100.0)) == pytest.approx(4)
    assert float(parameters[0].grad[0]) == 2
    assert float(clip_gradients(parameters, 0.5)) == pytest.approx(4)
    assert float(clip_gradients(parameters, None)) == pytest.approx(0.5, rel=1e-4)


def test_state_that_does_not_fit_is_refused() -> None:
    net = _net()
    optimizer = _build(net, "adamw")
    with pytest.raises(CheckpointError, match="'exp_avg/nobody', but nothing trains 'nobody'"):
        load_optimizer_tensors(optimizer, net.named_parameters(), {"exp_avg/nobody": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"'exp_avg/head.bias' has shape \(2,\), the parameter \(3,\)"):
        load_optimizer_tensors(optimizer, net.named_parameters(), {"exp_avg/head.bias": torch.zeros(2)})


def test_an_unknown_optimizer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'adamw'"):
        _build(_net(), "adamww")
