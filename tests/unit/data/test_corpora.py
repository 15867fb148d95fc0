"""Corpora of documents: packed with an end token between them, told apart when asked, divided and measured."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from strata.data import DataConfig, Dataset, open_data
from strata.data.text import TokenSplit
from strata.errors import ConfigError, DataError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it", "sleeps", "again"]
DOCUMENTS = [" ".join(WORDS[(k + j) % len(WORDS)] for j in range(12)) + "." for k in range(200)]


def read(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(source=str(path), kind="text", **settings))


def tokens(data: Dataset, name: str = "train") -> torch.Tensor:
    split: Any = data.splits[name]
    return split.token_N.to(torch.int64)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in enumerate(DOCUMENTS)))
    return path


def documents_in(data: Dataset, name: str) -> list[str]:
    ends = [-1, *(tokens(data, name) == data.tokenizer.end).nonzero().flatten().tolist()]
    return [data.tokenizer.decode(tokens(data, name)[a + 1 : b]) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("kind", ["character", "byte", "bpe", "unigram", None])
def test_every_document_is_followed_by_the_end_token(lines: Path, kind: str | None) -> None:
    data = read(lines, tokens=kind)
    found = [text for name in ("train", "validation", "test") for text in documents_in(data, name)]
    assert found == DOCUMENTS
    assert "corpus.jsonl: 200 documents, from 'text' (the field of text)" in data.notes


@pytest.mark.parametrize("extension", ["csv", "tsv", "parquet", "ndjson"])
def test_other_files_of_records_hold_documents_too(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{extension}"
    if extension == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"n": list(range(200)), "body": DOCUMENTS}), path)
    elif extension == "ndjson":
        path.write_text("".join(json.dumps({"n": k, "body": text}) + "\n" for k, text in enumerate(DOCUMENTS)))
    else:
        mark = "," if extension == "csv" else "\t"
        rows = "".join(f"{k}{mark}{text}\n" for k, text in enumerate(DOCUMENTS))
        path.write_text(f"n{mark}body\n" + rows)
    assert documents_in(read(path, tokens="byte", validation=0, test=0), "train") == DOCUMENTS


def test_the_field_of_the_text_is_asked_for_where_it_is_not_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"one": text, "two": text.upper()}) + "\n" for text in DOCUMENTS))
    with pytest.raises(
        DataError, match=r"does not say which field holds the text. Give data.column=, one of: one, two"
    ):
        read(path)
    assert documents_in(read(path, column="two", validation=0, test=0), "train")[0] == DOCUMENTS[0].upper()
    with pytest.raises(DataError, match=r"has no field 'three' \(data.column\)"):
        read(path, column="three")


def test_records_without_a_text_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*DOCUMENTS, "", None]))
    assert "a.jsonl: 2 records without a text left out" in read(path).notes


def test_a_table_without_a_text_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{k},{k % 7}\n" for k in range(300)))
    data = read(path, validation=0, test=0)
    assert data.tokenizer.decode(tokens(data)) == path.read_text()
    assert "a.csv has no field of text and is read as it stands" in data.notes


def test_the_tokenizer_never_saw_what_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abba abba.\n" * 500 + "zzzz zzzz.\n" * 100)
    data = read(path, tokens="bpe", validation=0, test=0.2)
    pieces = [data.tokenizer.token_text(k) for k in range(data.tokenizer.vocab_size)]
    assert any("abba" in piece for piece in pieces) and not any("zz" in piece for piece in pieces)
    assert data.tokenizer.decode(tokens(data) if "validation" not in data.splits else []).startswith("abba")


def test_a_text_is_divided_where_a_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(DOCUMENTS) + "\n")
    data = read(path, tokens="bpe")
    parts = [data.tokenizer.decode(tokens(data, name)) for name in ("train", "validation", "test")]
    assert "".join(parts) == path.read_text()
    assert all(part.endswith("\n") for part in parts)
    assert len(parts[1]) == pytest.approx(0.05 * len(path.read_text()), rel=0.2)


def test_a_folders_files_are_documents_of_a_trained_tokenizer_and_one_text_of_characters(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.txt").write_text(DOCUMENTS[k] * 20)
    data = read(tmp_path, tokens="bpe", validation=0, test=0)
    assert documents_in(data, "train") == [DOCUMENTS[k] * 20 for k in range(3)]
    plain = read(tmp_path, tokens="character", validation=0, test=0)
    assert plain.tokenizer.end is None and plain.tokenizer.decode(tokens(plain)).count("\n") == 3


def test_documents_of_a_window_are_numbered_and_an_end_token_begins_the_next() -> None:
    split = TokenSplit(torch.tensor([5, 6, 0, 7, 8, 9, 0, 4, 4], dtype=torch.uint8), end=0)
    batch = split.windows(8, shift=False).gather(torch.tensor([0]), torch.tensor([0]))
    assert batch["document"].tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]]


def test_documents_are_numbered_only_when_asked(lines: Path) -> None:
    first = torch.tensor([0])
    for separate in (False, True):
        split: Any = read(lines, tokens="bpe", separate_documents=separate).splits["train"]
        assert ("document" in split.windows(16).gather(first, first)) is separate
        assert ("document" in split.to("cpu").windows(16).gather(first, first)) is separate


def test_one_text_has_no_documents_to_separate(tmp_path: Path, lines: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(DOCUMENTS))
    data = read(tmp_path / "a.txt", separate_documents=True)
    assert "data.separate_documents has no effect: the text is one document" in data.notes
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(str(tmp_path / "bare.json"))
    with pytest.raises(ConfigError, match="needs a tokenizer with an end token"):
        read(lines, tokenizer=str(tmp_path / "bare.json"), separate_documents=True)


@pytest.mark.parametrize("kind", ["character", "byte", "bpe", "wordpiece"])
def test_characters_of_each_split_are_counted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("naïve 北京 text.\n" * 300, encoding="utf-8")
    data = read(path, tokens=kind)
    assert sum(data.details["characters"].values()) == 300 * 15
    split: Any = data.splits["test"]
    windows = split.windows(8, shift=False)
    counted = windows.gather(torch.arange(len(windows)), torch.zeros(len(windows), dtype=torch.int64))["characters"]
    share = 8 * len(windows) / len(split)
    assert float(counted.sum()) == pytest.approx(data.details["characters"]["test"] * share, rel=1e-5)
    first = torch.tensor([0])
    assert "characters" not in split.windows(8).gather(first, first)


def test_the_same_corpus_has_the_same_fingerprint(lines: Path) -> None:
    assert read(lines, tokens="unigram").fingerprint == read(lines, tokens="unigram").fingerprint
    assert read(lines, tokens="bpe").fingerprint != read(lines, tokens="bpe", lowercase=True, limit=900).fingerprint
