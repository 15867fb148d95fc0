"""A token's step in one call of the kernel: what the ordinary way gives, for every shape of a GPT, in any order."""

import copy
import dataclasses

import pytest
import torch

from strata.device import decide
from strata.errors import ConfigError
from strata.models.gpt import GPT, TINY, TINY_MODERN, GPTConfig
from strata.predict import decode, packed
from strata.predict.decode import SteppingGPT, for_tokens
from strata.predict.packed import ROWS_AT_MOST, kernels

FLOAT32 = 1e-5
READ, STEPS = 9, 12
"""Tokens of a prompt, and those read one at a time after it."""


def _changed(config: GPTConfig, **fields: object) -> GPTConfig:
    return dataclasses.replace(config, context=40, **fields)  # type: ignore[arg-type]


SHAPES = {
    "gpt2": _changed(TINY),
    "no biases": _changed(TINY, bias=False),
    "exact GELU": _changed(TINY, activation="gelu", hidden_width=1100),
    "ReLU": _changed(TINY, activation="relu"),
    "SiLU": _changed(TINY, activation="silu", positions="sinusoidal"),
    "llama": _changed(TINY_MODERN),
    "wide heads": _changed(TINY_MODERN, head_width=86, hidden_width=37),
    "one head of keys": _changed(TINY_MODERN, num_kv_heads=1, qkv_bias=True),
    "normed queries": _changed(TINY_MODERN, qk_norm=True, norm="layer"),
    "windows": _changed(TINY_MODERN, window=4, num_full_layers=1),
    "alibi": _changed(TINY, positions="alibi", window=6),
}

pytestmark = pytest.mark.skipif(isinstance(kernels(), str), reason=str(kernels()))


@pytest.fixture
def steps(monkeypatch):
    """Return a list that gets the number of rows of each step that the kernel makes."""
    made: list[int] = []
    real = kernels()

    class Counting:
        product = real.product

        @staticmethod
        def gpt_step(net, step, threads):
            made.append(step._obj.rows)
            return real.gpt_step(net, step, threads)

    monkeypatch.setattr(decode, "kernels", lambda: Counting)
    return made


def _model(config):
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that mean something
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def _pair(config, weights="fp32"):
    """Return the network as it makes text, and the same one that goes the ordinary way."""
    model, setup = _model(config), decide(device="cpu", precision="fp32")
    return for_tokens(model, weights, setup), model if weights == "fp32" else packed.packed(model, weights, setup)


def _tokens(rows, count=READ + STEPS):
    return torch.randint(0, TINY.vocab_size, (rows, count), generator=torch.Generator().manual_seed(1))


def _left_padded(rows):
    return torch.arange(READ)[None, :] >= (torch.arange(rows) % READ)[:, None]


@torch.no_grad()
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_the_kernel_gives_what_the_ordinary_way_gives(steps, shape, is_padded, rows, weights):
    ours, ordinary = _pair(SHAPES[shape], weights)
    token_BT, mask_BT = _tokens(rows), _left_padded(rows) if is_padded else None
    caches = [model.new_cache(rows, READ + STEPS) for model in (ours, ordinary)]
    for model, cache in zip((ours, ordinary), caches, strict=True):
        model(token_BT[:, :READ], cache=cache, mask_BT=mask_BT)
    for t in range(READ, READ + STEPS):
        token_B1 = token_BT[:, t : t + 1]
        found, expected = (model(token_B1, cache=cache) for model, cache in zip((ours, ordinary), caches, strict=True))
        torch.testing.assert_close(found, expected, rtol=FLOAT32, atol=FLOAT32 * float(expected.abs().max()))
    assert steps == [rows] * STEPS
    torch.testing.assert_close(caches[0].key_LBHSK, caches[1].key_LBHSK, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(caches[0].value_LBHSK, caches[1].value_LBHSK, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_steps_follow_a_cache_that_was_set_back_and_reordered(steps):
    ours, ordinary = _pair(SHAPES["llama"])
    token_BT = _tokens(3)
    found = []
    for model in (ours, ordinary):
        cache = model.new_cache(3, READ + STEPS)
        model(token_BT[:, :READ], cache=cache, mask_BT=_left_padded(3))
        model(token_BT[:, READ : READ + 1], cache=cache)
        model(token_BT[:, READ + 1 : READ + 4], cache=cache)  # several at once go the ordinary way
        cache.position -= 2
        cache.reorder(torch.tensor([2, 0, 2, 1]))
        found.append(model(_tokens(4)[:, :1], cache=cache))
    torch.testing.assert_close(*found, rtol=FLOAT32, atol=FLOAT32 * float(found[1].abs().max()))
    assert steps == [3, 4]


@torch.no_grad()
def test_the_number_of_threads_changes_no_bit(steps):
    ours, _ = _pair(GPTConfig(num_layers=2, num_heads=6, width=384, context=16, vocab_size=11), "int8")
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            cache = ours.new_cache(2)
            found.append(torch.cat([ours(_tokens(2)[:, t : t + 1], cache=cache) for t in range(16)], 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and len(steps) == 48


@torch.no_grad()
def test_a_row_is_written_as_by_itself(steps):
    ours, _ = _pair(SHAPES["gpt2"], "int8")
    token_BT = _tokens(8)

    def read(rows):
        cache = ours.new_cache(len(rows))
        return torch.cat([ours(rows[:, t : t + 1], cache=cache) for t in range(STEPS)], 1)

    together = read(token_BT)
    assert all(torch.equal(read(token_BT[row : row + 1])[0], together[row]) for row in range(8))


@pytest.mark.parametrize(
    "why", ["activation", "float64", "autocast", "gradient", "training", "rows", "cache", "no compiler"]
)
def test_what_the_kernel_does_not_cover_goes_the_ordinary_way(steps, monkeypatch, why):
    ours, ordinary = _pair(_changed(TINY, activation="elu") if why == "activation" else SHAPES["llama"])
    if why == "float64":
        ours, ordinary = copy.deepcopy(ours).double(), copy.deepcopy(ordinary).double()
    if why == "training":
        ours, ordinary = ours.train(), ordinary.train()
    if why == "no compiler":
        monkeypatch.setattr(decode, "kernels", lambda: "no compiler")
    rows = ROWS_AT_MOST + 1 if why == "rows" else 2
    dtype = torch.bfloat16 if why in ("cache", "autocast") else None
    with torch.set_grad_enabled(why == "gradient"), torch.autocast("cpu", enabled=why in ("cache", "autocast")):
        found = []
        for model in (ours, ordinary):
            cache = model.new_cache(rows, 3, dtype=dtype)
            model(_tokens(rows)[:, :1], cache=cache)
            found.append(model(_tokens(rows)[:, 1:2], cache=cache))
    assert torch.equal(*found) and not steps


@torch.no_grad()
def test_hidden_states_are_those_that_the_head_reads(steps):
    ours, _ = _pair(SHAPES["llama"], "bf16")
    token_B1 = _tokens(2)[:, :1]
    hidden_BTD = ours.features(token_B1, cache=ours.new_cache(2))
    assert torch.equal(ours.head(hidden_BTD), ours(token_B1, cache=ours.new_cache(2))) and len(steps) == 2


@torch.no_grad()
def test_more_tokens_than_learned_positions_are_refused_as_ever():
    ours, _ = _pair(SHAPES["gpt2"])
    cache = ours.new_cache(1, 50)
    ours(_tokens(1, 40), cache=cache)
    with pytest.raises(ConfigError, match="41 tokens do not fit into this model's context of 40"):
        ours(_tokens(1, 1), cache=cache)


@torch.no_grad()
def test_a_copy_steps_with_its_own_weights_and_the_model_given_stays_what_it_was(steps):
    model = _model(SHAPES["gpt2"])
    ours = for_tokens(model, "fp32", decide(device="cpu", precision="fp32"))
    token_B1 = _tokens(1)[:, :1]
    before = ours(token_B1, cache=ours.new_cache(1))
    other = copy.deepcopy(ours)
    for parameter in other.parameters():
        parameter.zero_()
    assert not other(token_B1, cache=other.new_cache(1)).any()
    assert torch.equal(ours(token_B1, cache=ours.new_cache(1)), before)
    assert type(model) is GPT and type(ours) is SteppingGPT and ours.head.weight is model.head.weight
