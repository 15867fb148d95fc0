"""Recipes that turn texts into other texts: translations and summaries."""

from __future__ import annotations

import dataclasses
from typing import Any

from strata.data.dataset import DataConfig
from strata.models.seq2seq import Seq2SeqConfig
from strata.models.transformer import TransformerConfig
from strata.tasks.translate import Translate
from strata.train.recipe import Recipe, Reference, TrainConfig

_TINY = TransformerConfig(
    num_layers=4, num_heads=4, width=128, hidden_width=256, dropout=0.2, pre_norm=True, context=512
)
"""Wu et al. 2021's Transformer-tiny."""
_TRAIN = TrainConfig(
    epochs=20,
    batch_size=128,
    optimizer="muon",
    learning_rate=0.01,
    weight_decay=0.02,
    betas=(0.9, 0.98),
    schedule="linear",
    warmup=0.05,
    clip=1.0,
    ema=0.999,
)


def translate() -> Recipe:
    """A small Transformer from any texts to what they become."""
    return Recipe(
        recipe="translate",
        summary="A Transformer of 4 + 4 layers, 128 wide, on texts and their translations",
        model=_TINY,
        data=DataConfig(source="", kind="text_pairs"),
        task=Translate(),
        train=_TRAIN,
    )


def multi30k() -> Recipe:
    """Captions of 29,000 pictures from English to German (Elliott et al. 2016), by Wu et al. 2021's Transformer-tiny.

    The shape is theirs but for where the norms stand and the smaller dropout, the training ours: Muon, few passes, and
    an average of the weights. They, as most, measure BLEU on lower-cased text in the Moses tokenizer's
    words; ours is sacrebleu's, on the text as it is written, and as ``bleu_lowercase`` without regard to capitals.
    """
    return _multi30k(
        "multi30k",
        "English to German, captions of pictures, by a Transformer",
        _TINY,
        reference=Reference(
            metric="bleu_lowercase",
            published=41.0,
            source="Wu et al. 2021, Good for misconceived reasons, Transformer-tiny (recalled, not read again)",
        ),
    )


def multi30k_attention() -> Recipe:
    """The same by Bahdanau et al. 2015's net: a GRU that reads both ways, and one that writes and looks back."""
    return _multi30k(
        "multi30k-attention",
        "English to German by recurrent nets with attention",
        Seq2SeqConfig(
            attention="bahdanau",
            width=256,
            embedding_width=256,
            align_width=256,
            readout_width=256,
            dropout=0.3,
            tied_embeddings=True,
            tied_head=True,
        ),
        train=dataclasses.replace(_TRAIN, epochs=12),
    )


def multi30k_lstm() -> Recipe:
    """The same by Sutskever et al. 2014's nets: the decoder knows of the source only the encoder's last state."""
    return _multi30k(
        "multi30k-lstm",
        "English to German by an LSTM that reads and one that writes, without attention",
        Seq2SeqConfig(
            attention="none",
            cell="lstm",
            width=384,
            embedding_width=384,
            bidirectional=False,
            reverse_source=True,
            dropout=0.3,
            tied_embeddings=True,
            tied_head=True,
        ),
        train=dataclasses.replace(_TRAIN, epochs=12),
    )


def _multi30k(
    name: str, summary: str, model: Any, *, train: TrainConfig = _TRAIN, reference: Reference | None = None
) -> Recipe:
    return Recipe(
        recipe=name,
        summary=summary,
        model=model,
        data=DataConfig(source="multi30k", kind="text_pairs", column="en", target="de", vocab_size=6000),
        task=Translate(),
        train=train,
        reference=reference,
    )


def summarise() -> Recipe:
    """A small Transformer from texts to their summaries, scored by ROUGE.

    A summary is mostly copied, and copying is what a Transformer that begins from nothing learns last: with a few
    thousand pairs it writes fluent sentences about something else. Begin from weights where that matters.
    """
    return Recipe(
        recipe="summarise",
        summary="A Transformer from texts to their summaries",
        model=_TINY,
        data=DataConfig(source="", kind="text_pairs", max_length=400),
        task=Translate(scores="rouge", judge="loss", written_at_most=100),
        train=_TRAIN,
    )


def scitldr() -> Recipe:
    """A sentence that says what a paper is about, from its abstract (Cachola et al. 2020): 1,992 pairs.

    BART, which the published number is of, had read 160 gigabytes of text before; this begins from nothing.
    """
    found = summarise()
    return Recipe(
        recipe="scitldr",
        summary="One sentence from a paper's abstract",
        model=found.model,
        data=DataConfig(
            source="scitldr", kind="text_pairs", column="source", target="target", max_length=320, vocab_size=4000
        ),
        task=found.task,
        train=dataclasses.replace(_TRAIN, epochs=30, batch_size=32, early_stopping=3),
        reference=Reference(
            metric="rouge_1",
            published=43.3,
            source="Cachola et al. 2020, TLDR, BART on abstracts (recalled, not read again)",
        ),
    )
