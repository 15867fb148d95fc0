"""Recipes that tell texts apart: sentiment, the kind of a question, intents."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.textcnn import TextCNNConfig
from strata.tasks.classify import Classify
from strata.train.recipe import Recipe, Reference, TrainConfig

_KIM = "Kim 2014, Table 2, CNN-rand"
_TRAIN = TrainConfig(
    epochs=10,
    batch_size=50,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.1,
    schedule="linear",
    warmup=0.1,
    clip=1.0,
    early_stopping=10,
)
"""The best of ten looks at the validation data is kept."""


def sentences() -> Recipe:
    """Texts with a class each, by Kim's convolutions over words."""
    return Recipe(
        recipe="sentences",
        summary="Convolutions over words",
        model=TextCNNConfig(),
        data=DataConfig(source="", kind="sentences", tokens="word", lowercase=True),
        task=Classify(),
        train=_TRAIN,
    )


def trec() -> Recipe:
    """Six kinds of questions (Li and Roth 2002)."""
    return Recipe(
        recipe="trec",
        summary="Six kinds of questions, by convolutions over words",
        model=TextCNNConfig(),
        data=DataConfig(
            source="TREC.train.all",
            kind="sentences",
            tokens="word",
            lowercase=True,
            encoding="latin-1",
            labels=("description", "entity", "abbreviation", "human", "numeric", "location"),
        ),
        task=Classify(),
        train=_TRAIN,
        reference=Reference(metric="accuracy", published=0.912, source=_KIM),
    )


def sst2() -> Recipe:
    """Sentiment of sentences from film reviews, positive or negative (Socher et al. 2013)."""
    return Recipe(
        recipe="sst2",
        summary="Sentiment of film reviews, by convolutions over words",
        model=TextCNNConfig(),
        data=DataConfig(
            source="stsa.binary.train",
            kind="sentences",
            tokens="word",
            lowercase=True,
            labels=("negative", "positive"),
        ),
        task=Classify(),
        train=_TRAIN,
        reference=Reference(metric="accuracy", published=0.827, source=_KIM),
    )


def clinc150() -> Recipe:
    """150 intents of people who talk to a machine, and what is none of them (Larson et al. 2019)."""
    return Recipe(
        recipe="clinc150",
        summary="150 intents and what is none of them, by convolutions over words",
        model=TextCNNConfig(),
        data=DataConfig(source="data_full.json", kind="sentences", tokens="word", lowercase=True),
        task=Classify(out_of_scope="oos"),
        train=_TRAIN,
        reference=Reference(
            metric="in_scope_accuracy", published=0.912, source="Larson et al. 2019, Table 2, CNN, full data"
        ),
    )
