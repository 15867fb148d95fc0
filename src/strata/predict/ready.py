"""A trained network made ready to answer fast: batch norms folded into convolutions, weights in the precision used.

`ready` changes answers by rounding alone. `in_bytes` is int8, which is asked for.

A batch norm that stands still is one multiplication and one addition for each channel, and so is the end of a
convolution: the two become one layer. Which convolution a norm follows is seen by running the network once and not
asked of its code, so that every architecture takes part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from strata.device import Decision, Setup
from strata.errors import ConfigError
from strata.kernels import cpu_flags, int8
from strata.kernels.int8 import Int8Conv2d, Int8Linear
from strata.predict.packed import packed

_Types = type[nn.Module] | tuple[type[nn.Module], ...]

CLOSE = 1e-3
"""How far the folded network's answers may lie from the others', as a share of the largest: rounding in fp32."""


def ready(model: nn.Module, setup: Setup, example_B: Tensor) -> nn.Module:
    """Return a copy of a network in eval mode that gives the same answers faster, up to rounding.

    Args:
        setup: device, memory format and precision that the network has and will be run in.
        example_B: any input that it takes, of one sample or more.
    """
    with torch.inference_mode(False), torch.no_grad():
        fast = copy.deepcopy(model).eval().requires_grad_(False)
        _fold_batch_norms(fast, example_B)
        _activate_in_place(fast, example_B)
        if setup.precision == "bf16":
            _cast_once(fast, setup)
    return fast


class ArrangedLinear(nn.Module):
    """A linear layer whose bf16 weights lie as oneDNN multiplies them: (..., K) to (..., N), bf16; no gradient.

    `nn.Linear` has them arranged anew in every call, and its bias written out beforehand: for ViT-Base and 8 pictures a
    tenth of the time (2 cores with AVX-512 BF16, torch 2.13).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(torch.bfloat16), None)
        self.bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self.weight, self.bias, "none", [], "")


def _cast_once(model: nn.Module, setup: Setup) -> None:
    """Bring the weights of products into bf16 once, where autocast would cast them in every call."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.to(torch.bfloat16)
    if _arranges(setup):
        _replace(model, lambda layer: ArrangedLinear(layer) if type(layer) is nn.Linear else None)


def _replace(model: nn.Module, made_of: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put in the place of a model's layers what is made of each; None leaves it."""
    for owner in list(model.modules()):
        for name, layer in owner.named_children():
            if (made := made_of(layer)) is not None:
                setattr(owner, name, made)


def _arranges(setup: Setup) -> bool:
    """Say whether torch has what `ArrangedLinear` needs here: its own, without a promise, and of oneDNN."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if setup.device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def in_bytes(model: nn.Module, setup: Setup, example_B: Tensor | None = None) -> tuple[nn.Module, Decision]:
    """Return the network with weights and activations of its products in int8, for answering, and what that gains.

    Linear layers and convolutions take part. Where the processor does not multiply bytes, the weights of linear layers
    alone are rounded, and nothing is gained but memory.

    Args:
        example_B: any input that the network takes. With it, batch norms and activations become part of the layers
            whose answers they read.

    Raises ConfigError anywhere but on a CPU.
    """
    if setup.device.type != "cpu":
        raise ConfigError(f"precision=int8 is for the CPU, and the model is on {setup.device}. Use precision=bf16.")
    if isinstance(why := int8.kernel(), str):
        return packed(model, "int8", setup), Decision("precision", "int8", f"asked for, and gains nothing: {why}")
    found = _in_bytes(model, setup, example_B)
    inside = sum(module.weights for module in found.modules() if isinstance(module, Int8Conv2d | Int8Linear))
    share = inside / max(1, sum(parameter.numel() for parameter in model.parameters()))
    reason = f"asked for; {share:.0%} of the weights are in bytes, which the processor multiplies; the rest is in fp32"
    if "amx_bf16" in cpu_flags():
        reason += "; precision=bf16, in AMX tiles, may be faster here"
    return found, Decision("precision", "int8", reason)


@torch.no_grad()
def _in_bytes(model: nn.Module, setup: Setup, example_B: Tensor | None) -> nn.Module:
    """Return a copy of a network whose layers are those of the kernel, where it has them."""
    model = copy.deepcopy(model).eval() if example_B is None else ready(model, setup, example_B)
    _replace(model, int8.in_int8)
    if example_B is None:
        return model
    before, pairs = model(example_B), []
    for layer, owner, name in _followed(model, example_B, (Int8Conv2d, Int8Linear), (nn.ReLU, nn.GELU, nn.SiLU)):
        act = getattr(owner, name)
        if int8.activation_of(act):
            handle = layer.register_forward_hook(lambda _layer, _inputs, output, act=act: act(output))
            pairs.append((layer, owner, name, act, handle))
            setattr(owner, name, nn.Identity())
    belong = torch.equal(model(example_B), before)  # else someone else reads a layer's answers too
    for layer, owner, name, act, handle in pairs:
        handle.remove()
        if belong:
            layer.activation = int8.activation_of(act)
        else:
            setattr(owner, name, act)
    return model


def _fold_batch_norms(model: nn.Module, example_B: Tensor) -> None:
    """Fold every batch norm that reads a convolution's output, where that leaves the answers as they were."""
    before = model(example_B)
    undo: list[tuple[nn.Module, str, nn.Module, nn.Module, Any, Any]] = []
    for convolution, owner, name in _followed(model, example_B, nn.Conv2d, nn.BatchNorm2d):
        norm = getattr(owner, name)
        undo.append((owner, name, norm, convolution, convolution.weight, convolution.bias))
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        setattr(owner, name, nn.Identity())
    after = model(example_B)
    if (after - before).abs().max() > CLOSE * before.abs().max():  # someone else reads a convolution's output too
        for owner, name, norm, folded, weight, bias in reversed(undo):
            setattr(owner, name, norm)
            folded.weight, folded.bias = weight, bias


def _activate_in_place(model: nn.Module, example_B: Tensor) -> None:
    """Let ReLUs and their like write where they read, if nobody else reads that: half the memory to go through."""
    acts = [module for module in model.modules() if isinstance(module, nn.ReLU | nn.SiLU) and not module.inplace]
    if not acts:
        return
    before = model(example_B.clone())
    for act in acts:
        act.inplace = True
    if not torch.equal(model(example_B.clone()), before):
        for act in acts:
            act.inplace = False


def _followed(model: nn.Module, example_B: Tensor, first: _Types, second: _Types) -> list[tuple[Any, nn.Module, str]]:
    """Return layers whose output a layer of a second type reads, each with that one's owner and its name there.

    Layers that are called more than once are left out. Somebody else may read the output too.
    """
    given_by: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept, so that no id is used twice
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, first):
            given_by[id(output)] = (module, output)
        elif isinstance(module, second) and id(inputs[0]) in given_by:
            found.append((given_by[id(inputs[0])][0], module))

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        model(example_B)
    finally:
        for handle in handles:
            handle.remove()
    owner_of = {child: (owner, name) for owner in model.modules() for name, child in owner.named_children()}
    once = [pair for pair in found if all(calls[module] == 1 for module in pair)]
    return [(before, *owner_of[after]) for before, after in once]
