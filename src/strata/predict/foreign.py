"""A Hugging Face folder as something that answers: what its model was trained for is told from its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from strata.checkpoint.files import read_json
from strata.data.preprocess import ImagePreprocess
from strata.data.questions import QuestionPreprocess
from strata.data.sentences import LENGTH_AT_MOST, SentencePreprocess
from strata.data.tags import TagPreprocess
from strata.data.text_pairs import PairPreprocess
from strata.data.tokenizer import TextPreprocess, open_tokenizer
from strata.errors import RunError
from strata.models import family_of, reading_of
from strata.tasks import Task
from strata.tasks.classify import Classify
from strata.tasks.embed import Embed
from strata.tasks.extract_answer import ExtractAnswer
from strata.tasks.masked_token import MaskedToken
from strata.tasks.next_token import NextToken
from strata.tasks.tag import Tag
from strata.tasks.translate import Translate
from strata.weights import Weights, model_of, open_weights
from strata.weights.settings import Settings

TARGET_LENGTH = 128
"""Tokens up to which a text is written from another, where the folder says nothing of the texts that were learned."""

Foreign = tuple[Task, nn.Module, Any, tuple[str, ...]]
"""Task, model, preprocessing and labels."""


def read_foreign(folder: Path) -> Foreign:
    """Return all that a Hugging Face folder's model needs to answer.

    Raises WeightsError for a model that Strata cannot take, RunError for one that answers nothing by itself, or
    otherwise than with one of several labels, DataError for a text model without its tokenizer.
    """
    weights = open_weights(folder)
    if hasattr(weights.config, "num_classes") and getattr(weights.config, "head", "class") == "class":
        _must_tell_classes_apart(folder)
    if "vocab_size" in vars(weights.config):
        return _of_texts(folder, weights)
    labels = weights.labels or tuple(f"class {k}" for k in range(weights.config.num_classes))
    return Classify(), model_of(weights), ImagePreprocess(labels=labels, **weights.preprocess), labels


def _must_tell_classes_apart(folder: Path) -> None:
    """Refuse a head that gives numbers, or several labels at once. Raises RunError."""
    content = read_json(folder / "config.json")
    kind = content.get("problem_type")
    if kind is None and Settings(content, "This model").num_classes() == 1:
        kind = "regression"  # as theirs takes a single output
    if kind not in (None, "single_label_classification"):
        raise RunError(
            f"{folder} holds a model for problem_type={kind!r}, and Strata answers with one label of several only. "
            f"Train it on classes: strata train DATA weights={folder}. Or take what its head gives: strata.load."
        )


def _of_texts(folder: Path, weights: Weights) -> Foreign:
    config = weights.config
    head, reading = getattr(config, "head", "token"), reading_of(str(family_of(config)))
    if head == "none":
        raise RunError(
            f"{folder} holds a model without a head, which answers nothing by itself. Train one on it: "
            f"strata train DATA weights={folder}. Or take its hidden states: strata.load."
        )
    text = open_tokenizer(str(folder))
    text.check_fits(config.vocab_size)
    labels = weights.labels or tuple(f"class {k}" for k in range(getattr(config, "num_classes", 0)))
    task, preprocess = _job(
        head, reading, text, min(LENGTH_AT_MOST, getattr(config, "context", LENGTH_AT_MOST)), labels
    )
    return task, model_of(weights), preprocess, labels if head in ("class", "token_class") else ()


def _job(
    head: str, reading: str | None, text: TextPreprocess, length: int, labels: tuple[str, ...]
) -> tuple[Task, Any]:
    """Return what a model with this head does, and how it reads what it is given."""
    if head == "class":
        return Classify(), SentencePreprocess(text=text, max_length=length, column="text", labels=labels)
    if head == "embedding":
        return Embed(), SentencePreprocess(text=text, max_length=length, column="text")
    if head == "token_class":
        return Tag(), TagPreprocess(text=text, max_length=length, column="tokens", labels=labels)
    if head == "span":
        return ExtractAnswer(), QuestionPreprocess(text=text, max_length=length, stride=length // 2)
    if reading == "pairs":
        return Translate(), PairPreprocess(text=text, max_length=length, longest_target=TARGET_LENGTH)
    return (NextToken() if reading == "forwards" else MaskedToken().of(text)), text
