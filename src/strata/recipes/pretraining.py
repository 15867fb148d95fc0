"""Recipes that learn from text what language is, before they learn anything in particular; and what comes after."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.bert import PRESETS, BertConfig
from strata.models.t5 import T5Config
from strata.tasks.classify import Classify
from strata.tasks.masked_token import MaskedToken
from strata.tasks.span_corruption import SENTINELS, SpanCorruption
from strata.train.recipe import Recipe, TrainConfig


def bert() -> Recipe:
    """A small BERT on any text, by hidden words; ``weights=RUN`` then begins from it."""
    return Recipe(
        recipe="bert",
        summary="A BERT of 4 layers, 256 wide",
        model=BertConfig(
            num_layers=4,
            num_heads=4,
            width=256,
            hidden_width=1024,
            context=128,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        data=DataConfig(source="pycode", kind="text", tokens="wordpiece"),
        task=MaskedToken(),
        train=TrainConfig(
            steps=1000,
            batch_size=32,
            optimizer="muon",
            learning_rate=0.02,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            schedule="linear",
            warmup=0.1,
            clip=1.0,
        ),
    )


def t5() -> Recipe:
    """A small T5 on any text, by spans left out; ``weights=RUN`` then begins from it."""
    return Recipe(
        recipe="t5",
        summary="A T5 of 4 and 4 layers, 256 wide",
        model=T5Config(
            num_layers=4,
            num_heads=4,
            width=256,
            hidden_width=512,
            activation="gelu_tanh",
            gated=True,
            tied_head=False,
            dropout=0.0,
        ),
        data=DataConfig(source="pycode", kind="text", tokens="unigram", sentinels=SENTINELS),
        task=SpanCorruption(source_length=128),
        train=TrainConfig(
            steps=1000,
            batch_size=32,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            schedule="linear",
            warmup=0.1,
            clip=1.0,
        ),
    )


def finetune_sentences() -> Recipe:
    """A net that read much text before, on texts with a class each: a new head first, then all, first layers least."""
    return Recipe(
        recipe="finetune-sentences",
        summary="Fine-tuning on texts with a class each",
        model=PRESETS["bert_mini"],
        data=DataConfig(source="", kind="sentences", tokens="wordpiece"),
        task=Classify(),
        train=TrainConfig(
            epochs=5,
            batch_size=32,
            optimizer="adamw",
            learning_rate=5e-4,
            weight_decay=0.01,
            schedule="linear",
            warmup=0.1,
            clip=1.0,
            early_stopping=10,
        ),
    )
