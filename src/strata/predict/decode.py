"""A GPT that reads one more token of each text in one call of the kernel, where an ordinary step makes hundreds.

Each operation of torch costs some microseconds whatever its size, which for GPT-2 adds up to as long as its weights
take to be read when they are of one byte. The kernel keeps to the network's own cache, so that steps of either way may
follow one another: what it does not cover (several tokens at once, autocast, other precisions, unusual activations)
goes the ordinary way.

B sequences, T tokens read now, S places of the cache, D width, L layers.
"""

from __future__ import annotations

import copy
import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn

from strata.device import Setup
from strata.layers.cache import KVCache
from strata.models.gpt import GPT, GPTConfig, head_width_of, hidden_width_of, num_kv_heads_of, window_of
from strata.predict.packed import ROWS_AT_MOST, Matrix, PackedLinear, kernels, packed

_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "swiglu")
"""By the kernel's numbers."""
_HEAD_WIDTH_AT_MOST = 1024
"""For the kernel, which keeps a head's query on the stack."""


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("is_layer", ctypes.c_int32),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("norm1", "norm2", "query_norm", "key_norm")),
        *((name, Matrix) for name in ("qkv", "out", "up", "down")),
        ("window", ctypes.c_int64),
    )


class _Net(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("layers", "width", "heads", "kv_heads", "head_width", "hidden_width", "activation")
        ),
        ("blocks", ctypes.POINTER(_Block)),
        ("norm", _Norm),
        ("slopes", ctypes.c_void_p),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "key", "value", "cos", "sin", "real")),
        *((name, ctypes.c_int64) for name in ("angle_stride", "rows", "length", "position")),
    )


def for_tokens(model: nn.Module, weights: str, setup: Setup) -> nn.Module:
    """Return the network, for making text a token at a time: its weights as said, "fp32", "bf16" or "int8".

    It is in eval mode and shares what is not converted with the network given.
    """
    if weights == "fp32":
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        small = copy.deepcopy(model, shared).eval() if type(model) is GPT else model
    else:
        small = packed(model, weights, setup)
    if type(small) is GPT and setup.device.type == "cpu":
        small.__class__ = SteppingGPT
    return small


class SteppingGPT(GPT):
    """A GPT for making text on a CPU; `for_tokens` gives it. Its results are those of `GPT` within rounding."""

    _net: _Net | None = None
    """Where everything lies, for the kernel."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_net"}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._net = None
        return super()._apply(fn, recurse)

    def features(
        self,
        token_BT: Tensor,
        cache: KVCache | None = None,
        mask_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states that the head reads, as `GPT.features` does: (B, T, D)."""
        if cache is None or document_BT is not None or not self._covers(token_BT, cache):
            return super().features(token_BT, cache, mask_BT, document_BT)
        if self._net is None:
            self._net = _described(self)
        cache.begin(1, mask_BT)
        x_BTD, angles = self._embed(token_BT, cache.places(1))
        cos, sin = (None, None) if angles is None else (angle.contiguous() for angle in angles)
        pointers = (None if part is None else part.data_ptr() for part in (cos, sin, cache.real_BS))
        stride = 0 if cos is None or cos.ndim == 2 else cos.shape[-1]
        memory = (x_BTD.data_ptr(), cache.key_LBHSK.data_ptr(), cache.value_LBHSK.data_ptr())
        step = _Step(*memory, *pointers, stride, len(token_BT), cache.length, cache.position)
        if kernels().gpt_step(ctypes.byref(self._net), ctypes.byref(step), torch.get_num_threads()):
            raise MemoryError("There is no memory for what a token's step keeps.")
        cache.advance(1)
        return x_BTD

    def _covers(self, token_BT: Tensor, cache: KVCache) -> bool:
        config, block = self.config, cast(Any, self.blocks[0])
        return (
            token_BT.shape[1] == 1
            and len(token_BT) <= ROWS_AT_MOST
            and not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and (config.mlp == "swiglu" or config.activation in _ACTIVATIONS)
            and head_width_of(config) <= _HEAD_WIDTH_AT_MOST
            and isinstance(block.mlp.up, nn.Linear | PackedLinear)  # and not of what reads many rows at once
            and (config.positions != "learned" or cache.position < config.context)
            and all(_is_plain(memory) for memory in (cache.key_LBHSK, cache.value_LBHSK, self.token_embedding.weight))
            and not isinstance(kernels(), str)
        )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()


def _described(model: GPT) -> _Net:
    config: GPTConfig = model.config
    blocks = (_Block * config.num_layers)(*(_block(block, config) for block in model.blocks))
    return _Net(
        config.num_layers,
        config.width,
        config.num_heads,
        num_kv_heads_of(config),
        head_width_of(config),
        hidden_width_of(config),
        _ACTIVATIONS.index("swiglu" if config.mlp == "swiglu" else config.activation),
        blocks,
        _norm(model.norm),
        model.slope_H.data_ptr() if config.positions == "alibi" else None,  # type: ignore[operator]
    )


def _block(block: Any, config: GPTConfig) -> _Block:
    attention = block.attention
    return _Block(
        *(_norm(part) for part in (block.norm1, block.norm2, attention.query_norm, attention.key_norm)),
        *(_matrix(part) for part in (attention.qkv, attention.out, block.mlp.up, block.mlp.down)),
        window_of(config, block.layer) or 0,
    )


def _norm(module: Any) -> _Norm:
    if isinstance(module, nn.Identity):
        return _Norm()
    bias = getattr(module, "bias", None)
    pointers = (module.weight.data_ptr(), None if bias is None else bias.data_ptr())
    return _Norm(*pointers, module.eps, isinstance(module, nn.LayerNorm))


def _matrix(module: Any) -> Matrix:
    if isinstance(module, PackedLinear):
        return Matrix.of(module.weight_NK, module.bias_N, module.scale_N, module.sum_N)
    return Matrix.of(module.weight, module.bias)
