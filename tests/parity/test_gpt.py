"""Our GPT gives the logits of the reference implementation, weight for weight, in float64."""

from __future__ import annotations

import pytest
import torch

from strata.models.gpt import GPT, GPTConfig

transformers = pytest.importorskip("transformers")


def test_logits_equal_those_of_transformers_gpt2_in_float64() -> None:
    config = GPTConfig(num_layers=3, num_heads=4, width=32, context=24, vocab_size=61)
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=61, n_positions=24, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
        )
    )
    for parameter in reference.parameters():  # also moves biases and norms away from 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    reference = reference.double().eval()
    ours = GPT(config).double().eval()
    theirs = reference.state_dict()
    with torch.no_grad():
        ours.token_embedding.weight.copy_(theirs["transformer.wte.weight"])
        ours.position_embedding.weight.copy_(theirs["transformer.wpe.weight"])
        ours.norm.weight.copy_(theirs["transformer.ln_f.weight"])
        ours.norm.bias.copy_(theirs["transformer.ln_f.bias"])
        names = {
            "norm1": "ln_1",
            "norm2": "ln_2",
            "attention.qkv": "attn.c_attn",
            "attention.out": "attn.c_proj",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        }
        for i, block in enumerate(ours.blocks):
            for our_name, their_name in names.items():
                layer = block.get_submodule(our_name)
                weight = theirs[f"transformer.h.{i}.{their_name}.weight"]
                layer.weight.copy_(weight if weight.ndim == 1 else weight.T)  # they store linear layers transposed
                layer.bias.copy_(theirs[f"transformer.h.{i}.{their_name}.bias"])
        token_BT = torch.randint(61, (2, 24))
        torch.testing.assert_close(ours(token_BT), reference(token_BT).logits, rtol=1e-10, atol=1e-10)
