"""Optimisers by name, their state as named tensors, and what is done to gradients between backward and step.

Fused where torch has a fused kernel for the device, else one kernel per operation over all tensors (foreach). Muon
(Jordan et al. 2024) is ours: matrices of one shape, or of its transpose, are orthogonalised in one batched
multiplication, and the tensors that are not for Muon take AdamW inside the same optimiser.

All state is tensors, named after the parameters, so it can lie in a safetensors file and be read by anything.

N matrices of R rows and C columns, R at most C.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from strata.errors import CheckpointError, UnknownNameError

OPTIMIZERS: dict[str, str] = {
    "sgd": "Plain stochastic gradient descent (Robbins and Monro 1951)",
    "momentum": "SGD with heavy-ball momentum (Polyak 1964)",
    "nesterov": "SGD with Nesterov's momentum (Sutskever et al. 2013)",
    "adagrad": "Rates by the sum of squared gradients (Duchi et al. 2011)",
    "rmsprop": "Rates by a running mean of squared gradients (Hinton 2012)",
    "adam": "Running means of the gradient and its square (Kingma and Ba 2015)",
    "adamw": "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
    "muon": "Orthogonalised momentum for matrices and filters, AdamW for the rest (Jordan et al. 2024)",
}
_MOMENTUM = {"momentum": 0.9, "nesterov": 0.9, "rmsprop": 0.0, "muon": 0.95}
TOO_LARGE_AFTER_CONVOLUTIONS = 2048
"""Shorter side from which Muon leaves a matrix to AdamW in a network of convolutions. Such a matrix reads one row for
each picture, and to orthogonalise AlexNet's and VGG's of 4096 took 35 and 69 seconds a step on one core, one of 2048
by 4096 took 5, where the rest of the step took 5."""


def canonical(name: str) -> str:
    """Return an optimiser's name. Raises UnknownNameError with the nearest right one."""
    if name.lower() not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    return name.lower()


def build_optimizer(
    model: nn.Module,
    named_parameters: Iterable[tuple[str, Parameter]],
    *,
    name: str,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    adam_learning_rate: float | None = None,
    matmul_dtype: torch.dtype = torch.float32,
    layer_rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Return an optimiser of the parameters, which already have their device and memory format.

    Weight decay acts on matrices and filters, embeddings among them, and not on biases and norms' gains. Each param
    group holds ``base_learning_rate``; the loop sets ``lr`` to it times the schedule's factor before each step.

    Args:
        model: tells Muon which parameters are embeddings' and which are the output layer's (``head``).
        momentum: None takes the method's own: 0.9, for muon 0.95, for rmsprop none.
        adam_learning_rate: of the part of Muon's parameters that AdamW takes; None: the same.
        matmul_dtype: in which Muon multiplies; bfloat16 is enough where the hardware has it.
        layer_rates: a factor of the learning rate for each parameter's name; 1 where it is left out.

    Raises UnknownNameError for an optimiser that does not exist.
    """
    name = canonical(name)
    named = {id(p): (name, p) for name, p in named_parameters if p.requires_grad}
    rates = {of: (layer_rates or {}).get(name, 1.0) for of, (name, _) in named.items()}
    parameters = [p for _, p in named.values()]
    assert parameters, "an optimiser needs parameters"
    momentum = _MOMENTUM.get(name, 0.0) if momentum is None else momentum

    def groups(parameters: list[Parameter], rate: float) -> list[dict[str, Any]]:
        parts: dict[tuple[float, float], list[Parameter]] = defaultdict(list)
        for p in sorted(parameters, key=lambda p: not _decays(p)):
            parts[rate * rates[id(p)], weight_decay if _decays(p) else 0.0].append(p)
        return [
            {"params": part, "lr": own_rate, "base_learning_rate": own_rate, "weight_decay": decay}
            for (own_rate, decay), part in parts.items()
        ]

    if name == "muon":
        excluded = _not_for_muon(model)
        matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in excluded]
        chosen = {id(p) for p in matrices}
        rest = groups([p for p in parameters if id(p) not in chosen], adam_learning_rate or learning_rate)
        adam = _fastest(torch.optim.AdamW, rest, betas=betas) if rest else None
        return Muon(groups(matrices, learning_rate), adam, momentum=momentum, matmul_dtype=matmul_dtype)
    all_groups = groups(parameters, learning_rate)
    if name in ("sgd", "momentum", "nesterov"):
        heavy = 0.0 if name == "sgd" else momentum
        optimizer = _fastest(torch.optim.SGD, all_groups, momentum=heavy, nesterov=name == "nesterov" and heavy > 0)
        if heavy > 0:  # else torch makes them at the first step, and fails where a gradient comes only later
            for p in parameters:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return optimizer
    if name == "adagrad":
        return _fastest(torch.optim.Adagrad, all_groups)
    if name == "rmsprop":
        return torch.optim.RMSprop(all_groups, momentum=momentum, foreach=True)
    return _fastest(torch.optim.Adam if name == "adam" else torch.optim.AdamW, all_groups, betas=betas)


def _decays(parameter: Tensor) -> bool:
    return parameter.ndim >= 2


def _not_for_muon(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of embeddings, of the output layer, and of large layers after convolutions."""
    found: set[int] = set()
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    too_large = TOO_LARGE_AFTER_CONVOLUTIONS if convolutional else math.inf
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            found |= {id(p) for p in module.parameters(recurse=False)}
        elif name.rsplit(".", 1)[-1] == "head":
            found |= {id(p) for p in module.parameters()}
        elif isinstance(module, nn.Linear) and min(module.weight.shape) >= too_large:
            found.add(id(module.weight))
    return found


@functools.cache
def _has_fused(kind: Callable[..., torch.optim.Optimizer], device: str) -> bool:
    """Try it: which devices have which kernel differs from one torch version to the next."""
    probe = Parameter(torch.zeros(1, device=device))
    probe.grad = torch.zeros_like(probe)
    try:
        kind([probe], fused=True).step()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _fastest(
    kind: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], **options: Any
) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device.type
    return kind(groups, **options, **({"fused": True} if _has_fused(kind, device) else {"foreach": True}))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz iterations (Jordan et al. 2024, "Muon"), for hidden matrices.

    An update is scaled by 0.2 * sqrt(max(rows, columns)), which gives it the root mean square of AdamW's (Liu et al.
    2025, "Muon is scalable for LLM training", eq. 4), so that one learning rate and one weight decay serve both.
    Filters are taken as matrices with one row for each output channel (a transposed convolution's: input channel).
    Weight decay is decoupled.

    Args:
        groups: matrices and filters, as torch's param groups.
        adam: AdamW of all other parameters, whose groups and state become this optimiser's.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        adam: torch.optim.Optimizer | None = None,
        *,
        momentum: float = 0.95,
        matmul_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._adam = adam
        self._matmul_dtype = matmul_dtype
        all_groups = [{**group, "is_matrix": True, "momentum": momentum} for group in groups]
        all_groups += [{**group, "is_matrix": False} for group in (adam.param_groups if adam is not None else [])]
        super().__init__(all_groups, {})
        for group in self.param_groups:
            for p in group["params"] if group["is_matrix"] else ():
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step. A closure is not supported."""
        assert closure is None, "Muon takes no closure"
        if self._adam is not None:
            # Handed over each time, because load_state_dict puts new objects here.
            self._adam.state = self.state
            self._adam.param_groups = [group for group in self.param_groups if not group["is_matrix"]]
            self._adam.step()
        for group in self.param_groups:
            if group["is_matrix"]:
                self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        # A running mean of the gradient, and Nesterov's look ahead; the scale does not matter to what follows.
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = _orthogonal_directions(list(directions), self._matmul_dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


def _orthogonal_directions(directions: list[Tensor], matmul_dtype: torch.dtype) -> list[Tensor]:
    """Return each direction orthogonalised and scaled, in its shape; one batch for each shape of matrix."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    matrices: list[Tensor] = []
    for i, direction in enumerate(directions):
        matrix = direction.flatten(1).to(matmul_dtype)
        matrices.append(matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix)
        places[tuple(matrices[i].shape)].append(i)
    updates = list(directions)
    for (_, longer), indices in places.items():
        orthogonal_NRC = orthogonalize(torch.stack([matrices[i] for i in indices])) * (0.2 * longer**0.5)
        for i, orthogonal_RC in zip(indices, orthogonal_NRC, strict=True):
            direction = directions[i]
            is_tall = direction.shape[0] > direction[0].numel()
            update = (orthogonal_RC.mT if is_tall else orthogonal_RC).reshape(direction.shape).to(direction.dtype)
            # In the direction's memory format, so that foreach can add in one pass.
            updates[i] = torch.empty_like(direction).copy_(update)
    return updates


def orthogonalize(matrix_NRC: Tensor) -> Tensor:
    """Bring all singular values near 1 (between 0.7 and 1.2) by a quintic Newton-Schulz iteration, five times.

    The coefficients are Jordan's: steepest at zero, at the price of not converging to 1 exactly. In fp32 the iteration
    runs on the R x R matrix of inner products, and what it did is applied to the long rows once: for a filter of 3x3
    two and a half times less work. In bf16 that square would lose the small singular values, so it takes the long way.
    """
    x = matrix_NRC / (torch.linalg.vector_norm(matrix_NRC, dim=(1, 2), keepdim=True) + 1e-7)
    if x.dtype == torch.bfloat16:
        for _ in range(5):
            x = torch.baddbmm(x, _quadratic(x @ x.mT), x, beta=3.4445)
        return x
    gram_NRR = x @ x.mT
    done_NRR: Tensor | None = None
    for left in reversed(range(5)):
        factor_NRR = _quadratic(gram_NRR)
        factor_NRR.diagonal(dim1=1, dim2=2).add_(3.4445)
        done_NRR = factor_NRR if done_NRR is None else factor_NRR @ done_NRR
        if left:
            gram_NRR = factor_NRR @ gram_NRR @ factor_NRR
    assert done_NRR is not None
    return done_NRR @ x


def _quadratic(gram_NRR: Tensor) -> Tensor:
    return torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=-4.7750, alpha=2.0315)


def penalty_gradients(parameters: Iterable[Parameter], l1: float, l2: float) -> None:
    """Add the gradient of ``l1 * sum |w| + l2 / 2 * sum w^2``, over matrices and filters that have a gradient."""
    chosen: list[Tensor] = [p for p in parameters if _decays(p) and p.grad is not None]
    if not chosen:
        return
    with torch.no_grad():
        gradients = [p.grad for p in chosen if p.grad is not None]
        if l2 > 0:
            torch._foreach_add_(gradients, chosen, alpha=l2)
        if l1 > 0:
            torch._foreach_add_(gradients, torch._foreach_sign(chosen), alpha=l1)


def clip_gradients(parameters: Iterable[Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients down to a total norm of ``max_norm``, if it is more, and return what it was: a scalar tensor.

    None only measures. Nothing here waits for the device.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None], foreach=True)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm, foreach=True)
    return norm


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Parameter]]
) -> dict[str, Tensor]:
    """Return all state as ``"exp_avg/layers.0.weight"`` and the like; the live tensors, not copies."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:  # sgd's momentum, where there is none
                continue
            assert isinstance(value, Tensor), f"optimiser state {key!r} of {name!r} is a {type(value).__name__}"
            tensors[f"{key}/{name}"] = value.detach()
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `optimizer_tensors` gave, to the last bit; state that is not in ``tensors`` is dropped.

    Raises CheckpointError for state of a parameter that the optimiser lacks, or of another shape.
    """
    fused = {id(p): bool(group.get("fused")) for group in optimizer.param_groups for p in group["params"]}
    owned = {name: p for name, p in named_parameters if id(p) in fused}
    state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
    for full_name, value in tensors.items():
        key, _, name = full_name.partition("/")
        parameter = owned.get(name)
        if parameter is None:
            raise CheckpointError(f"The checkpoint holds optimiser state {full_name!r}, but nothing trains {name!r}.")
        if value.ndim == 0:  # a step count; torch wants it on the CPU unless the kernel is fused
            device = parameter.device if fused[id(parameter)] else torch.device("cpu")
            state[parameter][key] = value.detach().to(device, copy=True)
            continue
        if value.shape != parameter.shape:
            shapes = f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
            raise CheckpointError(f"The checkpoint's optimiser state {full_name!r} has shape {shapes}.")
        # In the parameter's memory format: fused kernels walk both in the order of memory and do not look at strides.
        place = torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format)
        state[parameter][key] = place.detach().copy_(value)
    optimizer.state.clear()
    optimizer.state.update(state)
