"""T5's tensors as Hugging Face (T5ForConditionalGeneration, T5Model) names them, versions 1.0 and 1.1 and Flan-T5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from strata.errors import WeightsError
from strata.models.t5 import T5Config
from strata.weights.settings import ACTIVATIONS, Settings, their_activation
from strata.weights.table import Pair, Table

GATED = "gated-"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Of ``shared.weight``; which of the three a file holds depends on the release that wrote it."""
MARKS = (None, "end")
"""Roles of the tokens that a text begins and ends with."""


def config_from(theirs: dict[str, Any]) -> T5Config:
    """Return our config for a Hugging Face ``config.json``. Raises WeightsError for a setting that ours lacks."""
    settings = Settings(theirs, "T5")
    settings.must("is_encoder_decoder", True)
    gated, name = _activation(settings.take("feed_forward_proj", "relu"))
    num_layers = settings.take("num_layers", 6)
    num_decoder_layers = settings.take("num_decoder_layers", num_layers)
    # Newer releases say that the head is tied even where it is not, and what they mean in a second setting
    tied_head = settings.take("scale_decoder_outputs", settings.take("tie_word_embeddings", True))
    return T5Config(
        num_layers=num_layers,
        num_decoder_layers=None if num_decoder_layers == num_layers else num_decoder_layers,
        num_heads=settings.take("num_heads", 8),
        width=settings.take("d_model", 512),
        head_width=settings.take("d_kv", 64),
        hidden_width=settings.take("d_ff", 2048),
        activation=name,
        gated=gated,
        tied_head=tied_head,
        num_buckets=settings.take("relative_attention_num_buckets", 32),
        max_distance=settings.take("relative_attention_max_distance", 128),
        norm_eps=settings.take("layer_norm_epsilon", 1e-6),
        dropout=settings.take("dropout_rate", 0.1),
        vocab_size=settings.take("vocab_size", 32128),
    )


def config_to(ours: T5Config) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config, with the special tokens of T5's own vocabulary.

    Raises WeightsError for an activation that they cannot have in this place.
    """
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "num_layers": ours.num_layers,
        "num_decoder_layers": ours.num_decoder_layers or ours.num_layers,
        "num_heads": ours.num_heads,
        "d_model": ours.width,
        "d_kv": ours.head_width,
        "d_ff": ours.hidden_width,
        "feed_forward_proj": _their_activation(ours),
        "tie_word_embeddings": ours.tied_head,
        "relative_attention_num_buckets": ours.num_buckets,
        "relative_attention_max_distance": ours.max_distance,
        "layer_norm_epsilon": ours.norm_eps,
        "dropout_rate": ours.dropout,
        "vocab_size": ours.vocab_size,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _activation(theirs: str) -> tuple[bool, Any]:
    """Return whether a perceptron is gated, and by which activation of ours."""
    if theirs == "gated-gelu":  # means the approximation, unlike "gelu" alone
        return True, "gelu_tanh"
    name = theirs.removeprefix(GATED)
    if name not in ACTIVATIONS:
        raise WeightsError(f"T5 with feed_forward_proj={theirs!r} is not supported; relu and gated-gelu are.")
    return theirs.startswith(GATED), ACTIVATIONS[name]


def _their_activation(ours: T5Config) -> str:
    if not ours.gated:
        return their_activation(ours.activation)
    if ours.activation == "gelu":
        raise WeightsError(
            "transformers has no T5 gated by the exact gelu; only activation='gelu_tanh' can be written."
        )
    return GATED + ("gelu" if ours.activation == "gelu_tanh" else their_activation(ours.activation))


class T5Table(Table):
    """A table that finds the embedding under each of the names that it has had."""

    def read(self, config: Any, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors under our names, as `Table.read` does."""
        theirs = dict(theirs)
        for name in COPIES:
            if "shared.weight" not in theirs and name in theirs:
                theirs["shared.weight"] = theirs[name]
        if "lm_head.weight" not in theirs and "shared.weight" in theirs:  # equal tensors are written once
            theirs["lm_head.weight"] = theirs["shared.weight"]
        return super().read(config, ours, theirs)


def _pairs(config: T5Config) -> Iterator[Pair]:
    yield "token_embedding", "shared"
    yield "head", "lm_head"
    for side, num_layers in (
        ("encoder", config.num_layers),
        ("decoder", config.num_decoder_layers or config.num_layers),
    ):
        yield f"{side}_bias.bias", f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        yield f"{side}_norm", f"{side}.final_layer_norm"
        for b in range(num_layers):
            yield from _block(f"{side}.{b}", f"{side}.block.{b}.layer", is_decoder=side == "decoder", config=config)


def _block(ours: str, theirs: str, *, is_decoder: bool, config: T5Config) -> Iterator[Pair]:
    attention, cross, last = f"{theirs}.0.SelfAttention", f"{theirs}.1.EncDecAttention", 2 if is_decoder else 1
    yield f"{ours}.attention.qkv.weight", tuple(f"{attention}.{name}.weight" for name in "qkv")
    yield f"{ours}.attention.out", f"{attention}.o"
    if is_decoder:
        yield f"{ours}.cross.q", f"{cross}.q"
        yield f"{ours}.cross.kv.weight", tuple(f"{cross}.{name}.weight" for name in "kv")
        yield f"{ours}.cross.out", f"{cross}.o"
    for part in range(last + 1):
        yield f"{ours}.residual{part + 1}.norm", f"{theirs}.{part}.layer_norm"
    dense = f"{theirs}.{last}.DenseReluDense"
    yield f"{ours}.mlp.up", f"{dense}.wi_1" if config.gated else f"{dense}.wi"
    if config.gated:
        yield f"{ours}.mlp.gate", f"{dense}.wi_0"
    yield f"{ours}.mlp.down", f"{dense}.wo"


HUGGINGFACE = T5Table(
    library="Hugging Face",
    pairs=_pairs,
    tied=lambda config: {"head.weight": "token_embedding.weight"} if config.tied_head else {},
    dropped={
        **dict.fromkeys(COPIES, "a copy of shared.weight"),
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": "distances to the source count not",
    },
)
