"""What is made again for the backward pass: the same gradients to the bit, and less that is kept."""

import contextlib
import copy

import pytest
import torch

from strata.layers import recompute
from strata.layers.feed_forward import FeedForward
from strata.layers.recompute import made_again
from strata.models import gpt
from strata.models.gpt import GPT, GPTConfig


def _kept(model, token_BT):
    """Return the bytes that a forward pass keeps beside the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def saved(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor: so that no address is used twice
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks
    inner = hooks.__init__

    def both(self, keep, give):  # the innermost hooks alone are called: count what those of the layers leave
        def counted(tensor):
            kept = keep(tensor)
            return saved(kept) if isinstance(kept, torch.Tensor) else kept

        inner(self, counted, give)

    try:
        with hooks(saved, lambda tensor: tensor):
            hooks.__init__ = both
            output = model(token_BT)
    finally:
        hooks.__init__ = inner
    del output
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("sizes", [{}, {"mlp": "swiglu", "norm": "rms"}, {"dropout": 0.1}, {"activation": "relu"}])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_have_the_same_bits_and_less_is_kept(monkeypatch, sizes, autocast):
    config = GPTConfig(num_layers=2, num_heads=2, width=64, context=16, vocab_size=11, **sizes)
    model = GPT(config).train()
    token_BT = torch.randint(0, 11, (3, 16))

    def gradients():
        twin = copy.deepcopy(model)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = twin(token_BT).float().square().mean()
        loss.backward()
        return [p.grad for p in twin.parameters()]

    ours, less = gradients(), _kept(model, token_BT)
    for module in (gpt, recompute):
        monkeypatch.setattr(module, "made_again", lambda x, how: contextlib.nullcontext())
    plain, all_kept = gradients(), _kept(model, token_BT)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert less < 0.85 * all_kept


def test_gradients_of_gradients_and_a_second_backward_pass_are_right():
    layer, x = FeedForward(4, 8).double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)
    loss = layer(x).sum()
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * first)


def test_without_gradients_nothing_is_hooked():
    with torch.no_grad(), made_again(torch.ones(2), lambda: 1 / 0):
        pass
    x = torch.ones(2, requires_grad=True) * 1
    with made_again(x, lambda: torch.ones(2)):
        y = x.square()
    y.sum().backward()
