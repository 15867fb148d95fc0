"""Narrow weights for making text: as exact as their type allows, the same bits in any batch, without a compiler too."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from strata.device import decide
from strata.errors import ConfigError
from strata.kernels import cpu_flags
from strata.models.gpt import GPT, GPTConfig
from strata.predict import packed as module
from strata.predict.packed import ROWS_AT_MOST, PackedLinear, choose_weights, kernels, packed, usual_weights

FLOAT32 = 1e-5
LOGITS = {"bf16": 0.01, "int8": 0.03}
"""Root mean square of what the logits of a GPT change, as a share of their deviation."""
PERPLEXITY = {"bf16": 1e-3, "int8": 5e-3}
"""Share that perplexity may change."""


@pytest.fixture(params=["kernel", "widening kernel", "torch"])
def way(request, monkeypatch, recompile):
    if request.param == "torch":
        monkeypatch.setattr(module, "kernels", lambda: "no compiler")
    elif isinstance(kernels(), str):
        pytest.skip(kernels())
    elif request.param == "widening kernel":  # of the processors that do not multiply bytes
        if "avx512_vnni" not in cpu_flags():
            pytest.skip("the kernel itself widens here")
        recompile(kernels, "-mno-avx512vnni")
    return request.param


def _linear(outputs, inputs, bias=True):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 16), (19, 37), (21, 128)])
@pytest.mark.parametrize("rows", [1, 3, 8, 13, ROWS_AT_MOST, ROWS_AT_MOST + 1])
def test_the_product_is_that_of_the_rounded_weights(way, weights, outputs, inputs, rows):
    linear = _linear(outputs, inputs, bias=rows != 3)
    ours = PackedLinear(linear, weights)
    rounded = ours.weight_NK.float() * (1 if ours.scale_N is None else ours.scale_N[:, None])
    x = torch.randn(rows, 1, inputs)
    exact = F.linear(x, rounded, linear.bias)
    # torch's own kernels round the activations to bf16, and for many rows they become two bytes where bytes are fast
    many = rows > ROWS_AT_MOST
    in_two = many and weights == "int8" and module.multiplies_bytes()
    tolerance = 1e-3 if in_two else 0.02 if way == "torch" and not many else FLOAT32
    torch.testing.assert_close(ours(x), exact, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_many_rows_become_two_bytes_and_are_the_same_in_any_batch():
    if not module.multiplies_bytes():
        pytest.skip("the processor does not multiply bytes")
    linear = _linear(37, 83)
    ours = PackedLinear(linear, "int8")
    x = torch.randn(200, 83) * torch.logspace(-3, 3, 200)[:, None]
    one = x.abs().amax(1, keepdim=True) / (127 * 256)
    exact = F.linear((x / one).round() * one, ours.weight_NK * ours.scale_N[:, None], linear.bias)
    assert ((ours(x) - exact).abs() < 3e-5 * exact.abs().amax(1, keepdim=True)).all()
    assert torch.equal(ours(x[100:]), ours(x)[100:])
    assert ours(x.index_fill(1, torch.tensor([5]), torch.nan)).isnan().all() and not ours(x * 0).isnan().any()
    assert ours(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize(("weights", "share"), [("bf16", 2**-8), ("int8", 1 / 254)])
def test_a_weight_is_off_by_half_a_step_at_most(weights, share):
    linear = _linear(16, 64)
    linear.weight[3] *= 1000
    linear.weight[5] = 0
    ours = PackedLinear(linear, weights)
    rounded = ours.weight_NK.float() * (1 if ours.scale_N is None else ours.scale_N[:, None])
    largest = linear.weight.abs().amax(1, keepdim=True)
    assert ((rounded - linear.weight).abs() <= share * largest * 1.001).all()


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(weights):
    if isinstance(kernels(), str):
        pytest.skip(kernels())
    ours = PackedLinear(_linear(1021, 531), weights)  # large enough for several threads
    x = torch.randn(ROWS_AT_MOST, 531)
    together = ours(x)
    assert all(torch.equal(ours(x[i : i + 1])[0], together[i]) for i in range(ROWS_AT_MOST))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(ours(x), together)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_large_small_and_infinite_activations_stay_what_they_are(way, weights):
    ours = PackedLinear(_linear(24, 200, bias=False), weights)
    x = torch.randn(1, 200)
    tolerance = 0.02 if way == "torch" else FLOAT32
    for size in (1e-20, 1.0, 1e20):
        torch.testing.assert_close(ours(x * size) / size, ours(x), rtol=tolerance, atol=tolerance)
    assert (ours(x * 0) == 0).all()
    for odd in (float("nan"), float("inf")):
        assert not ours(x.index_fill(1, torch.tensor([7]), odd)).isfinite().any()


@pytest.fixture(scope="module")
def learned():
    """A small GPT that has learned a text, and that text: weights that mean something."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(num_layers=2, num_heads=2, width=32, context=32, vocab_size=29))
    text = torch.randint(0, 29, (40,), generator=torch.Generator().manual_seed(2)).repeat(4)
    windows = torch.stack([text[i : i + 33] for i in range(0, 120, 8)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), windows


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_logits_and_perplexity_change_little(learned, weights):
    model, windows = learned
    small = packed(model, weights, decide(device="cpu"))
    logits, ours = model(windows[:, :-1]), small(windows[:, :-1])
    assert 0 < (ours - logits).square().mean().sqrt() < LOGITS[weights] * logits.std()
    a, b = (F.cross_entropy(x.flatten(0, 1), windows[:, 1:].flatten()).exp() for x in (logits, ours))
    assert abs(a - b) < PERPLEXITY[weights] * a


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_packed_gpt_reads_along_with_its_cache_as_at_once(learned, weights):
    model, windows = learned
    small = packed(model, weights, decide(device="cpu"))
    whole, cache = small(windows[:2, :9]), small.new_cache(2, 9)
    steps = torch.cat([small(windows[:2, t : t + 1], cache=cache) for t in range(9)], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-4)


def test_the_model_given_keeps_its_weights_and_shares_the_rest(learned):
    model, _ = learned
    before = copy.deepcopy(model.state_dict())
    small = packed(model, "int8", decide(device="cpu"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(type(part) is nn.Linear for part in small.modules())
    assert isinstance(small.head, PackedLinear) and small.head.weight_NK.dtype == torch.int8
    assert small.token_embedding.weight.data_ptr() == model.token_embedding.weight.data_ptr()
    assert isinstance(model.head, nn.Linear)


def test_what_is_chosen_is_said():
    setup = decide(device="cpu")
    with torch.device("meta"):
        large, small = nn.Linear(4096, 4096), nn.Linear(4, 4)
    assert choose_weights("auto", small, setup).value == "fp32"
    assert "caches" in choose_weights("auto", small, setup).reason
    assert choose_weights("auto", large, setup).value == usual_weights(setup).value
    assert choose_weights("auto", large.double(), setup).value == "fp32"
    assert choose_weights("int8", small, setup).value == "int8"
    with pytest.raises(ConfigError, match=r"weights=int4 is not known\. Allowed: auto, fp32, bf16, int8"):
        choose_weights("int4", small, setup)


def test_without_a_compiler_the_default_is_fp32_and_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    kernels.cache_clear()
    try:
        decision = usual_weights(decide(device="cpu"))
    finally:
        kernels.cache_clear()
    assert decision.value == "fp32" and "no C compiler was found" in decision.reason


def test_a_compiler_that_fails_is_told_and_does_no_harm(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no good >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    kernels.cache_clear()
    try:
        assert "no good" in kernels()
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        kernels.cache_clear()
