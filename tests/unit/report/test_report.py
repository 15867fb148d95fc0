"""The report says what a run's numbers are, for every kind of run and in every state of it."""

from __future__ import annotations

import html
import json
import re
import runpy
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from strata.errors import RunError
from strata.recipes import result_file
from strata.report import write_report
from strata.report.history import read_history
from strata.report.pictures import Line, Marks, Strip, _ems, _shortened, chart, running_mean, thin
from strata.report.report import render

fake_runs = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fake_runs.py"))))


def words(page: str) -> str:
    """Return what a reader reads: no style, no tags, plain spaces."""
    page = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    page = html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u202f", " ")
    return " ".join(page.split())


def report(make: Callable[[Path], Path], folder: Path) -> str:
    return write_report(make(folder)).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", fake_runs.ALL)
def test_a_report_is_one_file_that_fetches_nothing_and_shows_no_none_or_nan(name: str, tmp_path: Path) -> None:
    page = report(fake_runs.ALL[name], tmp_path / "run")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert "url(http" not in page
    assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", words(page))


@pytest.mark.parametrize("name", fake_runs.ALL)
def test_every_tag_is_closed_and_no_id_is_given_twice(name: str, tmp_path: Path) -> None:
    void = {"meta", "img", "br", "link", "hr", "input"}
    open_tags: list[str] = []
    ids: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(value for key, value in attrs if key == "id" and value)
            if tag not in void:
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(value for key, value in attrs if key == "id" and value)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(report(fake_runs.ALL[name], tmp_path / "run"))
    assert open_tags == []
    assert len(ids) == len(set(ids))


def test_the_headline_says_how_many_samples_of_which_split_and_how_sure_one_can_be(tmp_path: Path) -> None:
    text = words(report(fake_runs.classifier, tmp_path / "run"))
    assert "learned from 1,149 pictures to tell 10 classes apart" in text
    assert "96.1 % test accuracy 346 of 360 right; 95 % interval 93.6 to 97.7 %" in text
    assert "98.7 % published test accuracy Kaynak 1995, k-nearest neighbours; this run is 2.6 points worse" in text
    assert "98.8 % ± 0.2 % over 5 seeds" in text


@pytest.mark.parametrize(
    ("repeated", "claims"), [({"test": 0}, True), ({"test": 2}, False), ({}, False), (None, False)]
)
def test_only_a_split_that_was_compared_with_the_training_data_is_said_to_be_new(
    tmp_path: Path, repeated: dict[str, int] | None, claims: bool
) -> None:
    history = read_history(fake_runs.classifier(tmp_path / "run"))
    history.data["repeated"] = repeated
    said = words(render(history))
    assert ("none of which it was trained on" in said) is claims
    assert ("of the test split, it names" in said) is not claims


def test_a_classifier_s_report_holds_confusions_mistakes_and_the_reason_of_each_choice(tmp_path: Path) -> None:
    page = report(fake_runs.classifier, tmp_path / "run")
    text = words(page)
    assert page.count("<img") == 9
    assert "over 360 pictures of the test split. 346 lie on the diagonal" in text
    assert "98.0 % sure 0/scan 0.png" in text
    assert "2 pictures could not be read and were skipped: 3/broken.png" in text
    assert "amx_bf16 is among the processor's flags" in text
    assert "strata predict run photo.jpg" in text
    assert "train.label_smoothing" not in text
    assert "task.label_smoothing 0.1" in text


def test_a_detector_s_report_says_how_sure_its_area_is_and_what_its_threshold_does(tmp_path: Path) -> None:
    text = words(report(fake_runs.detector, tmp_path / "run"))
    assert "one “pneumonia” and one not, it ranks the right one higher 95.1 % of the time" in text
    assert "0.9512 test AUROC on 624 pictures; 95 % interval 0.932 to 0.966 (DeLong)" in text
    assert "the threshold of 0.31 that validation data chose: sensitivity 97.9 %, specificity 70.1 %" in text
    assert (
        "Before calibration it was 8.3 %" in text and "The validation split chose the threshold and temperature" in text
    )
    assert "normal 234 81.2 % 94.1 % 87.2 %" in text  # support, recall, precision, F1


def test_a_detector_s_report_warns_before_it_is_used_on_patients(tmp_path: Path) -> None:
    page = report(fake_runs.detector, tmp_path / "run")
    text = words(page)
    assert 'href="#before-use"' in page
    assert "data.group is not set" in text and "one source, xrays" in text and "28 x 28 pixels" in text
    assert "chosen on the 524 pictures of the validation split, as the lowest that leaves 90 %" in text
    assert "leaves 70.1 % alone, fewer than chance explains" in text
    assert "382 of 390; 96.0 to 99.0 %, Wilson" in text
    # sensitivity 382 / 390, specificity 164 / 234: by Bayes' rule
    for share in (0.01, 0.05, 0.2):
        right, wrong = 382 / 390 * share, 70 / 234 * (1 - share)
        assert f"{share:.1%} {right / (right + wrong):.1%}".replace("%", " %") in text


def test_only_a_class_that_was_named_brings_the_warnings_about_patients(tmp_path: Path) -> None:
    text = words(write_report(fake_runs.detector(tmp_path, positive=None, threshold=None)).read_text(encoding="utf-8"))
    assert "Before this is used on patients" not in text
    assert "The ring is where it answers with the likeliest class" in text


def test_a_regression_s_report_is_in_the_target_s_unit_and_says_what_chose_the_weights(tmp_path: Path) -> None:
    text = words(report(fake_runs.table, tmp_path / "run"))
    assert "learned from 309 rows to predict “progression”" in text
    assert "53.21 test RMSE" in text
    assert "The validation split chose when to stop and which weights to keep" in text
    assert "R² – 0.512" in text
    assert "281 112.4 168.6" in text


def test_an_error_that_is_small_beside_its_numbers_is_shown_and_so_are_the_numbers(tmp_path: Path) -> None:
    folder = fake_runs.table(tmp_path)
    *lines, last = (folder / "metrics.jsonl").read_text().splitlines()
    told = [{"true": 5_000_003.14, "predicted": 4_999_997.7, "error": 5.44, "sample": 0, "row": {"age": 1.0}}]
    written = json.dumps(json.loads(last) | {"mistakes": told})
    (folder / "metrics.jsonl").write_text("\n".join([*lines, written]) + "\n")
    assert "5,000,003.14 4,999,997.7 5.44" in words(write_report(folder).read_text(encoding="utf-8"))


def test_a_text_s_report_shows_what_was_written_where_it_was_resumed_and_its_warnings(tmp_path: Path) -> None:
    page = report(fake_runs.gpt, tmp_path / "run")
    text = words(page)
    assert "That &lt;b&gt;never&lt;/b&gt; yet did sleep &amp; never shall." in page
    assert "it is as unsure of the next character as if 6.43 were equally likely" in text
    assert "1,200 Resumed from the checkpoint of this step." in text
    assert "1,240 Warning: The gradient was 41 times its usual norm." in text
    assert "this run is 0.019 better" in text
    assert "strata generate run prompt='Once upon a time'" in text


def test_a_gan_s_report_shows_first_middle_and_last_samples_and_both_losses(tmp_path: Path) -> None:
    page = report(fake_runs.gan, tmp_path / "run")
    text = words(page)
    assert page.count("<img") == 4
    assert "epoch 12.8 (step 6,000)" in text
    assert "epoch 1.28 (step 600)" in text
    assert "the discriminator's from" in text
    assert "the generator's from" in text
    assert "50 % would be guessing" in text


def test_an_unfinished_run_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    text = words(report(fake_runs.half_finished, tmp_path / "runs" / "digits-3"))
    assert "This run had not finished when this page was written: it was at step 110 of 240 (46 %)." in text
    assert "validation accuracy, so far" in text
    assert "strata resume runs/digits-3" in text
    assert "strata predict" not in text
    assert "1 line of metrics.jsonl could not be read." in text


def test_a_run_of_which_only_recipe_and_first_line_exist_has_a_report(tmp_path: Path) -> None:
    fake_runs.write(tmp_path, fake_runs.recipe(), [fake_runs.started()])
    assert "lenet on digits" in words(write_report(tmp_path).read_text(encoding="utf-8"))
    (tmp_path / "metrics.jsonl").write_text("")
    assert "lenet on digits" in words(write_report(tmp_path).read_text(encoding="utf-8"))


def test_names_from_the_data_are_shown_letter_by_letter_and_never_run(tmp_path: Path) -> None:
    labels = [
        "<img src=x onerror=alert(1)>",
        "$x_1$",
        "a & b",
        '"quoted"',
        "猫",
        "\\1 \\g<0>",
        "100%",
        "{{ 7 }}",
        "@@0001@@",
    ]
    page = write_report(fake_runs.classifier(tmp_path, labels)).read_text(encoding="utf-8")
    assert "<img src=x" not in page
    text = words(page)
    assert [label for label in labels if label not in text] == []


def test_a_hundred_classes_are_a_picture_and_their_table_is_folded(tmp_path: Path) -> None:
    page = write_report(fake_runs.classifier(tmp_path, [f"kind {k}" for k in range(100)])).read_text(encoding="utf-8")
    text = words(page)
    assert "The ten classes it finds least often" in text
    assert "All 100 classes" in text
    assert len(page) < 400_000


def test_a_sample_that_is_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = fake_runs.gan(tmp_path)
    last = folder / "samples" / "step-6000.png"
    last.write_bytes(last.read_bytes()[:200])
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("<img") == 3


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    folder = fake_runs.classifier(tmp_path)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_the_report_replaces_the_old_one_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = fake_runs.half_finished(tmp_path)
    (folder / "report.html").write_text("old")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "recipe.json", "report.html"]


def test_a_folder_that_is_no_run_raises(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no recipe\.json"):
        write_report(tmp_path)


def test_losses_that_are_not_finite_are_gaps_and_said(tmp_path: Path) -> None:
    lines = [{"event": "step", "step": k, "loss": float("nan") if k == 5 else 1.0 / k} for k in range(1, 30)]
    fake_runs.write(tmp_path, fake_runs.recipe(), [fake_runs.started(), *lines])
    assert "NaN" in (tmp_path / "metrics.jsonl").read_text()
    assert "Gaps are steps whose loss was not a finite number." in words(
        write_report(tmp_path).read_text(encoding="utf-8")
    )


def test_a_long_curve_is_thinned_without_losing_its_ends() -> None:
    x = list(range(100_000))
    thin_x, thin_y = thin(x, [float(value) for value in x])
    assert len(thin_x) <= 600
    assert (thin_y[0] < 200, thin_y[-1] > 99_800) == (True, True)
    assert running_mean(thin_y)[0] == thin_y[0]


def test_the_template_travels_with_the_package() -> None:
    from importlib import resources

    assert resources.files("strata.report").joinpath("report.html.jinja").is_file()


def test_a_recipe_is_shown_with_every_key(tmp_path: Path) -> None:
    folder = fake_runs.classifier(tmp_path)
    text = words(write_report(folder).read_text(encoding="utf-8"))

    def keys(values: dict[str, object], prefix: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            found += keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
        return found

    for key in keys(json.loads((folder / "recipe.json").read_text())):
        assert f" {key} " in text


def learning(tmp_path: Path, train: list[float], validation: list[float], **changes: object) -> str:
    """Return the words of a finished run with these losses, an epoch of five steps between each two."""
    lines = [fake_runs.started(total_steps=5 * len(train), steps_per_epoch=5.0)]
    for place, (loss, other) in enumerate(zip(train, validation, strict=True)):
        lines.append(fake_runs.stepped(5 * place + 5, 5 * len(train), 5.0, {"train": loss}))
        lines.append(fake_runs.evaluated(5 * place + 5, 5.0, {"accuracy": 0.5, "loss": other}))
    settings = fake_runs.recipe(train=fake_runs.TRAIN | changes)
    return words(write_report(fake_runs.write(tmp_path, settings, lines)).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("train", "validation", "by_heart"),
    [
        ([2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1], [1.8, 1.4, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], True),
        ([1.2, 5.0, 20.0, 50.0, 80.0, 100.0, 117.0], [1.0, 6.0, 20.0, 50.0, 80.0, 100.0, 120.0], False),
        ([2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2], [1.8, 1.4, 1.2, 1.9, 1.3, 1.8, 1.4], False),
        ([2.0, 1.5, 1.0, 0.9], [1.8, 1.2, 1.3, 1.4], False),
    ],
)
def test_learning_by_heart_is_said_where_the_training_loss_fell_on_and_the_rise_is_no_noise(
    train: list[float], validation: list[float], by_heart: bool, tmp_path: Path
) -> None:
    text = learning(tmp_path, train, validation)
    assert ("by heart" in text) == by_heart
    assert "has risen to" in text and ("since, as the training loss has." in text) == (train[-1] > 100)


def test_of_equal_accuracies_the_marked_point_is_the_one_whose_weights_were_kept(tmp_path: Path) -> None:
    text = learning(tmp_path, [2.0, 1.0, 0.5], [0.9, 0.4, 0.6], early_stopping=3)
    history = read_history(tmp_path)
    assert history.best("validation", "accuracy") == (10, 0.5)
    assert "The weights of the best point are kept." in text


def test_a_moving_average_of_the_weights_is_said(tmp_path: Path) -> None:
    folder = fake_runs.classifier(tmp_path)
    settings = fake_runs.recipe(train=fake_runs.TRAIN | {"ema": 0.99})
    (folder / "recipe.json").write_text(json.dumps(settings))
    text = words(write_report(folder).read_text(encoding="utf-8"))
    assert "a moving average of the weights (train.ema=0.99). The average is that at the last step" in text
    assert "The weights are those of the last step" not in text


def test_where_nothing_was_held_out_the_page_says_so_and_speaks_of_no_validation(tmp_path: Path) -> None:
    data = {"name": "digits", "kind": "image", "splits": {"train": 100}, "labels": ["0", "1"], "class_counts": [50, 50]}
    lines = [fake_runs.started(data=data), fake_runs.stepped(10, 10, 5.0, {"train": 2.32})]
    lines.append({"event": "finished", "step": 10, "metrics": {}, "steps": 10, "seconds": 1.0})
    text = words(write_report(fake_runs.write(tmp_path, fake_runs.recipe(), lines)).read_text(encoding="utf-8"))
    assert "Nothing was held out" in text and "that of validation" not in text
    assert "The training loss was written down once: 2.32." in text
    assert "training data: 50 each." in text


def test_only_a_medical_recipe_speaks_of_patients_and_a_share_is_no_place_that_was_read(tmp_path: Path) -> None:
    folder = fake_runs.detector(tmp_path, positive="spam", threshold=None)
    settings = json.loads((folder / "recipe.json").read_text()) | {"recipe": "mlp"}
    settings["data"] |= {"test": "0"}
    (folder / "recipe.json").write_text(json.dumps(settings))
    text = words(write_report(folder).read_text(encoding="utf-8"))
    assert "Before this is used" in text and "Where it answers with the likeliest class, with" in text
    assert not any(word in text for word in ("patient", "clinic", "hospital", "0 was read"))


def test_a_split_that_chose_something_is_not_said_to_have_chosen_nothing(tmp_path: Path) -> None:
    folder = fake_runs.detector(tmp_path)
    *lines, last = (folder / "metrics.jsonl").read_text().splitlines()
    record = json.loads(last)
    del record["metrics"]["test"]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(record)]) + "\n")
    text = words(write_report(folder).read_text(encoding="utf-8"))
    assert "chose nothing" not in text and "The validation split chose the threshold and temperature" in text
    assert "with the temperature that was fitted after training" in text


def test_names_in_capitals_are_given_room_beside_a_confusion_matrix() -> None:
    assert _ems("WARNING MM") > _ems("warning mm") > 0.5 * len("warning mm")
    assert _ems(_shortened("WARNING MACHINE NUMBER 07 MM", 18)) <= 0.61 * 18
    assert _shortened("WARNING MACHINE NUMBER 07 MM", 18).endswith("07 MM")


def test_a_series_of_one_point_is_a_dot() -> None:
    line = Line(name="training", x=[10.0], y=[2.3], style="soft", smooth=True)
    drawn = chart([Strip(lines=[line])], name="one", label="", marks=Marks(), last=10)
    assert "<use" in drawn


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 7}, "Measured earlier with this recipe: 99"),
        ({"epochs": 2.0, "seed": 7}, "Measured earlier with recipe digits with other settings (train.epochs): 99"),
    ],
)
def test_a_recorded_result_of_other_settings_is_said_to_be_one(
    changed: dict[str, float], says: str, tmp_path: Path
) -> None:
    folder = fake_runs.classifier(tmp_path)
    recorded = json.loads(result_file("digits").read_text(encoding="utf-8"))["resolved"]
    reference = {"metric": "accuracy", "split": "test", "measured": 0.996}
    from_data = {"in_channels": 1, "image_size": 8, "num_classes": 10}
    settings = recorded | {"reference": reference, "train": recorded["train"] | changed}
    settings |= {"model": recorded["model"] | from_data}
    (folder / "recipe.json").write_text(json.dumps(settings))
    assert says in words(write_report(folder).read_text(encoding="utf-8"))
