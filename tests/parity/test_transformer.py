"""Our Transformer gives what torch's own blocks and transformers' Marian give, weight for weight, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strata import models, weights
from strata.checkpoint.files import read_tensors
from strata.errors import WeightsError
from strata.models.transformer import CrossAttention, DecoderBlock, EncoderBlock, SelfAttention, Transformer
from strata.models.transformer import TransformerConfig as Config
from strata.weights.transformer import config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 32,
    "scale_embedding": True,
    "activation_function": "swish",
    "pad_token_id": 30,
    "decoder_start_token_id": 30,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as OPUS-MT": {},
    "another depth of the decoder, another activation": {"decoder_layers": 1, "activation_function": "relu"},
}


def take(ours: nn.Linear | nn.LayerNorm, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def take_attention(ours: SelfAttention | CrossAttention, theirs: nn.MultiheadAttention) -> None:
    weight, bias = theirs.in_proj_weight, theirs.in_proj_bias
    if isinstance(ours, SelfAttention):
        ours.qkv.load_state_dict({"weight": weight, "bias": bias})
    else:
        width = len(weight) // 3
        ours.q.load_state_dict({"weight": weight[:width], "bias": bias[:width]})
        ours.kv.load_state_dict({"weight": weight[width:], "bias": bias[width:]})
    take(ours.out, theirs.out_proj)


def take_block(ours: nn.Module, theirs: nn.Module) -> None:
    assert isinstance(ours, EncoderBlock | DecoderBlock)
    take_attention(ours.attention, theirs.get_submodule("self_attn"))  # type: ignore[arg-type]
    if isinstance(ours, DecoderBlock):
        take_attention(ours.cross, theirs.get_submodule("multihead_attn"))  # type: ignore[arg-type]
        take(ours.residual3.norm, theirs.get_submodule("norm3"))
    take(ours.residual1.norm, theirs.get_submodule("norm1"))
    take(ours.residual2.norm, theirs.get_submodule("norm2"))
    take(ours.mlp.up, theirs.get_submodule("linear1"))
    take(ours.mlp.down, theirs.get_submodule("linear2"))


def reference(config: Config) -> nn.Transformer:
    torch.manual_seed(0)
    sizes = (config.width, config.num_heads, config.hidden_width)
    norm = nn.LayerNorm(config.width) if config.pre_norm else None  # none at the end in 2017
    settings = {"dropout": 0.0, "batch_first": True, "norm_first": config.pre_norm}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*sizes, **settings),  # type: ignore[arg-type]
        config.num_layers,
        norm,
        enable_nested_tensor=False,
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(*sizes, **settings),  # type: ignore[arg-type]
        config.num_decoder_layers or config.num_layers,
        nn.LayerNorm(config.width) if config.pre_norm else None,
    )
    both = nn.Transformer(
        config.width, config.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )
    for parameter in both.parameters():  # nothing stays at a trivial start
        nn.init.normal_(parameter, std=0.3)
    return both.double().eval()


def sines(length: int, width: int) -> Tensor:
    """Section 3.5's formula, number by number."""
    return torch.tensor(
        [
            [(math.sin, math.cos)[d % 2](place / 10_000 ** (2 * (d // 2) / width)) for d in range(width)]
            for place in range(length)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("pre_norm", [False, True])
def test_logits_equal_those_of_torchs_own_transformer(pre_norm: bool) -> None:
    config = Config(
        num_layers=3,
        num_decoder_layers=2,
        num_heads=3,
        width=24,
        hidden_width=40,
        context=16,
        vocab_size=31,
        pre_norm=pre_norm,
    )
    theirs = reference(config)
    ours = Transformer(config).double().eval()
    for name, blocks in (("encoder", ours.encoder), ("decoder", ours.decoder)):
        for our_block, their_block in zip(blocks, theirs.get_submodule(f"{name}.layers").children(), strict=True):
            take_block(our_block, their_block)
        if pre_norm:
            take(ours.get_submodule(f"{name}_norm"), theirs.get_submodule(f"{name}.norm"))  # type: ignore[arg-type]
    source_BS, target_BT = torch.randint(31, (3, 11)), torch.randint(31, (3, 7))
    mask_BS = torch.arange(11) < torch.tensor([11, 6, 2])[:, None]
    with torch.no_grad():
        torch.testing.assert_close(ours.positions_TD, sines(16, 24), rtol=1e-5, atol=1e-5)
        ours.positions_TD.copy_(sines(16, 24))  # ours are of float32, which the comparison must not see

        def embedded(token_BT: Tensor) -> Tensor:
            return ours.token_embedding(token_BT) * math.sqrt(24) + sines(token_BT.shape[1], 24)

        expected = theirs(
            embedded(source_BS),
            embedded(target_BT),
            tgt_mask=torch.ones(7, 7, dtype=torch.bool).triu(1),  # True: may not look
            src_key_padding_mask=~mask_BS,
            memory_key_padding_mask=~mask_BS,
        )
        found = ours.features(source_BS, target_BT, mask_BS)
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
        logits = ours(source_BS, target_BT, mask_BS)
        torch.testing.assert_close(logits, expected @ ours.token_embedding.weight.T, rtol=TOLERANCE, atol=TOLERANCE)
    assert found.std() > 1e-3, "they say nothing"


def marian(**changes: Any) -> Any:
    torch.manual_seed(0)
    theirs = transformers.MarianMTModel(transformers.MarianConfig(**SMALL | changes)).double().eval()
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            start = 1.0 if name.endswith("norm.weight") else 0.0
            nn.init.normal_(parameter, start, 0.3 if parameter.ndim > 1 else 0.1)
    nn.init.normal_(theirs.final_logits_bias, std=0.1)
    return theirs


def opened(folder: Path, theirs: Any) -> Transformer:
    found = weights.open_weights(folder)
    ours: Transformer = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    positions_TD = theirs.model.encoder.embed_positions.weight.unflatten(1, (2, -1)).mT.flatten(1)
    torch.testing.assert_close(ours.positions_TD, positions_TD, rtol=1e-4, atol=1e-4)
    ours.positions_TD.copy_(positions_TD)  # both round sines to float32, not in the same way
    return ours


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source_BS = torch.randint(1, 30, (3, 11), generator=generator)
    target_BT = torch.randint(1, 30, (3, 9), generator=generator)
    return source_BS, target_BT, torch.arange(11) < torch.tensor([11, 6, 2])[:, None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_marian_and_the_weights_return_bit_equal(variant: str, tmp_path: Path) -> None:
    theirs = marian(**VARIANTS[variant])
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        ours = opened(tmp_path / "theirs", theirs)
        source_BS, target_BT, mask_BS = example()
        expected = theirs(source_BS, mask_BS.long(), decoder_input_ids=target_BT).logits
        found = ours(source_BS, target_BT, mask_BS)
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert expected.std() > 1e-3, "the logits say nothing"

    special = {"start": None, "end": 0, "pad": 30}
    back = weights.write_huggingface(tmp_path / "ours", ours, special=special)
    written, before = (read_tensors(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
    again = transformers.MarianMTModel.from_pretrained(back, dtype=torch.float64)
    for name, value in theirs.state_dict().items():
        if "embed_positions" not in name:  # neither library writes what it computes
            assert torch.equal(again.state_dict()[name], value), name
    assert again.generation_config.decoder_start_token_id == 30
    assert config_from(config_to(ours.config)) == ours.config


def test_greedy_writing_gives_marians_text_token_for_token(tmp_path: Path) -> None:
    theirs = marian()
    theirs.save_pretrained(tmp_path)
    source_BS, _, mask_BS = example()
    with torch.no_grad():
        expected = theirs.generate(
            source_BS, attention_mask=mask_BS.long(), do_sample=False, num_beams=1, max_new_tokens=15, min_new_tokens=15
        )
        ours = opened(tmp_path, theirs)
        cache = ours.new_cache(source_BS, mask_BS, length=15)
        token_BT = torch.full((3, 1), 30)
        for _ in range(15):
            logits_BV = ours.decode(token_BT[:, -1:], cache)[:, -1]
            logits_BV[:, 0] = -torch.inf  # min_new_tokens of theirs: the end may not come yet
            token_BT = torch.cat([token_BT, logits_BV.argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(token_BT, expected)
    assert len(expected.unique()) > 3, "the text says nothing"


def test_a_transformer_of_ours_without_bias_becomes_a_marian_that_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Config(num_layers=2, num_heads=2, width=16, hidden_width=24, context=12, vocab_size=31)
    ours = Transformer(config).double().eval()
    back = weights.write_huggingface(tmp_path, ours, special={"start": 1, "end": 2, "pad": 0})
    theirs = transformers.MarianMTModel.from_pretrained(back, dtype=torch.float64).eval()
    source_BS, target_BT, _ = example()
    with torch.no_grad():
        found = theirs(source_BS, torch.ones_like(source_BS), decoder_input_ids=target_BT).logits
        torch.testing.assert_close(found, ours(source_BS, target_BT), rtol=1e-5, atol=1e-5)  # float32's sines
    assert theirs.config.decoder_start_token_id == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "only scale_embedding=True is"),
        ({"scale_embedding": True, "normalize_before": True}, "only normalize_before=False is"),
        ({"scale_embedding": True, "tie_word_embeddings": False}, "only tie_word_embeddings=True is"),
        ({"scale_embedding": True, "decoder_ffn_dim": 7}, "only decoder_ffn_dim=4096 is"),
    ],
)
def test_a_setting_that_ours_lacks_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        config_from(settings)


@pytest.mark.parametrize("changes", [{"pre_norm": True}, {"tied_head": False}])
def test_what_marian_lacks_cannot_be_written(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="only with pre_norm=False and tied_head=True"):
        config_to(Config(**changes))
