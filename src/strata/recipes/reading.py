"""Recipes that find something in a text: entities, answers to questions."""

from __future__ import annotations

import dataclasses

from strata.data.dataset import DataConfig
from strata.models.bert import BertConfig
from strata.models.rnn import RNNConfig
from strata.tasks.extract_answer import ExtractAnswer
from strata.tasks.tag import Tag
from strata.train.recipe import Recipe, Reference, TrainConfig

_TAGGER = RNNConfig(bidirectional=True, num_layers=1, width=128, embedding_width=100, dropout=0.3, word_dropout=0.05)
_TRAIN_TAGGER = TrainConfig(
    epochs=15,
    batch_size=16,
    learning_rate=4e-3,
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.05,
    clip=1.0,
    early_stopping=10,
)
"""The best of ten looks at the validation data is kept."""
_READER = BertConfig(num_layers=2, width=128, num_heads=4, hidden_width=512, context=256, num_segments=3)
"""Its third segment is of words of the text that also occur in the question: see `ExtractAnswer`."""
_TRAIN_READER = TrainConfig(
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=0.01,
    schedule="linear",
    warmup=0.1,
    clip=1.0,
)


def tags() -> Recipe:
    """Words with a tag each, by an LSTM over parts of words that reads both ways (Huang et al. 2015)."""
    return Recipe(
        recipe="tags",
        summary="An LSTM that reads both ways, over parts of words",
        model=_TAGGER,
        data=DataConfig(source="", kind="tags", tokens="bpe"),
        task=Tag(),
        train=_TRAIN_TAGGER,
    )


def wnut17() -> Recipe:
    """New and rare entities in noisy text (Derczynski et al. 2017).

    The published system had word vectors and gazetteers made from far more text; this one learns from the 3,394
    training sentences alone, and that few of the test data's names occur in them is the point of the task.
    """
    return Recipe(
        recipe="wnut17",
        summary="New and rare entities in noisy text, learned from its training sentences alone",
        model=_TAGGER,
        data=DataConfig(source="wnut17", kind="tags", tokens="bpe", vocab_size=2000),
        task=Tag(),
        train=_TRAIN_TAGGER,
        reference=Reference(
            metric="span_f1",
            published=0.4186,
            source="Aguilar et al. 2017, first of the shared task, with gazetteers and word vectors from other text",
        ),
    )


def questions() -> Recipe:
    """Questions on texts, by a small BERT that is not pretrained; weights=FOLDER begins from one that is."""
    return Recipe(
        recipe="questions",
        summary="A small BERT that marks where the answer begins and ends",
        model=_READER,
        data=DataConfig(source="", kind="questions", max_length=256),
        task=ExtractAnswer(),
        train=_TRAIN_READER,
    )


def jaquad() -> Recipe:
    """Questions on Japanese Wikipedia (So et al. 2022).

    The published model was pretrained on other text; this one learns from the training questions alone, and for no
    longer than one core takes a quarter of an hour for. The test data is not public, so that the validation data is
    what is compared; it decides nothing while the model learns.
    """
    return Recipe(
        recipe="jaquad",
        summary="Questions on Japanese Wikipedia, by a small BERT learned from its training questions alone",
        model=_READER,
        data=DataConfig(source="jaquad", kind="questions", tokens="wordpiece", max_length=256, stride=96, test=0.0),
        task=ExtractAnswer(scores="characters"),
        train=dataclasses.replace(_TRAIN_READER, epochs=None, steps=1000),
        reference=Reference(
            metric="answer_f1",
            split="validation",
            published=0.7735,
            source="JaQuAD's README (So et al. 2022): a pretrained Japanese BERT-Base, on these development data",
        ),
    )
