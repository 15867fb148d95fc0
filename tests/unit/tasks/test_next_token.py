"""The next token: metrics as counted by hand, and text that is a function of its seed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError
from strata.models.gpt import GPT, TINY
from strata.tasks import Draw
from strata.tasks.base import Answering
from strata.tasks.decoding import Decoding
from strata.tasks.next_token import NextToken
from strata.tasks.writing import Language, write

CONTEXT = TINY.context


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(3)
    model = GPT(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # far from uniform, so that choices differ
    return model


def generate(model: GPT, prompt: Tensor, **options: Any) -> list[int]:
    settings = Decoding(**{"tokens": 30, "temperature": 1.0} | options)
    return write(model, [prompt.tolist()], settings, Language(None), device=torch.device("cpu"))[0][0].tokens


def test_metrics_equal_those_counted_by_hand() -> None:
    logits_BTV = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 3.0], [1.0, 1.0, 1.5]]])
    target_BT = torch.tensor([[0, 0], [2, 2]])

    class Fixed(nn.Module):
        def forward(self, token_BT: Tensor) -> Tensor:
            return logits_BTV

    batch = {"input": torch.zeros(2, 2, dtype=torch.int64), "target": target_BT}
    task, draw = NextToken(), Draw(0, 0, torch.arange(2))
    mean = float(F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten()))
    loss = task.objective(Fixed(), batch, "train", draw)
    assert float(loss.total) == pytest.approx(4 * mean) and int(torch.as_tensor(loss.count)) == 4
    assert task.metrics(task.measure(Fixed(), batch, draw).sums, {}) == pytest.approx(
        {
            "loss": mean,
            "perplexity": math.exp(mean),
            "bits_per_token": mean / math.log(2),
            "accuracy": 0.75,
        },
        rel=1e-5,
    )


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model: GPT) -> None:
    prompt = torch.tensor([1, 2, 3])
    assert generate(model, prompt) == generate(model, prompt)
    assert generate(model, prompt) != generate(model, prompt, seed=1)
    assert generate(model, prompt, tokens=7) == generate(model, prompt)[:7]
    assert len(generate(model, prompt, seed=2**80, tokens=2)) == 2


@pytest.mark.parametrize("length", [1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_the_cache_does_not_change_the_text_whatever_the_prompts_length(model: GPT, length: int) -> None:
    prompt = torch.arange(length) % TINY.vocab_size
    window, expected = prompt[-CONTEXT:], []
    with torch.no_grad():
        for _ in range(3 * CONTEXT):
            expected.append(int(model(window[None])[0, -1].argmax()))
            window = torch.cat([window, torch.tensor(expected[-1:])])
            if len(window) > CONTEXT:
                window = window[-(CONTEXT // 2) :]
    assert generate(model, prompt, tokens=3 * CONTEXT, temperature=0) == expected


def test_greedy_is_the_limit_of_ever_colder_choices(model: GPT) -> None:
    prompt = torch.tensor([4])
    greedy = generate(model, prompt, temperature=0)
    assert generate(model, prompt, top_k=1) == greedy
    assert generate(model, prompt, temperature=1e-42) == greedy
    assert generate(model, prompt, temperature=3.0) != greedy


def test_top_k_chooses_among_the_likeliest(model: GPT) -> None:
    prompt = torch.tensor([4])
    with torch.no_grad():
        likeliest = set(model(prompt[None])[0, -1].topk(2).indices.tolist())
    drawn = {generate(model, prompt, tokens=1, top_k=2, temperature=50.0, seed=seed)[0] for seed in range(40)}
    assert drawn == likeliest
    assert len(generate(model, prompt, tokens=3, top_k=1000)) == 3


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}])
def test_options_without_meaning_are_refused(model: GPT, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is not allowed: it has to be"):
        generate(model, torch.tensor([1]), **options)


def test_a_sample_begins_with_its_prompt_and_streams_the_rest(model: GPT) -> None:
    preprocess = TextPreprocess(tokens="character", characters=tuple("abcdefghijk"))
    context, pieces = Answering((), preprocess, torch.device("cpu")), []
    sample = NextToken().sample(model, context, prompt="abc", tokens=10, seed=0, stream=pieces.append)
    assert sample.text is not None and sample.text.startswith("abc") and len(sample.text) == 13
    assert sample.text == "abc" + "".join(pieces)
    alone = NextToken().sample(model, context, tokens=10)  # no line break in the vocabulary
    assert alone.text is not None and len(alone.text) == 10
    with pytest.raises(DataError, match="Character 'z' at place 1 of the text is not among the 11"):
        NextToken().sample(model, context, prompt="az")


def test_characters_of_several_bytes_are_streamed_whole() -> None:
    text = "é€𝄞a"

    class Says(nn.Module):
        """Says the bytes of a text, one after the other."""

        config = TINY

        def new_cache(self, batch_size: int, length: int, **options: object) -> SimpleNamespace:
            return SimpleNamespace(position=0, length=length)

        def forward(self, token_BT: Tensor, cache: object = None) -> Tensor:
            self.said = getattr(self, "said", -1) + 1
            return F.one_hot(torch.tensor([[text.encode()[self.said]]]), 256).float()

    preprocess, pieces = TextPreprocess(tokens="byte"), []
    context = Answering((), preprocess, torch.device("cpu"))
    options = {"prompt": "ü", "tokens": len(text.encode()), "temperature": 0.0, "stream": pieces.append}
    assert NextToken().sample(Says(), context, **options).text == "ü" + text
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)


def test_answers_are_the_likeliest_next_tokens(model: GPT) -> None:
    preprocess = TextPreprocess(tokens="character", characters=tuple("abcdefghijk"))
    answers = NextToken().answers(model, torch.tensor([[1, 2]]), Answering((), preprocess, torch.device("cpu")))
    chances = [entry["probability"] for entry in answers[0]["next"]]
    assert len(chances) == 5 and chances == sorted(chances, reverse=True)


def test_bits_are_given_for_a_character_where_their_number_is_known(model: GPT) -> None:
    token_BT = torch.arange(12).view(2, 6) % TINY.vocab_size
    batch = {"input": token_BT, "target": token_BT}
    draw = Draw(0, 0, torch.arange(2))
    found = NextToken().metrics(NextToken().measure(model, batch, draw).sums, {})
    assert "bits_per_character" not in found
    sums = NextToken().measure(model, batch | {"characters": torch.tensor([18.0, 18.0])}, draw).sums
    assert NextToken().metrics(sums, {})["bits_per_character"] == pytest.approx(found["bits_per_token"] / 3)


def test_the_model_is_told_which_document_a_token_is_of() -> None:
    seen = []

    class Fixed(nn.Module):
        def forward(self, token_BT: Tensor, document_BT: Tensor | None = None) -> Tensor:
            seen.append(document_BT)
            return torch.zeros(*token_BT.shape, 3)

    token_BT = torch.zeros(1, 4, dtype=torch.int64)
    batch = {"input": token_BT, "target": token_BT, "document": torch.tensor([[0, 0, 1, 1]])}
    NextToken().objective(Fixed(), batch, "train", Draw(0, 0, torch.arange(1)))
    NextToken().measure(Fixed(), batch, Draw(0, 0, torch.arange(1)))
    assert [document.tolist() for document in seen] == [[[0, 0, 1, 1]]] * 2
