"""Weights from elsewhere: opened by what they are, refused in words, written so that others read them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import strata
from strata import api, models, weights
from strata.errors import ConfigError, RunError, WeightsError
from strata.models.resnet import TINY, ResNet
from strata.weights import preprocessing, torchvision
from strata.weights import vit as vit_weights
from strata.weights.resnet import HUGGINGFACE, TORCHVISION

CONFIG = dataclasses.replace(TINY, stem="imagenet", image_size=32, num_classes=3)


@pytest.fixture
def model() -> ResNet:
    """A small ResNet with nothing at its start."""
    torch.manual_seed(0)
    made = ResNet(CONFIG).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


@pytest.fixture
def folder(model: ResNet, tmp_path: Path) -> Path:
    """The model as a Hugging Face folder."""
    prepared = preprocessing.imagenet(32, 40, "bicubic")
    return weights.write_huggingface(tmp_path / "hf", model, prepared, ("cat", "dog", "owl"))


def test_a_folder_says_which_model_it_is_how_pictures_are_prepared_and_what_classes_are_called(folder: Path) -> None:
    found = weights.open_weights(folder)
    assert dataclasses.replace(found.config, image_size=32) == CONFIG
    assert found.labels == ("cat", "dog", "owl")
    assert found.preprocess["interpolation"] == "bicubic"
    assert found.preprocess["crop_share"] == pytest.approx(0.8)
    assert found.preprocess["mean"] == preprocessing.IMAGENET_MEAN


def test_a_folder_loads_as_a_module_and_answers_about_a_picture(folder: Path, model: ResNet, tmp_path: Path) -> None:
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(strata.load(folder)(image), model(image))
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    (answer,) = api.predictor(folder).predict([tmp_path / "red.png"])
    assert answer["label"] in ("cat", "dog", "owl")


def test_a_sharded_folder_is_read_whole(folder: Path, model: ResNet) -> None:
    theirs = HUGGINGFACE.write(CONFIG, model.state_dict())
    names = sorted(theirs)
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + k % 2}-of-00002.safetensors" for k, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: theirs[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    read = weights.open_weights(folder).state()
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_in_torchvision_s_layout_is_read_for_the_model_that_is_given(
    suffix: str, model: ResNet, tmp_path: Path
) -> None:
    theirs = TORCHVISION.write(CONFIG, model.state_dict())
    path = tmp_path / f"mine{suffix}"
    torch.save(theirs, path) if suffix == ".pth" else save_file(theirs, path)
    read = weights.open_weights(path, CONFIG).state()
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"does not say which model it is.*model=resnet50"):
        weights.open_weights(path)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet50-0676ba61.pth", "resnet50"),
        ("vit_b_16-c867db91.pth", "vit_base_16"),
        ("vit_l_16_lc_swag-4d563306.pth", "vit_large_16"),
        ("vgg16_bn-6c64b313.pth", "vgg16_bn"),
        ("alexnet-owt-7be5be79.pth", "alexnet"),
        ("inception_v3_google-0cc3c7bd.pth", "inception_v3"),
    ],
)
def test_torchvision_s_own_file_names_say_the_preset(name: str, preset: str) -> None:
    assert torchvision.by_name(Path(name)) == models.preset(preset)


@pytest.mark.parametrize("name", ["mine.pth", "vit_h_14_swag-80465313.pth"])
def test_a_name_that_is_no_preset_s_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="does not say which model it is"):
        torchvision.by_name(Path(name))


@pytest.mark.parametrize(
    ("name", "side", "short", "interpolation"),
    [
        ("resnet50-0676ba61.pth", 224, 256, "bilinear"),
        ("resnet50-11ad3fa6.pth", 224, 232, "bilinear"),
        ("vit_l_16-852ce7e3.pth", 224, 242, "bilinear"),
        ("vit_b_16_swag-9ac1b537.pth", 384, 384, "bicubic"),
    ],
)
def test_torchvision_s_files_prepare_pictures_each_in_its_way(
    name: str, side: int, short: int, interpolation: str
) -> None:
    found = torchvision.prepared(Path(name), preprocessing.imagenet())
    assert (found["image_size"], found["crop_share"], found["interpolation"]) == (side, side / short, interpolation)


@pytest.mark.parametrize(
    "settings",
    [{}, {"data.image_size": 64}, {"weights.tune": "probe"}, {"weights.tune": "lora"}, {"data.channels": 3}],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()),
)
def test_a_file_of_torchvision_s_is_fine_tuned_on_other_classes_and_sizes(
    settings: dict[str, Any], model: ResNet, tmp_path: Path
) -> None:
    torch.save(TORCHVISION.write(CONFIG, model.state_dict()), tmp_path / "resnet18-abc.pth")
    ours = {"model": "resnet18", "data.image_size": 96}
    ours |= {f"model.{name}": getattr(CONFIG, name) for name in ("block", "width", "depths")}
    run = strata.train(
        "digits",
        {**ours, "weights": str(tmp_path / "resnet18-abc.pth"), "train.steps": 1, "data.limit": 40, **settings},
        runs=tmp_path,
    )
    assert (run.model().config.stem, run.model().config.num_classes) == ("imagenet", 10)
    assert "the head is new" in (run.folder / "log.txt").read_text()


def test_a_file_s_positions_are_brought_to_the_pictures_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(models.preset("vit_tiny_16"), depth=1, width=12, num_heads=2, image_size=48)
    vit = models.build(config)
    torch.save(vit_weights.TORCHVISION.write(config, vit.state_dict()), tmp_path / "vit_tiny_16-abc.pth")
    other = dataclasses.replace(config, image_size=64, num_classes=4, in_channels=3)
    found = weights.open_weights(tmp_path / "vit_tiny_16-abc.pth", other)
    assert found.config == config
    assert found.preprocess["image_size"] == 48
    taken = models.build(other)
    weights.load_into(taken, found, labels=("a", "b", "c", "d"))
    assert torch.equal(taken.positions_1TD[:, 0], vit.positions_1TD[:, 0])
    assert taken.positions_1TD.shape == (1, 17, 12)


def test_what_trainers_put_before_names_and_around_tensors_is_taken_off(model: ResNet, tmp_path: Path) -> None:
    theirs = TORCHVISION.write(CONFIG, model.state_dict())
    path = tmp_path / "mine.pth"
    for prefix in ("module.", "_orig_mod.", "model."):
        torch.save({"model_state_dict": {prefix + name: value for name, value in theirs.items()}}, path)
        read = weights.open_weights(path, CONFIG).state()
        assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


def test_a_network_made_for_small_pictures_stays_the_same_at_a_larger_size(tmp_path: Path) -> None:
    settings = {"model": "mobilenet_v2_035", "data.image_size": 64, "train.steps": 1, "data.limit": 40}
    small = strata.train("digits", settings, runs=tmp_path)
    larger = {"weights": str(small.folder), "data.image_size": 72, "train.steps": 1, "data.limit": 40}
    for chosen in ({}, {"model": "mobilenet_v2_035"}):
        run = strata.train("digits", {**larger, **chosen}, runs=tmp_path)
        assert run.model().config.stem == "cifar"


def test_a_network_of_one_size_only_says_which(tmp_path: Path) -> None:
    settings = {"model": "lenet5_modern", "data.image_size": 28, "train.steps": 1, "data.limit": 40}
    run = strata.train("digits", settings, runs=tmp_path)
    with pytest.raises(WeightsError, match=r"for pictures of 28 pixels.*data\.image_size=28"):
        strata.train("digits", {"weights": str(run.folder), "data.image_size": 40, "train.steps": 1}, runs=tmp_path)


def test_a_network_without_a_head_says_that_it_has_none(folder: Path) -> None:
    theirs = load_file(folder / "model.safetensors")
    save_file(
        {name.removeprefix("resnet."): v for name, v in theirs.items() if not name.startswith("classifier")},
        folder / "model.safetensors",
    )
    with pytest.raises(WeightsError, match="without a head, which answers nothing by itself"):
        strata.load(folder)


@pytest.mark.parametrize("content", ["hello world", "", "\x80\x02junk"])
def test_a_file_that_is_none_of_torch_s_is_refused_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "resnet18-x.pth").write_text(content)
    with pytest.raises(WeightsError, match="cannot be read by torch's weights-only reader"):
        weights.open_weights(tmp_path / "resnet18-x.pth")


def test_what_lies_beside_the_tensors_is_named(model: ResNet, tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": model.state_dict()}, tmp_path / "resnet18-x.pth")
    with pytest.raises(WeightsError, match=r"a argparse\.Namespace beside tensors.*torch\.save\(model\.state_dict"):
        weights.open_weights(tmp_path / "resnet18-x.pth")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": ["cat", "dog", "owl"]}, "id2label .* has to give names by numbers"),
        ({"id2label": {"a": "cat", "b": "dog", "c": "owl"}}, "id2label .* has to give names by numbers"),
        ({"depths": 3}, "holds a setting that cannot be understood"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_line(changes: dict[str, Any], said: str, folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(WeightsError, match=said):
        weights.open_weights(folder)


def test_a_config_that_is_a_list_is_refused_in_a_line(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds no settings of a model, but a list"):
        weights.open_weights(folder)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"weight": Evil()}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="weights-only reader, the only one that runs no foreign code"):
        weights.open_weights(tmp_path / "resnet18.pth")
    assert not (tmp_path / "pwned").exists()


def test_a_missing_or_unknown_tensor_is_named(model: ResNet) -> None:
    theirs = HUGGINGFACE.write(CONFIG, model.state_dict())
    theirs["resnet.extra"] = theirs.pop("resnet.embedder.embedder.convolution.weight")
    with pytest.raises(WeightsError, match=r"missing: resnet\.embedder\.embedder.*unknown: resnet\.extra"):
        HUGGINGFACE.read(CONFIG, model.state_dict(), theirs)


def test_another_model_type_or_setting_is_refused_in_words(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"downsample_in_bottleneck": True}))
    with pytest.raises(WeightsError, match="downsample_in_bottleneck=True is not supported"):
        weights.open_weights(folder)
    (folder / "config.json").write_text(json.dumps(content | {"model_type": "yolos"}))
    with pytest.raises(WeightsError, match=r"model_type='yolos', which Strata cannot read. It can: .*vit"):
        weights.open_weights(folder)


def test_a_model_without_counterpart_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no table for other libraries' weights of 'lenet'"):
        weights.write_huggingface(tmp_path / "x", strata.create("lenet5"))
    with pytest.raises(ConfigError, match=r"has to end in \.safetensors"):
        weights.write_torchvision(tmp_path / "x.pth", strata.create("resnet", **dataclasses.asdict(CONFIG)))


def test_a_model_with_a_stem_for_small_pictures_says_how_one_is_trained_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"stem='cifar' is not supported.* Train with model\.stem=imagenet and a data\."
    ):
        weights.write_huggingface(tmp_path / "x", strata.create("resnet20"))


def test_a_trained_run_is_exported_and_read_back(tmp_path: Path) -> None:
    settings = {"model": "resnet18", "model.width": 4, "model.stem": "imagenet", "data.image_size": 32}
    run = strata.train("digits", {**settings, "train.steps": 2, "data.limit": 100}, runs=tmp_path)
    out = strata.export(run.folder, "huggingface", tmp_path / "out")
    found = weights.open_weights(out)
    assert found.labels == tuple("0123456789")
    assert all(torch.equal(value, found.state()[name]) for name, value in run.model().state_dict().items())
    with pytest.raises(ConfigError, match="no layout 'onnx' to export to"):
        strata.export(run.folder, "onnx", tmp_path / "out")
    with pytest.raises(RunError):
        strata.export(tmp_path / "nothing", "huggingface", tmp_path / "out")


def test_an_exported_classifier_is_calibrated_and_what_stays_behind_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"model": "resnet18", "model.width": 4, "model.depths": [1, 1], "model.stem": "imagenet"}
    run = strata.train(
        "digits", {**settings, "data.image_size": 32, "train.steps": 3, "data.limit": 100}, runs=tmp_path
    )
    file = run.folder / "model" / "config.json"
    config = json.loads(file.read_text())
    config["task"]["temperature"] = 2.5
    file.write_text(json.dumps(config))
    trained = run.predictor(precision="fp32")
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    out = strata.export(run.folder, "huggingface", tmp_path / "out")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    (there,), (here,) = api.predictor(out, precision="fp32").predict([picture]), trained.predict([picture])
    assert there["probability"] == pytest.approx(here["probability"], rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert not caplog.records
    config["task"] |= {"flip_test": True, "threshold": 0.25}
    file.write_text(json.dumps(config))
    strata.export(run.folder, "torchvision", tmp_path / "out.safetensors")
    assert caplog.messages == [
        "Not in the exported model, which answers without: task.flip_test, task.specificity, whose threshold is 0.25."
    ]
    theirs = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(theirs["fc.weight"], before["head.weight"] / 2.5)


SMALL = {"model": "resnet18", "model.width": 4, "model.depths": [1, 1], "model.stem": "imagenet"}


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mean_squared_error", "hinge"])
def test_an_exported_classifier_of_two_classes_has_a_score_for_each(loss: str, tmp_path: Path) -> None:
    for k in range(12):
        (tmp_path / "data" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * k, 90, 9)).save(tmp_path / "data" / "ab"[k % 2] / f"{k}.png")
    settings = {**SMALL, "data": str(tmp_path / "data"), "task.loss": loss, "task.label_smoothing": 0, "train.steps": 3}
    run = strata.train("resnet", settings, runs=tmp_path / "runs")
    trained = run.predictor(precision="fp32")
    assert trained.model.config.num_classes == 1
    file = str(tmp_path / "data" / "a" / "0.png")
    (here,) = trained.predict([file])
    (there,) = api.predictor(strata.export(run.folder, "huggingface", tmp_path / "out"), precision="fp32").predict(
        [file]
    )
    assert there["label"] == here["label"] and there["probability"] == pytest.approx(here["probability"], rel=1e-4)


def test_an_exported_regression_answers_in_the_target_s_units(tmp_path: Path) -> None:
    rows = ["image,age"]
    for k in range(20):
        Image.new("RGB", (32, 32), (12 * k, 90, 9)).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{1000 + 3.5 * k}")
    (tmp_path / "ages.csv").write_text("\n".join(rows))
    run = strata.train(
        "resnet", {**SMALL, "data": str(tmp_path / "ages.csv"), "train.steps": 3}, runs=tmp_path / "runs"
    )
    trained = run.predictor(precision="fp32")
    (here,) = trained.predict([str(tmp_path / "3.png")])
    strata.export(run.folder, "torchvision", tmp_path / "resnet18.safetensors")
    found = weights.open_weights(tmp_path / "resnet18.safetensors", trained.model.config)
    assert found.preprocess["mean"] == trained.preprocess.mean and found.preprocess["image_size"] == 32
    model = weights.model_of(found).eval()
    with torch.no_grad():
        input_1CHW = trained.preprocess.normalize(trained.preprocess.read(str(tmp_path / "3.png"))[None])
        assert float(model(input_1CHW)) == pytest.approx(here["value"], rel=1e-5)
    assert 900 < here["value"] < 1200


def test_a_network_with_another_activation_is_none_of_torchvision_s(tmp_path: Path) -> None:
    model = models.build(dataclasses.replace(TINY, activation="silu"))
    with pytest.raises(WeightsError, match="torchvision's resnet has activation 'relu', and this one 'silu'"):
        weights.write_torchvision(tmp_path / "a.safetensors", model)


@pytest.mark.parametrize(
    ("model_type", "theirs", "ours"),
    [
        ("vit", {"size": {"height": 224, "width": 224}, "resample": 2}, ("stretch", 224, 1.0)),
        ("vit", {"size": 224, "resample": 2}, ("stretch", 224, 1.0)),
        ("resnet", {"size": 224, "resample": 2}, ("crop", 224, 0.875)),
        ("resnet", {"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, ("stretch", 224, 1.0)),
        ("vit", {"size": 224, "feature_extractor_type": "ConvNextFeatureExtractor"}, ("crop", 224, 0.875)),
        (
            "vit",
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224},
            ("stretch", 224, 0.875),
        ),
        (
            "mobilenet_v2",
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            ("crop", 224, 0.875),
        ),
        ("convnext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ("crop", 224, 0.875)),
        ("convnext", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, ("stretch", 384, 1.0)),
    ],
)
def test_a_preprocessor_config_is_understood(
    model_type: str, theirs: dict[str, Any], ours: tuple[str, int, float]
) -> None:
    found = preprocessing.from_huggingface(theirs, model_type)
    assert (found["fit"], found["image_size"], found["crop_share"]) == ours


def test_efficientnet_s_second_division_is_part_of_the_deviation() -> None:
    published = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163], "size": 224}
    found = preprocessing.from_huggingface(published, "efficientnet")
    assert found["mean"] == pytest.approx(preprocessing.IMAGENET_MEAN)
    assert found["std"] == pytest.approx((0.229, 0.224, 0.225))
    again = preprocessing.to_huggingface(found, "efficientnet")
    assert again["include_top"] is False
    assert again["image_std"] == pytest.approx([0.229, 0.224, 0.225])


def test_settings_that_a_file_leaves_out_are_those_of_its_processor() -> None:
    found = preprocessing.from_huggingface({"image_mean": None, "size": None}, "convnext")
    assert (found["image_size"], found["interpolation"], found["mean"]) == (384, "bicubic", (0.5, 0.5, 0.5))
    found = preprocessing.from_huggingface({}, "mobilenet_v2")
    assert (found["image_size"], found["crop_share"], found["interpolation"]) == (224, 0.875, "bilinear")


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([1], "holds no settings, but a list"),
        ({"image_processor_type": "DonutImageProcessor"}, "for DonutImageProcessor, which Strata does not know"),
        ({"do_resize": False}, "do_resize=False is not supported: only True is"),
        ({"do_pad": True}, "do_pad=True is not supported: only False is"),
        ({"resample": 5}, r"resample=5 is not supported: these are: 0 \(nearest\)"),
        ({"resample": [2]}, r"resample=\[2\] is not supported"),
        ({"size": {"longest_edge": 224}}, "it has to be a shortest_edge, or an equal height and width"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "it has to be a shortest_edge, or an equal"),
        ({"size": {"height": 224, "width": 192}}, "it has to be a shortest_edge, or an equal height and width"),
        ({"size": []}, "it has to be a shortest_edge, or an equal height and width"),
        ({"size": "224"}, "it has to be a shortest_edge, or an equal height and width"),
        ({"size": 0}, "it has to be a shortest_edge, or an equal height and width"),
        ({"do_center_crop": True}, "crop_size=None is not supported"),
        ({"size": 224, "do_center_crop": True, "crop_size": 256}, "no 256 pixels can be cut out of 224"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}},
            "needs a shortest_edge",
        ),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 9, "crop_pct": 0}, "a number above 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 9, "crop_pct": 1.5}, "no 9 pixels can be cut out"),
        ({"rescale_factor": 0}, "rescale_factor=0 is not supported: it has to be a number above 0"),
        ({"image_mean": [0.5, 0.4]}, "the model takes pictures of 3 channels"),
        ({"image_mean": "a"}, "image_mean='a' is not supported: it has to be numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "it has to be above 0"),
    ],
)
def test_a_way_of_preparing_pictures_that_ours_lacks_is_refused_in_words(theirs: Any, said: str) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        preprocessing.from_huggingface(theirs, "vit")
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_say_how_pictures_are_prepared_is_told_of_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "preprocessor_config.json").unlink()
    for path in (folder, folder / ".." / folder.name):
        assert weights.open_weights(path).preprocess["mean"] == preprocessing.IMAGENET_MEAN
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder.resolve()} has no preprocessor_config.json: pictures are prepared with ImageNet's mean and "
        "deviation. Put the file there if others fit."
    ]


def test_an_exported_run_of_grey_pictures_answers_and_is_trained_on(tmp_path: Path) -> None:
    small = {"model": "resnet18", "model.width": 4, "model.depths": [1, 1], "model.stem": "imagenet"}
    quick = {"train.steps": 2, "data.limit": 40}
    run = strata.train("digits", {**small, **quick, "data.image_size": 32}, runs=tmp_path)
    out = strata.export(run.folder, "huggingface", tmp_path / "out")
    Image.new("L", (50, 40), 120).save(tmp_path / "grey.png")
    (answer,) = api.predictor(out).predict([tmp_path / "grey.png"])
    (before,) = api.predictor(run.folder).predict([tmp_path / "grey.png"])
    assert answer["probability"] == pytest.approx(before["probability"], rel=1e-4)
    again = strata.train("digits", {"weights": str(out), **quick}, runs=tmp_path)
    assert again.recipe.data.channels == 1


def test_pictures_of_other_channels_than_grey_and_colour_are_refused(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"num_channels": 4}))
    with pytest.raises(WeightsError, match=r"pictures of 4 channels; Strata has grey \(1\) and colour \(3\) ones"):
        weights.open_weights(folder)
