"""The Python door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import strata
from strata.errors import ConfigError, DataError, RunError, UnknownNameError, WeightsError

TINY = {"data": "iris", "model.hidden": "8", "train.steps": 6, "train.batch_size": 16}
TINY |= {"train.early_stopping": None, "train.device": "cpu"}


def test_importing_strata_and_asking_for_help_load_neither_torch_nor_pydantic() -> None:
    script = (
        "import sys, strata\n"
        "assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules), 'import strata'\n"
        "from strata.cli.main import main\n"
        "sys.argv = ['strata', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules), '--help'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "resume" in done.stdout


def test_every_public_name_is_there_and_stays_when_a_room_of_that_name_is_imported() -> None:
    import strata.train.loop

    for name in strata.__all__:
        assert getattr(strata, name) is not None
    assert callable(strata.train) and strata.train.__name__ == "train"
    assert "train" in dir(strata)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        strata.trian  # noqa: B018


def test_train_returns_a_run_that_answers(tmp_path: Path) -> None:
    run = strata.train(strata.recipe("mlp", TINY), runs=tmp_path)
    assert run.folder == tmp_path / "mlp-1"
    assert set(run.metrics) == {"validation", "test"} and 0 <= run.metrics["test"]["accuracy"] <= 1
    assert isinstance(run.model(), nn.Module) and not run.model().training
    assert (run.folder / "model" / "model.safetensors").is_file() and (run.folder / "report.html").is_file()
    assert run.recipe.train.steps == 6


def test_a_finished_run_can_be_made_longer_by_the_process_that_trained_it(tmp_path: Path) -> None:
    run = strata.train("mlp", TINY, runs=tmp_path)
    assert strata.resume(run.folder).finished["step"] == 6
    longer = strata.resume(run.folder, {"train.steps": 9})
    assert longer.finished is not None and longer.finished["step"] == 9
    with pytest.raises(ConfigError, match="has taken 9 steps already; it cannot end after 4"):
        strata.resume(run.folder, {"train.steps": 4})
    with pytest.raises(ConfigError, match=r"'train\.seed' cannot change\. May: train\.steps, train\.epochs"):
        strata.resume(run.folder, {"train.seed": 4})
    assert strata.load(run.folder).recipe.train.steps == 9


def test_settings_may_be_nested_or_dotted() -> None:
    nested = strata.recipe("mlp", data="iris", train={"steps": 3, "learning_rate": 0.5})
    assert nested == strata.recipe("mlp", {"data": "iris", "train.steps": 3, "train.learning_rate": 0.5})


def test_a_path_of_data_picks_the_recipe_and_says_why(tmp_path: Path) -> None:
    table = tmp_path / "prices.csv"
    table.write_text("size,price\n" + "".join(f"{k},{k * 1.5 + 0.25}\n" for k in range(60)))
    recipe, reason = strata.api.choose(str(table), {})
    assert recipe.recipe == "mlp" and "holds data of kind 'table': recipe 'mlp'" in reason
    assert strata.api.choose("pycode", {})[0].recipe == "gpt"
    with pytest.raises(ConfigError, match=r"'digts' is neither a recipe nor a path of data\. Did you mean 'digits'"):
        strata.api.choose("digts", {})
    with pytest.raises(DataError, match=r"There is nothing at \./photos"):
        strata.api.choose("./photos", {})


def test_a_run_is_trained_again_by_its_recipe_with_all_its_settings(tmp_path: Path) -> None:
    settings = {"data": "iris", "train.steps": 4, "train.learning_rate": 0.03, "task.label_smoothing": 0.2}
    first = strata.train("mlp", settings, runs=tmp_path)
    again = strata.train(str(first.folder), runs=tmp_path)
    assert again.folder != first.folder and again.recipe == first.recipe
    for one, other in zip(first.model().parameters(), again.model().parameters(), strict=True):
        assert torch.equal(one, other)
    changed, reason = strata.api.choose(str(first.folder / "recipe.json"), {"train.seed": 1})
    assert changed == first.recipe.set({"train.seed": 1}) and "is of a run: its recipe, 'mlp'" in reason
    assert f"strata train {first.folder.name} train.seed=1" in (first.folder / "report.html").read_text()


def test_what_the_first_data_decided_is_decided_anew_by_other_data(tmp_path: Path) -> None:
    settings = {"data": "breast-cancer", "train.steps": 2, "task.class_weights": "balanced"}
    first = strata.train("mlp", settings, runs=tmp_path)
    assert len(first.recipe.task.class_weights) == 2 and first.recipe.task.positive_class is not None
    asked = strata.api.choose(str(first.folder), {"data": "iris"})[0]
    assert (asked.task.class_weights, asked.task.positive_class, asked.asked) == ("balanced", None, {})
    changed = strata.train(str(first.folder), {"task.label_smoothing": 0.1}, runs=tmp_path)
    other = strata.train(str(changed.folder), {"data": "iris"}, runs=tmp_path).recipe.task
    of_iris = strata.train("mlp", settings | {"data": "iris"}, runs=tmp_path).recipe.task
    assert len(other.class_weights) == 3 and other.class_weights == of_iris.class_weights
    assert (other.positive_class, other.label_smoothing) == (None, 0.1)
    given = strata.train(str(first.folder), {"task.class_weights": "1,2"}, runs=tmp_path)
    assert strata.api.choose(str(given.folder), {"data": "iris"})[0].task.class_weights == (1.0, 2.0)
    with pytest.raises(ConfigError, match="'asked' describes the recipe and cannot be set"):
        strata.recipe("mlp", {"asked": "x"})


def test_a_folder_of_data_with_a_file_of_that_name_is_data(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('[{"text": "flour and water", "label": "bread"}]')
    (tmp_path / "notes.txt").write_text("water, flour, salt\n" * 9)
    assert strata.api.choose(str(tmp_path), {})[0].recipe == "gpt"


def test_the_mlp_recipe_follows_the_target_to_a_regression(tmp_path: Path) -> None:
    run = strata.train("mlp", TINY | {"data": "diabetes"}, runs=tmp_path)
    assert run.recipe.task.kind == "regress" and "rmse" in run.metrics["test"]


def test_create_gives_a_module_of_the_asked_sizes() -> None:
    model = strata.create("resnet20", num_classes=7, in_channels=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    with pytest.raises(UnknownNameError, match=r"Unknown model 'resnt20'\. Did you mean 'resnet20'"):
        strata.create("resnt20")
    with pytest.raises(ConfigError, match=r"Model 'resnet20' has no setting 'num_clases'\. Did you mean 'num_classes'"):
        strata.create("resnet20", num_clases=7)


def test_load_opens_a_run_or_its_model_and_nothing_else(tmp_path: Path) -> None:
    run = strata.train("mlp", TINY, runs=tmp_path)
    assert isinstance(strata.load(run.folder), strata.Run)
    loaded = strata.load(run.folder / "model")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.model().parameters(), strict=True))
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="does not say which model it is"):
        strata.load(tmp_path / "model.pt")
    with pytest.raises(RunError, match="There is nothing at"):
        strata.load(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"holds no weights: config\.json is missing\. Give a run or a"):
        strata.load(tmp_path)


def test_a_preset_may_be_typed_with_hyphens() -> None:
    with torch.device("meta"):
        assert strata.create("vit-base").config == strata.create("vit_base").config
