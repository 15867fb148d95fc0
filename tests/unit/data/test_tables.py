"""CSV and Parquet with a column to predict."""

from __future__ import annotations

import builtins
import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.data import DataConfig, Dataset, open_data
from strata.data.preprocess import Column, TablePreprocess
from strata.data.tables import read_table
from strata.errors import DataError, UnavailableError


def write(path: Path, header: str, rows: list[str], end: str = "\n") -> Path:
    path.write_text(end.join([header, *rows]) + end, encoding="utf-8", newline="")
    return path


def read(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(path), **settings))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [f"{k / 10},{['red', 'blue', 'green'][k % 3]},{'yes' if k % 2 else 'no'},{k % 2}" for k in range(60)]
    return write(tmp_path / "t.csv", "size,colour,flag,label", rows)


def inputs(data: Dataset, name: str = "train") -> torch.Tensor:
    index = torch.arange(len(data.splits[name]))
    return data.splits[name].gather(index, index)["input"]


def test_numbers_are_standardised_and_categories_one_hot(file: Path) -> None:
    data = read(file)
    assert isinstance(data.preprocess, TablePreprocess)
    assert data.preprocess.features == ("size", "colour=blue", "colour=green", "colour=red", "flag")
    assert (data.labels, data.target_kind, data.sizes) == (("0", "1"), "class", {"in_features": 5, "num_classes": 2})
    train = inputs(data)
    assert train.dtype == torch.float32
    assert abs(float(train[:, 0].mean())) < 1e-6 and abs(float(train[:, 0].std(correction=0)) - 1) < 1e-6
    assert torch.equal(train[:, 1:4].sum(1), torch.ones(len(train)))


def test_a_row_is_read_at_prediction_as_it_was_in_training(file: Path) -> None:
    data = read(file, validation=0, test=0)
    assert torch.equal(data.preprocess.read({"size": "0.7", "colour": "blue", "flag": "yes"}), inputs(data)[7])
    assert torch.equal(data.preprocess.read([0.7, "blue", True]), inputs(data)[7])


def test_an_unseen_level_is_none_of_the_known_and_a_lacking_column_is_missing(file: Path) -> None:
    row = read(file).preprocess.read({"colour": "violet", "label": "1"})
    assert row.tolist() == [0.0] * 5


def test_a_wrong_column_is_refused_with_the_nearest(file: Path) -> None:
    with pytest.raises(DataError, match=r"has no column 'color'. Did you mean 'colour'\?"):
        read(file).preprocess.read({"color": "red"})


def test_a_value_of_the_wrong_kind_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match="size='big' is not allowed: the column holds numbers"):
        read(file).preprocess.read({"size": "big"})


def test_the_targets_column_is_found_or_the_columns_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b,price", [f"{k},{k % 3},{k * 1.5}" for k in range(30)])
    with pytest.raises(DataError, match=r"Give data.target=COLUMN, one of: a, b, price\."):
        read(path)
    with pytest.raises(DataError, match=r"has no column 'prise' \(data.target\). Did you mean 'price'\?"):
        read(path, target="prise")
    assert read(path, target="price").target_kind == "number"


def test_a_number_to_predict_keeps_its_units_and_its_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,y", [f"{k},{1000 + 3.5 * k}" for k in range(40)])
    data = read(path, test=0, validation=0)
    index = torch.arange(40)
    target = data.splits["train"].gather(index, index)["target"]
    assert target.dtype == torch.float64 and target[2] == 1007
    assert data.preprocess.target_mean == pytest.approx(float(target.mean()))  # type: ignore[attr-defined]
    assert data.preprocess.target_std == pytest.approx(float(target.std(correction=0)))  # type: ignore[attr-defined]
    assert data.sizes["num_classes"] == 1 and data.class_counts == ()


@pytest.mark.parametrize(("target_kind", "found"), [(None, "class"), ("number", "number")])
def test_few_whole_numbers_are_classes_unless_said_otherwise(tmp_path: Path, target_kind: Any, found: str) -> None:
    path = write(tmp_path / "t.csv", "a,quality", [f"{k},{3 + k % 4}" for k in range(80)])
    data = read(path, target="quality", target_kind=target_kind)
    assert data.target_kind == found
    assert data.labels == (("3", "4", "5", "6") if found == "class" else ())


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_found(tmp_path: Path, mark: str, end: str) -> None:
    rows = [mark.join((str(k), f'"a{mark} b"', str(k % 2))) for k in range(20)]
    table = read_table(write(tmp_path / "t.csv", mark.join(("x", "text", "y")), rows, end))
    assert list(table.columns) == ["x", "text", "y"]
    assert table.columns["text"][3] == f"a{mark} b"


def test_a_decimal_comma_is_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x;y", [f"{k},5;{k % 2}" for k in range(20)])
    data = read(path, test=0, validation=0)
    assert data.preprocess.read({"x": "3,5"}) == inputs(data)[3]


def test_a_file_without_header_gets_numbered_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "iris.data.csv", "5.1,3.5,setosa", [f"{k},{k + 1},{'ab'[k % 2]}" for k in range(20)])
    path.write_text(path.read_text().replace("setosa", "a"))
    data = read(path, target="column_3")
    assert data.labels == ("a", "b") and "no header: columns are called column_1 to column_3" in data.notes


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfx,y\n" + b"".join(b"%d,%d\n" % (k, k % 2) for k in range(9)))
    assert list(read_table(tmp_path / "t.csv").columns) == ["x", "y"]


def test_missing_values_get_the_mean_and_a_feature_that_says_so(tmp_path: Path) -> None:
    rows = [f"{'' if k % 5 == 0 else k},{['u', 'v', 'NA'][k % 3]},{k % 2}" for k in range(60)]
    data = read(write(tmp_path / "t.csv", "x,c,y", rows), test=0, validation=0)
    assert data.preprocess.features == ("x", "x is missing", "c=u", "c=v", "c is missing")  # type: ignore[attr-defined]
    assert inputs(data)[5].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert inputs(data)[1][1] == 0.0


def test_constant_empty_and_naming_columns_are_dropped_and_said(tmp_path: Path) -> None:
    rows = [f"{k},7,,person {k},{math.sin(k)},{k % 2}" for k in range(120)]
    data = read(write(tmp_path / "t.csv", "id,seven,nothing,name,x,y", rows))
    assert data.preprocess.features == ("x",)  # type: ignore[attr-defined]
    notes = " | ".join(data.notes)
    assert "column 'id' dropped: it numbers the rows" in notes
    assert "column 'seven' dropped: it is constant" in notes
    assert "column 'nothing' dropped: it is empty" in notes
    assert "column 'name' dropped: its" in notes and "names or free text" in notes
    assert data.preprocess.read({"id": 3, "x": 0.5}).shape == (1,)  # a dropped column may be given


def test_rare_levels_are_put_together(tmp_path: Path) -> None:
    rows = [f"{k},{'often' if k < 80 else f'rare{k}'},{k % 2}" for k in range(100)]
    data = read(write(tmp_path / "t.csv", "x,c,y", rows), test=0, validation=0)
    assert data.preprocess.features == ("x", "c=often", "c=(other)")  # type: ignore[attr-defined]
    assert data.preprocess.read({"c": "never seen"})[2] == 1.0


def test_dates_become_time_and_place_in_year_week_and_day(tmp_path: Path) -> None:
    rows = [f"20{10 + k // 300:02d}-0{1 + k % 9}-1{k % 8} 0{k % 7}:30:00,{k % 2}" for k in range(900)]
    data = read(write(tmp_path / "t.csv", "when,y", rows))
    names = data.preprocess.features  # type: ignore[attr-defined]
    assert names == ("when", *(f"when:{f}({p})" for p in ("year", "week", "day") for f in ("sin", "cos")))
    assert torch.isfinite(inputs(data)).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([f"{k},3" for k in range(20)], "is constant: every training sample has 3"),
        (
            [f"{k},{'' if k == 11 else k % 2}" for k in range(20)],
            r"has no value \(NaN or empty\) in row 12 \(line 13\)",
        ),
        ([f"{k},nan" if k in (4, 5) else f"{k},{k * 1.5}" for k in range(20)], r"row 5 \(line 6\) and 1 more"),
        (
            [f"{k},{'c' if k == 2 else 'ab'[k % 2]}" for k in range(20)],
            r"Class with fewer than two rows in .*: 'c' \(1\)",
        ),
        ([f"{k},name{k}" for k in range(20)], "has 20 classes for 20 training samples"),
        ([f"{'inf' if k == 3 else k},{k % 2}" for k in range(20)], r"Column 'x' of .* is infinite in row 4 \(line 5\)"),
        ([f"{k},inf" if k == 3 else f"{k},{k * 0.5}" for k in range(20)], r"is infinite in row 4 \(line 5\)"),
        (["1,0", "2,1,9", "3,0"], "is ragged: line 3 has 3 values, the first line has 2"),
        ([], "holds a header but no rows"),
        (["7,0", "7,1", "7,0", "7,1"], "has no column to learn from besides the target 'y'"),
    ],
)
def test_a_table_that_cannot_be_learned_from_is_refused(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "t.csv", "x,y", rows), target="y")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has two columns named 'x'"):
        read(write(tmp_path / "t.csv", "x,x,y", ["1,2,0", "3,4,1"]))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "t.csv")


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"x,y\nna\xefve,1\n")
    with pytest.raises(DataError, match="is not UTF-8 text: byte 6 is 0xef"):
        read(tmp_path / "t.csv")


def test_figures_come_from_the_training_rows_alone(tmp_path: Path) -> None:
    rows = [f"{k % 7},{k % 2}" for k in range(100)]
    train = write(tmp_path / "train.csv", "x,y", rows)
    test = write(tmp_path / "other.csv", "x,y", [f"{1000 + k},{k % 2}" for k in range(20)])
    data = read(train, validation=0, test=str(test))
    assert inputs(data).abs().max() < 3 and inputs(data, "test").min() > 300


def test_a_folder_with_train_and_test_files_gives_its_splits(tmp_path: Path) -> None:
    for name, count in (("train", 50), ("test", 10)):
        write(tmp_path / f"{name}.csv", "x,y", [f"{k % 9},{k % 2}" for k in range(count)])
    data = read(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 45, "validation": 5, "test": 10}


def test_a_sample_can_be_described(file: Path) -> None:
    split: Any = read(file, validation=0, test=0).splits["train"]
    assert split.describe(7) == {
        "row": {"size": "0.7", "colour": "blue", "flag": "yes", "label": "1"},
        "place": "row 8 (line 9)",
    }


def test_parquet_is_read_like_csv(file: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    columns = {
        "size": [k / 10 for k in range(60)],
        "colour": [["red", "blue", "green"][k % 3] for k in range(60)],
        "flag": [k % 2 == 1 for k in range(60)],
        "label": [k % 2 for k in range(60)],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    ours, theirs = read(tmp_path / "t.parquet"), read(file)
    assert ours.preprocess == theirs.preprocess and torch.equal(inputs(ours), inputs(theirs))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnavailableError, match=r"pip install 'strata\[tables\]'"):
        read(tmp_path / "t.parquet", target="y")


CELLS = st.text(alphabet=st.sampled_from("ab ,;\"'|\t\néß0"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, st.integers(-9, 9)), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_whatever_a_csv_writer_quotes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], mark: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=mark, quoting=csv.QUOTE_ALL)
    writer.writerow(("first", "second", "y"))
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    table = read_table(path)
    found = list(zip(*table.columns.values(), strict=True))
    assert found == [(a, b, str(c)) for a, b, c in rows]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=9))
def test_a_number_encodes_by_its_columns_figures(values: list[float]) -> None:
    import numpy as np

    found = Column(name="x", kind="number", mean=2.0, std=4.0).encode(np.array(values))
    assert np.allclose(found[:, 0], (np.array(values) - 2.0) / 4.0, rtol=1e-6)
