"""Files from the network: resumable, verified, locked across processes, whole or absent.

A file is written beside its place as ``NAME.part``, continued from there after any interruption, and renamed once its
SHA-256 is right. What lies in the cache is verified each time it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from strata.errors import DataError

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30
TRIES = 3
"""For each address; each continues where the one before broke off."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that can be had from any of several addresses."""

    name: str
    urls: tuple[str, ...]
    size: int
    """In bytes."""
    sha256: str


def fetch(what: str, files: Sequence[RemoteFile], folder: Path) -> list[Path]:
    """Return the files' paths in ``folder``, downloading those that are not there.

    Args:
        what: the data set's name, for words.

    Raises DataError when a file cannot be had from any address, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            return [_fetch_one(what, file, folder) for file in files]
    except OSError as error:
        raise DataError(
            f"Cannot keep {what} in {folder}: {error.strerror or error}. Set STRATA_CACHE elsewhere."
        ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work in the folder; the lock ends with its holder, however that ends."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_one(what: str, file: RemoteFile, folder: Path) -> Path:
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists():
        if _sha256(path) == file.sha256:
            return path
        log.warning("%s is not what it should be; it is downloaded again.", path)
        path.unlink()
    reasons: list[str] = []
    for url in file.urls:
        log.info("Downloading %s (%.1f MB)", url, file.size / 1e6)
        reason = _download(url, file, part)
        if not reason:
            part.replace(path)
            return path
        reasons.append(f"{url} ({reason})")
    raise DataError(
        f"Cannot download {file.name} of {what}: {'; '.join(reasons)}. "
        f"Put the file into {folder} by hand, or give data=PATH of your own copy."
    )


def _download(url: str, file: RemoteFile, part: Path) -> str:
    """Download to ``part``, and return why it failed, or nothing."""
    reason = ""
    for _ in range(TRIES):
        try:
            _continue(url, file, part)
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = str(cause) or type(error).__name__
            if isinstance(error, urllib.error.URLError):
                return reason  # not even a connection
            continue
        size = part.stat().st_size
        if size < file.size:
            reason = f"the connection broke after {size:,} of {file.size:,} bytes"
            continue
        found = _sha256(part)
        if found == file.sha256:
            return ""
        part.unlink()
        return f"wrong content: SHA-256 {found[:16]}... in place of {file.sha256[:16]}..."
    return reason


def _continue(url: str, file: RemoteFile, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= file.size:
        if have > file.size:
            part.unlink()
            have = 0
        else:
            return
    request = urllib.request.Request(
        url, headers={"User-Agent": "strata"} | ({"Range": f"bytes={have}-"} if have else {})
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != 206:
            have = 0  # the server sends it whole
        with part.open("ab" if have else "wb") as out:
            try:
                while have <= file.size and (chunk := response.read(min(_CHUNK, file.size + 1 - have))):
                    out.write(chunk)
                    have += len(chunk)
            finally:
                out.flush()
                os.fsync(out.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
