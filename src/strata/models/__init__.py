"""Every architecture, one file each; this page is their list. Reading it imports none of them.

A line holds the family's name, its class, and the presets that the file's ``PRESETS`` offers.
A new architecture costs its file and one line here; the contract tests find it by themselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from strata.errors import UnknownNameError
from strata.registry import Registry

MODELS = Registry("model")
_FAMILY_OF_PRESET: dict[str, str] = {}
Reading = Literal["forwards", "whole", "pairs"]
"""How a model reads a text: a token sees those before it; it sees all others too; one text is read, another written."""


def _add(name: str, target: str, summary: str, presets: str = "") -> None:
    MODELS.add(name, target, summary)
    for preset_name in presets.split():
        if preset_name in _FAMILY_OF_PRESET or preset_name in MODELS:
            raise ValueError(f"preset {preset_name!r} of {name!r} is already a model's name")
        _FAMILY_OF_PRESET[preset_name] = name


_add("mlp", "strata.models.mlp:MLP", "Perceptron and multilayer perceptron", "perceptron")
_add("lenet", "strata.models.lenet:LeNet", "LeNet-5, LeCun et al. 1998", "lenet5 lenet5_modern")
_add("alexnet", "strata.models.alexnet:AlexNet", "AlexNet, Krizhevsky et al. 2012", "alexnet_2012")
_add(
    "vgg",
    "strata.models.vgg:VGG",
    "VGG, Simonyan and Zisserman 2015",
    "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn",
)
_add(
    "inception",
    "strata.models.inception:Inception",
    "GoogLeNet and Inception-v3, Szegedy et al. 2015 and 2016",
    "googlenet inception_v3",
)
_add(
    "resnet",
    "strata.models.resnet:ResNet",
    "Residual networks, He et al. 2016; ResNeXt, Xie et al. 2017",
    "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 "
    "resnext50_32x4d resnext101_32x8d "
    "resnet20 resnet32 resnet44 resnet56 resnet110",
)
_add(
    "preresnet",
    "strata.models.preresnet:PreResNet",
    "Residual networks that normalise first, He et al. 2016; wide ones, Zagoruyko and Komodakis 2016",
    "preresnet18 preresnet34 preresnet50 preresnet101 preresnet152 preresnet200 "
    "preresnet110 preresnet164 wrn_16_4 wrn_28_10 wrn_40_4",
)
_add(
    "densenet",
    "strata.models.densenet:DenseNet",
    "Densely connected networks, Huang et al. 2017",
    "densenet121 densenet161 densenet169 densenet201 densenet_bc_100_12",
)
_add(
    "mobilenet",
    "strata.models.mobilenet:MobileNet",
    "MobileNetV2, Sandler et al. 2018",
    "mobilenet_v2 mobilenet_v2_035 mobilenet_v2_050 mobilenet_v2_075 mobilenet_v2_140",
)
_add(
    "efficientnet",
    "strata.models.efficientnet:EfficientNet",
    "EfficientNet, Tan and Le 2019",
    "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 "
    "efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7",
)
_add("unet", "strata.models.unet:UNet", "U-Net, Ronneberger et al. 2015: pictures out", "unet_valid unet_small")
_add("airbench", "strata.models.airbench:Airbench", "The network of CIFAR-10 speed runs, Jordan 2024", "airbench94")
_add(
    "convnext",
    "strata.models.convnext:ConvNeXt",
    "ConvNeXt, Liu et al. 2022",
    "convnext_tiny convnext_small convnext_base convnext_large",
)
_add(
    "vit",
    "strata.models.vit:ViT",
    "Vision Transformer, Dosovitskiy et al. 2021",
    "vit_tiny vit_small vit_base vit_large vit_tiny_16 vit_small_16 vit_small_32 vit_base_16 vit_base_32 vit_large_16 "
    "vit_large_32",
)
_add("swin", "strata.models.swin:Swin", "Swin Transformer, Liu et al. 2021", "swin_tiny swin_small swin_base")
_add(
    "mlp_mixer",
    "strata.models.mlp_mixer:MLPMixer",
    "MLP-Mixer, Tolstikhin et al. 2021",
    "mixer_small mixer_base mixer_large mixer_small_16 mixer_small_32 mixer_base_16 mixer_base_32 mixer_large_16 "
    "mixer_large_32",
)
_add(
    "rnn",
    "strata.models.rnn:RNN",
    "Recurrent nets: Elman 1990, LSTM of Hochreiter and Schmidhuber 1997, GRU of Cho et al. 2014",
    "elman lstm gru bilstm lstm_layer_norm awd_lstm char_lstm",
)
_add(
    "textcnn",
    "strata.models.textcnn:TextCNN",
    "Convolutions over sentences, Kim 2014",
    "textcnn_rand textcnn_static textcnn_non_static textcnn_multichannel",
)
_add(
    "seq2seq",
    "strata.models.seq2seq:Seq2Seq",
    "Recurrent encoder and decoder with attention, Bahdanau et al. 2015, Luong et al. 2015",
    "seq2seq_sutskever seq2seq_bahdanau seq2seq_luong",
)
_add(
    "gpt",
    "strata.models.gpt:GPT",
    "GPT-2, Radford et al. 2019; the shape of Llama, Mistral and Qwen, Touvron et al. 2023",
    "gpt2 gpt2_medium gpt2_large gpt2_xl llama_tiny llama2_7b llama3_8b llama3_2_1b smollm_135m mistral_7b "
    "qwen2_0_5b qwen2_5_0_5b qwen2_5_7b qwen3_0_6b qwen3_8b",
)
_add(
    "bert",
    "strata.models.bert:Bert",
    "BERT, Devlin et al. 2019; RoBERTa, DistilBERT and MiniLM",
    "bert_tiny bert_mini bert_small bert_base bert_large roberta_base roberta_large distilbert_base minilm_l6",
)
_add(
    "transformer",
    "strata.models.transformer:Transformer",
    "The Transformer, encoder and decoder, Vaswani et al. 2017",
    "transformer_base transformer_big transformer_iwslt transformer_tiny",
)
_add(
    "t5",
    "strata.models.t5:T5",
    "T5, text to text, Raffel et al. 2020; the sizes of 1.1 are Flan-T5's",
    "t5_small t5_base t5_large t5_3b t5_11b t5_v1_1_small t5_v1_1_base t5_v1_1_large t5_v1_1_xl t5_v1_1_xxl t5_tiny",
)
_add("dcgan", "strata.models.dcgan:DCGAN", "Deep convolutional GAN, Radford et al. 2016", "dcgan_lsun")
_add("gan", "strata.models.gan:GAN", "The first GAN, of two perceptrons, Goodfellow et al. 2014")


def names() -> list[str]:
    """Return every family and preset."""
    return [*MODELS, *_FAMILY_OF_PRESET]


def presets_of(family: str) -> list[str]:
    """Return the presets of a family, besides its own name."""
    return [name for name, owner in _FAMILY_OF_PRESET.items() if owner == family]


def model_class(family: str) -> Any:
    """Return a family's nn.Module class."""
    return MODELS.get(family)


def config_class(family: str) -> Any:
    """Return a family's config dataclass."""
    return model_class(family).config_class


def reading_of(family: str) -> Reading | None:
    """Return how a family reads texts; None where it reads none."""
    model = model_class(family)
    if "vocab_size" not in {field.name for field in dataclasses.fields(model.config_class)}:
        return None
    if getattr(model, "is_encoder_decoder", False):
        return "pairs"
    return "forwards" if hasattr(model, "new_cache") else "whole"


def family_of(config: Any) -> str | None:
    """Return the family whose config this is, or None."""
    module = type(config).__module__
    return next((name for name in MODELS if MODELS.target(name).startswith(f"{module}:")), None)


def preset(name: str) -> Any:
    """Return the config of a family or preset; ``vit-base`` is ``vit_base``.

    Raises UnknownNameError with the nearest right name.
    """
    name = name.replace("-", "_")
    if name in MODELS:
        return config_class(name)()
    if name not in _FAMILY_OF_PRESET:
        raise UnknownNameError("model", name, names())
    import importlib

    family = _FAMILY_OF_PRESET[name]
    module = importlib.import_module(MODELS.target(family).split(":")[0])
    return module.PRESETS[name]


def settled(config: Any, like: Any = None) -> Any:
    """Return a config with what its "auto" settings stand for, so that pictures of another size do not change them.

    A family says what "auto" is for its setting NAME by a function ``NAME_of(config)`` in its file; a stem's is
    `strata.layers.stem.resolve`. What has neither stays.

    Args:
        like: a settled config whose values are taken, where it is of the same family; None: the picture size decides.
    """
    import sys

    from strata.layers.stem import resolve

    module = sys.modules[type(config).__module__]
    found = {}
    for name in (field.name for field in dataclasses.fields(config) if getattr(config, field.name) == "auto"):
        if type(like) is type(config):
            found[name] = getattr(like, name)
        elif name == "stem":
            found[name] = resolve("auto", config.image_size)
        elif hasattr(module, f"{name}_of"):
            found[name] = getattr(module, f"{name}_of")(config)
    return dataclasses.replace(config, **found)


def build(config: Any) -> Any:
    """Return the nn.Module of a config, weights freshly initialised from torch's generator."""
    family = family_of(config)
    assert family is not None, f"{type(config).__name__} belongs to no registered model"
    return model_class(family)(config)
