"""Recipes that find something in a text: entities, answers to questions."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.bert import BertConfig
from strata.models.rnn import RNNConfig
from strata.tasks.extract_answer import ExtractAnswer
from strata.tasks.tag import Tag
from strata.train.recipe import Recipe, TrainConfig


def tags() -> Recipe:
    """Words with a tag each, by an LSTM that reads both ways."""
    return Recipe(
        recipe="tags",
        summary="A bidirectional LSTM over parts of words",
        model=RNNConfig(bidirectional=True, num_layers=2, width=256, embedding_width=128, dropout=0.5, word_dropout=0.1),
        data=DataConfig(source="", kind="tags", tokens="bpe"),
        task=Tag(),
        train=TrainConfig(
            epochs=20,
            batch_size=32,
            learning_rate=2e-3,
            weight_decay=0.01,
            schedule="cosine",
            warmup=0.05,
            clip=1.0,
        ),
    )


def questions() -> Recipe:
    """Questions on texts, by a small BERT that is told which words of the text occur in the question."""
    return Recipe(
        recipe="questions",
        summary="A small BERT from scratch",
        model=BertConfig(
            num_layers=4, width=128, num_heads=4, hidden_width=512, context=384, num_segments=3, dropout=0.1
        ),
        data=DataConfig(source="", kind="questions", max_length=384),
        task=ExtractAnswer(),
        train=TrainConfig(
            epochs=3, batch_size=32, learning_rate=1e-3, weight_decay=0.01, schedule="linear", warmup=0.1, clip=1.0
        ),
    )
