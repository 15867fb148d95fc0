"""Recipes for models that talk, that answer as people prefer, and that tell what texts mean."""

from __future__ import annotations

import dataclasses

from strata.data.dataset import DataConfig
from strata.models.bert import BertConfig
from strata.models.gpt import GPTConfig
from strata.tasks.chat import Chat
from strata.tasks.embed import Embed
from strata.tasks.prefer import Prefer
from strata.train.recipe import Recipe, TrainConfig
from strata.train.transfer import TransferConfig

_SMALL = GPTConfig(
    num_layers=4,
    num_heads=4,
    width=256,
    context=512,
    dropout=0.1,
    bias=False,
    positions="rotary",
    norm="rms",
    mlp="swiglu",
)
_TUNED = TrainConfig(
    epochs=3,
    batch_size=16,
    optimizer="adamw",
    learning_rate=1e-4,
    betas=(0.9, 0.99),
    schedule="cosine",
    warmup=0.05,
    clip=1.0,
)
_FROM_WEIGHTS = TransferConfig(first_layer_rate=1.0)
"""All layers learn alike: what was read before and what is talked about are one language."""


def chat() -> Recipe:
    """A small GPT that learns to answer from nothing but conversations."""
    return Recipe(
        recipe="chat",
        summary="A GPT of 4 layers, 256 wide, on an assistant's answers",
        model=_SMALL,
        data=DataConfig(source="", kind="chat", vocab_size=2000, max_length=512),
        task=Chat(),
        train=TrainConfig(
            epochs=20,
            batch_size=8,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            schedule="cosine",
            warmup=0.05,
            clip=1.0,
            early_stopping=3,
        ),
        weights=_FROM_WEIGHTS,
    )


def chat_tune() -> Recipe:
    """The same from weights trained before, such as those of a run on plain text or of a Hugging Face folder.

    weights.tune=lora learns less than a hundredth of the numbers; 3e-4 is then a good learning rate.
    """
    found = chat()
    return dataclasses.replace(
        found,
        recipe="chat-tune",
        summary="An assistant's answers, from weights trained before",
        data=DataConfig(source="", kind="chat"),
        train=_TUNED,
    )


def dpo() -> Recipe:
    """Direct preference optimisation (Rafailov et al. 2023) of a model that answers already: weights=RUN.

    Their rate of 1e-6 is for models of billions of weights; smaller ones bear more.
    """
    return Recipe(
        recipe="dpo",
        summary="Answers that people prefer to others, from weights that answer already",
        model=dataclasses.replace(_SMALL, dropout=0.0),
        data=DataConfig(source="", kind="preferences"),
        task=Prefer(),
        train=dataclasses.replace(_TUNED, epochs=1, learning_rate=2e-5, schedule="linear", warmup=0.1),
        weights=_FROM_WEIGHTS,
    )


def embed() -> Recipe:
    """Vectors of texts from pairs that mean the same: translations, questions and answers, or a text and itself."""
    return Recipe(
        recipe="embed",
        summary="A BERT of 2 layers, 256 wide, whose vectors of partners are near",
        model=BertConfig(num_layers=2, num_heads=4, width=256, hidden_width=1024, context=128, dropout=0.1),
        data=DataConfig(source="", kind="text_pairs", vocab_size=8000, max_length=128),
        task=Embed(),
        train=TrainConfig(
            epochs=5,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.01,
            schedule="linear",
            warmup=0.1,
            clip=1.0,
        ),
        weights=dataclasses.replace(_FROM_WEIGHTS, frozen=0.0),
    )
