"""Beginning from weights: stages, learning rates, LoRA, probes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strata
from strata import models, weights
from strata.checkpoint.files import read_json
from strata.errors import ConfigError, WeightsError
from strata.models.resnet import TINY, ResNet
from strata.tasks import Stage
from strata.train import lora
from strata.train.transfer import TransferConfig, layer_rates, stages

SETTINGS = {"train.steps": 12, "data.limit": 200, "train.batch_size": 32, "train.precision": "fp32"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A small run on digits, to begin others from."""
    tiny = {"model.depths": (1, 1), "model.width": 8, **SETTINGS, "train.steps": 40}
    return Path(strata.train("digits", tiny, runs=tmp_path_factory.mktemp("runs")).folder)


def test_learning_rates_fall_geometrically_from_the_head_to_the_first_layer() -> None:
    names = [name for name, _ in ResNet(TINY).named_parameters()]
    rates = layer_rates(names, 0.1)
    assert rates["stem.0.weight"] == pytest.approx(0.1)
    assert rates["head.weight"] == rates["head.bias"] == 1.0
    assert 0.1 < rates["stages.0.0.conv1.weight"] < rates["stages.1.0.conv1.weight"] < 1.0
    assert rates["stages.0.0.conv1.weight"] == rates["stages.0.0.norm1.weight"]


def test_layers_whose_names_end_in_a_number_are_a_layer_each() -> None:
    rates = layer_rates([name for name, _ in strata.create("lenet5_modern").named_parameters()], 0.1)
    assert [rates[f"{name}.weight"] for name in ("conv1", "norm1", "conv2", "linear1", "linear2", "head")] == (
        pytest.approx([0.1 ** (4 / 4), 0.1 ** (4 / 4), 0.1 ** (3 / 4), 0.1 ** (2 / 4), 0.1 ** (1 / 4), 1.0])
    )


def test_the_head_learns_alone_before_the_whole_network_does() -> None:
    config = TransferConfig(source="x", frozen=0.25)
    first, second = stages(config, (Stage(),), ResNet(TINY))
    assert (first.share, second.share) == (0.25, 0.75)
    assert first.phases[0].parameters == ("head.",)
    assert second.phases[0].parameters == ("",)
    assert second.phases[0].first_layer_rate == config.first_layer_rate


@pytest.mark.parametrize("size", [0.1, 1.0])
def test_a_head_alone_learns_the_faster_the_smaller_its_input_is(size: float) -> None:
    config = TransferConfig(source="x", tune="probe")
    (stage,) = stages(config, (Stage(),), ResNet(TINY), torch.full((4, 3), size))
    assert stage.phases[0].learning_rate_factor == pytest.approx(10 / size)


def test_lora_starts_as_the_model_it_is_added_to_and_merges_into_plain_weights() -> None:
    torch.manual_seed(0)
    model, x = ResNet(TINY).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before, names = model(x), set(model.state_dict())
    lora.add(model, 2, 4.0)
    model.double()
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    for name, parameter in model.named_parameters():
        if lora.is_added(name):
            nn.init.normal_(parameter)
    after = model(x)
    assert not torch.allclose(after, before)
    plain = lora.merged(model)
    assert set(plain.state_dict()) == names
    torch.testing.assert_close(plain(x), after, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tune", ["full", "probe", "lora"])
def test_a_run_from_weights_keeps_what_it_does_not_train_and_saves_a_plain_model(
    tune: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    run = strata.train(
        "digits", {**SETTINGS, "weights": str(trained), "weights.tune": tune, "train.seed": 1}, runs=tmp_path
    )
    before, after = strata.load(trained / "model").state_dict(), run.model().state_dict()
    assert before.keys() == after.keys()
    assert read_json(run.folder / "model" / "config.json")["model"]["width"] == 8  # the weights say what model it is
    stem_moved = not torch.equal(before["stem.0.weight"], after["stem.0.weight"])
    assert stem_moved == (tune != "probe")
    if tune != "full":  # running statistics and norms of a trunk that stands still
        assert torch.equal(before["stem.1.running_mean"], after["stem.1.running_mean"])
        assert torch.equal(before["stem.1.weight"], after["stem.1.weight"])
    assert run.metrics["test"]["accuracy"] > 0.3  # forty steps of pretraining were taken over


@pytest.mark.parametrize("tune", ["full", "probe", "lora"])
def test_a_resumed_run_from_weights_ends_bit_identical(
    tune: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    settings = {**SETTINGS, "weights": str(trained), "weights.tune": tune, "train.save_every": 4, "train.ema": 0.9}
    whole = strata.train("digits", settings, runs=tmp_path / "whole")

    def stop(event: Any) -> None:
        if event.kind == "saved" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strata.train("digits", settings, runs=tmp_path / "cut", observers=[stop])
    resumed = strata.resume(next((tmp_path / "cut").iterdir()))
    for name, value in whole.model().state_dict().items():
        assert torch.equal(value, resumed.model().state_dict()[name]), name


def test_a_second_probe_reads_the_features_back(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    settings = {**SETTINGS, "weights": str(trained), "weights.tune": "probe"}
    notes = []
    for seed in (0, 1):
        run = strata.train("digits", {**settings, "train.seed": seed}, runs=tmp_path)
        started = next(record for record in run.records if record["event"] == "started")
        notes.append(next(note for note in started["data"]["notes"] if note.startswith("features")))
    assert "computed once" in notes[0]
    assert "read back from the cache" in notes[1]


def test_a_probe_s_figures_are_those_of_the_model_it_saves_with_mirror_images_too(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    probe = {**SETTINGS, "weights": str(trained), "weights.tune": "probe"}
    run = strata.train("digits", {**probe, "task.flip_test": True}, runs=tmp_path)
    without = strata.train("digits", probe, runs=tmp_path)
    for split in ("validation", "test"):
        told = run.metrics[split]
        assert run.evaluate(split, precision="fp32").metrics["loss"] == pytest.approx(told["loss"], rel=1e-5)
        assert told["loss"] != pytest.approx(without.metrics[split]["loss"], rel=1e-3)


def test_weights_of_another_size_are_refused_with_what_to_do(trained: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "weights": str(trained), "model": "resnet18"}
    with pytest.raises(WeightsError, match=r"does not fit the model.*Leave model= out"):
        strata.train("digits", settings, runs=tmp_path)


def test_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There are no weights at"):
        strata.recipe("digits", {"weights": str(tmp_path / "nothing")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        strata.recipe("digits", {"weights": str(tmp_path / "empty")})


def test_growing_pictures_are_refused_by_a_model_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes only one size"):
        strata.train("lenet", {"data": "digits", "train.grow_from": 0.5, "train.epochs": 1}, runs=tmp_path)


def test_pictures_grow_to_their_full_size() -> None:
    recipe = strata.recipe("digits", {"train.grow_from": 0.5, "train.steps": 100})
    from strata.train.plan import make_plan

    plan = make_plan(recipe.train, 1000, (Stage(),))
    sides = [plan.side(step, 32) for step in range(100)]
    assert sides[0] == 16
    assert sides == sorted(sides)
    assert set(sides) == {16, 20, 24, 28, 32}
    assert sides[70:] == [32] * 30
    plan = make_plan(recipe.set({"train.grow_step": 16}).train, 1000, (Stage(),))
    assert {plan.side(step, 32) for step in range(100)} == {16, 32}
    plan = make_plan(recipe.set({"train.grow_from": 0.01}).train, 1000, (Stage(),))
    assert plan.side(0, 8) == 4


def test_a_hugging_face_folder_can_be_trained_from(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, stem="imagenet", image_size=224, num_classes=3)
    weights.write_huggingface(tmp_path / "hf", models.build(config), weights.preprocessing.imagenet())
    recipe = strata.recipe("resnet", {"data": "digits", "weights": str(tmp_path / "hf"), "data.image_size": 32})
    assert recipe.model.depths == TINY.depths
    assert recipe.data.mean == (0.485, 0.456, 0.406)
    assert recipe.data.image_size == 32
    assert recipe.data.channels == 3
