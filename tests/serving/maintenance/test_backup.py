"""Backups and restores: whole, beside a writer, killed, tampered with, of any kind of store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from forking import Forked, run_code
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.maintenance.small_stores import (
    EVENTS,
    MODEL,
    OTHER,
    content_of,
    fill,
    logs,
    logs_of,
    serve,
)
from serving.redis_server import RedisServer

import longrec.serving.maintenance.restore as restoring
from longrec.core.errors import DataError, UsageError
from longrec.core.files import digest_of_config, digest_of_file
from longrec.serving.maintenance import backup as module
from longrec.serving.maintenance.backup import BACKUP, Copied, backup
from longrec.serving.maintenance.restore import restore
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores import log_reader
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, Rewrite, Store, check_whole


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "empty"))
    yield opened
    opened.close()


def lines(folder: Path) -> list[dict]:
    return pq.read_table(folder / "log.parquet").to_pylist()


def child(code: str, *argv: object) -> Forked:
    """A process that runs some code with arguments."""
    return run_code(code, *argv, text=True, stdout=subprocess.PIPE)


# ---- there and back


@settings(max_examples=10)
@given(logs=logs, page=st.integers(1, 5))
def test_a_restored_store_has_the_logs_that_were_backed_up(logs, page) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_reader, "USERS", page)
        patch.setattr(log_reader, "EVENTS", page)
        patch.setattr(module, "GROUP_ROWS", 2 * page)
        patch.setattr(restoring, "EVENTS_AT_ONCE", page)
        first, second = (open_store(f"{folder}/{name}", "process") for name in ("first", "second"))
        with contextlib.closing(first), contextlib.closing(second):
            serve(first)
            fill(first, logs)
            written = backup(first, Path(folder) / "backup")
            assert written == Copied(len(logs), sum(map(len, logs.values())))
            assert restore(Path(folder) / "backup", second) == written
            assert logs_of(second) == logs_of(first)
            assert second.meta() == first.meta()
            assert second.totals().records == {}


def test_what_a_backup_says(store, tmp_path) -> None:
    shown = []
    backup(store, tmp_path / "backup", lambda done, total: shown.append((done, total)))
    told = BACKUP.read(tmp_path / "backup")
    assert (told["users"], told["events"]) == (3, 29)
    assert told["store"] == store.meta()
    assert shown[-1] == (29, 29)
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700  # events in the clear
    rows = lines(tmp_path / "backup")
    assert [row["number"] for row in rows if row["user"] == b"a"] == list(range(1, 21))
    assert rows[0] == {
        **{"user": b"a", "number": 1, "time": 0},
        **{"event_id": None, "item": b"item0", "columns": None},
    }
    assert sorted(os.listdir(tmp_path / "backup")) == ["log.parquet", "meta.json"]


def test_a_long_log_of_one_user(empty, tmp_path) -> None:
    long = open_store(str(tmp_path / "long"), "process")
    serve(long)
    events = [Event(n, b"i%d" % n, b"id%d" % n) for n in range(10_000)]
    fill(long, {b"u": events})
    backup(long, tmp_path / "backup")
    assert restore(tmp_path / "backup", empty).events == 10_000
    assert logs_of(empty) == logs_of(long)
    long.close()


def test_the_model_that_is_served_is_noted_and_no_other(store, empty, tmp_path) -> None:
    serve(store, OTHER, "hydrarec")
    serve(store, MODEL)
    store.change_meta(lambda meta: meta.update(rebuild={OTHER: {"job": "x", "after": "00"}}))
    backup(store, tmp_path / "backup")
    restore(tmp_path / "backup", empty)
    assert list(empty.meta()["models"]) == [MODEL]
    assert empty.meta()["current"] == MODEL
    assert "rebuild" not in empty.meta()


def test_a_backup_of_format_1_is_restored_without_its_records(store, empty, tmp_path) -> None:
    """Those had a file of records besides, named among the digests."""
    folder = tmp_path / "backup"
    backup(store, folder)
    (folder / "records.parquet").write_bytes(b"PAR1 and so on")
    about = json.loads((folder / "meta.json").read_text())
    del about["digest"]
    about |= {"format": 1, "records": 3}
    about["digests"]["records.parquet"] = digest_of_file(folder / "records.parquet")
    about["digest"] = digest_of_config(about)
    (folder / "meta.json").write_text(json.dumps(about))
    assert restore(folder, empty) == Copied(3, 29)
    assert logs_of(empty) == logs_of(store)
    (folder / "records.parquet").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"records.parquet is not what was saved"):
        BACKUP.read(folder)


def test_an_empty_store_has_a_backup(empty, tmp_path) -> None:
    assert backup(empty, tmp_path / "backup") == Copied(0, 0)
    other = open_store(str(tmp_path / "other"))
    restore(tmp_path / "backup", other)
    assert other.meta() == empty.meta()
    other.close()


# ---- from one kind of store to another


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), appendfsync="everysec") as started:
        yield started


@settings(max_examples=8)
@given(logs=logs)
def test_there_and_back_by_another_kind(server, logs) -> None:
    with server.client() as client, tempfile.TemporaryDirectory() as folder:
        client.flushall()
        first, last = (open_store(f"{folder}/{name}", "process") for name in ("first", "last"))
        between = open_store(server.url, "process")
        with contextlib.ExitStack() as stack:
            for store in (first, between, last):
                stack.callback(store.close)
            serve(first)
            fill(first, logs)
            backup(first, Path(folder) / "1")
            restore(Path(folder) / "1", between)
            assert logs_of(between) == logs_of(first)
            twice = pytest.raises(UsageError, match="empty store")
            with twice if logs else contextlib.nullcontext():
                restore(Path(folder) / "1", between)
            backup(between, Path(folder) / "2")
            restore(Path(folder) / "2", last)
            assert logs_of(last) == logs_of(first)
            assert last.meta() == first.meta()
            assert lines(Path(folder) / "1") == lines(Path(folder) / "2")
            assert not verify(between).problems


# ---- beside a writer


WRITER = """
import sys
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event
from serving.maintenance.small_stores import fill
store = open_store(sys.argv[1], "process")
for n in range(10**9):
    fill(store, {b"a": [Event(n, b"x", b"more%d" % n)], b"u%06d" % n: [Event(n, b"y", None)] * 3})
    store.forget(b"u%06d" % (n - 5))
    if n == 50:
        print("going", flush=True)
"""


def test_a_backup_beside_a_writing_process(empty, tmp_path) -> None:
    url = f"lmdb://{tmp_path}/written"
    store = open_store(url)
    serve(store)
    fill(store, {b"a": EVENTS})
    store.close()
    writer = child(WRITER, url)
    try:
        assert writer.stdout.readline() == "going\n"
        beside = open_store(url, readonly=True)
        for number in range(4):
            before = content_of(beside)[b"a"][1]
            written = backup(beside, tmp_path / f"backup{number}")
            after = content_of(beside)[b"a"][1]
            rows = lines(tmp_path / f"backup{number}")
            logged = [Event(r["time"], r["item"], r["event_id"]) for r in rows if r["user"] == b"a"]
            assert before == logged[: len(before)]
            assert logged == after[: len(logged)]
            assert len(rows) == written.events
        assert writer.poll() is None
        assert len(after) > len(EVENTS) + 50
    finally:
        writer.kill()
        writer.communicate()
    assert restore(tmp_path / "backup3", empty) == written
    assert all(stored.last == len(events) for stored, events in logs_of(empty).values())
    beside.close()


@pytest.mark.parametrize("what", ["forgotten", "rewritten"])
def test_a_log_replaced_while_it_is_read(store, tmp_path, monkeypatch, what) -> None:
    monkeypatch.setattr(log_reader, "EVENTS", 5)
    real, calls = store.events, []

    def events(user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        if user == b"a" and after == 10 and not calls:
            calls.append(after)
            if what == "forgotten":
                store.forget(user)
            else:
                assert store.rewrite([Rewrite(user, log_id, 20, EVENTS[::-1])]) == [True]
        return real(user, log_id, after, limit)

    monkeypatch.setattr(store, "events", events)
    backup(store, tmp_path / "backup")
    assert calls
    rows = lines(tmp_path / "backup")
    times = [row["time"] for row in rows if row["user"] == b"a"]
    assert times == ([] if what == "forgotten" else list(range(19, -1, -1)))
    assert BACKUP.read(tmp_path / "backup")["users"] == (2 if what == "forgotten" else 3)


# ---- interrupted


def test_a_killed_backup_leaves_nothing_that_looks_whole(store, tmp_path) -> None:
    store.close()
    code = (
        "import sys, time, signal\n"
        "from longrec.serving.maintenance.backup import backup\n"
        "from longrec.serving.stores.open import open_store\n"
        "def tell(done, total):\n    print('going', flush=True)\n    time.sleep(60)\n"
        "backup(open_store(sys.argv[1], readonly=True), sys.argv[2], tell)\n"
    )
    process = child(code, tmp_path / "store", tmp_path / "backup")
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [left] = [path for path in tmp_path.iterdir() if path.suffix == ".part"]
    with pytest.raises(DataError, match="not a backup"):
        BACKUP.read(left)
    again = open_store(str(tmp_path / "store"), readonly=True)
    assert backup(again, tmp_path / "backup").users == 3
    assert not left.exists(), "the next one for the same place sweeps it"
    again.close()


def test_a_failed_backup_leaves_nothing(store, tmp_path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with pytest.raises(DataError, match="disk is full"):
        backup(store, tmp_path / "new" / "backup")
    assert list((tmp_path / "new").iterdir()) == []


class Stop(Exception):
    """An interruption."""


def test_an_interrupted_restore_is_told_and_goes_on(store, empty, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(restoring, "EVENTS_AT_ONCE", 3)
    backup(store, tmp_path / "backup")
    backup(store, tmp_path / "other")
    edited = json.loads((tmp_path / "other" / "meta.json").read_text())
    del edited["digest"]
    edited["written"] = "another time"
    edited["digest"] = digest_of_config(edited)
    (tmp_path / "other" / "meta.json").write_text(json.dumps(edited))

    left, stops = [0], 0

    def stop_before(real):
        def stopping(*args: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return real(*args)

        return stopping

    monkeypatch.setattr(empty, "append", stop_before(empty.append))
    while True:
        left[0] = 0 if stops == 0 else 1
        try:
            restore(tmp_path / "backup", empty)
            break
        except Stop:
            stops += 1
            assert stops < 50
        with pytest.raises(DataError, match="restore FOLDER URL"):
            check_whole(empty.meta(), empty.url)
        with pytest.raises(DataError, match="half restored"):
            backup(empty, tmp_path / "of half")
        with pytest.raises(UsageError, match="another backup"):
            restore(tmp_path / "other", empty)
        monkeypatch.setattr(restoring, "EVENTS_AT_ONCE", 3 + stops)  # at other bounds each time
    assert stops > 5
    check_whole(empty.meta(), empty.url)
    assert logs_of(empty) == logs_of(store)
    assert empty.meta() == store.meta()


# ---- refused


def test_only_an_empty_store_is_restored_into(store, tmp_path) -> None:
    backup(store, tmp_path / "backup")
    before = content_of(store), store.meta()
    with pytest.raises(UsageError, match="3 users and 29 events"):
        restore(tmp_path / "backup", store)
    assert (content_of(store), store.meta()) == before


def test_a_backup_takes_no_place_that_is_taken(store, tmp_path) -> None:
    (tmp_path / "backup").mkdir()
    backup(store, tmp_path / "backup")
    (tmp_path / "file").write_text("")
    for taken in ("backup", "file", "store"):
        with pytest.raises(UsageError, match="new folder"):
            backup(store, tmp_path / taken)


def test_nothing_is_restored_of_a_damaged_backup(store, empty, tmp_path) -> None:
    backup(store, tmp_path / "backup")
    (tmp_path / "backup" / "log.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"log.parquet is not what was saved"):
        restore(tmp_path / "backup", empty)
    assert empty.meta() == {"schema": 3} | {k: v for k, v in empty.meta().items() if k == "created"}
    assert empty.totals().users == 0


def test_a_backup_of_a_newer_schema(store, empty, tmp_path) -> None:
    store.change_meta(lambda meta: meta.update(schema=4))
    backup(store, tmp_path / "backup")
    with pytest.raises(DataError, match="upgrade longrec"):
        restore(tmp_path / "backup", empty)


def test_a_restore_tells_of_another_writer(store, empty, tmp_path, monkeypatch) -> None:
    backup(store, tmp_path / "backup")
    real = empty.append

    def append(digest: str, appends: list[Append]) -> object:
        real(digest, [Append(b"z", 0, 0, 0, EVENTS[:1], None, ())])
        return real(digest, appends)

    monkeypatch.setattr(empty, "append", append)
    with pytest.raises(DataError, match="somebody else wrote"):
        restore(tmp_path / "backup", empty)
    assert "restoring" in empty.meta()


def test_half_a_log_is_no_backup(store, tmp_path, monkeypatch) -> None:
    real = store.events
    monkeypatch.setattr(store, "events", lambda *asked: real(*asked)[:-1])
    with pytest.raises(DataError, match="is replaced again and again"):
        backup(store, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
