"""BERT's, RoBERTa's and DistilBERT's tensors as Hugging Face names them, and the files of sentence-transformers.

``architectures`` in ``config.json`` says which head there is. A folder in which sentence-transformers keeps its pooling
beside the weights gives one vector of length one for each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strata.checkpoint.files import read_json
from strata.errors import WeightsError
from strata.layers.text_head import TextHead
from strata.models.bert import BertConfig
from strata.weights.settings import Settings, their_activation
from strata.weights.table import Pair, Table

_LIBRARY_NAME = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
"""What the names of their classes begin with, by ``model_type``, which is our variant."""
_HEAD: dict[str, TextHead] = {
    "Model": "none",
    "ForMaskedLM": "token",
    "ForSequenceClassification": "class",
    "ForTokenClassification": "token_class",
    "ForQuestionAnswering": "span",
    "ForPreTraining": "token",
}
"""What they end with, and our head."""
_DISTILBERT_EPS = 1e-12
"""Of DistilBERT's norms, which their config does not hold."""
_UNUSED_POSITIONS = 2
"""Rows of positions that RoBERTa's context does not count."""
MARKS = ("cls", "sep")
"""Roles of the tokens that a text begins and ends with."""
_POSITIONS = "embeddings.position_embeddings.weight"
_POOLING, _MODULES = "1_Pooling/config.json", "modules.json"
_POOL = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "mean": "mean",
    "cls": "first",
}
"""What sentence-transformers calls pooling, in its older files and its newer, and our ``embedding_pool``."""
_LAYERS = ("Transformer", "Pooling", "Normalize")
"""Its modules that a model of ours is."""


def config_from(theirs: dict[str, Any]) -> BertConfig:
    """Return our config for a Hugging Face ``config.json``, with what `read_beside` found in the folder.

    The dropout of their heads is not kept: ours have the one rate. Raises WeightsError for a setting that ours lacks.
    """
    variant = theirs["model_type"]
    settings = Settings(theirs, _LIBRARY_NAME[variant])
    head = _head(settings, variant)
    if head == "token":
        settings.must("tie_word_embeddings", True)
    shared: dict[str, Any] = {
        "variant": variant,
        "head": "embedding" if "embedding_pool" in theirs else head,
        "embedding_pool": settings.take("embedding_pool", "mean"),
        "num_classes": settings.num_classes(),
        "vocab_size": settings.take("vocab_size", 50265 if variant == "roberta" else 30522),
    }
    context = settings.take("max_position_embeddings", 512)
    if variant == "distilbert":
        return BertConfig(
            num_layers=settings.take("n_layers", 6),
            num_heads=settings.take("n_heads", 12),
            width=settings.take("dim", 768),
            hidden_width=settings.take("hidden_dim", 3072),
            context=context,
            num_segments=0,
            activation=settings.activation("activation", "gelu"),
            norm_eps=_DISTILBERT_EPS,
            dropout=settings.take("dropout", 0.1),
            attention_dropout=settings.take("attention_dropout", 0.1),
            **shared,
        )
    settings.must("position_embedding_type", "absolute")
    settings.must("is_decoder", False)
    if variant == "roberta":
        context -= settings.take("pad_token_id", 1) + 1
    return BertConfig(
        num_layers=settings.take("num_hidden_layers", 12),
        num_heads=settings.take("num_attention_heads", 12),
        width=settings.take("hidden_size", 768),
        hidden_width=settings.take("intermediate_size", 3072),
        context=context,
        num_segments=settings.take("type_vocab_size", 2),
        activation=settings.activation("hidden_act", "gelu"),
        norm_eps=settings.take("layer_norm_eps", 1e-12),
        dropout=settings.take("hidden_dropout_prob", 0.1),
        attention_dropout=settings.take("attention_probs_dropout_prob", 0.1),
        **shared,
    )


def _head(settings: Settings, variant: str) -> TextHead:
    """Return our head for ``architectures``; without that there is none."""
    name = next(iter(settings.take("architectures", [])), f"{_LIBRARY_NAME[variant]}Model")
    allowed = {f"{_LIBRARY_NAME[variant]}{ending}": head for ending, head in _HEAD.items()}
    if name not in allowed:
        raise WeightsError(f"architectures=[{name!r}] is not supported; these are: {', '.join(allowed)}.")
    return allowed[name]


def config_to(ours: BertConfig) -> dict[str, Any]:
    """Return the Hugging Face ``config.json`` of our config. Raises WeightsError for what they lack."""
    has_segments = ours.num_segments > 0
    if has_segments == (ours.variant == "distilbert"):
        needs = "no segments" if has_segments else "at least one segment"
        raise WeightsError(
            f"transformers has no {ours.variant} with num_segments={ours.num_segments}; it has {needs} there."
        )
    head = "none" if ours.head == "embedding" else ours.head
    ending = next(ending for ending, given in _HEAD.items() if given == head)
    shared = {
        "model_type": ours.variant,
        "architectures": [f"{_LIBRARY_NAME[ours.variant]}{ending}"],
        "vocab_size": ours.vocab_size,
        "tie_word_embeddings": True,
    }
    if ours.variant == "distilbert":
        if ours.norm_eps != _DISTILBERT_EPS:
            raise WeightsError(
                f"transformers has no distilbert with norm_eps={ours.norm_eps:g}; it is {_DISTILBERT_EPS:g} there."
            )
        return shared | {
            "n_layers": ours.num_layers,
            "n_heads": ours.num_heads,
            "dim": ours.width,
            "hidden_dim": ours.hidden_width,
            "max_position_embeddings": ours.context,
            "activation": their_activation(ours.activation),
            "dropout": ours.dropout,
            "attention_dropout": ours.attention_dropout,
            "pad_token_id": 0,
        }
    is_roberta = ours.variant == "roberta"
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if is_roberta else {"pad_token_id": 0}
    return (
        shared
        | special
        | {
            "num_hidden_layers": ours.num_layers,
            "num_attention_heads": ours.num_heads,
            "hidden_size": ours.width,
            "intermediate_size": ours.hidden_width,
            "max_position_embeddings": ours.context + (_UNUSED_POSITIONS if is_roberta else 0),
            "type_vocab_size": ours.num_segments,
            "hidden_act": their_activation(ours.activation),
            "layer_norm_eps": ours.norm_eps,
            "hidden_dropout_prob": ours.dropout,
            "attention_probs_dropout_prob": ours.attention_dropout,
        }
    )


def read_beside(folder: Path) -> dict[str, Any]:
    """Return ``embedding_pool`` for a folder of sentence-transformers, nothing for any other.

    Raises WeightsError for pooling, or further layers, that ours lacks.
    """
    if not (folder / _POOLING).is_file():
        return {}
    modules = read_json(folder / _MODULES) if (folder / _MODULES).is_file() else []
    further = [module["path"] for module in modules if module["type"].rpartition(".")[2] not in _LAYERS]
    if further:
        raise WeightsError(f"{folder} makes its vectors with further layers, which Strata lacks: {', '.join(further)}.")
    found = read_json(folder / _POOLING)
    newer = found.get("pooling_mode")
    older = [switch for switch, is_on in found.items() if switch.startswith("pooling_mode_") and is_on]
    chosen = older if newer is None else [newer] if isinstance(newer, str) else newer
    pools = {_POOL.get(mode) for mode in chosen}
    if len(pools) != 1 or None in pools:
        raise WeightsError(
            f"{folder / _POOLING} pools by {', '.join(chosen) or 'nothing'}, which Strata lacks. It has: "
            f"{', '.join(_POOL)}."
        )
    return {"embedding_pool": pools.pop()}


def write_beside(ours: BertConfig) -> dict[str, Any]:
    """Return the further files, by name, that sentence-transformers reads; none for a model with another head."""
    if ours.head != "embedding":
        return {}
    paths = ("", _POOLING.partition("/")[0], "2_Normalize")
    return {
        _MODULES: [
            {"idx": k, "name": str(k), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for k, (path, kind) in enumerate(zip(paths, _LAYERS, strict=True))
        ],
        _POOLING: {
            "word_embedding_dimension": ours.width,
            **{mode: pool == ours.embedding_pool for mode, pool in _POOL.items() if mode.startswith("pooling_mode_")},
        },
        "sentence_bert_config.json": {"max_seq_length": ours.context, "do_lower_case": False},
    }


def as_usual(content: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return RoBERTa's tensors with positions that begin in row 2: in theirs in that after the padding's number."""
    return _shifted(theirs, _UNUSED_POSITIONS - 1 - content.get("pad_token_id", 1), content)


def as_padded(content: dict[str, Any], theirs: Mapping[str, Tensor]) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Return ``config.json`` and tensors the other way: as transformers reads them with this padding."""
    if content["model_type"] != "roberta":
        return content, theirs
    down = content["pad_token_id"] + 1 - _UNUSED_POSITIONS
    places = content["max_position_embeddings"] + down
    return content | {"max_position_embeddings": places}, _shifted(theirs, down, content)


def _shifted(theirs: Mapping[str, Tensor], down: int, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors whose rows of positions lie so many further down; those above are not used."""

    def moved(value: Tensor) -> Tensor:
        return torch.cat([value[:1].expand(down, -1), value]) if down > 0 else value[-down:].clone()

    if content["model_type"] != "roberta" or down == 0:
        return dict(theirs)
    return {name: moved(value) if name.endswith(_POSITIONS) else value for name, value in theirs.items()}


def _trunk(config: BertConfig) -> str:
    return f"{config.variant}."


def _pairs(config: BertConfig) -> Iterator[Pair]:
    trunk = _trunk(config)
    is_distilbert = config.variant == "distilbert"
    yield "token_embedding", f"{trunk}embeddings.word_embeddings"
    yield "position_embedding", f"{trunk}embeddings.position_embeddings"
    yield "segment_embedding", f"{trunk}embeddings.token_type_embeddings"
    yield "norm", f"{trunk}embeddings.LayerNorm"
    for b in range(config.num_layers):
        ours, theirs = f"blocks.{b}", f"{trunk}{'transformer' if is_distilbert else 'encoder'}.layer.{b}"
        looked = "attention.{}_lin" if is_distilbert else "attention.self.{}"
        names = ("q", "k", "v") if is_distilbert else ("query", "key", "value")
        for part in ("weight", "bias"):
            three = tuple(f"{theirs}.{looked.format(name)}.{part}" for name in names)
            yield f"{ours}.attention.qkv.{part}", three
        if is_distilbert:
            yield f"{ours}.attention.out", f"{theirs}.attention.out_lin"
            yield f"{ours}.norm1", f"{theirs}.sa_layer_norm"
            yield f"{ours}.mlp.up", f"{theirs}.ffn.lin1"
            yield f"{ours}.mlp.down", f"{theirs}.ffn.lin2"
            yield f"{ours}.norm2", f"{theirs}.output_layer_norm"
        else:
            yield f"{ours}.attention.out", f"{theirs}.attention.output.dense"
            yield f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm"
            yield f"{ours}.mlp.up", f"{theirs}.intermediate.dense"
            yield f"{ours}.mlp.down", f"{theirs}.output.dense"
            yield f"{ours}.norm2", f"{theirs}.output.LayerNorm"
    if config.head == "class":
        yield "head.dense", _CLASS_DENSE[config.variant]
        yield "head.classifier", "classifier.out_proj" if config.variant == "roberta" else "classifier"
    elif config.head == "token_class":
        yield "head.classifier", "classifier"
    elif config.head == "span":
        yield "head.classifier", "qa_outputs"
    elif config.head == "token":
        dense, norm, decoder, bias = _TOKEN[config.variant]
        yield "head.dense", dense
        yield "head.norm", norm
        yield "head.decoder", decoder
        yield "head.decoder.bias", bias


_CLASS_DENSE = {"bert": "bert.pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}
_TOKEN = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
}


def _tied(config: BertConfig) -> Mapping[str, str]:
    return {"head.decoder.weight": "token_embedding.weight"} if config.head == "token" else {}


_PRETRAINING = "the head of pre-training, which no other head reads"
HUGGINGFACE = Table(
    library="Hugging Face",
    pairs=_pairs,
    trunk=_trunk,
    tied=_tied,
    dropped={
        "*.pooler.*": "a layer over the first token that only the head of BERT's classes reads",
        "*.embeddings.position_ids": "the numbers from 0 on, which are counted anew",
        "cls.seq_relationship.*": "says whether one sentence follows another, in pre-training only",
        "cls.predictions.decoder.bias": "the same numbers as cls.predictions.bias",
        "lm_head.decoder.bias": "the same numbers as lm_head.bias",
        "cls.predictions.*": _PRETRAINING,
        "lm_head.*": _PRETRAINING,
        "vocab_*": _PRETRAINING,
    },
    renamed={".gamma": ".weight", ".beta": ".bias"},
)
