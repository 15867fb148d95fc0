"""Files as text, and their bad bytes named."""

from __future__ import annotations

from pathlib import Path

from strata.data.preprocess import one_newline
from strata.errors import DataError


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte-order mark, its lines ending in \\n.

    Raises DataError naming the first byte that is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        looks = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}. Convert it, for example: "
            f"iconv -f {looks} -t UTF-8 {path.name} > new.txt"
        ) from None
    return one_newline(text.removeprefix("\ufeff"))
