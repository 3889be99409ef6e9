"""Public logs: downloads from a server on this machine, in every way that they can fail."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from longrec.core.errors import DataError, UsageError
from longrec.data.prepare import prepare
from longrec.data.public import PUBLIC, PublicData, get_public

DAT = b"1::1193::5::978300760\n1::661::3.5::978302109\n2::1193::4::978298413\n"


def zipped(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.txt", "never unpacked")
        archive.writestr(member, content)
    return buffer.getvalue()


class Server:
    """Serves one body; can promise more bytes than it sends, or refuse."""

    def __init__(self) -> None:
        self.body = b""
        self.missing = 0
        self.failures = 0
        self.status = 200
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                missing = outer.missing or (1000 if outer.requests <= outer.failures else 0)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body) + missing))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.zip"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)  # between tries
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.http.shutdown()
    thread.join()
    running.http.server_close()


@pytest.fixture
def movies(server: Server) -> PublicData:
    """MovieLens-1M as its publisher packs it, three ratings long."""
    server.body = zipped("ml-1m/ratings.dat", DAT)
    digest = hashlib.md5(server.body, usedforsecurity=False).hexdigest()
    return replace(PUBLIC["ml-1m"], url=server.url, digest=f"md5:{digest}")


def test_entries_say_what_a_user_must_know() -> None:
    assert len(PUBLIC) >= 8
    for name, data in PUBLIC.items():
        assert data.name == name
        assert data.url.startswith("https://")
        assert data.page.startswith("https://")
        assert data.terms
        assert data.citation
        if data.digest:
            algorithm, _, value = data.digest.partition(":")
            assert len(value) == hashlib.new(algorithm).digest_size * 2
    assert PUBLIC["ml-1m"].digest == "md5:c4d9eecfca2ab87c1945afe126590906"


def test_download_to_histories(tmp_path: Path, server: Server, movies: PublicData) -> None:
    lines: list[str] = []
    steps: list[tuple[int, int | None]] = []
    file = get_public(
        movies,
        tmp_path / "data",
        accept_terms=True,
        report=lines.append,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (len(server.body), len(server.body))
    assert "GroupLens" in "\n".join(lines)
    assert pl.read_parquet(file).rows() == [
        (1, 1193, 5.0, 978300760),
        (1, 661, 3.5, 978302109),
        (2, 1193, 4.0, 978298413),
    ]
    assert json.loads((tmp_path / "data" / "ml-1m.json").read_text())["digest"] == movies.digest
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "ml-1m.json", "ml-1m.parquet"]
    h = prepare(file, tmp_path / "h")
    assert (h.n_users, h.n_items, h.n_events) == (2, 2, 3)
    assert get_public(movies, tmp_path / "data") == file  # there already: no terms, no request
    assert server.requests == 1


def test_terms_come_before_the_download(tmp_path: Path, server: Server, movies: PublicData) -> None:
    with pytest.raises(UsageError, match=r"terms.*GroupLens.*accept_terms=True"):
        get_public(movies, tmp_path)
    assert server.requests == 0
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_user_has(tmp_path: Path, server: Server, movies: PublicData) -> None:
    mine = tmp_path / "mine.zip"
    mine.write_bytes(server.body)
    file = get_public(movies, tmp_path / "data", file=mine)
    assert pl.read_parquet(file).height == 3
    assert server.requests == 0
    assert mine.exists()
    with pytest.raises(DataError, match="no such file"):
        get_public(movies, tmp_path / "other", file=tmp_path / "absent.zip")
    mine.write_bytes(server.body[:-1])
    with pytest.raises(DataError, match=r"mine\.zip has md5 .* known with .* damaged or another"):
        get_public(movies, tmp_path / "other", file=mine)
    mine.write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match=r"mine\.zip is damaged"):
        get_public(replace(movies, digest=None), tmp_path / "other", file=mine)


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_failed_downloads_leave_nothing(tmp_path: Path, server: Server, movies: PublicData) -> None:
    out = tmp_path / "data"

    def fails(says: str, data: PublicData = movies) -> None:
        with pytest.raises(DataError, match=says):
            get_public(data, out, accept_terms=True)
        assert nothing_left(out)

    fails("has md5 .* is known with 0000", replace(movies, digest="md5:" + "0" * 32))
    server.missing = 1000
    fails("cut short|could not be downloaded.*IncompleteRead", movies)
    server.missing = 0
    server.status = 404
    fails("answered 404.*by hand.*file=")
    server.status = 200
    other = replace(movies, member="ml-1m/absent.dat")
    fails("the archive has no ml-1m/absent.dat", other)
    server.body = zipped("ml-1m/ratings.dat", b"1::x::5::978300760\n" * 3)
    fails("not as expected", replace(movies, digest=None))
    server.http.server_close()
    fails(r"downloaded \(Failed to establish", replace(movies, url="http://127.0.0.1:9/x"))


def test_a_transfer_that_breaks_is_tried_again(
    tmp_path: Path, server: Server, movies: PublicData
) -> None:
    server.failures = 2
    steps: list[int] = []
    file = get_public(
        movies, tmp_path, accept_terms=True, progress=lambda done, total: steps.append(done)
    )
    assert server.requests == 3
    assert steps[-1] == len(server.body)
    assert max(steps) == len(server.body)
    assert pl.read_parquet(file).height == 3


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'ml-2m'.*ml-1m"):
        get_public("ml-2m", tmp_path)
    with pytest.raises(UsageError, match="accept_terms"):
        get_public("ml-1m", tmp_path)


REVIEWS = [
    {"reviewerID": "A1", "asin": "0001", "overall": 5.0, "unixReviewTime": 1252800000, "x": "é"},
    {"reviewerID": "A2", "asin": "B0", "overall": 1.0, "helpful": [1, 2], "unixReviewTime": 9},
]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("ml-100k", b"196\t242\t3\t881250949\n", [(196, 242, 3.0, 881250949)]),
        ("ml-20m", b"userId,movieId,rating,timestamp\n1,2,3.5,11\n", [(1, 2, 3.5, 11)]),
        (
            "amazon-beauty-2014",
            "\n".join(json.dumps(r) for r in REVIEWS).encode(),
            [("A1", "0001", 5.0, 1252800000), ("A2", "B0", 1.0, 9)],
        ),
        (
            "gowalla",
            b"0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n",
            [(0, "22847", 1287532527)],
        ),
    ],
)
def test_each_format_reads(tmp_path: Path, name: str, content: bytes, rows: list) -> None:
    data = replace(PUBLIC[name], digest=None)
    packed = tmp_path / "packed"
    packed.write_bytes(zipped(data.member, content) if data.member else gzip.compress(content))
    lines: list[str] = []
    file = get_public(data, tmp_path / "out", file=packed, report=lines.append)
    assert pl.read_parquet(file).rows() == rows
    assert hashlib.sha256(packed.read_bytes()).hexdigest() in "\n".join(lines)
    assert prepare(file, tmp_path / "h").n_events == len(rows)
