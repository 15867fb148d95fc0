"""GPT-2 and the one in transformers give the same, weight for weight, in float64, through files both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import strata
from strata import models, weights
from strata.checkpoint.files import read_tensors
from strata.errors import WeightsError
from strata.models.gpt import GPT, GPTConfig
from strata.weights.gpt import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "pad_token_id": 0,
}
VARIANTS = {
    "as published": {},
    "a head of its own": {"tie_word_embeddings": False},
    "other sizes": {"n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
}


def theirs_of(kind: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(transformers.GPT2Config(**SMALL | changes)).double().eval()
    for parameter in theirs.parameters():  # also moves biases and norms away from 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def opened(folder: Path) -> Any:
    found = weights.open_weights(folder)
    model = models.build(found.config).double().eval()
    model.load_state_dict(found.state())
    return model


@pytest.fixture
def token_BT() -> torch.Tensor:
    return torch.randint(1, 61, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_files_equal_those_of_transformers(
    variant: str, check_parity: Callable[..., Any], token_BT: torch.Tensor
) -> None:
    ours = check_parity(theirs_of(**VARIANTS[variant]), token_BT)
    assert config_from(config_to(ours.config)) == ours.config


def test_a_padded_batch_gives_what_transformers_gives(token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    mask_BT = torch.ones_like(token_BT, dtype=torch.bool)
    mask_BT[0, :5] = False
    place_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(token_BT, attention_mask=mask_BT, position_ids=place_BT).logits
        found = opened(tmp_path)(token_BT, mask_BT=mask_BT)
    torch.testing.assert_close(found[mask_BT], expected[mask_BT], rtol=TOLERANCE, atol=TOLERANCE)


def test_greedy_tokens_are_those_of_transformers(token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    ours, prompt_BT = opened(tmp_path), token_BT[:, :6]
    expected = theirs.generate(
        prompt_BT, attention_mask=torch.ones_like(prompt_BT), do_sample=False, max_new_tokens=12, eos_token_id=None
    )
    cache, found, next_BT = ours.new_cache(2), prompt_BT, prompt_BT
    with torch.no_grad():
        for _ in range(12):
            next_BT = ours(next_BT, cache)[:, -1:].argmax(-1)
            found = torch.cat([found, next_BT], dim=1)
    assert torch.equal(found, expected)


def test_a_trunk_alone_gives_hidden_states_and_is_written_as_one(token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of("GPT2Model")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = opened(tmp_path / "theirs")
    assert ours.config.head == "none"
    with torch.no_grad():
        expected = theirs(token_BT).last_hidden_state
        torch.testing.assert_close(ours(token_BT), expected, rtol=TOLERANCE, atol=TOLERANCE)
    weights.write_huggingface(tmp_path / "ours", ours)
    wrote, read = (read_tensors(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert wrote.keys() == read.keys() and all(torch.equal(wrote[name], read[name]) for name in wrote)


def test_a_classifier_reads_the_last_real_token_as_theirs_does(token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of("GPT2ForSequenceClassification", num_labels=3)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = opened(tmp_path / "theirs")
    token_BT[1, 9:] = 0
    with torch.no_grad():
        expected = theirs(token_BT, attention_mask=token_BT != 0).logits
        torch.testing.assert_close(ours(token_BT, mask_BT=token_BT != 0), expected, rtol=TOLERANCE, atol=TOLERANCE)
    weights.write_huggingface(tmp_path / "ours", ours, labels=("a", "b", "c"))
    again = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    assert torch.equal(again.score.weight, theirs.score.weight) and again.config.id2label[2] == "c"


def test_older_files_without_prefix_and_with_mask_buffers_are_read(token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    older = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    for layer in range(3):
        older |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 24, 24).tril()}
        older |= {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4)}
    save_file(older, file)
    with torch.no_grad():
        expected = theirs(token_BT).logits
        torch.testing.assert_close(opened(tmp_path)(token_BT), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert "causal mask" in str(HUGGINGFACE.reason("transformer.h.0.attn.bias"))
    assert HUGGINGFACE.reason("transformer.h.0.attn.c_attn.bias") is None


def test_a_file_that_holds_the_tied_head_too_is_read(tmp_path: Path) -> None:
    theirs_of().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}, file)
    assert torch.equal(opened(tmp_path).head.weight, tensors["transformer.wte.weight"])


def test_weights_in_shards_are_opened_by_transformers_and_by_us(token_BT: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = GPT(GPTConfig(num_layers=2, num_heads=2, width=16, context=24, vocab_size=61)).double().eval()
    weights.write_huggingface(tmp_path, ours, shard_bytes=9000, special={"end": 3, "start": 2, "pad": None})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2 and not (tmp_path / "model.safetensors").exists()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert (theirs.generation_config.eos_token_id, theirs.config.bos_token_id) == (3, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(token_BT), theirs(token_BT).logits, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.equal(opened(tmp_path).head.weight, ours.head.weight)

    weights.write_huggingface(tmp_path, ours)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]


def test_weights_in_bf16_are_read_and_written_bit_equal(tmp_path: Path) -> None:
    theirs = theirs_of().bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    found = weights.open_weights(tmp_path / "theirs")
    assert all(value.dtype is torch.bfloat16 for value in found.state().values())
    weights.write_huggingface(tmp_path / "ours", weights.model_of(found).bfloat16())
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", dtype="auto")
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("changes", [{"bias": False}, {"qkv_bias": False}, {"bias": False, "head": "none"}])
def test_a_model_without_biases_is_written_with_zeros(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = GPT(GPTConfig(num_layers=2, num_heads=2, width=16, context=24, vocab_size=61, **changes)).double().eval()
    kind = transformers.GPT2Model if ours.config.head == "none" else transformers.GPT2LMHeadModel
    theirs = kind.from_pretrained(weights.write_huggingface(tmp_path, ours), dtype=torch.float64).eval()
    token_BT = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(token_BT), theirs(token_BT)[0], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("model", "kind"), [("gpt", "gpt2"), ("llama_tiny", "llama")])
def test_an_exported_run_and_its_tokenizer_are_opened_by_transformers(model: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    sizes = {"num_layers": 1, "width": 32, "num_heads": 4, "context": 16}
    settings: dict[str, Any] = {"data": str(tmp_path / "corpus.txt"), "model": model, "train.steps": 2}
    settings |= {"train.batch_size": 4} | {f"model.{name}": size for name, size in sizes.items()}
    run = strata.train("gpt", settings, runs=tmp_path / "runs")
    folder = strata.api.export(run.folder, "huggingface", tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    assert theirs.config.model_type == kind
    token_BT = transformers.AutoTokenizer.from_pretrained(folder)("the fox", return_tensors="pt").input_ids
    assert token_BT[0].tolist() == run.predictor().preprocess.encode("the fox").tolist()
    ours = strata.load(folder).double()
    with torch.no_grad():
        found, expected = ours(token_BT), theirs(token_BT).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # their norms round to float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ({"activation_function": "mish"}, "activation_function='mish' is not supported"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from({"model_type": "gpt2"} | SMALL | changes)


@pytest.mark.parametrize("changes", [{"positions": "alibi"}, {"norm": "rms"}, {"num_kv_heads": 3}, {"window": 9}])
def test_parts_that_transformers_has_not_together_are_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="transformers has no model with positions="):
        config_to(GPTConfig(**changes))
