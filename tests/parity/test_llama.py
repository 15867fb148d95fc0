"""The modern shape equals Llama, Mistral, Qwen2 and Qwen3 of transformers in float64, through files both ways."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata import weights
from strata.errors import WeightsError
from strata.layers.position import RotaryScaling
from strata.weights.gpt import config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied, every head its own keys": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama, one head of keys, wide heads": ("Llama", {"num_key_value_heads": 1, "head_dim": 12}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "llama, linear scaling": ("Llama", {"rope_parameters": LINEAR}),
    "mistral, a window shorter than the text": ("Mistral", {"sliding_window": 6}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, a window in its later layers": ("Qwen2", SLIDING),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, a window in its later layers": ("Qwen3", {"head_dim": 8} | SLIDING),
}


@pytest.fixture(autouse=True)
def norms_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs rounds normed states to float32 whatever the model's type; that alone would hide a difference of 1e-7."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        square = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(square + self.variance_epsilon))

    for name in ("Llama", "Mistral", "Qwen2", "Qwen3"):
        module = importlib.import_module(f"transformers.models.{name.lower()}.modeling_{name.lower()}")
        monkeypatch.setattr(getattr(module, f"{name}RMSNorm"), "forward", forward)


def theirs_of(name: str, kind: str = "ForCausalLM", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | changes)
    return getattr(transformers, f"{name}{kind}")(config).double().eval()


@pytest.fixture
def token_BT() -> torch.Tensor:
    return torch.randint(1, 61, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_files_equal_those_of_transformers(
    variant: str, check_parity: Callable[..., Any], token_BT: torch.Tensor
) -> None:
    name, changes = VARIANTS[variant]
    theirs = theirs_of(name, **changes)
    ours = check_parity(theirs, token_BT)
    assert config_from(config_to(ours.config)) == ours.config

    # Read piece by piece, with a cache in the way, it is the same
    cache = ours.new_cache(2)
    with torch.no_grad():
        pieces = [ours(piece, cache) for piece in token_BT.split([7, 1, 1, 3, 12], dim=1)]
        expected = theirs(token_BT).logits
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_window_that_is_not_seen_would_be_noticed(token_BT: torch.Tensor) -> None:
    narrow = theirs_of("Mistral", sliding_window=6)
    wide = theirs_of("Mistral", sliding_window=None)
    wide.load_state_dict(narrow.state_dict())
    with torch.no_grad():
        assert (narrow(token_BT).logits - wide(token_BT).logits).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["Model", "ForSequenceClassification"])
def test_a_trunk_alone_and_a_classifier_are_read_too(kind: str, token_BT: torch.Tensor, tmp_path: Path) -> None:
    theirs = theirs_of("Llama", kind)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = weights.model_of(weights.open_weights(tmp_path / "theirs")).double().eval()
    token_BT[0, 15:] = 0
    mask_BT = token_BT != 0
    with torch.no_grad():
        found, expected = ours(token_BT, mask_BT=mask_BT), theirs(token_BT, attention_mask=mask_BT)
    if kind == "Model":
        found, expected = found[mask_BT], expected.last_hidden_state[mask_BT]
    else:
        expected = expected.logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # model_of builds in float32
    weights.write_huggingface(tmp_path / "ours", ours)
    again = getattr(transformers, f"Llama{kind}").from_pretrained(tmp_path / "ours", dtype=torch.float64)
    assert again.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_older_files_give_the_rotary_settings_apart(key: str) -> None:
    older = {
        "model_type": "llama",
        "rope_theta": 500.0,
        "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
    }
    older["rope_scaling"][key] = older["rope_scaling"].pop("rope_type")  # type: ignore[index, union-attr]
    today = config_from({"model_type": "llama", "rope_parameters": LLAMA3})
    assert config_from(older) == today
    assert today.rope_scaling == RotaryScaling(kind="llama3", factor=4, low=1, high=4, original_context=32)
    assert config_from({"model_type": "llama", "rope_theta": 7.0, "rope_scaling": None}).rope_theta == 7


def test_defaults_that_a_file_leaves_out_are_those_of_transformers() -> None:
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3"):
        theirs = getattr(transformers, f"{name}Config")()
        whole = json.loads(theirs.to_json_string(use_diff=False))
        assert config_from({"model_type": theirs.model_type}) == config_from(whole), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "llama with attention_bias=True is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type='yarn' is not supported"),
        (
            {"model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
            | {"use_sliding_window": True},
            "sliding layers have to follow full ones",
        ),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from({"model_type": "llama"} | changes)
