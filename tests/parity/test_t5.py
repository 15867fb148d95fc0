"""T5 and the one in transformers give the same, weight for weight, in float64, both ways, and write the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from strata import models, weights
from strata.checkpoint.files import read_tensors, write_tensors
from strata.errors import WeightsError
from strata.layers.position import t5_bucket
from strata.models.t5 import T5
from strata.weights.t5 import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "another depth of the decoder, gate, norms": {
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-silu",
        "layer_norm_epsilon": 1e-2,
    },
}
UNTIED = VARIANTS["1.1"]


@pytest.fixture(autouse=True)
def norms_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs rounds the mean square to float32 whatever the model's type, which alone would hide a difference."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(modeling.T5LayerNorm, "forward", forward)


def theirs_of(**changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL | changes))
    if changes.get("tie_word_embeddings") is False:  # theirs ties what it builds, though not what it reads
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.shared.weight))
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():  # nothing stays at a trivial start
        torch.nn.init.normal_(parameter, std=0.3)
    return theirs


def opened(folder: Path) -> T5:
    found = weights.open_weights(folder)
    ours: T5 = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    return ours


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source_BS = torch.randint(2, 31, (3, 17), generator=generator)
    target_BT = torch.randint(2, 31, (3, 19), generator=generator)
    mask_BS = torch.arange(17) < torch.tensor([17, 9, 4])[:, None]
    return source_BS.masked_fill(~mask_BS, 0), target_BT, mask_BS


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers_and_the_weights_return_bit_equal(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(**VARIANTS[variant])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = opened(tmp_path / "theirs")
    source_BS, target_BT, mask_BS = example()
    with torch.no_grad():
        for mask in (None, mask_BS):
            # Without a mask of theirs, T5 reads padding as any token
            attention_mask = torch.ones_like(source_BS) if mask is None else mask.long()
            expected = theirs(source_BS, attention_mask, decoder_input_ids=target_BT).logits
            torch.testing.assert_close(ours(source_BS, target_BT, mask), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert expected.std() > 1e-3, "the logits say nothing"

    back = weights.write_huggingface(tmp_path / "ours", ours)
    again = transformers.T5ForConditionalGeneration.from_pretrained(back, dtype=torch.float64)
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with torch.no_grad():
        found = again(source_BS, mask_BS.long(), decoder_input_ids=target_BT).logits
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert config_from(config_to(ours.config)) == ours.config


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_writing_with_a_cache_gives_their_text_token_for_token(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(**VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    ours = opened(tmp_path)
    source_BS, _, mask_BS = example()
    with torch.no_grad():
        expected = theirs.generate(
            source_BS, attention_mask=mask_BS.long(), do_sample=False, max_new_tokens=20, min_new_tokens=20
        )
        cache = ours.new_cache(source_BS, mask_BS, length=20)
        token_BT = torch.zeros(3, 1, dtype=torch.int64)
        for _ in range(20):
            logits_BV = ours.decode(token_BT[:, -1:], cache)[:, -1]
            logits_BV[:, 1] = -torch.inf  # min_new_tokens of theirs: the end may not come yet
            token_BT = torch.cat([token_BT, logits_BV.argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(token_BT, expected)
    assert len(expected.unique()) > 3, "the text says nothing"


def test_the_weights_of_attention_to_the_source_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.set_attn_implementation("eager")
    theirs.save_pretrained(tmp_path)
    source_BS, target_BT, mask_BS = example()
    with torch.no_grad():
        found = opened(tmp_path).attention_weights(source_BS, target_BT, mask_BS)
        reference = theirs(source_BS, mask_BS.long(), decoder_input_ids=target_BT, output_attentions=True)
    expected = torch.stack(reference.cross_attentions)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 12), (64, 1000)])
def test_every_distance_falls_into_their_bucket(is_causal: bool, num_buckets: int, max_distance: int) -> None:
    distance = torch.arange(-3000, 3000)
    expected = modeling.T5Attention._relative_position_bucket(distance, not is_causal, num_buckets, max_distance)
    assert torch.equal(t5_bucket(distance, num_buckets, max_distance, is_causal=is_causal), expected)


@pytest.mark.parametrize(
    "name", ["t5_small", "t5_base", "t5_large", "t5_11b", "t5_v1_1_small", "t5_v1_1_base", "t5_v1_1_large"]
)
def test_a_preset_has_as_many_parameters_as_theirs(name: str) -> None:
    config = models.preset(name)
    with torch.device("meta"):
        ours = models.build(config)
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config_to(config)))
    # Theirs ties the head of what it builds, though not of 1.1's published weights
    head = 0 if config.tied_head else config.vocab_size * config.width
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + head


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_the_embedding_is_found_under_each_of_its_names(kept: str, tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    write_tensors(tmp_path / "model.safetensors", {**tensors, kept: tensors["shared.weight"].clone()})
    if kept != "shared.weight":
        write_tensors(
            tmp_path / "model.safetensors",
            {kept if name == "shared.weight" else name: value for name, value in tensors.items()},
        )
    assert torch.equal(opened(tmp_path).token_embedding.weight, theirs.shared.weight)


def test_older_files_with_every_copy_and_an_unused_bias_are_read(tmp_path: Path) -> None:
    theirs = theirs_of(**UNTIED)
    theirs.save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tensors[name] = tensors["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[unused] = torch.zeros(8, 3, dtype=torch.float64)
    write_tensors(tmp_path / "model.safetensors", tensors)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"tie_word_embeddings": False}))
    ours = opened(tmp_path)
    assert not ours.config.tied_head
    assert torch.equal(ours.head.weight, theirs.lm_head.weight)
    assert HUGGINGFACE.reason(unused) is not None


def test_an_unscaled_head_that_a_file_leaves_out_is_the_embedding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL | UNTIED)).double().eval()
    theirs.save_pretrained(tmp_path)
    source_BS, target_BT, _ = example()
    with torch.no_grad():
        expected = theirs(source_BS, torch.ones_like(source_BS), decoder_input_ids=target_BT).logits
        found = opened(tmp_path)(source_BS, target_BT)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"feed_forward_proj": "gated-maxout"}, "feed_forward_proj='gated-maxout' is not supported"),
        ({"is_encoder_decoder": False}, "only is_encoder_decoder=True is"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        config_from(settings)


def test_a_gate_that_transformers_lacks_is_refused() -> None:
    with pytest.raises(WeightsError, match="activation='gelu_tanh'"):
        config_to(models.config_class("t5")(gated=True, activation="gelu"))


@pytest.mark.parametrize(("special", "start"), [({"pad": 3, "end": 4}, 3), ({"start": 2, "pad": 3}, 2), (None, 0)])
def test_writing_there_begins_with_the_start_token_or_the_padding(
    special: dict[str, int] | None, start: int, tmp_path: Path
) -> None:
    theirs_of().save_pretrained(tmp_path / "theirs")
    back = weights.write_huggingface(tmp_path / "ours", opened(tmp_path / "theirs"), special=special)
    again = transformers.T5ForConditionalGeneration.from_pretrained(back)
    assert again.generation_config.decoder_start_token_id == start
