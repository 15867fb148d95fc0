"""Texts and what they become: read from parallel files and records, as tokens between their marks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from strata.data import load_preprocess, open_data, recognize, save_preprocess
from strata.data.dataset import DataConfig, Dataset
from strata.data.loader import in_order
from strata.data.text_pairs import WrittenSplit, references_of
from strata.errors import DataError

ENGLISH = [f"A {color} {animal} runs." for color in ("red", "green", "old") for animal in ("dog", "cat", "cow")]
GERMAN = [f"Ein {farbe} {tier} rennt." for farbe in ("roter", "grüner", "alter") for tier in ("Hund", "Kater", "Ochse")]


def parallel(folder: Path, languages: dict[str, list[str]], *, packed: bool = False) -> Path:
    for part, count in (("train", 9), ("val", 3), ("test_2016", 2)):
        for language, lines in languages.items():
            content = "".join(f"{line}\n" for line in lines[:count]).encode()
            if packed:
                (folder / f"{part}.{language}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{part}.{language}").write_bytes(content)
    return folder


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(source=str(path), **settings))


@pytest.mark.parametrize("packed", [False, True])
def test_parallel_files_are_recognised_and_read_by_split_and_language(tmp_path: Path, packed: bool) -> None:
    folder = parallel(tmp_path, {"en": ENGLISH, "de": GERMAN}, packed=packed)
    assert recognize(folder) == "text_pairs"
    dataset = opened(folder)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 9, "validation": 3, "test": 2}
    assert any("from en to de" in note for note in dataset.notes)
    split: Any = dataset.splits["test"]
    batch = split.gather(torch.tensor([1]), torch.zeros(1))
    text = dataset.preprocess.text
    assert dataset.preprocess.decode(batch["input"][0]) == ENGLISH[1]
    assert dataset.preprocess.decode(batch["target"][0]) == GERMAN[1]
    assert batch["input"][0, -1] == batch["target"][0, -1] == text.end != batch["target"][0, 0] == text.start


def test_the_direction_can_be_turned_round_and_a_file_named(tmp_path: Path) -> None:
    folder = parallel(tmp_path, {"en": ENGLISH, "de": GERMAN})
    split: Any = opened(folder / "train.en", target="en").splits["train"]
    assert split.texts[0] in GERMAN and split.references[0][0] in ENGLISH


def test_more_than_two_languages_have_to_be_chosen_from(tmp_path: Path) -> None:
    folder = parallel(tmp_path, {"en": ENGLISH, "de": GERMAN, "fr": ENGLISH})
    with pytest.raises(DataError, match=r"de, en, fr.*data\.column=de data\.target=en"):
        opened(folder)
    assert opened(folder, column="fr", target="de").details["sides"] == ("fr", "de")
    with pytest.raises(DataError, match=r"no files of 'es' \(data\.target\), but of: de, en, fr"):
        opened(folder, column="fr", target="es")


def test_parallel_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    folder = parallel(tmp_path, {"en": ENGLISH, "de": GERMAN})
    (folder / "train.de").write_text("eine Zeile\n")
    with pytest.raises(DataError, match=r"train\.en has 9 lines and train\.de has 1"):
        opened(folder)


def test_records_may_hold_lists_of_sentences_and_several_targets(tmp_path: Path) -> None:
    for part, count in (("train", 9), ("dev", 2), ("test", 2)):
        lines = (
            json.dumps({"source": [ENGLISH[k], ENGLISH[-k]], "labels": [0, 1], "target": [GERMAN[k], "Kurz."]})
            for k in range(count)
        )
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    assert recognize(tmp_path) == recognize(tmp_path / "train.jsonl") == "text_pairs"
    dataset = opened(tmp_path)
    split: Any = dataset.splits["test"]
    assert split.texts[1] == f"{ENGLISH[1]} {ENGLISH[-1]}"
    batch = split.gather(torch.tensor([1]), torch.zeros(1))
    assert dataset.preprocess.decode(batch["target"][0]) == GERMAN[1]
    assert split.references[1] == [GERMAN[1], "Kurz."]
    assert (
        dataset.preprocess.read({"source": ["One.", "Two."]}).tolist() == dataset.preprocess.read("One. Two.").tolist()
    )


def test_a_table_of_two_texts_is_read_where_its_kind_is_said(tmp_path: Path) -> None:
    rows = "".join(f"{english}\t{german}\n" for english, german in zip(ENGLISH, GERMAN, strict=True))
    (tmp_path / "pairs.tsv").write_text("english\tgerman\n" + rows)
    dataset = opened(tmp_path / "pairs.tsv", kind="text_pairs", validation=0.2, test=0)
    assert any("from 'english' to 'german'" in note for note in dataset.notes)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 7, "validation": 2}


def test_pairs_with_an_empty_side_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = parallel(tmp_path, {"en": [*ENGLISH[:8], ""], "de": [" ", *GERMAN[1:]]})
    dataset = opened(folder)
    assert len(dataset.splits["train"]) == 7
    assert any("train: 2 pairs of which a side is empty" in note for note in dataset.notes)


def test_texts_beyond_the_length_are_cut_before_their_mark_and_counted(tmp_path: Path) -> None:
    dataset = opened(parallel(tmp_path, {"en": ENGLISH, "de": GERMAN}), max_length=5)
    split: Any = dataset.splits["train"]
    assert all(column.length_N.max() == 5 for column in split.columns.values())
    assert split.columns["target"][0][-1] == dataset.preprocess.end
    assert any("sources of more than 5 tokens are cut (data.max_length)" in note for note in dataset.notes)


def test_a_written_split_goes_by_length_and_brings_the_references_back(tmp_path: Path) -> None:
    dataset = opened(parallel(tmp_path, {"en": ENGLISH, "de": GERMAN}))
    split: Any = dataset.splits["train"]
    written = WrittenSplit(split, torch.tensor([2] * 4 + [0] * 5))
    seen, lengths = [], []
    for batch in in_order(written, 4, torch.device("cpu")):
        lengths += batch["mask"].sum(1).tolist()
        wanted = references_of(batch)
        for row, sample in enumerate(batch["sample"].tolist()):
            expected = written.describe(sample)["references"]
            assert wanted[row] == (expected if batch["beams"][row] else [""])
            seen.append(expected[0])
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(seen) == sorted(GERMAN)


def test_preprocessing_is_saved_and_read_back(tmp_path: Path) -> None:
    dataset = opened(parallel(tmp_path, {"en": ENGLISH, "de": GERMAN}))
    save_preprocess(dataset.preprocess, tmp_path)
    assert load_preprocess(tmp_path) == dataset.preprocess
    with pytest.raises(DataError, match="empty"):
        dataset.preprocess.read("  ")


@pytest.mark.shared
def test_scitldr_opens_as_it_is(shared_data: Path) -> None:
    dataset = opened(shared_data / "scitldr", vocab_size=600, limit=50)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 50, "validation": 619, "test": 618}
    split: Any = dataset.splits["test"]
    assert max(map(len, split.references)) > 1
