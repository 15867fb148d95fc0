"""Texts that an encoder-decoder or a recurrent net writes: as transformers writes them, and as each does one by one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import strata
from strata.tasks.decoding import Decoding
from strata.tasks.writing import Language, write

SOURCES = [[5, 9, 3, 2], [11, 4], [7, 7, 7, 13, 6, 8]]
END = 1
LANGUAGE = Language(None, stop_tokens=(END,), start_token=0)


def texts(model: Any, sources: list[list[int]], **options: Any) -> list[list[int]]:
    found = write(model, sources, Decoding(**options), LANGUAGE, device=torch.device("cpu"))
    return [one.tokens for several in found for one in several]


@pytest.mark.parametrize("beams", [1, 4])
def test_a_t5_writes_what_transformers_writes_with_it(tmp_path: Path, beams: int) -> None:
    torch.manual_seed(4)
    sizes = {"vocab_size": 19, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    reference = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval().double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(2)
    reference.save_pretrained(tmp_path)
    model = strata.load(tmp_path).double()
    width = max(map(len, SOURCES))
    options: dict[str, Any] = {"length_penalty": 0.6} if beams > 1 else {}
    found = reference.generate(
        torch.tensor([source + [0] * (width - len(source)) for source in SOURCES]),
        attention_mask=torch.tensor([[1] * len(source) + [0] * (width - len(source)) for source in SOURCES]),
        max_new_tokens=12,
        num_beams=beams,
        do_sample=False,
        **options,
    )
    expected = [[*itertools.takewhile(lambda token: token != END, row[1:].tolist())] for row in found]
    expected = [row[:12] for row in expected]
    options |= {"beams": beams} if beams > 1 else {"temperature": 0}
    assert texts(model, SOURCES, tokens=12, **options) == expected
    assert len({*map(tuple, expected)}) > 1


@pytest.mark.parametrize("name", ["rnn", "seq2seq", "transformer"])
@pytest.mark.parametrize("options", [{"temperature": 1.5}, {"beams": 3}])
def test_other_families_write_together_what_they_write_one_by_one(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    module = __import__(f"strata.models.{name}", fromlist=["TINY"])
    model = strata.models.build(module.TINY).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    sources = [[token % 9 for token in source] for source in SOURCES]
    together = texts(model, sources, tokens=11, **options)
    assert together == [tokens for source in sources for tokens in texts(model, [source], tokens=11, **options)]
    assert len({*map(tuple, together)}) > 1
