"""Text as tokens: characters, bytes, words, or parts of words; kept as ``preprocess.json`` and ``tokenizer.json``.

Characters and bytes go through a table here; all else goes through the `tokenizers` library, whose file is kept as it
is, so that other libraries open it. How a tokenizer is trained or found is told in `tokenizer.py`.

T tokens, V tokens in the vocabulary.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from strata.errors import ConfigError, DataError

Tokens = Literal["character", "byte", "word", "bpe", "wordpiece", "unigram"]
FILE = "tokenizer.json"
PIECE = 50_000
"""Characters of a long text that are encoded at a time: a library's encoding takes a hundred times a token's room."""
_BATCH = 64
"""Pieces, or short texts, given to the library in one call, which it spreads over the cores."""
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
_METASPACE = "\u2581"
_HUGGINGFACE_ROLES = {
    "pad": "pad_token",
    "unk": "unk_token",
    "start": "bos_token",
    "end": "eos_token",
    "cls": "cls_token",
    "sep": "sep_token",
    "mask": "mask_token",
}


def sentinels(count: int) -> tuple[str, ...]:
    """Return the names of special tokens that stand for spans left out of a text, as T5 has them."""
    return tuple(f"<extra_id_{number}>" for number in range(count))


def one_newline(text: str) -> str:
    """Return a text whose lines end in \\n, whatever system wrote it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True, kw_only=True)
class TextPreprocess:
    """Text as tokens, and back.

    A text is only ever text: what it writes like a special token is encoded as the letters that it is, unless it is
    read as ``marked``.
    """

    kind: ClassVar[str] = "text"

    tokens: Tokens
    characters: tuple[str, ...] = ()
    """Of tokens that are characters, in their order; empty for all others."""
    special_tokens: tuple[str, ...] = ()
    """Of characters and bytes: those after the others, in their order. For all else, ``tokenizer`` lists them."""
    roles: dict[str, str] = field(default_factory=dict)
    """Which special token is "pad", "unk", "start", "end", "mask", "cls" and "sep", where there is one."""
    lowercase: bool = False
    """Of characters and bytes: capitals are not told apart. For all else, ``tokenizer`` says it."""
    chat_template: str = ""
    """How a conversation is written as one text: see `chat_template.py`."""
    tokenizer: str = ""
    """Content of ``tokenizer.json``; empty for characters and bytes, whose file is made from the above."""
    labels: tuple[str, ...] = ()

    # ---------------------------------------------------------------------------------------- the vocabulary

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        if self._is_table:
            return self._base_size + len(self.special_tokens)
        return max(self._id_of.values()) + 1

    @property
    def pad(self) -> int | None:
        """The token that fills up shorter texts."""
        return self._role("pad")

    @property
    def unk(self) -> int | None:
        """The token of what training never saw."""
        return self._role("unk")

    @property
    def start(self) -> int | None:
        """The token before a text."""
        return self._role("start")

    @property
    def end(self) -> int | None:
        """The token after a text."""
        return self._role("end")

    @property
    def mask(self) -> int | None:
        """The token in the place of one to be guessed."""
        return self._role("mask")

    @property
    def cls(self) -> int | None:
        """The token before a text to be classified."""
        return self._role("cls")

    @property
    def sep(self) -> int | None:
        """The token between two texts."""
        return self._role("sep")

    def _role(self, name: str) -> int | None:
        return self.special_ids.get(self.roles.get(name, ""))

    @functools.cached_property
    def special_ids(self) -> dict[str, int]:
        """Every special token's number, by its text."""
        if self._is_table:
            return {text: self._base_size + k for k, text in enumerate(self.special_tokens)}
        added = self._library.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items()) if token.special}

    def token_text(self, token: int) -> str:
        """Return one token as a person reads it; a special token by its name, bytes that are no UTF-8 as U+FFFD."""
        if token in self._specials:
            return next(text for text, number in self.special_ids.items() if number == token)
        if self._bytes_of is not None:
            return self._bytes_of.get(token, b"").decode("utf-8", errors="replace")
        if self.tokens == "character":
            return self.characters[token] if 0 <= token < len(self.characters) else ""
        piece = str(self._library.id_to_token(token) or "")
        return piece.removeprefix("##") if self._style == "wordpiece" else piece.replace(_METASPACE, " ")

    def token_bytes(self, token: int) -> bytes | None:
        """Return what a token adds to a text that has begun, in UTF-8; None for a special one.

        Raises ConfigError where a text is not its tokens put together: between words, spaces come and go.
        """
        if token in self._specials:
            return None
        if self._bytes_of is not None:
            return self._bytes_of.get(token)
        if self.tokens == "character":
            return self.characters[token].encode("utf-8", "surrogatepass")
        if self._style != "metaspace":
            raise ConfigError("The text of words and WordPiece is not that of its tokens put together.")
        text = self.token_text(token)
        return bytes([int(text[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", text) else text.encode()

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """The tokens that the tokenizer's own file puts before every text, as Llama's does."""
        if self._is_table:
            return ()
        alone = self._library.encode("a", add_special_tokens=False).ids
        whole = self._library.encode("a", add_special_tokens=True).ids
        return tuple(whole[: whole.index(alone[0])])

    def word_starts(self) -> np.ndarray:
        """Return which tokens begin a word, bool (V,), for masking whole words; special tokens begin none.

        Where spaces belong to the tokens, it is those with one in front, and punctuation, that begin a word; characters
        and bytes all do.
        """
        begins_V = np.zeros(self.vocab_size, dtype=bool)
        if self._is_table:
            begins_V[: self._base_size] = True
            return begins_V
        for piece, number in self._id_of.items():
            if self._bytes_of is not None:
                first = self._bytes_of.get(number, b"").decode("utf-8", errors="ignore")[:1]
                begins_V[number] = bool(first) and not first.isalnum()
            elif self._style == "wordpiece":
                begins_V[number] = not piece.startswith("##")
            elif self._style == "metaspace":
                begins_V[number] = not piece[:1].isalnum()
            else:
                begins_V[number] = True
        begins_V[list(self._specials)] = False
        return begins_V

    def check_fits(self, vocab_size: int) -> None:
        """Raise ConfigError where a model of so many tokens cannot read what this gives."""
        if self.vocab_size > vocab_size:
            raise ConfigError(
                f"The tokenizer has {self.vocab_size:,} tokens, the model only {vocab_size:,}. Take the tokenizer that "
                f"came with the model: data.tokenizer=FOLDER."
            )

    def with_special(self, texts: Sequence[str], *, chat_template: str | None = None) -> TextPreprocess:
        """Return the same with more special tokens, after all others; those that are there are left as they are."""
        new = [text for text in dict.fromkeys(texts) if text not in self.special_ids]
        template = self.chat_template if chat_template is None else chat_template
        if self._is_table:
            return dataclasses.replace(
                self, special_tokens=(*self.special_tokens, *new), chat_template=template, roles=dict(self.roles)
            )
        library = _opened(self.tokenizer)
        library.add_special_tokens(new)
        return dataclasses.replace(self, tokenizer=library.to_str(), chat_template=template)

    # ---------------------------------------------------------------------------------------- text to tokens

    def read(self, raw: Any) -> Tensor:
        """Turn a text into tokens, int64 (T,). Raises DataError for a character that training never saw."""
        if not isinstance(raw, str):
            raise DataError(f"A text is a str, not {type(raw).__name__}.")
        return torch.from_numpy(self.encode(one_newline(raw)).astype(np.int64))

    def encode(self, text: str, *, marked: bool = False) -> np.ndarray:
        """Turn a text into tokens of the smallest type that holds them: uint8, uint16 or int32 (T,).

        Nothing is put before or after it, and it may be of any length: its pieces are encoded one after the other.

        Args:
            marked: special tokens that stand in the text are taken as such.
        """
        if self._is_table:
            return self._encode_table(text, marked)
        parts = [text] if marked or len(text) <= PIECE else pieces(text, keep_space=not self._spaces_are_implied)
        found = [np.zeros(0, dtype=self._dtype)]
        for batch in _batches(parts):
            encodings = self._reading(marked).encode_batch_fast(batch, add_special_tokens=False)
            found += [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]
        return np.concatenate(found)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into tokens each, as `encode` does."""
        if self._is_table:
            return [self.encode(text) for text in texts]
        found: list[np.ndarray] = []
        for batch in _batches(texts):
            if any(len(text) > PIECE for text in batch):
                found += [self.encode(text) for text in batch]
            else:
                encodings = self._reading(False).encode_batch_fast(list(batch), add_special_tokens=False)
                found += [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]
        return found

    def encode_with_offsets(self, text: str, *, marked: bool = False) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Turn a text into tokens (T,), and say of which of its characters each was made: from, and up to."""
        if not self._is_table:
            encoding = self._reading(marked).encode(text, add_special_tokens=False)
            return np.array(encoding.ids, dtype=self._dtype), [(int(a), int(b)) for a, b in encoding.offsets]
        token_T, place, offsets = self._encode_table(text, marked), 0, []
        special = {number: name for name, number in self.special_ids.items()} if marked else {}
        for token in token_T.tolist():
            if token in special and text.startswith(special[token], place):
                width = len(special[token])
            elif self.tokens == "character":
                width = 1
            else:  # the bytes after a character's first are of the same character
                width = 0 if token & 0xC0 == 0x80 else 1
            offsets.append((place, place + width) if width else (place - 1, place))
            place += width
        return token_T, offsets

    def _encode_table(self, text: str, marked: bool) -> np.ndarray:
        if marked and self.special_ids:
            longest_first = sorted(self.special_ids, key=len, reverse=True)
            parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
            found = [
                np.array([self.special_ids[part]], dtype=self._dtype) if k % 2 else self._encode_table(part, False)
                for k, part in enumerate(parts)
            ]
            return np.concatenate(found)
        if self.lowercase:
            text = _lower(text)
        if self.tokens == "byte":
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(self._dtype, copy=False)
        code_T = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        token_T = self._token_of_code[np.minimum(code_T, len(self._token_of_code) - 1)]
        if (token_T < 0).any():
            if self.unk is None:
                place = int((token_T < 0).argmax())
                raise DataError(
                    f"Character {text[place]!r} at place {place} of the text is not among the {len(self.characters)} "
                    f"that the model knows. Leave it out, or train with data.tokens=byte."
                )
            token_T = np.where(token_T < 0, self.unk, token_T)
        return token_T.astype(self._dtype)

    # ---------------------------------------------------------------------------------------- tokens to text

    def decode(self, tokens: Any) -> str:
        """Turn tokens into text, special ones left out; bytes that are no UTF-8 become U+FFFD."""
        numbers = [int(n) for n in (tokens.tolist() if isinstance(tokens, Tensor | np.ndarray) else tokens)]
        numbers = [number for number in numbers if number not in self._specials]
        if self._bytes_of is not None:
            return b"".join(self._bytes_of.get(n, b"") for n in numbers).decode("utf-8", errors="replace")
        if self.tokens == "character":
            return "".join(self.token_text(number) for number in numbers)
        return str(self._library.decode(numbers, skip_special_tokens=True))

    def decoder(self, after: Iterable[int] = ()) -> Streaming:
        """Return a function that turns token after token into text, a character once its last byte has come.

        Args:
            after: tokens that came before and are not repeated: whether a word needs a space depends on them.
        """
        return Streaming(self, after)

    def normalize(self, input_B: Tensor) -> Tensor:
        """Return tokens as they are."""
        return input_B

    # ---------------------------------------------------------------------------------------- how it is kept

    def file(self) -> str:
        """Return the content of ``tokenizer.json``, which the `tokenizers` and `transformers` libraries open."""
        return self._library.to_str(pretty=False) if self._is_table else self.tokenizer

    def write_huggingface(
        self, folder: Path | str, *, first: int | None = None, last: int | None = None, segments: int = 0
    ) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, as `transformers` opens them.

        Args:
            first: token that a model's texts begin with, and ``last`` that they end with. A tokenizer that came from
                elsewhere, and says itself what it puts there, is left as it is.
            segments: kinds of text that the model tells apart; of two a pair's second text is the other.
        """
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", *["token_type_ids"] * (segments > 1), "attention_mask"],
        } | {_HUGGINGFACE_ROLES[role]: text for role, text in self.roles.items()}
        if self.chat_template:
            config["chat_template"] = self.chat_template
        Path(folder, FILE).write_text(self._framed(first, last, segments), encoding="utf-8")
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        Path(folder, "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _framed(self, first: int | None, last: int | None, segments: int) -> str:
        """Return the content of ``tokenizer.json`` that puts marks around texts, where it puts none."""
        from tokenizers import Tokenizer, processors

        library: Any = Tokenizer.from_str(self.file())
        marks = [(library.id_to_token(number), number) for number in (first, last) if number is not None]
        if not marks or library.post_processor is not None:
            return self.file()
        before = f"{library.id_to_token(first)} " if first is not None else ""
        after = f" {library.id_to_token(last)}" if last is not None else ""
        kind = 1 if segments > 1 else 0
        library.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{after}",
            pair=f"{before}$A{after} $B:{kind}" + (f"{after}:{kind}" if after else ""),
            special_tokens=list(dict(marks).items()),
        )
        return str(library.to_str())

    @property
    def _is_table(self) -> bool:
        return self.tokens in ("character", "byte")

    @property
    def _base_size(self) -> int:
        return 256 if self.tokens == "byte" else len(self.characters)

    @functools.cached_property
    def _dtype(self) -> Any:
        if self.vocab_size <= 256:
            return np.uint8
        return np.int32 if self.tokens == "character" or self.vocab_size > 65_536 else np.uint16

    @functools.cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self.special_ids.values())

    @functools.cached_property
    def _token_of_code(self) -> np.ndarray:
        codes = [ord(character) for character in self.characters]
        table = np.full(max(codes, default=0) + 2, -1, dtype=np.int32)  # the last place: any greater code
        table[codes] = np.arange(len(codes), dtype=np.int32)
        return table

    @functools.cached_property
    def _library(self) -> Any:
        return _opened(self._file_of_table() if self._is_table else self.tokenizer)

    @functools.cached_property
    def _unmarked(self) -> Any:
        content = json.loads(self.tokenizer)
        if content["model"].get("type") == "Unigram":  # it knows them as parts of words too, the likeliest of all
            vocabulary = content["model"]["vocab"]
            content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
            for number in self._specials & set(range(len(vocabulary))):
                vocabulary[number][0] = f"\uffff{number}"
        found = _opened(json.dumps(content))
        found.encode_special_tokens = True
        return found

    def _reading(self, marked: bool) -> Any:
        return self._library if marked else self._unmarked

    @functools.cached_property
    def _id_of(self) -> dict[str, int]:
        return dict(self._library.get_vocab(with_added_tokens=True))

    @functools.cached_property
    def _style(self) -> str:
        """How tokens show where words begin: "byte", "wordpiece", "metaspace" or "word"."""
        content = json.loads(self.tokenizer)
        decoders = json.dumps(content.get("decoder"))
        if '"ByteLevel"' in decoders:
            return "byte"
        if content["model"].get("type") == "WordPiece":
            return "wordpiece"
        return "metaspace" if _METASPACE in decoders or '"Metaspace"' in decoders else "word"

    @functools.cached_property
    def _bytes_of(self) -> dict[int, bytes] | None:
        """The bytes of each token, where text is their concatenation."""
        if self.tokens == "byte":
            return {number: bytes([number]) for number in range(256)}
        if self.tokens == "character" or self._style != "byte":
            return None
        byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        return {
            number: bytes(byte_of[c] for c in piece) if all(c in byte_of for c in piece) else piece.encode()
            for piece, number in self._id_of.items()
            if number not in self._specials
        }

    @functools.cached_property
    def _spaces_are_implied(self) -> bool:
        """The space between two words is no token's, or that of the second word even where no space is there."""
        one = self._unmarked.encode("a", add_special_tokens=False).ids
        return bool(self._unmarked.encode("a a", add_special_tokens=False).ids == one + one)

    def _file_of_table(self) -> str:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        model: Any
        if self.tokens == "byte":
            model = models.BPE(vocab={letter: byte for byte, letter in enumerate(byte_letters())}, merges=[])
            library = Tokenizer(model)
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            library.decoder = decoders.ByteLevel()
        else:
            vocabulary = {character: number for number, character in enumerate(self.characters)}
            unknown = self.roles.get("unk", "<unk>")
            if "unk" in self.roles:
                vocabulary |= {text: len(self.characters) + k for k, text in enumerate(self.special_tokens)}
            library = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=unknown))
            library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
            library.decoder = decoders.Fuse()
        if self.lowercase:
            library.normalizer = normalizers.Lowercase()
        library.add_special_tokens(list(self.special_tokens))
        return str(library.to_str())


class Streaming:
    """Text as its tokens come: the pieces, and what `finish` gives at the end, are what `decode` gives of them all."""

    def __init__(self, preprocess: TextPreprocess, after: Iterable[int] = ()) -> None:
        self._preprocess = preprocess
        self._skipped = preprocess._specials
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._window = [token for token in after if token not in self._skipped][-1:]
        self._given = preprocess.decode(self._window)

    def __call__(self, token: int) -> str:
        """Return what the next token adds to the text; nothing for a special one."""
        if token in self._skipped:
            return ""
        if self._preprocess._bytes_of is not None:
            return self._bytes.decode(self._preprocess._bytes_of.get(token, b""))
        # Spaces depend on the token before, so that two are decoded, and what the first gave is taken off.
        text = self._preprocess.decode([*self._window, token])
        if text.endswith("\ufffd") and len(self._window) < 8:  # a character whose other bytes are still to come
            self._window.append(token)
            return ""
        piece = text[len(self._given) :]
        self._window = [token]
        self._given = self._preprocess.decode(self._window)
        return piece

    def finish(self) -> str:
        """Return what is left of a character that was never finished."""
        if self._preprocess._bytes_of is not None:
            return self._bytes.decode(b"", final=True)
        return self._preprocess.decode(self._window)[len(self._given) :]


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary (GPT-2's): itself where it is visible."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(unseen)) for byte in range(256)]


def _opened(content: str) -> Any:
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(content)
    library.no_truncation()  # a model's context cuts a text, where it is seen, and not its file
    library.no_padding()
    return library


def _lower(text: str) -> str:
    """Return a text in small letters, as many as it had."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def pieces(text: str, *, keep_space: bool) -> list[str]:
    """Cut a long text between two words, where no token reaches across.

    Args:
        keep_space: the space there begins the next piece, else it is left out.
    """
    found, start = [], 0
    while len(text) - start > PIECE:
        gap = _BETWEEN_WORDS.search(text, start + PIECE, start + 3 * PIECE)
        if gap is None:  # a writing without spaces: a line's end, or anywhere
            line = text.find("\n", start + PIECE, start + 3 * PIECE)
            cut = line if line > 0 else min(start + 3 * PIECE, len(text))
            found.append(text[start:cut])
            start = cut
        else:
            found.append(text[start : gap.start()])
            start = gap.start() if keep_space else gap.end()
    return [*found, text[start:]]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield texts together that are not too long together."""
    start, size = 0, 0
    for k, text in enumerate(texts):
        if k > start and (size + len(text) > _BATCH * PIECE or k - start >= 1024 * _BATCH):
            yield texts[start:k]
            start, size = k, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def read_file(path: Path) -> str:
    """Return the content of a ``tokenizer.json``, checked. Raises DataError where it is missing or damaged."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the tokenizer is not there, or is not whole.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    try:
        _opened(content)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is damaged, or of another kind of tokenizer: {error}.") from None
    return content
