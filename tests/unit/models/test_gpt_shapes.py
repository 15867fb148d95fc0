"""Every shape of the GPT file keeps the same promises: with a cache, padded, packed, and one token at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from strata import models
from strata.config import from_json, override, to_json
from strata.errors import ConfigError
from strata.layers.position import RotaryScaling
from strata.models.gpt import GPT, PRESETS, TINY, TINY_MODERN, GPTConfig

TOLERANCE = {torch.float64: 1e-10}
SHAPES: dict[str, GPTConfig] = {
    "gpt2": TINY,
    "llama": TINY_MODERN,
    "one head of keys": dataclasses.replace(TINY_MODERN, num_kv_heads=1, head_width=6),
    "mistral": dataclasses.replace(TINY_MODERN, window=3),
    "qwen2": dataclasses.replace(TINY_MODERN, qkv_bias=True, window=4, num_full_layers=1),
    "qwen3": dataclasses.replace(TINY_MODERN, qk_norm=True),
    "alibi": dataclasses.replace(TINY, positions="alibi"),
    "alibi with a window": dataclasses.replace(TINY_MODERN, positions="alibi", window=3),
    "sinusoidal": dataclasses.replace(TINY, positions="sinusoidal", norm="rms"),
}
COUNTS = {
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "smollm_135m": 134_515_008,
    "mistral_7b": 7_241_732_096,
    "qwen2_0_5b": 494_032_768,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
}


def build(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).double().eval()
    for parameter in model.parameters():  # so large that positions and masks make a difference
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> GPT:
    return build(SHAPES[request.param])


@pytest.mark.parametrize("name", COUNTS)
def test_the_presets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = models.build(models.preset(name))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 10, [4, 1, 1, 4], [10], [1, 9]])
def test_reading_piece_by_piece_with_a_cache_equals_reading_at_once(model: GPT, pieces: list[int]) -> None:
    token_BT = tokens(3, 10)
    cache = model.new_cache(3, length=10)
    same(torch.cat([model(piece, cache) for piece in token_BT.split(pieces, dim=1)], dim=1), model(token_BT))


@torch.no_grad()
def test_prompts_padded_on_the_left_give_what_each_gives_alone(model: GPT) -> None:
    lengths, longest, further = (3, 7, 1, 5), 7, 4
    token_BT, mask_BT = tokens(4, longest), torch.zeros(4, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask_BT[row, longest - length :] = True
    cache = model.new_cache(4, length=longest + further)
    found = [model(token_BT, cache, mask_BT=mask_BT)[:, -1:]]
    more_BT = tokens(4, further, seed=2)
    found += [model(piece, cache) for piece in more_BT.split([1, 1, 2], dim=1)]
    for row, length in enumerate(lengths):
        alone = torch.cat([token_BT[row, longest - length :], more_BT[row]])[None]
        same(torch.cat(found, dim=1)[row], model(alone)[0, length - 1 :])
    without_cache = model(token_BT, mask_BT=mask_BT)
    same(without_cache[:, -1:], found[0])


@torch.no_grad()
def test_beams_that_change_places_go_on_from_their_own_text(model: GPT) -> None:
    token_BT, index_B = tokens(2, 5), torch.tensor([1, 1, 0])
    cache = model.new_cache(2, length=8)
    model(token_BT, cache)
    cache.reorder(index_B)
    next_BT = tokens(3, 3, seed=3)
    same(model(next_BT, cache), model(torch.cat([token_BT[index_B], next_BT], dim=1))[:, 5:])


@settings(deadline=None, max_examples=20, derandomize=True)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), shape=st.sampled_from(list(SHAPES)))
def test_packed_documents_give_what_each_gives_alone(lengths: list[int], shape: str) -> None:
    model = build(dataclasses.replace(SHAPES[shape], context=20))
    texts = [tokens(1, length, seed=seed) for seed, length in enumerate(lengths)]
    document_BT = torch.cat([torch.full_like(text, 3 * number + 1) for number, text in enumerate(texts)], dim=1)
    with torch.no_grad():
        found = model(torch.cat(texts, dim=1), document_BT=document_BT)
        same(found, torch.cat([model(text) for text in texts], dim=1))


@torch.no_grad()
def test_a_token_never_sees_those_after_it(model: GPT) -> None:
    token_BT = tokens(2, 10)
    changed_BT = token_BT.clone()
    changed_BT[:, 6:] = (changed_BT[:, 6:] + 1) % 11
    before, after = model(token_BT), model(changed_BT)
    same(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@torch.no_grad()
def test_the_order_of_tokens_matters(model: GPT) -> None:
    token_BT = torch.tensor([[1, 2, 3, 4]])
    swapped_BT = torch.tensor([[1, 3, 2, 4]])
    assert not torch.allclose(model(token_BT)[:, -1], model(swapped_BT)[:, -1])


@torch.no_grad()
def test_a_window_forgets_what_two_layers_of_it_cannot_reach() -> None:
    model = build(SHAPES["mistral"])
    token_BT = tokens(1, 10)
    changed_BT = token_BT.clone()
    changed_BT[:, 0] = (changed_BT[:, 0] + 1) % 11
    before, after = model(token_BT), model(changed_BT)
    same(before[:, 5:], after[:, 5:])  # each layer looks back over 2 more
    assert not torch.allclose(before[:, 4], after[:, 4])


@torch.no_grad()
@pytest.mark.parametrize("shape", [name for name, config in SHAPES.items() if config.positions != "alibi"])
def test_no_mask_is_built_where_none_is_needed(monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    model = build(SHAPES[shape])
    seen: list[tuple[Any, bool]] = []
    fused = F.scaled_dot_product_attention

    def record(*args: Any, **options: Any) -> torch.Tensor:
        seen.append((options["attn_mask"], options["is_causal"]))
        return fused(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    cache = model.new_cache(1)
    model(tokens(1, 3), cache)
    assert seen == [(None, True)] * 2
    seen.clear()
    for _ in range(6):
        model(tokens(1, 1), cache)
    assert seen == [(None, False)] * 12


@torch.no_grad()
def test_class_logits_are_read_off_the_last_real_token() -> None:
    model = build(dataclasses.replace(TINY_MODERN, head="class", num_classes=3))
    token_BT, mask_BT = tokens(2, 6), torch.ones(2, 6, dtype=torch.bool)
    mask_BT[1, 4:] = False
    found = model(token_BT, mask_BT=mask_BT)
    assert found.shape == (2, 3)
    same(found[0], model(token_BT[:1])[0])
    same(found[1], model(token_BT[1:, :4])[0])


def test_without_a_head_hidden_states_are_given(model: GPT) -> None:
    config = dataclasses.replace(model.config, head="none")
    assert build(config)(tokens(2, 4)).shape == (2, 4, config.width)


def test_gradient_reaches_every_parameter_also_in_bf16(model: GPT) -> None:
    model = model.float().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens(2, 8))
    (logits.float() * torch.randn_like(logits, dtype=torch.float32)).sum().backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    untouched += [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.abs().sum() > 0]
    assert not untouched


def test_longer_texts_than_the_context_are_refused_only_where_positions_are_learned(model: GPT) -> None:
    token_BT = tokens(1, model.config.context + 1)
    if model.config.positions == "learned":
        with pytest.raises(ConfigError, match="13 tokens do not fit into this model's context of 12"):
            model(token_BT)
    else:
        assert model(token_BT).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 cannot be shared out among num_kv_heads=3.*1, 2, 4"),
        ({"positions": "rotary", "head_width": 5}, "heads of 5 are odd: set head_width"),
        ({"head": "span"}, "A gpt has no head='span'.*It has: token, class, none"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPT(dataclasses.replace(TINY, **changes))


def test_documents_and_a_cache_together_are_refused() -> None:
    model = build(TINY)
    with pytest.raises(ConfigError, match="document_BT and a cache do not go together"):
        model(tokens(1, 3), model.new_cache(1), document_BT=tokens(1, 3))


def test_a_config_written_before_there_were_other_shapes_is_a_gpt2() -> None:
    fields = ("num_layers", "num_heads", "width", "context", "vocab_size", "dropout", "bias", "tied_head", "activation")
    older = {name: value for name, value in to_json(TINY).items() if name in fields}
    assert from_json(GPTConfig, older) == TINY
    names = [name for name in GPT(TINY).state_dict() if not name.startswith("blocks.1.")]
    assert names == [
        "token_embedding.weight",
        "position_embedding.weight",
        *(
            f"blocks.0.{layer}.{part}"
            for layer in ("norm1", "attention.qkv", "attention.out", "norm2", "mlp.up", "mlp.down")
            for part in ("weight", "bias")
        ),
        "norm.weight",
        "norm.bias",
        "head.weight",
    ]


def test_the_parts_of_a_config_can_be_set_one_by_one() -> None:
    config = override(PRESETS["llama_tiny"], "rope_scaling.factor", "4")
    config = override(config, "rope_scaling", "linear")
    assert config.rope_scaling == RotaryScaling(kind="linear", factor=4.0)
    assert from_json(GPTConfig, to_json(config)) == config
