"""The output layer and cross-entropy in one, without the logits: the same numbers, and less memory."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from strata import losses
from strata.models.gpt import GPT, GPTConfig
from strata.tasks import Draw
from strata.tasks.next_token import BIG_VOCABULARY, NextToken

FLOAT64 = 1e-12
BF16 = 0.02
"""Of the largest: bf16 keeps 8 bits."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_NUMBERS", 60)


def _given(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(11, generator=generator, dtype=dtype).requires_grad_()
    target = torch.randint(0, 11, (2, 7), generator=generator)
    return hidden, weight, bias, target


def _mean_and_gradients(loss, *tensors):
    mean = losses.mean(loss)
    return mean.detach(), torch.autograd.grad(mean, tensors)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_count_and_gradients_are_those_of_a_linear_layer_and_cross_entropy(smoothing):
    hidden, weight, bias, target = _given()
    target[0, 3:] = target[1, 6] = -100
    ours = losses.linear_cross_entropy(hidden, weight, target, bias_V=bias, label_smoothing=smoothing)
    theirs = losses.cross_entropy(F.linear(hidden, weight, bias), target, label_smoothing=smoothing)
    assert int(ours.count) == int(theirs.count) == 9
    a, b = (_mean_and_gradients(loss, hidden, weight, bias) for loss in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=FLOAT64)


def test_weights_of_targets_multiply_their_loss_and_count():
    hidden, weight, _, target = _given()
    chosen = torch.tensor([[0.0, 1, 2, 0, 1, 1, 0.5], [0, 0, 0, 1, 1, 1, 1]], dtype=torch.float64)
    ours = losses.linear_cross_entropy(hidden, weight, target, target_weights=chosen)
    each = F.cross_entropy(F.linear(hidden, weight).flatten(0, 1), target.flatten(), reduction="none")
    theirs = losses.LossSum((each * chosen.flatten()).sum(), chosen.sum())
    a, b = (_mean_and_gradients(loss, hidden, weight) for loss in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=FLOAT64)


def test_z_loss_adds_the_squared_logarithm_of_the_sum_of_exponentials():
    hidden, weight, _, target = _given()
    ours = losses.linear_cross_entropy(hidden, weight, target, z_loss=0.1)
    logits = F.linear(hidden, weight)
    plain = losses.cross_entropy(logits, target)
    theirs = losses.LossSum(plain.total + 0.1 * logits.logsumexp(-1).square().sum(), plain.count)
    a, b = (_mean_and_gradients(loss, hidden, weight) for loss in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=FLOAT64)


def test_gradients_agree_with_differences():
    hidden, weight, bias, target = _given()
    target[0, 0] = -100

    def loss(hidden, weight, bias):
        return losses.linear_cross_entropy(hidden, weight, target, bias_V=bias, z_loss=0.01, label_smoothing=0.1).total

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_a_batch_in_which_no_token_counts_gives_zero_and_zero_gradients():
    hidden, weight, _, target = _given()
    loss = losses.linear_cross_entropy(hidden, weight, torch.full_like(target, -100))
    mean, gradients = _mean_and_gradients(loss, hidden, weight)
    assert float(mean) == 0 and int(loss.count) == 0
    assert all(not gradient.any() for gradient in gradients)


def test_under_autocast_the_statistics_and_the_gradient_of_the_weights_stay_in_float32():
    hidden, weight, _, target = _given(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.linear_cross_entropy(hidden, weight, target)
    mean, gradients = _mean_and_gradients(loss, hidden, weight)
    assert mean.dtype == gradients[0].dtype == gradients[1].dtype == torch.float32
    exact, wanted = _mean_and_gradients(losses.cross_entropy(F.linear(hidden, weight), target), hidden, weight)
    assert abs(mean - exact) < BF16 * exact
    for got, want in zip(gradients, wanted, strict=True):
        assert (got - want).abs().max() < BF16 * want.abs().max()


def _gpt(vocab_size=BIG_VOCABULARY):
    torch.manual_seed(0)
    return GPT(GPTConfig(num_layers=1, num_heads=2, width=8, context=8, vocab_size=vocab_size)).double()


def _batch(model, length=8):
    token = torch.randint(0, model.config.vocab_size, (4, length + 1), generator=torch.Generator().manual_seed(1))
    return {"input": token[:, :-1], "target": token[:, 1:], "sample": torch.arange(4)}


def test_a_gpt_with_a_big_vocabulary_learns_and_is_measured_as_if_the_logits_were_there():
    model, task = _gpt(), NextToken()
    batch = _batch(model)
    draw = Draw(0, 0, batch["sample"])
    asked = []
    model.head.register_forward_hook(lambda module, inputs, output: asked.append(output.shape))
    loss = task.objective(model, batch, "train", draw)
    assert asked == []
    gradients = torch.autograd.grad(losses.mean(loss), list(model.parameters()))
    logits = model(batch["input"])
    wanted = losses.cross_entropy(logits, batch["target"])
    torch.testing.assert_close(loss.total, wanted.total, rtol=FLOAT64, atol=0)
    assert int(loss.count) == int(wanted.count)
    for got, want in zip(gradients, torch.autograd.grad(losses.mean(wanted), list(model.parameters())), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=FLOAT64)
    with torch.no_grad():
        sums = task.measure(model, batch, draw).sums
    assert int(sums["n"]) == 32
    assert int(sums["hits"]) == int((logits.argmax(-1) == batch["target"]).sum())
    assert abs(float(sums["loss"]) - float(wanted.total.detach())) < 1e-5 * float(wanted.total.detach())


def test_compiling_compiles_what_the_loss_calls():
    model = _gpt()
    parts = NextToken().compiled_parts(model)
    assert model.head not in parts and model.blocks[0] in parts and model not in parts
    small = _gpt(vocab_size=11)
    assert list(NextToken().compiled_parts(small)) == [small]


def test_the_memory_of_a_step_is_a_chunk_of_logits_and_not_all_of_them():
    """2048 tokens of 16,384: all logits are 128 MiB, and three such are alive at once; a chunk is 64 MiB."""
    program = textwrap.dedent(
        """
        import sys, torch
        from strata import losses
        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        torch.manual_seed(0)
        hidden = torch.randn(2048, 8, requires_grad=True)
        weight = torch.randn(16384, 8, requires_grad=True)
        target = torch.randint(0, 16384, (2048,))
        (hidden[:8] @ weight.T).sum().backward()
        before = peak()
        if sys.argv[1] == "chunked":
            loss = losses.linear_cross_entropy(hidden, weight, target)
        else:
            loss = losses.cross_entropy(hidden @ weight.T, target)
        losses.mean(loss).backward()
        print(peak() - before)
        """
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")

    def grown(way):
        found = subprocess.run([sys.executable, "-c", program, way], capture_output=True, text=True, check=True)
        return float(found.stdout)

    assert grown("chunked") < 160
    assert grown("full") > 256


def test_the_same_bits_come_out_again():
    def once():
        hidden, weight, _, target = _given(torch.float32)
        return _mean_and_gradients(losses.linear_cross_entropy(hidden, weight, target), hidden, weight)

    (a, found), (b, again) = once(), once()
    assert torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))


def test_a_head_that_is_no_linear_layer_is_called():
    model = _gpt()
    model.head = nn.Sequential(nn.Linear(8, BIG_VOCABULARY, dtype=torch.float64))
    batch = _batch(model)
    loss = NextToken().objective(model, batch, "train", Draw(0, 0, batch["sample"]))
    assert int(loss.count) == 32
