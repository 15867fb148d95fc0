"""Where a tokenizer comes from: trained on the training texts, or taken from a ``tokenizer.json``.

Byte-level BPE as GPT-2 has it (Radford et al. 2019), WordPiece as BERT (Schuster and Nakajima 2012, Devlin et al.
2019), Unigram with visible spaces as T5 (Kudo 2018), and the most frequent words. The same texts give the same
tokenizer, to the last byte, which takes some care: the library's trainers go through hash tables in an order that
changes.
"""

from __future__ import annotations

import json
import math
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from strata.data.dataset import DataConfig
from strata.data.tokens import FILE, PIECE, TextPreprocess, Tokens, pieces, read_file, sentinels
from strata.errors import ConfigError, DataError

__all__ = ["TextPreprocess", "open_tokenizer", "tokenizer_for"]

CHARACTERS_AT_MOST = 256
"""Distinct characters up to which each is a token where nothing is said; a text with more is taken as bytes."""
VOCABULARY = 8192
"""Tokens of a trained tokenizer where nothing is said, and enough text is there ..."""
CHARACTERS_PER_TOKEN = 100
"""... which is so many characters for each."""
WORDS = 32_768
"""Words of a vocabulary of words, at most, where nothing is said."""
_SEEN_TWICE = 2
"""How often a word or part has to occur; a word seen once teaches less than what stands for all unknown ones."""
_WORD = r"\w+?(?=n['\u2019]t\b)|n['\u2019]t\b|['\u2019](?:s|ve|re|d|ll|m)\b|\w+|\n|[^\w\s]"
"""A word; what the Penn Treebank takes off one ("does n't", "film 's"); a mark; or a line's end."""
_SIMPLE = {"pad": "<pad>", "unk": "<unk>", "start": "<s>", "end": "</s>"}
_ROLES: Mapping[Tokens, Mapping[str, str]] = {
    "character": _SIMPLE,
    "byte": {role: text for role, text in _SIMPLE.items() if role != "unk"},
    "word": _SIMPLE,
    "bpe": {"pad": "<pad>", "start": "<s>", "end": "</s>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"},
    "wordpiece": {
        "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
        "start": "[CLS]", "end": "[SEP]",
    },
    "unigram": {
        "pad": "<pad>", "end": "</s>", "unk": "<unk>", "start": "<s>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"
    },
}  # fmt: skip
"""Special tokens of a trained tokenizer, in the order of their numbers, as the models have them that made it known."""
_USUAL_ROLES: Mapping[str, Sequence[str]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
    "start": ("<s>", "[CLS]", "<|begin_of_text|>", "<|endoftext|>", "<bos>"),
    "end": ("</s>", "[SEP]", "<|end_of_text|>", "<|endoftext|>", "<eos>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("<mask>", "[MASK]"),
}
"""What special tokens are called where a folder does not say which is which."""
_THEIR_ROLES = {
    "pad_token": "pad",
    "unk_token": "unk",
    "bos_token": "start",
    "eos_token": "end",
    "cls_token": "cls",
    "sep_token": "sep",
    "mask_token": "mask",
}
_KIND_OF_MODEL: Mapping[str, Tokens] = {"WordPiece": "wordpiece", "Unigram": "unigram", "WordLevel": "word"}


def tokenizer_for(
    config: DataConfig,
    texts: Sequence[str],
    *,
    default: Tokens | None = None,
    special: bool = False,
    others: Iterable[str] = (),
    more: Sequence[str] = (),
) -> tuple[TextPreprocess, list[str]]:
    """Return the tokenizer that the settings ask for, and what was decided, in words.

    Args:
        texts: what it is trained on: the training texts.
        default: the kind where data.tokens does not say; None: characters where they are few, else bytes.
        special: characters and bytes get special tokens too; all else has them in any case.
        others: texts whose characters are tokens too, where characters are.
        more: further special tokens.

    Raises ConfigError for settings that contradict each other or a vocabulary that is too small, DataError for a
    tokenizer that is missing or damaged.
    """
    more = (*more, *sentinels(config.sentinels))
    if config.tokenizer is not None:
        found = open_tokenizer(config.tokenizer)
        for name, value in (("tokens", config.tokens), ("vocab_size", config.vocab_size)):
            if value is not None:
                raise ConfigError(
                    f"data.{name}={value} and data.tokenizer={config.tokenizer} exclude each other: a tokenizer that "
                    f"is given stays as it is. Leave one out."
                )
        if config.lowercase and not found.lowercase:
            raise ConfigError(
                f"data.lowercase and data.tokenizer={config.tokenizer} exclude each other: that tokenizer tells "
                f"capitals apart, and stays as it is. Leave one out."
            )
        found = found.with_special(more) if more else found
        return found, [f"tokens are those of {config.tokenizer}: {found.vocab_size:,}"]
    said = []
    tokens = config.tokens or default
    characters: tuple[str, ...] = ()
    if tokens in (None, "character"):
        characters = tuple(sorted(set().union(*map(set, texts), *map(set, others))))
        if config.lowercase:
            characters = tuple(sorted({c.lower() if len(c.lower()) == 1 else c for c in characters}))
    if tokens is None:
        tokens = "character" if len(characters) <= CHARACTERS_AT_MOST else "byte"
        why = f"{len(characters):,} distinct characters, " + ("at most" if tokens == "character" else "more than")
        said.append(f"tokens are {tokens}s: {why} {CHARACTERS_AT_MOST}")
    if tokens in ("character", "byte"):
        if config.vocab_size is not None:
            said.append(f"data.vocab_size has no effect where tokens are {tokens}s")
        roles = dict(_ROLES[tokens]) if special else {}
        return TextPreprocess(
            tokens=tokens,
            characters=characters if tokens == "character" else (),
            special_tokens=tuple(dict.fromkeys([*roles.values(), *more])),
            roles=roles,
            lowercase=config.lowercase,
        ), said
    found, notes = _train(tokens, config, texts, more)
    if config.tokens is None:
        said.append(f"tokens are {'words' if tokens == 'word' else tokens} (data.tokens)")
    return found, [*said, *notes]


# ------------------------------------------------------------------------------------------------ training


def _train(
    tokens: Tokens, config: DataConfig, texts: Sequence[str], more: Sequence[str]
) -> tuple[TextPreprocess, list[str]]:
    from tokenizers import Tokenizer, decoders, normalizers

    roles = dict(_ROLES[tokens])
    special = list(dict.fromkeys([*roles.values(), *more]))
    size = sum(map(len, texts))
    if size == 0:
        raise DataError("There is no text to train a tokenizer on.")
    asked = config.vocab_size
    room = WORDS if tokens == "word" else min(VOCABULARY, max(512, 64 * math.ceil(size / CHARACTERS_PER_TOKEN / 64)))
    vocab_size = asked or room + len(more)
    if tokens == "bpe" and vocab_size < 256 + len(special):
        raise ConfigError(
            f"data.vocab_size={vocab_size} is not allowed with data.tokens=bpe: it has to be at least "
            f"{256 + len(special)}, the 256 bytes and {len(special)} special tokens. Raise it, or leave it out."
        )
    normalizer: Any = normalizers.Lowercase() if config.lowercase else None
    if tokens == "wordpiece":
        normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    train = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram, "word": _words}[tokens]
    model, splitter, decoder = train(texts, normalizer, vocab_size, special, asked is not None)
    library: Any = Tokenizer(model)
    if normalizer is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = splitter
    library.decoder = decoder or decoders.Fuse()
    library.add_special_tokens(special)
    found = TextPreprocess(tokens=tokens, roles=roles, lowercase=config.lowercase, tokenizer=library.to_str())
    what = {"word": "words", "bpe": "parts of words (byte-level BPE)", "wordpiece": "parts of words (WordPiece)"}
    said = [f"trained on {size:,} characters: {found.vocab_size:,} {what.get(tokens, 'parts of words (Unigram)')}"]
    if asked is not None and found.vocab_size < asked:
        said.append(f"data.vocab_size={asked}: the training text gives no more than {found.vocab_size:,}")
    if asked is None and tokens != "word" and room < VOCABULARY:
        said.append(f"a vocabulary of {vocab_size:,} and not {VOCABULARY:,}, since the text is small (data.vocab_size)")
    return found, said


def _stream(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from pieces(text, keep_space=True) if len(text) > PIECE else (text,)


def _fit(model: Any, normalizer: Any, splitter: Any, trainer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Train with the library; return what it would write of the model."""
    from tokenizers import Tokenizer

    library: Any = Tokenizer(model)
    if normalizer is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = splitter
    library.train_from_iterator(_stream(texts), trainer)
    found: dict[str, Any] = json.loads(library.to_str())["model"]
    return found


def _bpe(texts: Sequence[str], normalizer: Any, size: int, special: Sequence[str], asked: bool) -> tuple[Any, Any, Any]:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=_SEEN_TWICE,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learned = _fit(models.BPE(), normalizer, splitter, trainer, texts)
    merges = [tuple(pair) for pair in learned["merges"]]
    return models.BPE(vocab=learned["vocab"], merges=merges), splitter, decoders.ByteLevel()


def _wordpiece(
    texts: Sequence[str], normalizer: Any, size: int, special: Sequence[str], asked: bool
) -> tuple[Any, Any, Any]:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    counts: Counter[str] = Counter()
    for text in _stream(texts):
        counts.update(normalizer.normalize_str(text))
    frequent = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    # A quarter for characters, each at a word's beginning and inside one, so that half is left for longer parts.
    alphabet = sorted(frequent[: max(1, (size - len(special)) // 4)])
    # Given in this order, since the library would number them in the order of a hash table.
    inside = [f"##{c}" for c in alphabet if not _stands_alone(c)]
    if size < len(special) + len(alphabet) + len(inside):
        raise ConfigError(
            f"data.vocab_size={size} is not allowed with data.tokens=wordpiece: {len(special)} special tokens and a "
            f"few characters do not go into it. Raise it, or leave it out."
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_SEEN_TWICE,
        special_tokens=[*special, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    splitter = pre_tokenizers.BertPreTokenizer()
    learned = _fit(models.WordPiece(unk_token="[UNK]"), normalizer, splitter, trainer, texts)
    model = models.WordPiece(vocab=learned["vocab"], unk_token="[UNK]")
    return model, splitter, decoders.WordPiece(prefix="##")


def _stands_alone(character: str) -> bool:
    """Say whether BERT's splitting makes a word of this character alone: punctuation and Chinese characters."""
    return (
        character in string.punctuation
        or unicodedata.category(character).startswith("P")
        or "CJK UNIFIED IDEOGRAPH" in unicodedata.name(character, "")
    )


def _unigram(
    texts: Sequence[str], normalizer: Any, size: int, special: Sequence[str], asked: bool
) -> tuple[Any, Any, Any]:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    # A line's end is a token of its own, so that, unlike with T5, every text comes back as it was.
    lines: Any = pre_tokenizers.Split("\n", "isolated")
    splitter = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="first")])
    distinct = len(set().union(*map(set, texts)))
    if size < distinct + len(special) + 1:
        if asked:
            raise ConfigError(
                f"data.vocab_size={size} is not allowed with data.tokens=unigram: it has to be at least "
                f"{distinct + len(special) + 1}, the text's {distinct:,} distinct characters, the space's mark and "
                f"{len(special)} special tokens. Raise it, leave it out, or take data.tokens=bpe."
            )
        size = 2 * distinct + len(special)
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    learned = _fit(models.Unigram(), normalizer, splitter, trainer, texts)
    parts = [(str(part), float(score)) for part, score in learned["vocab"] if part not in special]
    vocabulary = [(text, 0.0) for text in special] + _settled(parts)
    model = models.Unigram(vocab=vocabulary, unk_id=list(special).index("<unk>"), byte_fallback=False)
    return model, splitter, decoders.Metaspace(prepend_scheme="first")


def _settled(parts: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the parts of a Unigram vocabulary with scores, and in an order, that are the same in every training.

    Two things come from the order of a hash table: the scores' last digits, as sums in another order, and which of the
    characters that the training had thrown out, and the library adds again, a ten-thousandth above another, gets
    which score.
    """
    lowest = min(score for _, score in parts)
    steps = {part: (score - lowest) / 1e-4 for part, score in parts if len(part) == 1}
    again = {part for part, step in steps.items() if step < len(steps) and abs(step - round(step)) < 1e-6}
    settled = {part: round(score, 6) for part, score in parts if part not in again}
    settled |= {part: round(lowest + 1e-4 * k, 6) for k, part in enumerate(sorted(again))}
    return sorted(settled.items(), key=lambda item: (-item[1], item[0]))


def _words(
    texts: Sequence[str], normalizer: Any, size: int, special: Sequence[str], asked: bool
) -> tuple[Any, Any, Any]:
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=size,
        min_frequency=0 if asked else _SEEN_TWICE,
        special_tokens=list(special),
        show_progress=False,
    )
    learned = _fit(models.WordLevel(unk_token="<unk>"), normalizer, splitter, trainer, texts)
    decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\n\n", cleanup=True),  # words joined by spaces, marks without; no such prefix
            decoders.Replace(" \n", "\n"),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return models.WordLevel(vocab=learned["vocab"], unk_token="<unk>"), splitter, decoder


# ------------------------------------------------------------------------------------------------ found elsewhere


def open_tokenizer(source: Path | str) -> TextPreprocess:
    """Read a ``tokenizer.json``, or a folder that holds one: a run, its ``model/``, or a Hugging Face folder.

    Of a Hugging Face folder, ``tokenizer_config.json`` and ``special_tokens_map.json`` say which token is what, and how
    a conversation is written. Raises DataError where it is missing or damaged.
    """
    path = Path(source).expanduser()
    if (path / "model" / FILE).is_file():
        path = path / "model"
    if path.is_dir():
        if (path / "preprocess.json").is_file():
            from strata.data.preprocess import load

            kept = load(path)
            text = kept if isinstance(kept, TextPreprocess) else getattr(kept, "text", None)
            if isinstance(text, TextPreprocess):
                return text
        if not (path / FILE).is_file():
            raise DataError(_lacking(path))
    elif not path.exists():
        raise DataError(f"data.tokenizer={source} does not exist. Give a tokenizer.json, or a folder that holds one.")
    file = path / FILE if path.is_dir() else path
    content = read_file(file)
    parsed = json.loads(content)
    kind = str(parsed["model"].get("type") or "BPE")  # files of the first versions leave it out
    found = TextPreprocess(
        tokens=_KIND_OF_MODEL.get(kind, "bpe"),
        lowercase=_is_lowercase(parsed.get("normalizer")),
        tokenizer=content,
    )
    roles, template = _roles_of(file.parent)
    usual = {
        role: next((name for name in names if name in found.special_ids), "") for role, names in _USUAL_ROLES.items()
    }
    roles = roles or {role: name for role, name in usual.items() if name}
    roles = {role: name for role, name in roles.items() if name in found.special_ids}
    for role, stand_in in (("start", "cls"), ("end", "sep"), ("start", "pad")):  # a T5's target begins with padding
        if role not in roles and stand_in in roles and (stand_in != "pad" or found.tokens == "unigram"):
            roles[role] = roles[stand_in]
    return TextPreprocess(
        tokens=found.tokens, lowercase=found.lowercase, tokenizer=content, roles=roles, chat_template=template
    )


def _lacking(folder: Path) -> str:
    forms = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
    older = [name for name in forms if (folder / name).exists()]
    if older:
        return (
            f"{folder} has {older[0]}, an older form, and no {FILE}. Write that once with transformers: "
            f"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    return f"{folder} holds no {FILE}. Give that file, or a folder that holds one."


def _is_lowercase(normalizer: Any) -> bool:
    """Say whether a tokenizer's normalizer, as its file has it, makes small letters of capitals."""
    if not isinstance(normalizer, dict):
        return False
    if any(_is_lowercase(part) for part in normalizer.get("normalizers", ())):
        return True
    return normalizer.get("type") == "Lowercase" or bool(normalizer.get("lowercase"))


def _roles_of(folder: Path) -> tuple[dict[str, str], str]:
    """Return which special token is what, by our names, and the chat template, as a Hugging Face folder says."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / name} is damaged: {error}.") from None
        found |= {key: value for key, value in content.items() if value is not None}
    roles = {}
    for theirs, ours in _THEIR_ROLES.items():
        value = found.get(theirs)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            roles[ours] = text
    template = found.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        named = {str(item.get("name")): str(item.get("template")) for item in template}
        template = named.get("default", next(iter(named.values()), ""))
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return roles, str(template)
