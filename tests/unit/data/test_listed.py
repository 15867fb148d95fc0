"""Pictures that a table lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

import strata
from strata.data import DataConfig, Dataset, open_data, recognize
from strata.errors import ConfigError, DataError

COLOURS = {"cat": (220, 30, 20), "dog": (20, 200, 60)}


def write(path: Path, colour: tuple[int, int, int] = (90, 90, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


def table(path: Path, header: str, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return path


def animals(folder: Path, count: int = 20, extension: str = ".png", start: int = 0) -> list[tuple[str, str]]:
    """Write pictures whose colour tells their class, and no two the same; return the name and class of each."""
    found = []
    for k in range(start, start + count):
        name, (red, green, blue) = list(COLOURS.items())[k % 2]
        write(folder / f"p{k}{extension}", (red, green + k, blue))
        found.append((f"p{k}", name))
    return found


def class_folders(root: Path) -> list[tuple[str, int]]:
    """Write eight pictures of each class into its folder; return class and number of each."""
    found = [(name, k) for name in COLOURS for k in range(8)]
    for name, k in found:
        write(root / name / f"{k}.png", (*COLOURS[name][:2], k))
    return found


def read(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(path), **settings))  # type: ignore[arg-type]


def check_classes(data: Dataset, part: str = "train") -> None:
    """Each picture has the class that its colour tells."""
    index = torch.arange(len(data.splits[part]))
    batch = data.splits[part].gather(index, torch.zeros_like(index))
    is_dog_N = batch["input"][:, 0].float().mean((1, 2)) < 100
    assert [data.labels[k] for k in batch["target"].tolist()] == ["dog" if dog else "cat" for dog in is_dog_N.tolist()]


@pytest.mark.parametrize("called", ["images/{}.png", "{}.png", "{}", "{}.PNG", "{}.jpg", "images\\{}.png", "/x/{}.png"])
def test_pictures_are_found_by_whatever_they_are_called(tmp_path: Path, called: str) -> None:
    rows = [f"{called.format(name)},{label}" for name, label in animals(tmp_path / "images")]
    table(tmp_path / "labels.csv", "image,animal", rows)
    for path in (tmp_path, tmp_path / "labels.csv"):
        assert recognize(path) == "image"
        data = read(path)
        assert data.labels == ("cat", "dog")
        assert data.target_kind == "class"
        assert data.sizes["image_size"] == 16
        assert sum(len(split) for split in data.splits.values()) == 20  # type: ignore[arg-type]
        check_classes(data)
        assert "labels.csv lists 20 pictures in column 'image'" in data.notes[0]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    rows = [f"{name}.png,{label}" for name, label in animals(tmp_path)]
    data = read(table(tmp_path / "list.csv", "", rows))
    assert sum(map(len, data.splits.values())) == 20  # type: ignore[arg-type]
    check_classes(data)


def test_numbers_are_learned_as_numbers(tmp_path: Path) -> None:
    rows = []
    for k in range(30):
        write(tmp_path / f"{k}.png", (8 * k, 10, 10))
        rows.append(f"{k},{k / 7:.3f}")
    data = read(table(tmp_path / "ages.csv", "id,age", rows))
    assert data.target_kind == "number"
    batch = data.splits["train"].gather(torch.arange(5), torch.zeros(5, dtype=torch.int64))
    assert batch["target"].dtype == torch.float64
    torch.testing.assert_close(
        batch["input"][:, 0, 0, 0].double() / 56, batch["target"], atol=2e-3, rtol=0
    )  # 8 k / 56 = k / 7


def test_a_split_column_divides(tmp_path: Path) -> None:
    found = animals(tmp_path)
    parts = ["train"] * 12 + ["val"] * 4 + ["Test"] * 4
    rows = [f"{name}.png,{label},{part}" for (name, label), part in zip(found, parts, strict=True)]
    data = read(table(tmp_path / "all.csv", "file,label,split", rows))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 12, "validation": 4, "test": 4}
    check_classes(data, "test")


def test_tables_of_each_split_over_folders_that_use_the_same_names(tmp_path: Path) -> None:
    train = [f"{name},{label}" for name, label in animals(tmp_path / "train", 20)]
    test = [f"{name},{label}" for name, label in reversed(animals(tmp_path / "test", 8))]
    table(tmp_path / "train_labels.csv", "id,label", train)
    table(tmp_path / "test_labels.csv", "id,label", test)
    table(tmp_path / "sample_submission.csv", "id,label", test)
    data = read(tmp_path)
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 20
    assert len(data.splits["test"]) == 8
    folders = {Path(data.splits["test"].describe(k)["file"]).parent.name for k in range(8)}  # type: ignore[attr-defined]
    assert folders == {"test"}
    check_classes(data, "test")


def test_a_test_table_without_targets_is_left_aside(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", "id,label", [f"{n},{label}" for n, label in animals(tmp_path / "train")])
    table(tmp_path / "test.csv", "id", [n for n, _ in animals(tmp_path / "test", 6, start=30)])
    data = read(tmp_path)
    assert any("test.csv has no column 'label' and is not used" in note for note in data.notes)
    assert any("6 pictures that lie there are not listed" in note for note in data.notes)
    assert sum(map(len, data.splits.values())) == 20  # type: ignore[arg-type]


def test_metadata_in_the_folder_of_each_split(tmp_path: Path) -> None:
    for part, count in (("train", 14), ("test", 6)):
        rows = [f"{name}.png,{label}" for name, label in animals(tmp_path / part, count)]
        table(tmp_path / part / "metadata.csv", "file_name,label", rows)
    data = read(tmp_path)
    assert len(data.splits["test"]) == 6
    check_classes(data)


def test_metadata_in_lines_of_json(tmp_path: Path) -> None:
    for key, values in (("label", {"cat": "cat", "dog": "dog"}), ("number", {"cat": 0, "dog": 1})):
        rows = [
            json.dumps({"file_name": f"{name}.png", key: values[label], "objects": {"bbox": []}})
            for name, label in animals(tmp_path / key / "train", 24)
        ]
        table(tmp_path / key / "train" / "metadata.jsonl", "", rows)
        data = read(tmp_path / key)
        assert data.labels == tuple(map(str, values.values()))
        assert data.class_counts == (8, 8)


def test_one_of_several_columns_is_one(tmp_path: Path) -> None:
    rows = [f"{name},{int(label == 'cat')}.0,{int(label == 'dog')}.0" for name, label in animals(tmp_path / "images")]
    data = read(table(tmp_path / "truth.csv", "image,cat,dog", rows))
    assert data.labels == ("cat", "dog")
    check_classes(data)


def test_the_column_to_predict_can_be_named_and_has_to_be(tmp_path: Path) -> None:
    rows = [f"{name},{label},{k % 3},a" for k, (name, label) in enumerate(animals(tmp_path / "images"))]
    path = table(tmp_path / "all.csv", "image,animal,site,split_of", rows)
    with pytest.raises(DataError, match=r"Give data\.target=COLUMN, one of: animal, site, split_of"):
        read(path)
    assert read(path, target="animal").labels == ("cat", "dog")
    with pytest.raises(DataError, match=r"no column 'animals' .* Did you mean 'animal'"):
        read(path, target="animals")


def test_a_column_names_groups(tmp_path: Path) -> None:
    rows = [f"{name},{label},person{k // 4}" for k, (name, label) in enumerate(animals(tmp_path / "images", 40))]
    path = table(tmp_path / "all.csv", "image,label,patient_id", rows)
    assert any("data.group=patient_id keeps that in one split" in note for note in read(path).notes)
    data = read(path, group="patient_id")
    held = {
        part: {int(Path(split.describe(k)["file"]).stem[1:]) // 4 for k in range(len(split))}  # type: ignore[attr-defined]
        for part, split in data.splits.items()
    }
    assert held["train"] & held["test"] == held["train"] & held["validation"] == set()
    assert read(path, group="p([0-9])").splits.keys() == {"train", "validation", "test"}  # of the path, as in folders


def test_class_folders_win_where_the_table_says_the_same_or_nothing(tmp_path: Path) -> None:
    rows = [f"{name}/{k}.png,{name},16,{'xyz'[k % 3]}" for name, k in class_folders(tmp_path)]
    table(tmp_path / "metadata.csv", "file,label,width,site", rows)
    assert not any("lists" in note for note in read(tmp_path).notes)
    check_classes(read(tmp_path))
    for path in (tmp_path, tmp_path / "metadata.csv"):
        assert read(path, target="site").labels == ("x", "y", "z")
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(ConfigError, match=r"data\.target=site names a column, and .* holds no table"):
        read(tmp_path, target="site")


def test_folders_of_parts_are_no_classes(tmp_path: Path) -> None:
    found = animals(tmp_path / "images_part_1") + animals(tmp_path / "images_part_2", start=20)
    table(tmp_path / "metadata.csv", "image_id,dx,age", [f"{name},{label},40" for name, label in found])
    assert read(tmp_path).labels == ("cat", "dog")


def test_what_is_missing(tmp_path: Path) -> None:
    found = animals(tmp_path / "images", 200)
    path = table(tmp_path / "all.csv", "image,label", [f"{name},{label}" for name, label in found])
    (tmp_path / "images" / "p3.png").unlink()
    assert any("skipped 1 of 200 listed pictures that are missing: p3" in note for note in read(path).notes)
    for k in range(20, 30):
        (tmp_path / "images" / f"p{k}.png").unlink()
    with pytest.raises(DataError, match=r"11 of 200 pictures that .* lists are missing, more than 1 %: p3, p20, "):
        read(path)


def test_a_bad_picture_is_skipped_with_its_target(tmp_path: Path) -> None:
    found = animals(tmp_path / "images", 120)
    (tmp_path / "images" / "p0.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    data = read(table(tmp_path / "all.csv", "image,label", [f"{name},{label}" for name, label in found]))
    assert any("skipped 1 of 120 pictures that cannot be read" in note for note in data.notes)
    for part in data.splits:
        check_classes(data, part)


def test_pictures_that_are_nowhere(tmp_path: Path) -> None:
    path = table(tmp_path / "all.csv", "image,label", [f"{k}.jpg,{'ab'[k % 2]}" for k in range(20)])
    with pytest.raises(DataError, match=r"all\.csv names pictures in column 'image', such as 0\.jpg, and none"):
        read(path)


def test_a_picture_that_is_listed_again(tmp_path: Path) -> None:
    rows = [f"{name},{label}" for name, label in animals(tmp_path / "images")]
    path = table(tmp_path / "all.csv", "image,label", [*rows, rows[0]])
    assert any("1 rows list a picture again, with the same target, and count once" in n for n in read(path).notes)
    table(path, "image,label", [*rows, "p0,dog"])
    with pytest.raises(DataError, match=r"'p0' twice, as 'cat' in row 1 \(line 2\) and as 'dog' in row 21 \(line 22\)"):
        read(path)


def test_a_name_that_two_pictures_have(tmp_path: Path) -> None:
    rows = [f"{name},{label}" for name, label in animals(tmp_path / "a")]
    animals(tmp_path / "b")
    path = table(tmp_path / "all.csv", "image,label", rows)
    with pytest.raises(DataError, match=r"calls a picture 'p0' in row 1 \(line 2\), and a/p0\.png and b/p0\.png"):
        read(path)
    table(path, "image,label", [f"b/{row}" for row in rows])
    check_classes(read(path))


def test_an_empty_target_is_named_by_its_row(tmp_path: Path) -> None:
    rows = [f"{name},{label if k else ''}" for k, (name, label) in enumerate(animals(tmp_path / "images"))]
    with pytest.raises(DataError, match=r"has no value \(NaN or empty\) in row 1 \(line 2\)"):
        read(table(tmp_path / "all.csv", "image,label", rows))


def test_other_tables_stay_tables(tmp_path: Path) -> None:
    rows = [f"{k},{k * 1.5},{'ab'[k % 2]}" for k in range(30)]
    path = table(tmp_path / "plain.csv", "id,length,label", rows)
    write(tmp_path / "plot.png")
    assert recognize(path) == "table"
    found = animals(tmp_path / "images", 30)
    both = table(
        tmp_path / "both.csv", "image,length,label", [f"{n},{k / 3},{label}" for k, (n, label) in enumerate(found)]
    )
    assert recognize(both) == "image"
    assert any("data.kind=table learns from the other columns instead" in note for note in read(both).notes)
    assert read(both, kind="table").kind == "table"


def test_names_of_files_are_preferred_to_an_index(tmp_path: Path) -> None:
    found = animals(tmp_path / "images", 20)
    rows = [f"{k},{name[1:]}.png,{label}" for k, (name, label) in enumerate(reversed(found))]
    for name, _ in found:
        (tmp_path / "images" / f"{name}.png").rename(tmp_path / "images" / f"{name[1:]}.png")
    check_classes(read(table(tmp_path / "labels.csv", ",filename,label", rows)))


def test_what_a_split_lacks_is_not_taken_from_another(tmp_path: Path) -> None:
    for part, n in (("train", 200), ("test", 200)):
        rows = [f"{name},{label}" for name, label in animals(tmp_path / part, n)]
        table(tmp_path / f"{part}.csv", "id,label", rows)
    (tmp_path / "test" / "p7.png").unlink()
    by_file = {"source": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    for data in (read(tmp_path), open_data(DataConfig(**by_file))):  # type: ignore[arg-type]
        assert len(data.splits["test"]) == 199
        files = [Path(data.splits["test"].describe(k)["file"]) for k in range(199)]  # type: ignore[attr-defined]
        assert {file.parent.name for file in files} == {"test"}
        assert any("skipped 1 of" in note and "are missing: p7" in note for note in data.notes)


def test_a_folder_in_the_name_is_not_another(tmp_path: Path) -> None:
    rows = [f"{place}/{name}.png,{label}" for place in "ab" for name, label in animals(tmp_path / place, 100)]
    path = table(tmp_path / "all.csv", "image,label", rows)
    (tmp_path / "b" / "p1.png").unlink()
    data = read(path)
    assert any("are missing: b/p1.png" in note for note in data.notes)
    check_classes(data)


def test_neither_folders_nor_a_table_that_are_plain(tmp_path: Path) -> None:
    rows = [f"{name}.png,{label},3" for name, label in animals(tmp_path / "Train")]
    animals(tmp_path / "Meta", 3, start=50)
    table(tmp_path / "Train.csv", "Path,ClassId,Width", rows)
    with pytest.raises(DataError, match=r"Give data.target=COLUMN, one of: ClassId, Width; or data.kind=image"):
        read(tmp_path)
    assert read(tmp_path, target="ClassId").labels == ("cat", "dog")
    assert read(tmp_path, kind="image").labels == ("Meta", "Train")


def test_a_table_of_checksums_leaves_class_folders_as_they_are(tmp_path: Path) -> None:
    rows = [f"{name}/{k}.png,{name}{k:032x}" for name, k in class_folders(tmp_path)]
    table(tmp_path / "checksums.csv", "file,md5", rows)
    check_classes(read(tmp_path))


def test_many_numbered_classes_are_classes(tmp_path: Path) -> None:
    rows = []
    for k in range(120):
        write(tmp_path / "i" / f"{k}.png", (2 * k, 9, 9))
        rows.append(f"{k},{k % 30},{k % 30}")
    path = table(tmp_path / "all.csv", "image,class_id,age", rows)
    assert len(read(path, target="class_id").labels) == 30
    assert read(path, target="age").target_kind == "number"


def test_joined_classes_are_told_of(tmp_path: Path) -> None:
    kinds = ["oak", "elm", "oak|elm", "ash|elm"]
    rows = [f"{name},{kinds[k % 4]}" for k, (name, _) in enumerate(animals(tmp_path / "images", 40))]
    data = read(table(tmp_path / "all.csv", "image,label", rows))
    assert any("classes are joined by '|', such as 'ash|elm': several at once" in note for note in data.notes)


def test_lines_that_are_no_list_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    animals(tmp_path / "cat", 4)
    animals(tmp_path / "dog", 4, start=9)
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]
    lines = [json.dumps({"id": str(k), "image": f"p{k}.png", "conversations": talk}) for k in range(9)]
    table(tmp_path / "talks.jsonl", "", lines)
    assert read(tmp_path).labels == ("cat", "dog")
    assert recognize(tmp_path / "talks.jsonl") == "chat"


def test_pictures_at_absolute_paths(tmp_path: Path) -> None:
    found = animals(tmp_path / "far" / "away")
    rows = [f"{tmp_path}/far/away/{name}.png,{label},{k % 3}" for k, (name, label) in enumerate(found)]
    check_classes(read(table(tmp_path / "near" / "all.csv", "path,label,fold", rows)))


def test_held_out_pictures_from_another_table(tmp_path: Path) -> None:
    train = table(tmp_path / "a" / "all.csv", "image,label", [f"{n},{c}" for n, c in animals(tmp_path / "a" / "i")])
    rows = [f"{name},{label}" for name, label in animals(tmp_path / "b" / "i", 8, start=50)]
    test = table(tmp_path / "b" / "all.csv", "image,label", rows)
    data = read(train, test=str(test))
    assert len(data.splits["test"]) == 8
    check_classes(data, "test")


def test_a_run_is_trained_and_measured_elsewhere(tmp_path: Path) -> None:
    rows = [f"{name},{label}" for name, label in animals(tmp_path / "data" / "images", 60)]
    path = table(tmp_path / "data" / "labels.csv", "image,animal", rows)
    run = strata.train(
        "resnet",
        {"data": str(path), "model": "resnet20", "train.epochs": 3, "train.batch_size": 16},
        runs=tmp_path / "runs",
    )
    assert run.metrics is not None
    other = [f"{name},{label}" for name, label in animals(tmp_path / "other" / "images", 10, start=70)]
    elsewhere = table(tmp_path / "other" / "labels.csv", "image,animal", other)
    assert run.evaluate(data=str(elsewhere)).samples == 10
    assert run.evaluate("test").metrics == run.metrics["test"]
    ages = [f"{name},{k / 3:.2f}" for k, name in enumerate(row.split(",")[0] for row in other)]
    with pytest.raises(DataError, match=r"has class '0.33', which the model never learned"):
        run.evaluate(data=str(table(elsewhere, "image,animal", ages)))
    regression = strata.train(
        "resnet",
        {"data": str(elsewhere), "model": "resnet20", "train.steps": 2, "data.target_kind": "number"},
        runs=tmp_path / "runs",
    )
    table(path, "image,animal", [f"p{k},{k}.5" for k in range(60)])
    assert regression.evaluate(data=str(path)).samples == 60
