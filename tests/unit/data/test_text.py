"""Plain text as tokens and windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strata.data import DataConfig, Dataset, open_data, recognize
from strata.data.text import TokenSplit
from strata.data.tokens import TextPreprocess
from strata.errors import DataError

TEXT = "To be, or not to be: that is the question.\n" * 40


def read(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(source=str(path), **settings))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hamlet.txt"
    path.write_text(TEXT)
    return path


def tokens(data: Dataset, name: str) -> torch.Tensor:
    split: TokenSplit = data.splits[name]  # type: ignore[assignment]
    return split.token_N


def test_few_characters_are_tokens_of_their_own(file: Path) -> None:
    data = read(file)
    assert data.sizes == {"vocab_size": len(set(TEXT))}
    assert data.preprocess.tokens == "character"  # type: ignore[attr-defined]
    assert "tokens are characters: 18 distinct characters, at most 256" in data.notes


def test_many_characters_become_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(chr(0x4E00 + k) for k in range(400)), encoding="utf-8")
    data = read(tmp_path / "a.txt")
    assert data.sizes == {"vocab_size": 256}
    assert sum(len(split) for split in data.splits.values()) == 1200


def test_the_text_is_divided_in_order(file: Path) -> None:
    data = read(file)
    whole = torch.cat([tokens(data, name) for name in ("train", "validation", "test")])
    assert data.tokenizer.decode(whole) == TEXT
    assert [len(tokens(data, name)) for name in data.splits] == [1548, 86, 86]


def test_nine_tenths_and_one_tenth_can_be_had(file: Path) -> None:
    data = read(file, validation=0.1, test=0)
    n = int(0.9 * len(TEXT))
    assert data.tokenizer.decode(tokens(data, "train")) == TEXT[:n]
    assert data.tokenizer.decode(tokens(data, "validation")) == TEXT[n:]
    assert "test" not in data.splits


def test_a_folder_is_read_in_order_with_its_given_splits(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "b.txt").write_text("second\n")
    (tmp_path / "train" / "a.md").write_text("first")
    (tmp_path / "val.txt").write_text("held out\n")
    (tmp_path / "picture.bin").write_bytes(b"\0\1")
    assert recognize(tmp_path) == "text"
    data = read(tmp_path, test=0)
    assert data.tokenizer.decode(tokens(data, "train")) == "first\nsecond\n"
    assert data.tokenizer.decode(tokens(data, "validation")) == "held out\n"
    assert "ignored what is no text: 1 .bin" in data.notes


def test_text_that_is_not_utf8_is_refused_with_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes(b"na\xefve text")
    with pytest.raises(DataError, match=r"old.txt is not UTF-8 text: byte 2 is 0xef. Convert it, for example: iconv"):
        read(tmp_path / "old.txt")


def test_line_ends_of_other_systems_and_a_byte_order_mark_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    data = read(tmp_path / "w.txt", validation=0, test=0)
    assert data.tokenizer.decode(tokens(data, "train")) == "one\ntwo\nthree\n"


def test_a_text_shorter_than_one_context_is_refused(file: Path) -> None:
    split = TokenSplit(torch.arange(10, dtype=torch.uint8), "validation")
    assert len(split.windows(9)) == 1
    with pytest.raises(DataError, match="The validation text has 10 tokens, fewer than the 11 of one context"):
        split.windows(10)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path / "a.txt")


def test_the_target_is_one_token_ahead() -> None:
    windows = TokenSplit(torch.arange(50, dtype=torch.uint8)).windows(7)
    index = torch.arange(len(windows))
    batch = windows.gather(index, torch.full_like(index, 3))
    assert batch["input"].dtype == batch["target"].dtype == torch.int64
    assert torch.equal(batch["target"], batch["input"] + 1)


def test_evaluation_sees_every_token_once_in_order() -> None:
    windows = TokenSplit(torch.arange(50, dtype=torch.uint8)).windows(7, shift=False)
    index = torch.arange(len(windows))
    assert windows.gather(index, index)["target"].flatten().tolist() == list(range(1, 50))


@given(length=st.integers(2, 60), context=st.integers(1, 20), epoch=st.integers(0, 1000))
def test_shifted_windows_stay_inside_the_text(length: int, context: int, epoch: int) -> None:
    if length <= context:
        return
    windows = TokenSplit(torch.arange(length, dtype=torch.uint8)).windows(context)
    index = torch.arange(len(windows))
    batch = windows.gather(index, torch.full_like(index, epoch))
    assert torch.equal(batch["target"], batch["input"] + 1)
    assert batch["input"].shape == (len(windows), context)
    again = windows.gather(index[:1], torch.tensor([epoch]))
    assert torch.equal(again["input"], batch["input"][:1])  # in any batch the same


def test_the_cuts_move_from_epoch_to_epoch() -> None:
    windows = TokenSplit(torch.arange(200, dtype=torch.uint8)).windows(16)
    zero = torch.zeros(40, dtype=torch.int64)
    starts = windows.gather(zero, torch.arange(40))["input"][:, 0]
    assert len(set(starts.tolist())) > 10 and int(starts.max()) < 16


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1))
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    for preprocess in (
        TextPreprocess(tokens="byte"),
        TextPreprocess(tokens="character", characters=tuple(sorted(set(text)))),
    ):
        read_T = preprocess.read(text)
        assert preprocess.decode(read_T) == text
        decode = preprocess.decoder()
        assert "".join(decode(token) for token in read_T.tolist()) == text


def test_an_unknown_character_is_named() -> None:
    preprocess = TextPreprocess(tokens="character", characters=("a", "b"))
    with pytest.raises(DataError, match="Character 'é' at place 2 of the text is not among the 2"):
        preprocess.read("abé")
    with pytest.raises(DataError, match="Character 'A' at place 0"):
        preprocess.read("A")


def test_limit_takes_the_first_tokens(file: Path) -> None:
    data = read(file, limit=100)
    assert data.tokenizer.decode(tokens(data, "train")) == TEXT[:100]


def test_a_validation_text_elsewhere_shares_the_vocabulary(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("be zealous\n")
    data = read(file, validation=str(tmp_path / "other.txt"), test=0)
    assert data.tokenizer.decode(tokens(data, "validation")) == "be zealous\n"
    assert data.tokenizer.decode(tokens(data, "train")) == TEXT
