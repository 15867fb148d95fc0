"""Files as text, their bad bytes named; and what a folder holds beside the files that are wanted, in words."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from pathlib import Path

from strata.data.tokens import one_newline
from strata.errors import DataError

NAMED = 5
"""Of many things, how many are named in a line."""


def read_text(path: Path, encoding: str = "utf-8", most: int | None = None) -> str:
    """Return a file's text, without a byte-order mark, its lines ending in \\n; a .gz file is unpacked.

    Args:
        most: bytes that are read of a longer file, up to the end of a line.

    Raises DataError naming the first byte that is not of the encoding, UTF-8 if nothing else is said.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(-1 if most is None else most)
            if most is not None and len(content) == most:
                content = content[: content.rfind(b"\n") + 1]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        text = content.decode(encoding)
    except LookupError:
        raise DataError(f"data.encoding={encoding} is no encoding that Python knows, such as latin-1.") from None
    except UnicodeDecodeError as error:
        if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise DataError(f"{path} is not {encoding} text: byte {error.start}.") from None
        looks = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}. Convert it, for example: "
            f"iconv -f {looks} -t UTF-8 {path.name} > new.txt (or name it: data.encoding={looks})"
        ) from None
    return one_newline(text.removeprefix("\ufeff"))


def ignored(others: Counter[str], what: str) -> list[str]:
    """Return a line on the files that are not ``what``, the most frequent first; none where there are none.

    Args:
        others: how many files of each extension, or other words.
    """
    told = ", ".join(f"{count:,} {name}" for name, count in others.most_common(NAMED))
    more = ", and others" if len(others) > NAMED else ""
    return [f"ignored what is no {what}: {told}{more}"] if others else []
