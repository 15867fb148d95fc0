"""Named recipes: functions that return a `Recipe`, listed here; reading this page imports none of them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strata.registry import Registry

RECIPES = Registry("recipe")


def _add(file: str, name: str, summary: str) -> None:
    RECIPES.add(name, f"strata.recipes.{file}:{name.replace('-', '_')}", summary)


_add("vision", "digits", "Handwritten digits that come with scikit-learn: the default job")
_add("vision", "mnist", "Handwritten digits, 28x28")
_add("vision", "fashion-mnist", "Pieces of clothing, 28x28")
_add("vision", "cifar10", "Ten kinds of small colour pictures, with the paper's ResNet-20")
_add("vision", "lenet", "LeNet-5 on MNIST")
_add("vision", "resnet", "ResNet-18 on pictures in class folders: data=FOLDER")
_add("vision", "cifar10-speed", "94 % on CIFAR-10 as fast as can be, in the spirit of airbench: data=FOLDER")
_add("vision", "finetune", "Pictures in class folders from weights trained before: data=FOLDER weights=PATH")
_add("vision", "pneumonia", "Chest X-rays, 28x28, with calibrated probabilities: data=PATH")
_add("tables", "mlp", "Multilayer perceptron on a table or on small pictures: data=TABLE.csv")
_add("tables", "perceptron", "One layer of weights, no hidden layer")
_add("tables", "iris", "Three species of iris")
_add("tables", "wine", "Three cultivars of wine")
_add("tables", "breast-cancer", "Benign or malignant")
_add("tables", "diabetes", "Progression of diabetes: a number")
_add("text", "gpt", "A small GPT on your text, or on Python's standard library: data=TEXT")
_add("text", "gpt-shakespeare-cpu", "nanoGPT's CPU shape on tiny Shakespeare: data=PATH")
_add("text", "gpt-shakespeare", "nanoGPT's six-layer shape on tiny Shakespeare: data=PATH")
_add("text", "char-lstm", "A character LSTM on tiny Shakespeare, read in its order: data=PATH")
_add("pretraining", "bert", "A small BERT on your text, by hidden words, to begin from: data=TEXT")
_add("pretraining", "t5", "A small T5 on your text, by spans left out, to begin from: data=TEXT")
_add("pretraining", "finetune-sentences", "Texts with a class each from weights trained before: data=FILE weights=RUN")
_add("translation", "translate", "A Transformer on texts and their translations: data=FOLDER, FILE.jsonl or FILE.csv")
_add("translation", "multi30k", "English to German, captions of pictures, by a small Transformer: data=./multi30k")
_add("translation", "multi30k-attention", "The same by recurrent nets with attention (Bahdanau et al. 2015)")
_add("translation", "multi30k-lstm", "The same by LSTMs without attention (Sutskever et al. 2014)")
_add("translation", "summarise", "A Transformer on texts and their summaries, scored by ROUGE: data=FILE.jsonl")
_add("translation", "scitldr", "One sentence from a paper's abstract: data=./scitldr")
_add("sentences", "sentences", "Texts with a class each, by convolutions over words: data=FILE")
_add("sentences", "trec", "Six kinds of questions: data=./sent_conv/TREC.train.all")
_add("sentences", "sst2", "Sentiment of film reviews: data=./sent_conv/stsa.binary.train")
_add("sentences", "clinc150", "150 intents, and what is none of them: data=./clinc150/data_full.json")
_add("reading", "tags", "Entities or parts of speech, by a recurrent net: data=FOLDER, FILE.conll or FILE.jsonl")
_add("reading", "wnut17", "New and rare entities in noisy text: data=./wnut17")
_add("reading", "questions", "Answers to questions as parts of a text: data=FILE.json (SQuAD's form) or FILE.jsonl")
_add("reading", "jaquad", "Questions on Japanese Wikipedia, by a small BERT from scratch: data=./jaquad")
_add("alignment", "chat", "The answers of an assistant in conversations: data=FILE.jsonl")
_add("alignment", "chat-tune", "The same from weights trained before: data=FILE.jsonl weights=PATH")
_add("alignment", "dpo", "Answers that people prefer to others, by DPO: data=FILE.jsonl weights=PATH")
_add("alignment", "embed", "One vector a text, from pairs that mean the same: data=FOLDER or FILE.jsonl")
_add("pixels", "unet", "U-Net: masks or pictures from pictures, or noise removed from them: data=FOLDER")
_add("pixels", "drive", "Vessels in pictures of the retina, by a U-Net: data=./drive")
_add("generative", "dcgan", "DCGAN on Fashion-MNIST, or on your pictures: data=FOLDER")
_add("generative", "gan", "The 2014 GAN of two perceptrons, on MNIST")

FOR_KIND = {
    "image": "resnet",
    "pairs": "unet",
    "table": "mlp",
    "text": "gpt",
    "sentences": "sentences",
    "tags": "tags",
    "questions": "questions",
    "text_pairs": "translate",
    "chat": "chat",
    "preferences": "dpo",
}
"""The recipe that `strata train PATH` picks for what lies at PATH."""


FOR_KIND_FROM_WEIGHTS = {"image": "finetune", "sentences": "finetune-sentences", "chat": "chat-tune"}
"""Likewise where `weights=` says what to begin from."""


def recipe(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the recipe of that name, with dotted settings applied.

    Raises UnknownNameError for the name, ConfigError for a setting.
    """
    return _with_result(RECIPES.get(_as_listed(name))()).set(settings or {})


def _as_listed(name: str) -> str:
    """Return the one name of a recipe, which may be given with underscores."""
    return name.replace("_", "-")


def result_file(name: str, model: str = "") -> Path:
    """Return where `strata verify` records what this recipe reached, beside the recipe.

    Args:
        model: the architecture, where it is another than the recipe's own.
    """
    file = f"{_as_listed(name)}.{model}.json" if model else f"{_as_listed(name)}.json"
    return Path(__file__).parent / "results" / file


CHANGE_NO_RESULT = ("data", "data.source", "seeds", "train.evaluate_every", "train.log_every", "train.save_every")
"""Settings that a result is of the recipe in spite of."""


def changes(found: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings, as they are typed, by which a result is not the recipe's own."""
    return [
        f"{key}={value}"
        for key, value in settings.items()
        if key not in CHANGE_NO_RESULT and not _is_own(found, key, value)
    ]


def _is_own(found: Any, key: str, value: Any) -> bool:
    """Say whether a recipe has that value already."""
    from strata.errors import ConfigError

    try:
        return bool(found.set({key: value}) == found)
    except ConfigError:  # a setting that is no longer there
        return False


def _with_result(found: Any) -> Any:
    """Put our recorded result into a recipe's reference."""
    path = result_file(found.recipe)
    if not path.is_file():
        return found
    from strata.train.recipe import Reference

    result = json.loads(path.read_text(encoding="utf-8"))
    words = dict(word.split("=", 1) for word in shlex.split(result["command"]) if "=" in word)
    changed = " ".join(changes(found, words))
    where = f"with {changed}; " if changed else ""
    reference = found.reference or Reference(metric=result["metric"], split=result["split"])
    machine, versions = result["machine"], result["versions"]
    measured = {
        "measured": result["mean"],
        "spread": result["deviation"],
        "seeds": len(result["seeds"]),
        "changed": changed,
        "note": f"{where}{machine}, torch {versions['torch']}, commit {result['commit']}; {result['note']}",
    }
    return dataclasses.replace(found, reference=dataclasses.replace(reference, **measured))
