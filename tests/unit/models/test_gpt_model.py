from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from strata import models
from strata.errors import ConfigError
from strata.models.gpt import GPT, TINY, GPTConfig

TOLERANCE = {torch.float64: 1e-10}


def build(**changes: object) -> GPT:
    torch.manual_seed(0)
    return GPT(dataclasses.replace(TINY, **changes)).double().eval()


@pytest.fixture
def token_BT() -> torch.Tensor:
    return torch.randint(TINY.vocab_size, (3, 10), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_the_presets_have_the_published_number_of_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = models.build(models.preset(name))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("pieces", [[1] * 10, [4, 1, 1, 4], [10], [1, 9]])
def test_reading_piece_by_piece_with_a_cache_equals_reading_at_once(pieces: list[int], token_BT: torch.Tensor) -> None:
    model = build()
    cache = model.new_cache(3, length=10)
    with torch.no_grad():
        found = torch.cat([model(piece, cache) for piece in token_BT.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(found, model(token_BT), rtol=TOLERANCE[found.dtype], atol=TOLERANCE[found.dtype])
    assert cache.position == 10


def test_a_cache_set_back_forgets(token_BT: torch.Tensor) -> None:
    model = build()
    cache = model.new_cache(3)
    with torch.no_grad():
        model(token_BT, cache)
        cache.position = 0
        torch.testing.assert_close(model(token_BT[:, 5:], cache), model(token_BT[:, 5:]), rtol=1e-10, atol=1e-10)


def test_a_cache_follows_weights_and_autocast_in_dtype() -> None:
    assert build().new_cache(1).key_LBHSK.dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        model = GPT(TINY).eval()
        cache = model.new_cache(1)
        assert cache.value_LBHSK.dtype is torch.bfloat16
        assert model(torch.zeros(1, 3, dtype=torch.int64), cache).isfinite().all()


def test_a_token_never_sees_those_after_it(token_BT: torch.Tensor) -> None:
    model = build()
    changed = token_BT.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % TINY.vocab_size
    with torch.no_grad():
        before, after = model(token_BT), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_more_tokens_than_the_context_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="13 tokens do not fit into this model's context of 12"):
        build()(torch.zeros(1, 13, dtype=torch.int64))


def test_more_tokens_than_the_cache_holds_are_refused() -> None:
    model = build()
    with pytest.raises(ConfigError, match="5 tokens do not fit into a cache of 4"):
        model(torch.zeros(1, 5, dtype=torch.int64), model.new_cache(1, length=4))


def test_a_width_that_the_heads_do_not_divide_is_refused_with_one_that_they_do() -> None:
    with pytest.raises(ConfigError, match=r"width=130 cannot be split among num_heads=4.*width=132"):
        GPT(GPTConfig(width=130, num_heads=4))


def test_tied_head_shares_and_untied_head_does_not() -> None:
    tied, untied = build(), build(tied_head=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.head.weight is not untied.token_embedding.weight
    extra = TINY.vocab_size * TINY.width
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == extra


def test_without_bias_no_layer_has_one() -> None:
    assert not [name for name, _ in build(bias=False).named_parameters() if name.endswith("bias")]


def test_weights_start_as_in_gpt2() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(num_layers=2, num_heads=4, width=256, context=64, vocab_size=1000))
    deviation = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, found in deviation.items():
        residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        assert found == pytest.approx(0.02 / math.sqrt(4) if residual else 0.02, rel=0.05), name
    assert all(p.eq(0).all() for name, p in model.named_parameters() if name.endswith("bias"))


def test_at_the_start_every_token_is_about_equally_likely() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(num_layers=2, num_heads=2, width=64, context=16, vocab_size=65)).eval()
    token_BT = torch.randint(65, (8, 16))
    loss = torch.nn.functional.cross_entropy(model(token_BT).flatten(0, 1), token_BT.roll(-1, 1).flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)
