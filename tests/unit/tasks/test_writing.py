"""Generated text: each way of writing against transformers or by hand, and what holds for all of them."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as theirs

from strata.data.preprocess import TextPreprocess
from strata.errors import ConfigError
from strata.models.gpt import GPT, GPTConfig
from strata.tasks.decoding import Decoding, Path, Rules, repeating
from strata.tasks.reading import Reader
from strata.tasks.writing import Language, Writing, begin, write

CPU = torch.device("cpu")
VOCABULARY = 23
LETTERS = TextPreprocess(tokens="character", characters=tuple("abcdefghijklmnopqrstuv "))
NO_TEXT = Language(None)


def small(seed: int, **sizes: Any) -> GPT:
    """Return a GPT far from uniform, in float64, so that choices differ and rounding decides none."""
    settings: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "width": 16, "context": 16, "vocab_size": VOCABULARY}
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**settings | sizes)).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def model() -> GPT:
    return small(3)


def tokens_of(model: nn.Module, prompts: list[list[int]], language: Language = NO_TEXT, **options: Any) -> list[Any]:
    draft = options.pop("draft", None)
    found = write(model, prompts, Decoding(**options), language, device=CPU, draft=draft)
    return [one.tokens for several in found for one in several]


@pytest.fixture(scope="module")
def pair() -> tuple[GPT2LMHeadModel, GPT]:
    """Return a random GPT-2 of transformers, and ours with its weights."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 40, "vocab_size": VOCABULARY}
    reference = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)).eval().double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(8)
    ours = small(0, context=40)
    state = {}
    for name, value in reference.state_dict().items():
        name = name.removeprefix("transformer.").replace("h.", "blocks.", 1) if ".h." in name else name
        for old, new in (
            ("transformer.wte", "token_embedding"),
            ("transformer.wpe", "position_embedding"),
            ("transformer.ln_f", "norm"),
            ("lm_head", "head"),
            ("ln_1", "norm1"),
            ("ln_2", "norm2"),
            ("attn.c_attn", "attention.qkv"),
            ("attn.c_proj", "attention.out"),
            ("mlp.c_fc", "mlp.up"),
            ("mlp.c_proj", "mlp.down"),
        ):
            name = name.replace(old, new)
        is_conv1d = value.ndim == 2 and any(part in name for part in ("qkv", ".out", ".up", ".down"))
        state[name] = value.T if is_conv1d else value
    ours.load_state_dict(state)
    token = torch.arange(10)[None] % VOCABULARY
    torch.testing.assert_close(ours(token), reference(token).logits, rtol=1e-9, atol=1e-9)
    return reference, ours


STOPS = (0, 6, 12)
PROMPTS = [[5, 1, 7], [2, 2, 9], [11, 20, 4], [8, 3, 6]]


def generated(reference: GPT2LMHeadModel, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Return what transformers writes, without the end token and what follows it."""
    ends = {"eos_token_id": [*STOPS], "pad_token_id": 0}
    prompt_BT = torch.tensor(prompts)
    with torch.no_grad():
        found = reference.generate(
            prompt_BT,
            attention_mask=torch.ones_like(prompt_BT),
            do_sample=False,
            max_new_tokens=20,
            **ends,
            **options,
        )
    rows = [row[len(prompts[0]) :].tolist() for row in found]
    return [[*itertools.takewhile(lambda token: token not in STOPS, row)] for row in rows]


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"min_tokens": 9, "no_repeat_ngram": 1}, {"min_new_tokens": 9, "no_repeat_ngram_size": 1}),
    ],
)
def test_greedy_text_is_that_of_transformers(pair: Any, ours: dict[str, Any], options: dict[str, Any]) -> None:
    reference, model = pair
    for prompt in PROMPTS:
        expected = generated(reference, [prompt], **options)
        assert tokens_of(model, [prompt], tokens=20, temperature=0, stop_tokens=STOPS, **ours) == expected
    assert len({*map(tuple, generated(reference, PROMPTS, **options))}) > 1


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("extra", [{}, {"repetition_penalty": 1.5}])
def test_beams_find_the_texts_of_transformers(pair: Any, penalty: float, extra: dict[str, float]) -> None:
    reference, model = pair
    expected = generated(reference, PROMPTS, num_beams=4, length_penalty=penalty, num_return_sequences=2, **extra)
    options = {"beams": 4, "length_penalty": penalty, "number": 2} | extra
    assert tokens_of(model, PROMPTS, tokens=20, stop_tokens=STOPS, **options) == expected
    assert penalty > 1 or {len(tokens) for tokens in expected} != {20}  # some ended before


def test_scores_after_every_setting_are_those_of_transformers() -> None:
    torch.manual_seed(1)
    score_BV = 3 * torch.randn(4, 50, dtype=torch.float64)
    token_BT = torch.randint(50, (4, 12))
    paths = [Path(row[:5], row[5:]) for row in token_BT.tolist()]

    def probabilities(**options: Any) -> Tensor:
        rules = Rules(Decoding(**options), most=99)
        return rules.probabilities(rules.scores(score_BV, paths))

    def expected(*processors: Any) -> Tensor:
        return theirs.LogitsProcessorList(processors)(token_BT, score_BV).softmax(-1)

    temperature, penalty = theirs.TemperatureLogitsWarper, theirs.RepetitionPenaltyLogitsProcessor
    for options, processors in (
        ({"temperature": 0.7}, [temperature(0.7)]),
        ({"temperature": 2.0, "top_k": 7}, [temperature(2.0), theirs.TopKLogitsWarper(7)]),
        ({"temperature": 1.0, "top_p": 0.8}, [theirs.TopPLogitsWarper(0.8)]),
        ({"temperature": 1.0, "top_p": 1e-9}, [theirs.TopPLogitsWarper(1e-9)]),
        ({"temperature": 1.3, "min_p": 0.2}, [temperature(1.3), theirs.MinPLogitsWarper(0.2)]),
        ({"temperature": 1.0, "repetition_penalty": 1.9}, [penalty(1.9)]),
        (
            {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 0.8},
            [
                penalty(0.8),
                temperature(1.5),
                theirs.TopKLogitsWarper(20),
                theirs.TopPLogitsWarper(0.9),
                theirs.MinPLogitsWarper(0.1),
            ],
        ),
    ):
        torch.testing.assert_close(probabilities(**options), expected(*processors), rtol=1e-12, atol=1e-12)


def test_contrastive_search_takes_what_the_equation_says(model: GPT) -> None:
    prompt, alpha = [4, 9], 0.6
    text, expected = [*prompt], []
    with torch.no_grad():
        for _ in range(12):
            probability_V = model(torch.tensor([text]))[0, -1].softmax(-1)
            worths = []
            for token in probability_V.topk(4).indices.tolist():
                state_TD = nn.functional.normalize(model.features(torch.tensor([[*text, token]]))[0], dim=-1)
                likeness = float((state_TD[:-1] @ state_TD[-1]).max())
                worths.append(((1 - alpha) * float(probability_V[token]) - alpha * likeness, token))
            text.append(max(worths)[1])
            expected.append(text[-1])
    assert tokens_of(model, [prompt], tokens=12, contrastive=alpha) == [expected]
    assert tokens_of(model, [prompt], tokens=12, temperature=0) != [expected]


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "drawn": {"temperature": 1.5},
    "several": {"temperature": 1.5, "number": 3},
    "narrowed": {"temperature": 2.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"temperature": 1.0, "repetition_penalty": 1.4, "no_repeat_ngram": 2},
    "beams": {"beams": 3, "number": 2, "length_penalty": 0.5},
    "contrastive": {"contrastive": 0.6, "top_k": 3},
    "stops": {"temperature": 1.5, "stop_tokens": (3, 5, 8), "min_tokens": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_texts_written_together_are_those_written_one_by_one(model: GPT, way: str) -> None:
    """Prompts of unequal length, and so many tokens that windows slide, each at its own time."""
    prompts = [[1], [2, 3, 4, 5, 6, 7], [*range(20)], [9, 9, 9], [7] * 15]
    options = {"tokens": 30, "seed": 5} | WAYS[way]
    together = tokens_of(model, prompts, **options)
    assert together == [tokens for prompt in prompts for tokens in tokens_of(model, [prompt], **options)]
    assert len({*map(tuple, together)}) > 2


def test_a_seed_says_which_text_and_several_of_a_prompt_differ(model: GPT) -> None:
    first = tokens_of(model, [[1, 2]], seed=1, tokens=20)
    assert first == tokens_of(model, [[1, 2]], seed=1, tokens=20) != tokens_of(model, [[1, 2]], seed=2, tokens=20)
    several = tokens_of(model, [[1, 2]], seed=1, number=4, tokens=20)
    assert several[:1] == first and len({*map(tuple, several)}) == 4


@pytest.mark.parametrize(
    "rules", [{}, {"repetition_penalty": 1.5}, {"no_repeat_ngram": 2, "draft_tokens": 7}, {"stop_tokens": (3,)}]
)
def test_a_draft_changes_no_greedy_text(model: GPT, rules: dict[str, Any]) -> None:
    options = {"temperature": 0, "tokens": 30} | rules
    prompts = [[4], [*range(18)]]
    expected = tokens_of(model, prompts, **options)
    assert tokens_of(model, prompts, draft=small(10, num_layers=1, context=11), **options) == expected
    assert tokens_of(model, prompts, draft=model, **options) == expected


def test_a_draft_that_is_the_model_itself_saves_passes(model: GPT) -> None:
    passes = 0

    class Counted(nn.Module):
        config = model.config
        new_cache = model.new_cache

        def forward(self, token_BT: Tensor, cache: Any = None) -> Tensor:
            nonlocal passes
            passes += 1
            return model(token_BT, cache=cache)

    assert tokens_of(Counted(), [[1]], draft=model, temperature=0, tokens=15) == tokens_of(
        model, [[1]], temperature=0, tokens=15
    )
    assert passes == 3  # five tokens each: four guesses and one more


class Table(nn.Module):
    """What follows a token depends on nothing else."""

    config = GPTConfig(vocab_size=3, context=50)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.score_VV = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def new_cache(self, batch_size: int, length: int, device: torch.device) -> Any:
        return SimpleNamespace(position=0, length=length, can_rewind=True, reorder=lambda index_B: None)

    def forward(self, token_BT: Tensor, cache: Any) -> Tensor:
        cache.position += token_BT.shape[1]
        return self.score_VV[token_BT]


@pytest.mark.parametrize("draft", [None, Table(2)])
def test_drawn_text_is_distributed_as_the_scores_say_with_and_without_a_draft(draft: Table | None) -> None:
    model, n = Table(1), 1000
    options = {"temperature": 1.5, "tokens": 3, "number": n, "draft_tokens": 2}
    found = Counter(map(tuple, tokens_of(model, [[1]], draft=draft, **options)))
    chance_VV = (model.score_VV / 1.5).softmax(-1)
    squares, total = 0.0, 0.0
    for a, b, c in itertools.product(range(3), repeat=3):
        chance = float(chance_VV[1, a] * chance_VV[a, b] * chance_VV[b, c])
        squares += (found[a, b, c] - n * chance) ** 2 / (n * chance)
        total += chance
    assert total == pytest.approx(1)
    assert squares < 26 + 4 * math.sqrt(2 * 26)  # chi-squared of 26 degrees of freedom: mean and deviation


class Says(nn.Module):
    """Says the tokens of a text, whatever it reads."""

    def __init__(self, tokens: list[int], vocab_size: int) -> None:
        super().__init__()
        self.config = GPTConfig(vocab_size=vocab_size, context=500)
        self.tokens, self.said = tokens, -1
        self.empty = GPT(GPTConfig(num_layers=1, num_heads=1, width=1, context=500, vocab_size=2))

    def new_cache(self, *arguments: Any, **options: Any) -> Any:
        return self.empty.new_cache(*arguments, **options)

    def forward(self, token_BT: Tensor, cache: Any = None) -> Tensor:
        self.said += 1
        return nn.functional.one_hot(torch.tensor([[self.tokens[self.said]]]), self.config.vocab_size).double() * 99


def said(text: str, **options: Any) -> tuple[str, list[str]]:
    """Return what is left of a text whose letters are tokens, and the pieces in which it is streamed."""
    model, pieces = Says(LETTERS.encode(text).tolist(), VOCABULARY), []
    options = {"temperature": 0.0, "tokens": len(text)} | options
    found = write(model, [[0]], Decoding(**options), Language(LETTERS), device=CPU, stream=pieces.append)
    assert found[0][0].text == "".join(pieces)
    return found[0][0].text, pieces


def test_stop_strings_are_found_across_tokens_cut_off_and_never_streamed() -> None:
    assert said("abc stop me", stop=("stop",)) == ("abc ", ["a", "b", "c", " "])
    assert said("abstostop", stop=["stop", "zzz"]) == ("absto", ["a", "b", "sto"])
    assert said("abcsto", stop="stop")[0] == "abcsto"  # what is held back comes at the end
    assert said("aabab", stop=("abab", "bb"))[0] == "a"
    assert said("stop stop", stop=("stop",), min_tokens=5)[0] == "stop "
    assert said("abc", stop_tokens=(2,)) == ("ab", ["a", "b"])


def test_beams_end_at_stop_strings_too(model: GPT) -> None:
    options = {"beams": 3, "tokens": 12}
    whole = write(model, [[1]], Decoding(**options), Language(LETTERS), device=CPU)[0][0]
    stop = whole.text[4:6]
    cut = write(model, [[1]], Decoding(**options, stop=(stop,)), Language(LETTERS), device=CPU)[0][0]
    assert stop not in cut.text and len(cut.tokens) < 12 and cut.ended == "stop"


def test_a_text_ends_where_every_token_would_break_a_rule(model: GPT) -> None:
    for way in ({"temperature": 0}, {"beams": 2}, {"contrastive": 0.5}):
        found = write(model, [[1]], Decoding(no_repeat_ngram=1, tokens=50, **way), NO_TEXT, device=CPU)[0][0]
        assert sorted([1, *found.tokens]) == [*range(VOCABULARY)] and found.ended == "exhausted"


@pytest.mark.parametrize("way", [{}, {"beams": 3}, {"contrastive": 0.6}, {"temperature": 0}])
def test_text_matches_the_regular_expression_it_is_held_to(model: GPT, way: dict[str, Any]) -> None:
    for pattern, tokens in (("(ab|cd)+ x?", 9), ("[a-f]{3}", 30), (".{2,5} [^a-s]*", 12), ("u(v{4}|a)b", 30)):
        options = {"regex": pattern, "tokens": tokens} | way
        for seed in range(2):
            found = write(model, [[seed]], Decoding(**options), Language(LETTERS), device=CPU)[0][0]
            assert re.fullmatch(pattern, found.text), (pattern, found.text)


def test_a_draft_keeps_to_the_regular_expression(model: GPT) -> None:
    options = {"regex": "(ab|cde)+ ", "tokens": 20, "temperature": 0}
    draft = small(8, num_layers=1)
    assert tokens_of(model, [[1]], Language(LETTERS), draft=draft, **options) == tokens_of(
        model, [[1]], Language(LETTERS), **options
    )


def test_only_what_matches_may_end_and_too_few_tokens_are_said(model: GPT) -> None:
    language = Language(LETTERS, stop_tokens=(2,))
    for seed in range(8):
        options = {"regex": "[ab]{3,}", "tokens": 30, "seed": seed, "temperature": 3.0}
        found = write(model, [[1]], Decoding(**options), language, device=CPU)[0][0]
        assert {*found.text} <= {"a", "b"} and len(found.text) >= 3
    with pytest.raises(ConfigError, match=r"After 2 tokens the text does not match regex=a\{9\} yet"):
        tokens_of(model, [[1]], language, regex="a{9}", tokens=2)


def test_the_steps_can_be_watched(model: GPT) -> None:
    texts, steps = begin(model, [[1], [2, 3]], Decoding(tokens=5), NO_TEXT, device=CPU)
    assert [len(texts[1][0].tokens) for _ in steps] == [1, 2, 3, 4, 5]


def test_reading_in_one_pass_or_token_by_token_gives_the_same_scores(model: GPT) -> None:
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    reader = Reader(model, [text[:3]], room=10, device=CPU)
    score_TV = torch.stack([reader.begin()[0], *(reader.read([token])[0] for token in text[3:])])
    at_once = Reader(model, [[]], room=10, device=CPU)
    torch.testing.assert_close(at_once.read_on(text)[2:], score_TV, rtol=1e-9, atol=1e-9)
    at_once.rewind(5)
    torch.testing.assert_close(at_once.read_on(text[3:]), score_TV[1:], rtol=1e-9, atol=1e-9)


def test_a_sequence_that_came_before_may_not_come_again() -> None:
    assert repeating([1, 2, 3, 1, 2], 3) == [3]
    assert sorted(repeating([1, 2, 1], 1)) == [1, 1, 2]
    assert repeating([1, 2, 1, 3, 1], 2) == [2, 3]
    assert repeating([1], 3) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 is not allowed: it has to be greater than or equal to 0"),
        ({"temperature": math.nan}, "temperature=NaN is not allowed: it has to be"),
        ({"top_k": 0}, "top_k=0 is not allowed: it has to be greater than or equal to 1"),
        ({"top_p": 1.5}, "top_p=1.5 is not allowed: it has to be less than or equal to 1"),
        ({"tokens": "many"}, "tokens=many is not allowed"),
        ({"top_pp": 0.5}, "Unknown option 'top_pp'. Did you mean 'top_p'?"),
        ({"beams": 2, "temperature": 0.5}, "temperature=0.5 has no meaning with beams, where nothing is drawn"),
        ({"beams": 2, "top_p": 0.5}, "beams and top_p exclude each other"),
        ({"beams": 2, "contrastive": 0.5}, "beams and contrastive exclude each other"),
        ({"beams": 2, "number": 3}, "number=3 is more than beams=2 find"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 compares beams. Set beams to more than 1"),
        ({"contrastive": 0.5, "min_p": 0.5}, "contrastive and min_p exclude each other"),
        ({"temperature": 0, "number": 2}, "number=2 texts would be all the same"),
        ({"tokens": 3, "min_tokens": 4}, "min_tokens=4 is more than tokens=3"),
        ({"stop": ["a", ""]}, "stop='' is not allowed"),
        ({"regex": "a", "stop": "b"}, "stop and regex exclude each other"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Decoding.of(options)
    assert words in str(refused.value)


def test_what_a_model_cannot_do_is_refused(model: GPT) -> None:
    def refused(words: str, call: Callable[[], Any]) -> None:
        with pytest.raises(ConfigError, match=words):
            call()

    refused(
        "Only one text can be streamed", lambda: write(model, [[1], [2]], Decoding(), NO_TEXT, device=CPU, stream=print)
    )
    refused("regex needs a tokenizer", lambda: tokens_of(model, [[1]], regex="a"))
    refused("no text of this model's tokens matches", lambda: tokens_of(model, [[1]], Language(LETTERS), regex="z+"))
    refused("stop_tokens=99 is not one of this model's 23", lambda: tokens_of(model, [[1]], stop_tokens=(99,)))
    refused("The draft has 9 tokens and the model 23", lambda: tokens_of(model, [[1]], draft=small(1, vocab_size=9)))
    refused("leave out beams", lambda: tokens_of(model, [[1]], draft=model, beams=2))


def test_settings_without_effect_are_named() -> None:
    assert Decoding(temperature=0, top_p=0.5).without_effect() == [
        "top_p has no effect at temperature=0, which takes the likeliest token"
    ]
    assert Decoding(top_k=5).without_effect() == []


def test_a_text_in_the_making_holds_no_stop_token() -> None:
    text = Writing([1], Rules(Decoding(stop_tokens=(7,)), (7,), most=9))
    text.add(3)
    text.add(7)
    assert text.tokens == [3] and text.ended == "stop"
