"""Recipes that learn text."""

from __future__ import annotations

from strata.data.dataset import DataConfig
from strata.models.gpt import GPTConfig
from strata.models.rnn import RNNConfig
from strata.tasks.next_token import NextToken
from strata.train.recipe import Recipe, Reference, TrainConfig

_NANOGPT = "nanoGPT's README, https://github.com/karpathy/nanoGPT"


def gpt() -> Recipe:
    """A small GPT on any text."""
    return Recipe(
        recipe="gpt",
        summary="A GPT of 4 layers, 256 wide",
        model=GPTConfig(num_layers=4, num_heads=4, width=256, context=128, dropout=0.0, bias=False, activation="gelu"),
        data=DataConfig(source="pycode"),
        task=NextToken(),
        train=TrainConfig(
            steps=1000,
            batch_size=32,
            optimizer="muon",
            learning_rate=0.02,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            schedule="warmup_stable_decay",
            decay=0.5,
            warmup=0.02,
            clip=1.0,
        ),
    )


def gpt_shakespeare_cpu() -> Recipe:
    """nanoGPT's shape for a laptop: 4 layers, 4 heads, 128 wide, context 64.

    The shape is nanoGPT's, the training ours: Muon on larger batches, down to zero in a straight line, reaches the
    published loss on a third of the tokens.
    """
    return Recipe(
        recipe="gpt-shakespeare-cpu",
        summary="nanoGPT's CPU shape on tiny Shakespeare's characters",
        model=GPTConfig(num_layers=4, num_heads=4, width=128, context=64, dropout=0.0, bias=False, activation="gelu"),
        data=DataConfig(source="tinyshakespeare", tokens="character", validation=0.1, test=0.0),
        task=NextToken(),
        train=TrainConfig(
            steps=250,
            batch_size=32,
            optimizer="muon",
            learning_rate=0.02,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            schedule="linear",
            warmup=10,
            clip=1.0,
        ),
        reference=Reference(metric="loss", split="validation", published=1.88, source=_NANOGPT),
    )


def gpt_shakespeare() -> Recipe:
    """nanoGPT's six-layer shape for one GPU: 6 heads, 384 wide, context 256."""
    return Recipe(
        recipe="gpt-shakespeare",
        summary="nanoGPT's GPU shape on tiny Shakespeare's characters",
        model=GPTConfig(num_layers=6, num_heads=6, width=384, context=256, dropout=0.2, bias=False, activation="gelu"),
        data=DataConfig(source="tinyshakespeare", tokens="character", validation=0.1, test=0.0),
        task=NextToken(),
        train=TrainConfig(
            steps=5000,
            batch_size=64,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            schedule="cosine",
            final=0.1,
            warmup=100,
            clip=1.0,
            evaluate_every=250,
            early_stopping=8,
        ),
        reference=Reference(metric="loss", split="validation", published=1.4697, source=_NANOGPT),
    )


def char_lstm() -> Recipe:
    """A character LSTM in the shape of Karpathy 2015: two layers of 512.

    The text is read in its order and the state carried on, so that the net remembers further than its gradients reach.
    """
    return Recipe(
        recipe="char-lstm",
        summary="Two LSTM layers, 512 wide, on tiny Shakespeare's characters",
        model=RNNConfig(width=512, embedding_width=128, context=64, dropout=0.3),
        data=DataConfig(source="tinyshakespeare", tokens="character", validation=0.1, test=0.0),
        task=NextToken(),
        train=TrainConfig(
            steps=2000,
            batch_size=32,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.01,
            betas=(0.9, 0.99),
            schedule="cosine",
            final=0.05,
            warmup=100,
            clip=1.0,
        ),
    )
