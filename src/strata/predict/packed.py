"""A network's linear layers with weights of two bytes or of one, for making text: reading the weights is all the work.

A token that is made at a time multiplies every matrix with one vector, so that it takes as long as its weights take to
come from memory (Pope et al. 2023, "Efficiently scaling Transformer inference", section 2.1). Half the bytes are half
the time. Torch multiplies such weights at that speed only on processors that have instructions for bf16; the kernel
``packed.c`` does on all. Without a compiler torch's own kernels serve.

int8 weights are rounded to 127 steps of each output's largest weight (symmetric, one scale for each output).
Activations stay fp32 with both; where the processor multiplies bytes, those that meet int8 weights become whole numbers
of 24 bits, as many as an fp32 number has.

M rows of activations, K numbers in each, N outputs.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import functools
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata.device import Decision, Setup
from strata.errors import ConfigError
from strata.kernels import compiled, cpu_flags

Weights = Literal["auto", "fp32", "bf16", "int8"]

PAYS_FROM_WEIGHTS = 8_000_000
"""In linear layers: with fewer, fp32 weights lie in the processor's caches and are read as fast."""
ROWS_AT_MOST = 32
"""Of activations, for the kernel; with more, arithmetic decides, and widening the weights for a matrix product pays."""
ROWS_WIDENED = 8192
"""Outputs whose weights are widened at once."""
_TYPES = (torch.float32, torch.bfloat16, torch.int8)
"""Of weights, by the kernel's numbers."""


class Matrix(ctypes.Structure):
    """A linear layer, as the kernel sees it; whoever keeps it keeps the tensors too."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("type", ctypes.c_int64),
    )

    @classmethod
    def of(
        cls, weight_NK: Tensor, bias_N: Tensor | None, scale_N: Tensor | None = None, sum_N: Tensor | None = None
    ) -> Matrix:
        """Return what describes tensors, each contiguous, in the CPU's memory; int8 needs both of the last."""
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in (scale_N, bias_N, sum_N))
        return cls(weight_NK.data_ptr(), *pointers, *weight_NK.shape, _TYPES.index(weight_NK.dtype))


class PackedLinear(nn.Module):
    """A linear layer that keeps its weights in bf16 or int8: (..., K) to (..., N), in the input's type; no gradient.

    Args:
        linear: the layer that it does the work of.
        weights: "bf16" or "int8".
    """

    weight_NK: Tensor
    scale_N: Tensor | None
    sum_N: Tensor | None
    bias_N: Tensor | None

    def __init__(self, linear: nn.Linear, weights: str) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        weight_NK, scale_N, sum_N = linear.weight.detach(), None, None
        if weights == "int8":
            scale_N = (weight_NK.float().abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
            weight_NK = (weight_NK / scale_N[:, None]).round().to(torch.int8)
            sum_N = weight_NK.sum(1, dtype=torch.int32)
        else:
            weight_NK = weight_NK.to(torch.bfloat16)
        self.register_buffer("weight_NK", weight_NK.contiguous())
        self.register_buffer("scale_N", scale_N)
        self.register_buffer("sum_N", sum_N)
        self.register_buffer("bias_N", None if linear.bias is None else linear.bias.detach().float().clone())

    def extra_repr(self) -> str:
        """Return the sizes and the type of the weights."""
        return f"{self.in_features}, {self.out_features}, {str(self.weight_NK.dtype).removeprefix('torch.')}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        assert not (torch.is_grad_enabled() and x.requires_grad), "packed weights have no gradient"
        rows, kernel = x.numel() // self.in_features, kernels()
        few = rows <= ROWS_AT_MOST
        if self.scale_N is not None and not few and multiplies_bytes():
            y = self._by_bytes(x.reshape(rows, self.in_features).float().contiguous(), kernel)
        elif few and not isinstance(kernel, str):
            y = self._by_kernel(x if x.dtype == torch.float32 and x.is_contiguous() else x.float().contiguous(), kernel)
        else:
            x_MK = x.reshape(rows, self.in_features).float()
            y = self._by_torch(x_MK) if few else self._widened(x_MK)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if x.dtype == torch.float32 else y.to(x.dtype)

    def _by_kernel(self, x: Tensor, kernel: Any) -> Tensor:
        """Read each weight once; with few calls of torch, which cost as much as a small matrix."""
        rows = x.numel() // self.in_features
        y_MN = torch.empty(rows, self.out_features)
        matrix = Matrix.of(self.weight_NK, self.bias_N, self.scale_N, self.sum_N)
        if kernel.product(ctypes.byref(matrix), x.data_ptr(), y_MN.data_ptr(), rows, torch.get_num_threads()):
            raise MemoryError("There is no memory for the threads' counters.")
        return y_MN

    def _by_bytes(self, x_MK: Tensor, kernel: Any) -> Tensor:
        """Make two bytes of each activation, whose rounding is little beside that of the weights."""
        rows, threads = len(x_MK), torch.get_num_threads()
        high, low = (torch.empty(x_MK.shape, dtype=torch.int8) for _ in range(2))
        one_M = torch.empty(rows)
        kernel.to_bytes(x_MK.data_ptr(), high.data_ptr(), low.data_ptr(), one_M.data_ptr(), *x_MK.shape, threads)
        high, low = (torch._int_mm(part, self.weight_NK.T) for part in (high, low))
        y_MN = high.view(torch.float32)  # in the same place
        matrix = Matrix.of(self.weight_NK, self.bias_N, self.scale_N, self.sum_N)
        pointers = (high.data_ptr(), low.data_ptr(), one_M.data_ptr(), y_MN.data_ptr())
        kernel.from_bytes(ctypes.byref(matrix), *pointers, rows, threads)
        return y_MN

    def _by_torch(self, x_MK: Tensor) -> Tensor:
        if self.scale_N is not None and self.in_features % 64:  # torch's kernel reads past the end of such rows
            return self._widened(x_MK)
        with torch.autocast(x_MK.device.type, enabled=False):
            if self.scale_N is None:
                y_MN = F.linear(x_MK.bfloat16(), self.weight_NK).float()
            else:
                one_N = torch.ones_like(self.scale_N, dtype=torch.bfloat16)
                y_MN = torch._weight_int8pack_mm(x_MK.bfloat16(), self.weight_NK, one_N).float() * self.scale_N
        return y_MN if self.bias_N is None else y_MN + self.bias_N

    def _widened(self, x_MK: Tensor) -> Tensor:
        y_MN = x_MK.new_empty(x_MK.shape[0], self.out_features)
        with torch.autocast(x_MK.device.type, enabled=False):
            for begin in range(0, self.out_features, ROWS_WIDENED):
                part = slice(begin, begin + ROWS_WIDENED)
                y_MN[:, part] = F.linear(x_MK, self.weight_NK[part].float())
        if self.scale_N is not None:
            y_MN *= self.scale_N
        return y_MN if self.bias_N is None else y_MN.add_(self.bias_N)


def packed(model: nn.Module, weights: str, setup: Setup) -> nn.Module:
    """Return the network in eval mode with the weights of every `nn.Linear` kept as said, "bf16" or "int8".

    All else is shared with the network given. An embedding that an output layer shares its weights with stays as it is:
    a token reads one row of it. On a GPU the layers are in bf16, which torch multiplies fast there, under autocast.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        if type(module) is nn.Linear:  # a subclass may do something else with its weights
            on_cpu = setup.device.type == "cpu"
            narrow = PackedLinear(module, weights) if on_cpu else copy.deepcopy(module).bfloat16()
            memo[id(module)] = narrow
    return copy.deepcopy(model, memo).eval()


def choose_weights(asked: str, model: nn.Module, setup: Setup) -> Decision:
    """Decide how a network that makes text keeps the weights of its linear layers, and why.

    Raises ConfigError for what is no such choice, and for int8 anywhere but on a CPU.
    """
    if asked not in get_args(Weights):
        raise ConfigError(f"weights={asked} is not known. Allowed: {', '.join(get_args(Weights))}.")
    on_cpu = setup.device.type == "cpu"
    if asked != "auto":
        if asked == "int8" and not on_cpu:
            raise ConfigError(f"weights=int8 is for the CPU, and the model is on {setup.device}. Use weights=bf16.")
        if asked == "bf16" and setup.device.type == "mps":
            raise ConfigError("weights=bf16 is for CPU and CUDA, and the model is on mps. Use weights=fp32.")
        return Decision("weights", asked, "asked for")
    if on_cpu and next(model.parameters()).dtype == torch.float64:
        return Decision("weights", "fp32", "the model is in float64, which is not to be rounded")
    count = sum(module.weight.numel() for module in model.modules() if type(module) is nn.Linear)
    if on_cpu and count < PAYS_FROM_WEIGHTS:
        return Decision("weights", "fp32", f"under {PAYS_FROM_WEIGHTS:,} in linear layers stay in the caches anyway")
    return dataclasses.replace(usual_weights(setup), name="weights")


def usual_weights(setup: Setup) -> Decision:
    """Decide the same for a large network of a text."""
    name = "weights in generation"
    if setup.device.type != "cpu":
        return Decision(name, setup.precision, "as products are calculated")
    if isinstance(found := kernels(), str):
        return Decision(name, "fp32", f"{found}; weights=int8 is faster all the same")
    return Decision(name, "bf16", "a token takes as long as the weights take to be read; weights=int8 halves it again")


def multiplies_bytes() -> bool:
    """Say whether products of bytes are faster here than those of fp32, and there is a kernel to make bytes."""
    return not cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni")) and not isinstance(kernels(), str)


@functools.cache
def kernels() -> Any:
    """Return the compiled kernel of this processor, or in words why there is none. The first call ever compiles it."""
    found = compiled("packed", ("-ffp-contract=off",))
    if isinstance(found, str):
        return found
    found.product.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long, ctypes.c_int]
    found.gpt_step.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int]
    found.to_bytes.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 2 + [ctypes.c_int]
    found.from_bytes.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long, ctypes.c_int]
    return found
