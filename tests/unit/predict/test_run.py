"""A run after training: it answers, is measured, and says what is wrong with what it is given."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import strata
from strata.errors import ConfigError, DataError, RunError
from strata.predict.run import BATCHES_AHEAD, Predictor, save_grid


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> strata.Run:
    settings = {"data": "digits", "model": "resnet20", "model.depths": "1", "model.width": 4, "train.steps": 10}
    settings |= {"train.device": "cpu", "train.early_stopping": None}
    return strata.train("digits", settings, runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> strata.Run:
    folder = tmp_path_factory.mktemp("text")
    (folder / "t.txt").write_text("abcde fghij\n" * 300)
    settings = {"data": str(folder / "t.txt"), "model.num_layers": 1, "model.num_heads": 2, "model.width": 8}
    settings |= {"model.context": 16, "train.steps": 4, "train.batch_size": 4, "train.device": "cpu"}
    return strata.train("gpt", settings, runs=folder / "runs")


def test_a_picture_is_answered_alike_as_path_picture_array_and_tensor(pictures: strata.Run, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "x.png")
    answers = pictures.predict([str(tmp_path / "x.png"), Image.fromarray(array), array, torch.from_numpy(array)])
    for answer in answers[1:]:
        assert answer["top"] == answers[0]["top"]
    assert len(answers[0]["top"]) == 5 and answers[0]["input"] == str(tmp_path / "x.png")
    alone = pictures.predict(array)
    assert alone["label"] == answers[2]["label"]
    assert alone["probability"] == pytest.approx(answers[2]["probability"], rel=1e-5)  # sums in another order


def test_one_unreadable_input_does_not_end_a_long_job(pictures: strata.Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = np.zeros((8, 8), dtype=np.uint8)
    found = list(pictures.predictor().predict([good, tmp_path / "bad.png", good, "gone.png"], batch_size=2))
    assert ["error" in answer for answer in found] == [False, True, False, True]
    assert "bad.png cannot be read" in found[1]["error"] and "gone.png is not there" in found[3]["error"]
    with pytest.raises(DataError, match=r"gone\.png is not there"):
        pictures.predict("gone.png")


def test_texts_of_unlike_lengths_are_answered_in_order(text: strata.Run) -> None:
    found = text.predict(["ab", "abc", "fg", "zzz"])
    assert [len(answer.get("next", [])) for answer in found] == [5, 5, 5, 0]
    alone = text.predict("ab")["next"]
    assert [guess["text"] for guess in found[0]["next"]] == [guess["text"] for guess in alone]
    told = [guess["probability"] for guess in found[0]["next"]]
    assert told == pytest.approx([guess["probability"] for guess in alone], rel=1e-5)
    assert "not among the" in found[3]["error"]


def test_int8_answers_are_near_and_what_they_cost_can_be_measured(text: strata.Run) -> None:
    ours, exact = (text.predictor(precision=precision) for precision in ("int8", "fp32"))
    near, right = (next(iter(one.predict(["abc"])))["next"] for one in (ours, exact))
    assert near[0]["text"] == right[0]["text"] and near[0]["probability"] != right[0]["probability"]
    assert near[0]["probability"] == pytest.approx(right[0]["probability"], rel=0.1)
    assert text.predictor() is text.predictor() is not ours
    assert text.evaluate("validation", precision="int8").metrics["loss"] == pytest.approx(
        text.evaluate("validation").metrics["loss"], rel=0.05
    )
    assert ours.generate(prompt="abc", tokens=5, temperature=0).text.startswith("abc")
    with pytest.raises(ConfigError, match=r"precision=int4 is not known\. Allowed: auto, fp32, bf16, int8"):
        text.predictor(precision="int4")


def test_int8_answers_of_pictures_are_near_in_any_batch(pictures: strata.Run) -> None:
    digits = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    ours, exact = (pictures.predictor(precision=precision) for precision in ("int8", "fp32"))
    near, right = (list(one.predict(digits, batch_size=4)) for one in (ours, exact))
    for k, (one, other) in enumerate(zip(near, right, strict=True)):
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], rel=0.05)
        alone = next(iter(ours.predict([digits[k]])))
        assert alone["label"] == one["label"]
        assert alone["probability"] == pytest.approx(one["probability"], rel=1e-5)  # the first layer is in fp32


def test_a_run_generates_what_its_seed_says(text: strata.Run) -> None:
    assert text.generate("abc", tokens=20, seed=1) == text.generate("abc", tokens=20, seed=1)
    assert text.generate("abc", tokens=20, seed=1).startswith("abc")
    assert len(text.generate(tokens=5)) == 5
    several = text.generate(["abc", "d"], tokens=6, top_p=0.9)
    assert [len(one) for one in several] == [9, 7] and several[0] == text.generate("abc", tokens=6, top_p=0.9)
    greedy = text.generate("abc", tokens=12, temperature=0)
    assert text.generate("abc", tokens=12, temperature=0, draft=text.folder) == greedy
    with pytest.raises(ConfigError, match=r"Unknown option 'temprature'\. Did you mean 'temperature'"):
        text.generate("abc", temprature=1)


def test_each_kind_of_model_says_what_it_is_for(pictures: strata.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answers and makes nothing\. Use: strata predict RUN INPUT"):
        pictures.generate()
    settings = {"data": "digits", "data.limit": 32, "model.width": 4, "train.steps": 1, "train.batch_size": 8}
    gan = strata.train("dcgan", settings | {"train.device": "cpu"}, runs=tmp_path)
    assert gan.generate(count=5).shape == (5, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"makes things and answers no questions\. Use: strata generate RUN"):
        gan.predict(np.zeros((8, 8), dtype=np.uint8))


def test_a_run_is_measured_on_its_splits_and_on_other_data(text: strata.Run, tmp_path: Path) -> None:
    assert text.evaluate().metrics == text.metrics["test"]
    assert text.evaluate("validation").metrics == text.metrics["validation"]
    with pytest.raises(DataError, match=r"has no split 'tset'\. It has: train, validation, test"):
        text.evaluate("tset")
    (tmp_path / "other.txt").write_text("fghij abcde\n" * 50)
    found = text.evaluate(data=str(tmp_path / "other.txt"))
    assert found.split == "test" and found.metrics["loss"] > 0
    with pytest.raises(ConfigError, match="split=train has no meaning with data=PATH"):
        text.evaluate("train", data=str(tmp_path / "other.txt"))
    (tmp_path / "foreign.txt").write_text("ABCDE\n" * 50)
    with pytest.raises(RunError, match="other classes or characters than those"):
        text.evaluate(data=str(tmp_path / "foreign.txt"))


def _folders(root: Path, mode: str, **counts: int) -> Path:
    """Write class folders of 8 x 8 pictures, ``part_class=how many`` or ``class=how many``."""
    random = np.random.default_rng(len(root.name))
    for name, count in counts.items():
        folder = root.joinpath(*name.split("_"))
        folder.mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"{k}.png")
    return root


def test_other_pictures_are_measured_as_the_model_reads_them_without_the_training_data(tmp_path: Path) -> None:
    source = _folders(tmp_path / "grey", "L", cat=8, dog=8, owl=8)
    settings = {"train.steps": 2, "train.batch_size": 8, "train.device": "cpu", "model.width": 4, "model": "resnet20"}
    run = strata.train(str(source), settings, runs=tmp_path / "runs")
    with pytest.raises(ConfigError, match="is the training data itself, and figures on it say nothing"):
        run.evaluate(data=str(source))
    shutil.move(source, tmp_path / "elsewhere")
    colour = _folders(tmp_path / "colour", "RGB", cat=3, owl=1)
    found = run.evaluate(data=str(colour))
    answers = run.predict([str(file) for file in sorted(colour.rglob("*.png"))])
    right = [Path(answer["input"]).parent.name == answer["label"] for answer in answers]
    assert found.samples == 4 and found.metrics["accuracy"] == sum(right) / 4
    assert run.evaluate(data=str(_folders(tmp_path / "parts", "L", train_dog=3, val_owl=2))).samples == 5
    assert run.evaluate(data=str(_folders(tmp_path / "test", "L", train_dog=3, test_owl=2))).samples == 2
    with pytest.raises(
        DataError, match=r"strangers has class 'fox', which the model never learned\. It knows: cat, dog"
    ):
        run.evaluate(data=str(_folders(tmp_path / "strangers", "L", cat=2, fox=2)))
    with pytest.raises(DataError, match=r"gone does not exist"):
        run.evaluate(data=str(tmp_path / "gone"))


def test_an_archive_is_measured_by_the_numbers_of_the_model_s_classes(pictures: strata.Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", x=x, y=np.array([[3], [3], [9], [9], [0], [0]]))
    found = pictures.evaluate(data=str(tmp_path / "some.npz"))
    labels = [int(answer["label"]) for answer in pictures.predict(list(x))]
    assert found.samples == 6
    assert found.metrics["accuracy"] == np.mean(np.array(labels) == [3, 3, 9, 9, 0, 0])


def test_another_table_is_measured_without_the_training_data(tmp_path: Path) -> None:
    rows = [f"{k},{'ab'[k % 2]},{'no' if k % 3 else 'yes'}" for k in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["size,shape,target", *rows]))
    run = strata.train(
        str(tmp_path / "t.csv"), {"train.steps": 2, "train.device": "cpu", "model.hidden": "4"}, runs=tmp_path / "runs"
    )
    whole = run.predict([{"size": str(k), "shape": "ab"[k % 2]} for k in range(5)])
    (tmp_path / "t.csv").unlink()
    (tmp_path / "o.csv").write_text("\n".join(["target,size,shape", *(f"yes,{k},{'ab'[k % 2]}" for k in range(5))]))
    found = run.evaluate(data=str(tmp_path / "o.csv"))
    assert found.samples == 5
    assert found.metrics["accuracy"] == sum(answer["label"] == "yes" for answer in whole) / 5
    (tmp_path / "p.csv").write_text("target,size\nyes,1\nno,2")
    with pytest.raises(DataError, match=r"p\.csv lacks column 'shape'\. It has: target, size"):
        run.evaluate(data=str(tmp_path / "p.csv"))


def test_a_model_folder_that_is_not_whole_is_refused(pictures: strata.Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.json is missing\. The run may not have finished"):
        Predictor(tmp_path)
    whole = pictures.folder / "model"
    for name, content, words in [
        ("model.safetensors", b"x", "It is damaged, or not a safetensors file"),
        ("config.json", b"{", "Cannot read"),
        ("config.json", b"{}", "'model' is missing"),
        ("config.json", b"[]", "is not a model's"),
    ]:
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(whole, broken)
        (broken / name).write_bytes(content)
        with pytest.raises(RunError, match=words):
            Predictor(broken)
    (tmp_path / "broken" / "config.json").write_bytes((whole / "config.json").read_bytes())
    (tmp_path / "broken" / "preprocess.json").unlink()
    with pytest.raises(DataError, match=r"preprocess\.json is missing"):
        Predictor(tmp_path / "broken")


def test_an_unfinished_run_says_how_to_finish_it(pictures: strata.Run, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(pictures.folder / "recipe.json", unfinished)
    run = strata.Run(unfinished)
    assert run.finished is None and run.metrics == {}
    with pytest.raises(RunError, match=r"has not finished\. Continue it with: strata resume .*unfinished"):
        run.predict("x.png")


def test_a_grid_of_pictures_is_enlarged_to_be_seen(tmp_path: Path) -> None:
    for channels in (1, 3):
        path = save_grid(torch.zeros(7, channels, 8, 8, dtype=torch.uint8), tmp_path / f"{channels}.png")
        with Image.open(path) as picture:
            assert picture.mode == ("L" if channels == 1 else "RGB") and picture.width >= 300
            assert picture.getpixel((0, 0)) in (0, (0, 0, 0))


def test_many_pictures_are_read_a_bounded_number_ahead_and_a_bad_one_is_passed_over(
    pictures: strata.Run, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(good)
    bad.write_bytes(b"no picture")
    taken = 0

    def inputs() -> Iterator[str]:
        nonlocal taken
        for k in range(200):
            taken += 1
            yield str(bad if k % 50 == 7 else good)

    found = []
    for answered, answer in enumerate(pictures.predictor().predict(inputs(), batch_size=4), 1):
        found.append("error" in answer)
        assert taken <= answered + 4 * (BATCHES_AHEAD + 1)
    assert len(found) == 200 and [k for k, failed in enumerate(found) if failed] == [7, 57, 107, 157]
