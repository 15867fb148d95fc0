"""Tokenizers: trained the same every time, kept whole, and giving every text back."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strata.data import DataConfig, load_preprocess, save_preprocess
from strata.data.tokenizer import open_tokenizer, tokenizer_for
from strata.data.tokens import PIECE, TextPreprocess, Tokens, pieces
from strata.errors import ConfigError, DataError

TRAINED: tuple[Tokens, ...] = ("word", "bpe", "wordpiece", "unigram")
EVERY: tuple[Tokens, ...] = ("character", "byte", *TRAINED)
LOSSLESS: tuple[Tokens, ...] = ("character", "byte", "bpe", "unigram")
HARD = "Don't stop: the naïve “end”, 北京!\n  Two  spaces.\n\nDone 😀 </s> [MASK]"


def some_text(words: int = 3000) -> str:
    draw = random.Random(0)
    syllables = ["ba", "do", "ki", "lu", "mé", "na", "ро", "si", "ta", "un", "北", "ing"]
    known = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(300)]
    return " ".join(draw.choice(known) + draw.choice(["", "", "", ",", ".\n", "!", "n't"]) for _ in range(words))


TEXT = some_text() + HARD


def trained(tokens: Tokens, **settings: Any) -> TextPreprocess:
    config = DataConfig(tokens=tokens, **settings)
    return tokenizer_for(config, [TEXT], special=True)[0]


@pytest.fixture(scope="module")
def made() -> dict[Tokens, TextPreprocess]:
    return {tokens: trained(tokens) for tokens in EVERY}


@pytest.mark.parametrize("tokens", TRAINED)
def test_the_same_text_gives_the_same_tokenizer_to_the_last_byte(tokens: Tokens) -> None:
    assert len({trained(tokens, vocab_size=600).tokenizer for _ in range(4)}) == 1


@pytest.mark.parametrize("tokens", EVERY)
def test_what_is_saved_is_loaded_equal_and_opens_by_its_folder(
    tokens: Tokens, made: dict[Tokens, TextPreprocess], tmp_path: Path
) -> None:
    preprocess = dataclasses.replace(made[tokens], labels=("a", "b"), chat_template="{{ messages }}")
    save_preprocess(preprocess, tmp_path)
    assert load_preprocess(tmp_path) == preprocess == open_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()


def test_a_file_of_before_there_were_tokenizers_is_loaded(tmp_path: Path) -> None:
    old = {"kind": "text", "tokens": "character", "characters": ["a", "b"], "labels": []}
    (tmp_path / "preprocess.json").write_text(json.dumps(old))
    found = load_preprocess(tmp_path)
    assert found.vocab_size == 2 and found.encode("ba").tolist() == [1, 0] and found.end is None


def test_a_folder_without_its_tokenizer_is_refused(made: dict[Tokens, TextPreprocess], tmp_path: Path) -> None:
    save_preprocess(made["bpe"], tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json is damaged"):
        load_preprocess(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer.json is missing"):
        load_preprocess(tmp_path)


@pytest.mark.parametrize("tokens", LOSSLESS)
@settings(max_examples=40)
@given(text=st.text(alphabet=sorted(set(TEXT)), min_size=1))
def test_every_text_comes_back_whole_and_piece_by_piece(
    tokens: Tokens, made: dict[Tokens, TextPreprocess], text: str
) -> None:
    preprocess = made[tokens]
    token_T = preprocess.encode(text)
    assert preprocess.decode(token_T) == (text.removeprefix(" ") if tokens == "unigram" else text)
    assert token_T.dtype == (np.uint8 if preprocess.vocab_size <= 256 else np.uint16)
    assert int(token_T.max(initial=0)) < preprocess.vocab_size


@pytest.mark.parametrize("tokens", EVERY)
@settings(max_examples=40)
@given(data=st.data())
def test_pieces_as_they_come_join_to_what_decode_gives(
    tokens: Tokens, made: dict[Tokens, TextPreprocess], data: st.DataObject
) -> None:
    preprocess = made[tokens]
    drawn = data.draw(st.lists(st.integers(0, preprocess.vocab_size - 1), max_size=30))  # broken UTF-8 among them
    decode = preprocess.decoder()
    assert "".join(map(decode, drawn)) + decode.finish() == preprocess.decode(drawn)


@pytest.mark.parametrize("tokens", EVERY)
def test_a_streamed_continuation_keeps_the_space_before_it(tokens: Tokens, made: dict[Tokens, TextPreprocess]) -> None:
    preprocess = made[tokens]
    first, then = preprocess.encode("baki").tolist(), preprocess.encode("baki luna")[len(preprocess.encode("baki")) :]
    decode = preprocess.decoder(after=first)
    assert preprocess.decode(first) + "".join(map(decode, then.tolist())) == preprocess.decode([*first, *then])


def test_bytes_of_one_character_are_given_out_together(made: dict[Tokens, TextPreprocess]) -> None:
    decode = made["bpe"].decoder()
    parts = [decode(token) for token in made["bpe"].encode("🎈").tolist()]
    assert len(parts) == 4 and parts == ["", "", "", "🎈"]


@pytest.mark.parametrize("tokens", EVERY)
def test_a_text_is_never_taken_for_a_special_token_unless_marked(
    tokens: Tokens, made: dict[Tokens, TextPreprocess]
) -> None:
    preprocess = made[tokens]
    end = next(text for text, number in preprocess.special_ids.items() if number == preprocess.end)
    assert preprocess.end not in preprocess.encode(f"ba {end} do")
    assert preprocess.encode(f"ba {end} do", marked=True).tolist().count(preprocess.end) == 1
    assert end not in preprocess.decode([*preprocess.encode("ba"), preprocess.end])


@pytest.mark.parametrize("tokens", EVERY)
def test_offsets_say_where_each_token_was(tokens: Tokens, made: dict[Tokens, TextPreprocess]) -> None:
    preprocess = made[tokens]
    token_T, offsets = preprocess.encode_with_offsets(HARD)
    assert token_T.tolist() == preprocess.encode(HARD).tolist() and len(offsets) == len(token_T)
    place = HARD.index("Two")
    covering = [k for k, (start, end) in enumerate(offsets) if start < place + 3 and end > place]
    assert preprocess.decode(token_T[covering]).strip() in ("Two", "")  # a word that was never learned is unknown
    assert offsets[covering[0]][0] <= place and offsets[covering[-1]][1] == place + 3
    assert all(0 <= start <= end <= len(HARD) for start, end in offsets)


@pytest.mark.parametrize("tokens", EVERY)
def test_a_batch_is_encoded_as_its_texts_alone(tokens: Tokens, made: dict[Tokens, TextPreprocess]) -> None:
    texts = ["", "ba do", HARD, TEXT]
    found = made[tokens].encode_batch(texts)
    assert [part.tolist() for part in found] == [made[tokens].encode(text).tolist() for text in texts]


@pytest.mark.parametrize("tokens", TRAINED)
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tokens: Tokens, made: dict[Tokens, TextPreprocess]) -> None:
    from tokenizers import Tokenizer

    long = some_text() * (3 * PIECE // len(TEXT) + 1)
    whole = Tokenizer.from_str(made[tokens].tokenizer)
    whole.encode_special_tokens = True
    assert made[tokens].encode(long).tolist() == whole.encode(long, add_special_tokens=False).ids


def test_a_text_without_spaces_is_cut_too() -> None:
    assert "".join(pieces("北" * 4 * PIECE, keep_space=True)) == "北" * 4 * PIECE
    assert max(map(len, pieces("北" * 8 * PIECE, keep_space=True))) <= 3 * PIECE


def test_words_begin_where_the_vocabulary_says_so(made: dict[Tokens, TextPreprocess]) -> None:
    words = [word for word in TEXT.split() if word.isalpha() and "北" not in word][:20]
    for tokens in TRAINED:
        preprocess = made[tokens]
        starts_V = preprocess.word_starts()
        token_T, offsets = preprocess.encode_with_offsets(" ".join(words))
        begun = {end for (_, end), begins in zip(offsets, starts_V[token_T], strict=True) if begins}
        assert len(begun) == len(words) - (tokens == "bpe")  # no space is before the first
        assert len(starts_V) == preprocess.vocab_size
        assert not starts_V[list(preprocess.special_ids.values())].any()
    wordpiece = made["wordpiece"]
    texts = [wordpiece._library.id_to_token(k) for k in range(wordpiece.vocab_size)]
    assert [not t.startswith("##") and t not in wordpiece.special_ids for t in texts] == list(wordpiece.word_starts())


def test_capitals_can_be_left_out() -> None:
    for tokens in EVERY:
        preprocess = trained(tokens, lowercase=True)
        assert preprocess.encode("BAKI Luna").tolist() == preprocess.encode("baki luna").tolist()
        assert preprocess.decode(preprocess.encode("BA")) == "ba"


def test_the_vocabulary_is_as_large_as_asked_and_shrinks_with_the_text() -> None:
    for tokens in ("bpe", "wordpiece", "unigram"):
        assert trained(tokens, vocab_size=290).vocab_size == 290
    preprocess, said = tokenizer_for(DataConfig(tokens="bpe"), [TEXT])
    assert preprocess.vocab_size == 512
    assert "a vocabulary of 512 and not 8,192, since the text is small (data.vocab_size)" in said
    _, said = tokenizer_for(DataConfig(tokens="bpe", vocab_size=50_000), [TEXT])
    assert any(note.startswith("data.vocab_size=50000: the training text gives no more than") for note in said)


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.vocab_size=200 is not allowed with data.tokens=bpe.*at least 260"):
        trained("bpe", vocab_size=200)
    with pytest.raises(ConfigError, match=r"data.vocab_size=20 is not allowed with data.tokens=unigram.*at least \d+"):
        trained("unigram", vocab_size=20)
    with pytest.raises(ConfigError, match=r"data.vocab_size=5 is not allowed with data.tokens=wordpiece"):
        trained("wordpiece", vocab_size=5)
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        tokenizer_for(DataConfig(tokens="bpe"), [])


def test_a_given_tokenizer_and_settings_of_a_trained_one_exclude_each_other(
    made: dict[Tokens, TextPreprocess], tmp_path: Path
) -> None:
    save_preprocess(made["bpe"], tmp_path)
    given_: dict[str, Any] = {"tokenizer": str(tmp_path)}
    assert tokenizer_for(DataConfig(**given_), [])[0] == made["bpe"]
    for wrong in ({"tokens": "bpe"}, {"vocab_size": 300}, {"lowercase": True}):
        with pytest.raises(ConfigError, match=r"data\.\w+.* and data.tokenizer=.* exclude each other"):
            tokenizer_for(DataConfig(**given_, **wrong), [])


def test_a_tokenizer_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.tokenizer=/nowhere does not exist"):
        open_tokenizer("/nowhere")
    with pytest.raises(DataError, match=r"holds no tokenizer.json"):
        open_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(DataError, match=r"has vocab.txt, an older form.*AutoTokenizer"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(DataError, match=r"tokenizer.json is damaged"):
        open_tokenizer(tmp_path)


def test_a_vocabulary_larger_than_the_models_is_refused(made: dict[Tokens, TextPreprocess]) -> None:
    made["bpe"].check_fits(made["bpe"].vocab_size)
    with pytest.raises(ConfigError, match=r"The tokenizer has 512 tokens, the model only 100"):
        made["bpe"].check_fits(100)


def test_a_folder_of_another_library_says_which_token_is_what(
    made: dict[Tokens, TextPreprocess], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(made["bpe"].tokenizer)
    config = {"bos_token": "<mask>", "eos_token": {"content": "</s>"}, "pad_token": None, "chat_template": "{{ 1 }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = open_tokenizer(tmp_path)
    assert (found.start, found.end, found.pad, found.chat_template) == (
        made["bpe"].mask,
        made["bpe"].end,
        None,
        "{{ 1 }}",
    )
    (tmp_path / "chat_template.jinja").write_text("{{ 2 }}")
    assert open_tokenizer(tmp_path).chat_template == "{{ 2 }}"
    by_name = open_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").unlink()
    assert open_tokenizer(tmp_path / "tokenizer.json").roles["pad"] == "<pad>"  # by their usual names
    assert by_name.roles == found.roles


@pytest.mark.parametrize("tokens", EVERY)
def test_special_tokens_can_be_added_without_moving_the_others(
    tokens: Tokens, made: dict[Tokens, TextPreprocess]
) -> None:
    before = made[tokens]
    after = before.with_special(["<|user|>", "<|end|>", "<pad>", "[PAD]"])
    added = after.vocab_size - before.vocab_size
    assert added == len({"<|user|>", "<|end|>", "<pad>", "[PAD]"} - before.special_ids.keys())
    assert after.encode(HARD).tolist() == before.encode(HARD).tolist()
    assert after.encode("<|user|>ba", marked=True)[0] == after.special_ids["<|user|>"] >= before.vocab_size


def test_an_unknown_character_becomes_the_unknown_token_where_there_is_one(made: dict[Tokens, TextPreprocess]) -> None:
    preprocess = made["character"]
    assert preprocess.encode("baЖ").tolist()[-1] == preprocess.unk
    assert preprocess.token_text(int(preprocess.unk or 0)) == "<unk>"
