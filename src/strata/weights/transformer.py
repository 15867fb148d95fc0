"""The Transformer's tensors as Hugging Face (MarianMTModel) names them, which is also how OPUS-MT's models come.

Marian has all sines of a position before all cosines, ours has them in turn as the paper does. The order of the numbers
in the residual stream is free, so every tensor that reads or writes the stream is put into the other order, and the
models compute the same.

D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from strata.errors import WeightsError
from strata.models.transformer import TransformerConfig
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table

LOGITS_BIAS = "final_logits_bias"
READERS = ("qkv", "q", "kv", "up", "head", "token_embedding")
"""Our layers whose matrices have the residual stream on their second axis; all others write it."""
MARKS = (None, "end")
"""Roles of the tokens that a text begins and ends with."""


def config_from(theirs: dict[str, Any]) -> TransformerConfig:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "Marian")
    num_layers, num_heads = settings.take("encoder_layers", 12), settings.take("encoder_attention_heads", 16)
    hidden_width, vocab_size = settings.take("encoder_ffn_dim", 4096), settings.take("vocab_size", 58101)
    if not settings.take("scale_embedding", False):
        raise WeightsError("Marian with scale_embedding=False is not supported; only scale_embedding=True is.")
    for key, only in {
        "decoder_attention_heads": num_heads,
        "decoder_ffn_dim": hidden_width,
        "decoder_vocab_size": vocab_size,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
    }.items():
        settings.must(key, only)
    num_decoder_layers = settings.take("decoder_layers", 12)
    return TransformerConfig(
        num_layers=num_layers,
        num_decoder_layers=None if num_decoder_layers == num_layers else num_decoder_layers,
        num_heads=num_heads,
        width=settings.take("d_model", 1024),
        hidden_width=hidden_width,
        activation=settings.activation("activation_function", "gelu"),
        dropout=settings.take("dropout", 0.1),
        attention_dropout=settings.take("attention_dropout", 0.0),
        head_bias=True,
        context=settings.take("max_position_embeddings", 1024),
        vocab_size=vocab_size,
    )


def config_to(ours: TransformerConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config, with no special tokens, which the vocabulary decides.

    Raises WeightsError for norms before each part, and for a head of its own, which there goes with two embeddings.
    """
    if ours.pre_norm or not ours.tied_head:
        raise WeightsError(
            f"transformers has no counterpart of a Transformer with pre_norm={ours.pre_norm} and tied_head="
            f"{ours.tied_head}, only with pre_norm=False and tied_head=True."
        )
    both = {"attention_heads": ours.num_heads, "ffn_dim": ours.hidden_width}
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "encoder_layers": ours.num_layers,
        "decoder_layers": ours.num_decoder_layers or ours.num_layers,
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in both.items()},
        "d_model": ours.width,
        "activation_function": their_activation(ours.activation),
        "dropout": ours.dropout,
        "attention_dropout": ours.attention_dropout,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "max_position_embeddings": ours.context,
        "vocab_size": ours.vocab_size,
        "bos_token_id": None,
        "eos_token_id": None,
        "forced_eos_token_id": None,
        "pad_token_id": None,
        "decoder_start_token_id": None,
    }


class MarianTable(Table):
    """A table that also puts the residual stream into the other order."""

    def read(self, config: Any, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors under our names, as `Table.read` does."""
        theirs = dict(theirs)
        # A row vector there; files may leave out one that was never trained
        theirs[LOGITS_BIAS] = theirs.get(LOGITS_BIAS, torch.zeros(config.vocab_size)).flatten()
        found = super().read(config, ours, theirs)
        return {name: _reordered(name, value, _order(config.width)) for name, value in found.items()}

    def write(self, config: Any, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our tensors under their names, as `Table.write` does."""
        order = _order(config.width).argsort()
        found = super().write(config, {name: _reordered(name, value, order) for name, value in ours.items()})
        if LOGITS_BIAS in found:
            found[LOGITS_BIAS] = found[LOGITS_BIAS][None]
        return found


def _order(width: int) -> Tensor:
    """Return where each number of our residual stream stands in theirs: (D,)."""
    place_D = torch.arange(width)
    return place_D // 2 + place_D % 2 * (width // 2)


def _reordered(name: str, value: Tensor, order: Tensor) -> Tensor:
    layer, part = name.split(".")[-2:]
    if layer not in READERS:
        return value.index_select(0, order.to(value.device))
    return value.index_select(1, order.to(value.device)) if part == "weight" else value


def _pairs(config: TransformerConfig) -> Iterator[Pair]:
    yield "token_embedding", "model.shared"
    yield "head.weight", "lm_head.weight"
    yield "head.bias", LOGITS_BIAS
    for b in range(config.num_layers):
        yield from _block(f"encoder.{b}", f"model.encoder.layers.{b}", is_decoder=False)
    for b in range(config.num_decoder_layers or config.num_layers):
        yield from _block(f"decoder.{b}", f"model.decoder.layers.{b}", is_decoder=True)


def _block(ours: str, theirs: str, *, is_decoder: bool) -> Iterator[Pair]:
    norms = ["self_attn_layer_norm", "final_layer_norm"]
    for part in ("weight", "bias"):
        yield f"{ours}.attention.qkv.{part}", tuple(f"{theirs}.self_attn.{name}_proj.{part}" for name in "qkv")
    yield f"{ours}.attention.out", f"{theirs}.self_attn.out_proj"
    if is_decoder:
        norms.insert(1, "encoder_attn_layer_norm")
        yield f"{ours}.cross.q", f"{theirs}.encoder_attn.q_proj"
        for part in ("weight", "bias"):
            yield f"{ours}.cross.kv.{part}", tuple(f"{theirs}.encoder_attn.{name}_proj.{part}" for name in "kv")
        yield f"{ours}.cross.out", f"{theirs}.encoder_attn.out_proj"
    for number, norm in enumerate(norms, start=1):
        yield f"{ours}.residual{number}.norm", f"{theirs}.{norm}"
    yield f"{ours}.mlp.up", f"{theirs}.fc1"
    yield f"{ours}.mlp.down", f"{theirs}.fc2"


HUGGINGFACE = MarianTable(
    library="Hugging Face",
    pairs=_pairs,
    tied=lambda config: {"head.weight": "token_embedding.weight"},
    dropped={
        "model.*.embed_tokens.weight": "a copy of model.shared.weight",
        "model.*.embed_positions.weight": "sines and cosines, which are computed",
    },
)
