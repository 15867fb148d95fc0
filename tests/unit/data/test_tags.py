"""Words with a tag each: the forms that people keep them in, tags in many hands, and words of several tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from strata.data import load_preprocess, open_data, recognize, save_preprocess, tags
from strata.data.dataset import DataConfig, Dataset
from strata.data.tags import TagPreprocess, are_of_spans, as_iob2
from strata.errors import DataError

SENTENCES = (("Ada", "lives", "in", "New", "York", "."), ("No", "one", "here"))
TAGS = (("B-person", "O", "O", "B-place", "I-place", "O"), ("O", "O", "O"))


def conll(separator: str, blank: str = "") -> str:
    blocks = (
        "\n".join(separator.join(pair) for pair in zip(words, of_words, strict=True))
        for words, of_words in zip(SENTENCES, TAGS, strict=True)
    )
    return f"\n{blank}\n".join(blocks) + "\n"


def opened(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(path), validation=0, test=0, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("I-a I-a O I-a B-a", "B-a I-a O B-a B-a"),  # IOB1
        ("B-a I-a I-b O I-b", "B-a I-a B-b O B-b"),
        ("S-a B-a E-a B-a I-a E-a", "B-a B-a I-a B-a I-a I-a"),  # BIOES
        ("U-a B-a L-a O", "B-a B-a I-a O"),  # BILOU
        ("B-a M-a E-a I-a", "B-a I-a I-a B-a"),  # BMES
        ("B I O", "B-span I-span O"),
        ("O O", "O O"),
    ],
)
def test_tags_of_every_hand_become_the_same(given: str, wanted: str) -> None:
    assert as_iob2(given.split()) == wanted.split()


def test_tags_of_single_words_are_told_from_those_of_spans() -> None:
    assert are_of_spans(["B-a", "O", "I-a"]) and are_of_spans(["S-x", "E-x"])
    assert not are_of_spans(["NN", "VB", "O"]) and not are_of_spans(["O"])


@pytest.mark.parametrize(("separator", "blank"), [("\t", ""), (" ", ""), ("\t", "\t"), ("   ", "-DOCSTART- O")])
def test_a_conll_file_is_recognized_and_read(separator: str, blank: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(conll(separator, blank), encoding="utf-8")
    assert recognize(path) == "tags"
    data = opened(path)
    assert data.labels == ("O", "B-person", "I-person", "B-place", "I-place")
    batch = data.splits["train"].gather(torch.arange(2), torch.zeros(2))
    assert [row[row != -100].tolist() for row in batch["target"]] == [[1, 0, 0, 3, 4, 0], [0, 0, 0]]


def test_a_folder_is_read_by_the_splits_that_its_names_say_whatever_their_extensions(tmp_path: Path) -> None:
    for name in ("x17train.conll", "emerging.dev.conll", "emerging.test.annotated"):
        (tmp_path / name).write_text(conll("\t"), encoding="utf-8")
    (tmp_path / "README.md").write_text("Some words.", encoding="utf-8")
    assert recognize(tmp_path) == "tags"
    data = open_data(DataConfig(source=str(tmp_path)))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 2, "validation": 2, "test": 2}


def test_another_column_is_chosen_by_its_number_and_comments_are_no_words(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_text("# a sentence\n1\tAda\tPROPN\tx\n2\truns\tVERB\ty\n3\t#\tSYM\tx\n", encoding="utf-8")
    data = opened(path, column="2", target="3")
    assert data.labels == ("PROPN", "SYM", "VERB")
    assert data.splits["train"].describe(0)["words"] == ["Ada", "runs", "#"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("numbered", [False, True])
def test_records_with_lists_of_words_and_tags_are_read(numbered: bool, tmp_path: Path) -> None:
    labels = ("O", "B-person", "I-person", "B-place", "I-place")
    path = tmp_path / "a.jsonl"
    lines = [
        {"tokens": words, "ner_tags": [labels.index(tag) for tag in of_words] if numbered else of_words}
        for words, of_words in zip(SENTENCES, TAGS, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert recognize(path) == "tags"
    data = opened(path, labels=labels if numbered else ())
    assert data.labels == labels
    assert not [note for note in data.notes if "no effect" in note]


@pytest.mark.parametrize(
    ("text", "said"),
    [("Ada B-x\nruns\n", "line 2, is 'runs'"), ("Ada B-x\na b O\n", "the lines before have 2 columns")],
)
def test_lines_that_do_not_fit_are_refused_with_their_number(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        opened(path)


def test_as_many_tags_as_words_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O"]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"2 words and 1 tags of .* record 1"):
        opened(path, kind="tags")


@pytest.mark.parametrize("tokens", ["character", "byte", "word", "bpe", "wordpiece", "unigram"])
def test_a_tag_stands_at_the_first_token_of_its_word_whatever_tokens_are(tokens: str, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(conll("\t") * 5, encoding="utf-8")
    data = opened(path, tokens=tokens)
    preprocess: TagPreprocess = data.preprocess  # type: ignore[assignment]
    pieces = preprocess.encode([SENTENCES[0]])[0]
    (piece,) = preprocess.pieces(pieces)
    target_T = data.splits["train"].gather(torch.arange(1), torch.zeros(1))["target"][0]
    assert (target_T != -100).nonzero()[:, 0].tolist() == piece.start_W.tolist()
    for start, token_T in zip(piece.start_W, pieces, strict=True):
        assert piece.token_T[start : start + len(token_T)].tolist() == token_T.tolist()


def test_a_long_sentence_is_read_in_pieces_between_words_and_no_word_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(conll("\t"), encoding="utf-8")
    data = opened(path, max_length=9, tokens="character")
    split = data.splits["train"]
    batch = split.gather(torch.arange(len(split)), torch.zeros(len(split)))
    assert batch["input"].shape[1] <= 16 and int(batch["mask"].sum(1).max()) <= 9
    found = batch["target"][batch["target"] != -100].tolist()
    assert found == [1, 0, 0, 3, 4, 0, 0, 0, 0]
    assert [note for note in data.notes if "read in pieces" in note]


def test_a_text_is_taken_apart_into_words_that_know_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(conll("\t"), encoding="utf-8")
    preprocess: TagPreprocess = opened(path).preprocess  # type: ignore[assignment]
    words, places, text = preprocess.words("Ada's here, @bob.")
    assert words == ["Ada", "'s", "here", ",", "@bob", "."]
    assert [text[start:end] for start, end in places] == words
    words, places, text = preprocess.words({"tokens": ["New", "York"]})
    assert text == "New York" and [text[start:end] for start, end in places] == words
    for nothing in ("  ", [], 7):
        with pytest.raises(DataError):
            preprocess.read(nothing)


def test_what_reads_is_kept_with_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(conll("\t"), encoding="utf-8")
    preprocess = opened(path).preprocess
    save_preprocess(preprocess, tmp_path)
    assert load_preprocess(tmp_path) == preprocess


def test_records_are_recognized_by_their_lists() -> None:
    assert tags.are_tags([{"tokens": ["a"], "tags": ["O"]}])
    assert not tags.are_tags([{"tokens": ["a"], "tags": ["O", "O"]}]) and not tags.are_tags([{"text": "a", "label": 1}])
