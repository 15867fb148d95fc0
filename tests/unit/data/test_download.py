"""Downloads, against a server on this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from strata.data import DataConfig, catalog, open_data
from strata.data.download import RemoteFile, fetch
from strata.errors import DataError

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any name, and can break off."""

    daemon_threads = True
    cut_after: int | None = None
    """Bytes after which the first answer breaks off."""
    ranges = True
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, content = self.headers.get("Range"), self.server.content
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.cut_after is not None:
            end, self.server.cut_after = start + self.server.cut_after, None
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def remote(server: Server, sha256: str | None = None) -> RemoteFile:
    return RemoteFile(
        name="data.bin",
        urls=(f"http://127.0.0.1:{server.server_port}/data.bin",),
        size=len(CONTENT),
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest(),
    )


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        (path,) = fetch("things", [remote(server)], tmp_path)
        assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [".lock", "data.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_continued(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut_after, server.ranges = 5000, ranges
    (path,) = fetch("things", [remote(server)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]


def test_a_part_that_an_earlier_process_left_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:777])
    (path,) = fetch("things", [remote(server)], tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == ["bytes=777-"]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot download data.bin of things: .* \(wrong content: SHA-256"):
        fetch("things", [remote(server, sha256="0" * 64)], tmp_path)
    assert not (tmp_path / "data.bin").exists() and not (tmp_path / "data.bin.part").exists()


def test_a_server_that_sends_too_much_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b"more"
    with pytest.raises(DataError, match="wrong content"):
        fetch("things", [remote(server)], tmp_path)


def test_a_damaged_file_in_the_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"damaged")
    (path,) = fetch("things", [remote(server)], tmp_path)
    assert path.read_bytes() == CONTENT


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    file = remote(server)
    mirrored = RemoteFile(
        name=file.name, urls=("http://127.0.0.1:9/data.bin", *file.urls), size=file.size, sha256=file.sha256
    )
    assert fetch("things", [mirrored], tmp_path)[0].read_bytes() == CONTENT


def test_two_processes_at_once_download_once(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from strata.data.download import RemoteFile, fetch\n"
        "url, size, sha, folder = sys.argv[1:]\n"
        "file = RemoteFile(name='data.bin', urls=(url,), size=int(size), sha256=sha)\n"
        "print(len(fetch('things', [file], Path(folder))[0].read_bytes()))\n"
    )
    file = remote(server)
    arguments = [sys.executable, "-c", code, file.urls[0], str(file.size), file.sha256, str(tmp_path)]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [str(len(CONTENT))] * 2
    assert server.asked == [None]


def test_offline_gives_one_line_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    entry = catalog.DATASETS["fashion-mnist"]
    near = RemoteFile(name="train-images-idx3-ubyte.gz", urls=("http://127.0.0.1:9/x",), size=1, sha256="0" * 64)
    monkeypatch.setitem(catalog.DATASETS, "fashion-mnist", catalog.Entry(**(vars(entry) | {"files": (near,)})))  # type: ignore[arg-type]
    with pytest.raises(DataError) as error:
        open_data(DataConfig(source="fashion_mnist"))
    words = str(error.value)
    assert "Cannot download train-images-idx3-ubyte.gz of fashion-mnist: http://127.0.0.1:9/x (" in words
    assert f"Put the file into {tmp_path / 'fashion-mnist'} by hand, or give data=PATH" in words
    assert "\n" not in words


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Set STRATA_CACHE elsewhere"):
        fetch("things", [], tmp_path / "file" / "inside")
