"""Raw inputs as people name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strata.cli.answers import expand, show, typed
from strata.errors import ConfigError, DataError
from strata.predict.run import Unreadable


def test_a_folder_gives_its_pictures_in_order_and_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpg", "a/notes.txt", "a/._c.jpg", "__MACOSX/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(p).name for p in expand([str(tmp_path)], "image")] == ["c.jpg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no pictures \(\.bmp, \.gif, \.jfif, \.jpeg"):
        list(expand([str(tmp_path / "empty")], "image"))
    with pytest.raises(DataError, match="There is no file or folder 'gone'"):
        list(expand(["gone"], "image"))


def test_a_word_is_a_text_unless_it_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("from a file")
    long = "word " * 1000
    assert [*expand([str(tmp_path / "t.txt"), "hello", long, "nul\0"], "text")] == [
        "from a file",
        "hello",
        long,
        "nul\0",
    ]
    with pytest.raises(DataError, match=r"is a folder, and this model reads texts. Give files: .*/\*\.txt"):
        list(expand([str(tmp_path)], "sentences"))


@pytest.mark.parametrize("kind", ["text", "sentences", "table"])
def test_a_file_that_cannot_be_read_does_not_end_a_long_job(tmp_path: Path, kind: str) -> None:
    (tmp_path / "good.csv").write_text("text\na fine film\n")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe")
    before, bad, after = expand([str(tmp_path / name) for name in ("good.csv", "bad.csv", "good.csv")], kind)
    assert before == after and isinstance(bad, Unreadable)
    assert bad.input == str(tmp_path / "bad.csv") and "is not UTF-8 text: byte 0" in bad.reason


def test_a_header_is_told_by_the_columns_that_a_model_reads(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Na,2020\n1,2\n")  # "na" might as well be a missing value, and 2020 a number
    assert [*expand([str(path)], "table", ("Na", "2020"))] == [{"Na": "1", "2020": "2"}]
    assert [*expand([str(path)], "table", ("Mg", "Al"))] == [["Na", "2020"], ["1", "2"]]


def test_a_table_gives_its_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,\n")
    assert [*expand([str(tmp_path / "t.csv")], "table")] == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]
    with pytest.raises(DataError, match="is a folder"):
        list(expand([str(tmp_path)], "table"))


def test_a_file_of_questions_or_of_tagged_words_gives_each_as_a_record(tmp_path: Path) -> None:
    asked = {"question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    squad = {"data": [{"paragraphs": [{"context": "Ada lives.", "qas": [asked]}]}]}
    (tmp_path / "q.json").write_text(json.dumps(squad))
    assert [*expand([str(tmp_path / "q.json")], "questions")] == [asked | {"context": "Ada lives."}]
    (tmp_path / "t.conll").write_text("Ada\tB-x\nlives\tO\n")
    (tmp_path / "t.txt").write_text("Ada lives.\n\nSo does Bob.\n")
    tagged, *lines = expand([str(tmp_path / "t.conll"), str(tmp_path / "t.txt")], "tags")
    assert tagged["tokens"] == ["Ada", "lives"] and lines == ["Ada lives.", "So does Bob."]


def test_entities_tags_and_answers_are_shown_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        {"input": "Ada", "entities": [{"text": "Ada", "type": "person", "probability": 0.5, "start": 0, "end": 3}]},
        {"tags": [{"text": "a", "tag": "DET"}, {"text": "cat", "tag": "NOUN"}]},
        {"answer": "Bern", "probability": 0.25},
        {"answer": "", "likeliest": {"answer": "Bern"}},
    ]
    assert show(iter(found), top=1, as_json=False, as_csv=False) == (4, 0)
    assert capsys.readouterr().out.splitlines() == [
        "Ada: Ada (person) 50.0%",
        "row 2: a/DET cat/NOUN",
        "row 3: Bern 25.0%",
        "row 4: (no answer)",
    ]


def test_answers_are_shown_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        {"input": "a.png", "label": "cat", "top": [{"label": "cat", "probability": 0.75}] * 3},
        {"value": 3.25},
        {"input": "b.png", "error": "gone"},
        {"input": "ab\ncd", "next": [{"text": "\n", "probability": 0.5}]},
    ]
    assert show(iter(found), top=1, as_json=False, as_csv=False) == (4, 1)
    assert capsys.readouterr().out.splitlines() == [
        "a.png: cat 75.0%",
        "row 2: 3.25",
        "b.png: not read: gone",
        "ab cd: '\\n' 50.0%",
    ]
    assert show(iter(found), top=2, as_json=True, as_csv=False) == (4, 1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"] == 1 and len(answer["predictions"][0]["top"]) == 2
    assert answer["predictions"][1] == {"input": "row 2", "value": 3.25}


def test_a_class_that_counts_as_found_from_a_threshold_is_told_in_words_and_in_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {"label": "healthy", "top": [{"label": "healthy", "probability": 0.711}]}
    sick = {"label": "sick", "probability": 0.289, "threshold": 0.287}
    found: list[dict[str, Any]] = [
        {"input": "a.png", **answer, "positive": sick | {"found": True}},
        {"input": "b.png", "error": "gone"},
        {"input": "c.png", **answer, "positive": sick | {"threshold": 0.3, "found": False}},
    ]
    show(iter(found), top=1, as_json=False, as_csv=False, detects=True)
    assert capsys.readouterr().out.splitlines() == [
        "a.png: healthy 71.1%; sick found (28.9%, from 28.7%)",
        "b.png: not read: gone",
        "c.png: healthy 71.1%; sick not found (28.9%, from 30.0%)",
    ]
    show(iter(found), top=1, as_json=False, as_csv=True, detects=True)
    assert capsys.readouterr().out.splitlines() == [
        "input,answer,probability,class,class_probability,threshold,found",
        "a.png,healthy,0.711,sick,0.289,0.287,True",
        "b.png,not read: gone,,,,,",
        "c.png,healthy,0.711,sick,0.289,0.3,False",
    ]


def test_a_long_name_is_whole_but_on_a_terminal_which_shows_the_end_of_a_file_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ("x" * 80) / "scan 17.png"
    file.parent.mkdir()
    file.write_bytes(b"")
    found = [{"input": str(file), "value": 1.0}, {"input": "It was good. " * 9, "value": 2.0}]
    show(iter(found), top=1, as_json=False, as_csv=False)
    assert capsys.readouterr().out.splitlines()[0] == f"{file}: 1"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(iter(found), top=1, as_json=False, as_csv=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("…xxx") and first.endswith("xxx/scan 17.png: 1") and len(first) == 63
    assert second.startswith("It was good. It") and second.endswith("…: 2") and len(second) == 63


def test_json_is_whole_without_answers_and_broken_off_before_what_went_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(iter(()), top=1, as_json=True, as_csv=False) == (0, 0)
    assert json.loads(capsys.readouterr().out) == {"predictions": [], "failed": 0}

    def breaking() -> Iterator[dict[str, Any]]:
        yield {"value": 1.0}
        raise DataError("gone")

    with pytest.raises(DataError):
        show(breaking(), top=1, as_json=True, as_csv=False)
    assert capsys.readouterr().out.endswith("\n")


def test_answers_are_printed_as_they_come_and_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []

    def watched() -> Iterator[dict[str, Any]]:
        for k in range(3):
            printed.append(capsys.readouterr().out)
            yield {"input": f"{k}.png", "value": float(k)}

    for as_json, as_csv in ((False, False), (True, False), (False, True)):
        printed.clear()
        show(watched(), top=1, as_json=as_json, as_csv=as_csv)
        assert "0.png" in printed[1] and "1.png" in printed[2]
        capsys.readouterr()


def test_what_is_missing_is_noticed_before_anything_is_answered(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="There is no file or folder 'gone'"):
        next(expand([str(tmp_path / "a.png"), "gone"], "image"))


def test_options_are_turned_into_their_types() -> None:
    assert typed({"tokens": "5", "temperature": "0.5", "prompt": "5"}) == {
        "tokens": 5,
        "temperature": 0.5,
        "prompt": "5",
    }
    with pytest.raises(ConfigError, match=r"count=x is not allowed: it has to be a number\."):
        typed({"count": "x"})
