"""What is SQLite's own: its file and the log beside it, damage to them, and who else reads it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from forking import ForkServer
from serving.stores.embedded_jobs import filled, send, until_full
from serving.stores.store_properties import all_events, event, events_of, kept, log

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.stores import sqlite_layout
from longrec.serving.stores.protocol import (
    StoreFull,
    StoreUnavailable,
    open_store,
    read_header,
)
from longrec.serving.stores.sqlite_store import SqliteStore


@pytest.fixture(scope="module")
def forks():
    with ForkServer("serving.stores.embedded_jobs") as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "users.db")


@pytest.fixture
def store(path):
    opened = SqliteStore.open(path)
    yield opened
    opened.close()


def digest_of(file: str | Path) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


# The file.


def test_urls_name_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in (
        "sqlite://users.db",
        f"sqlite://{tmp_path}/users.db",
        f"sqlite:///{tmp_path}/users.db",
    ):
        store = open_store(url)
        assert store.url == f"sqlite://{tmp_path}/users.db"
        store.close()
    assert os.listdir(tmp_path) == ["users.db"]
    for url in ("sqlite://", "sqlite:///"):
        with pytest.raises(UsageError, match="names no file: sqlite:///"):
            open_store(url)
    odd = open_store(f"sqlite://{tmp_path}/50% of? #1.db")
    odd.close()
    assert (tmp_path / "50% of? #1.db").exists()


def test_an_orderly_end_leaves_one_file_for_its_owner(path, tmp_path):
    store = SqliteStore.open(path)
    log(store, b"u", event(1))
    others = {"users.db-wal", "users.db-shm", "users.db-lock"}
    assert set(os.listdir(tmp_path)) == {"users.db", *others}
    for name in os.listdir(tmp_path):
        if name != "users.db-lock":
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    store.close()
    assert os.listdir(tmp_path) == ["users.db"]
    with closing(sqlite3.connect(path)) as plain:  # and anybody can look into it
        columns = "user, number, time, item, event_id"
        [row] = plain.execute(f"select {columns} from users join log using (born)")
        assert row == (b"u", 1, *event(1))


def test_an_event_writes_no_more_than_the_pages_it_changes(path):
    store = SqliteStore.open(path, "process")
    sizes = []
    for number in range(3):
        log(store, b"u", event(number), seen=[number, 50_000 + number])
        sizes.append(os.path.getsize(f"{path}-wal"))
    frame = 24 + 4096
    # A leaf each of log, ids and records, and two pages of the bitmap.
    assert sizes[2] - sizes[1] <= 5 * frame
    store.close()


def test_where_no_store_is_or_can_be(path, tmp_path):
    with pytest.raises(DataError, match=r"users\.db: there is no store of users"):
        SqliteStore.open(path, readonly=True)
    with pytest.raises(UsageError, match=r"none: there is no such folder to make users\.db in"):
        SqliteStore.open(str(tmp_path / "none" / "users.db"))
    with pytest.raises(DataError, match="is a folder; a store at sqlite:// is a file"):
        SqliteStore.open(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_it_needs_no_package(path):
    code = (
        "import sys\n"
        "sys.modules['lmdb'] = sys.modules['redis'] = None\n"
        "from longrec.serving.stores.protocol import open_store\n"
        "open_store('sqlite://' + sys.argv[1]).close()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
    assert os.path.exists(path)


def test_an_old_sqlite_is_told(path, monkeypatch):
    monkeypatch.setattr(sqlite_layout, "OLDEST", (4, 0))
    with pytest.raises(UsageError, match=r"needs 4\.0: use lmdb:///folder"):
        SqliteStore.open(path)


# Damage is told, and nothing is made worse.


@pytest.mark.parametrize("left", [0, 50, 100, 1000, 4096, 8192, 0.5, -1])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_truncated_file_is_told(path, left, readonly):
    filled(f"sqlite://{path}")
    size = os.path.getsize(path)
    os.truncate(path, {-1: size - 1, 0.5: size // 2}.get(left, left))
    before = digest_of(path)
    with pytest.raises(DataError, match="damaged"):
        SqliteStore.open(path, readonly=readonly)
    assert digest_of(path) == before


def test_files_of_others_are_told(path, tmp_path):
    Path(path).write_bytes(b"what is this" * 2000)
    with pytest.raises(DataError, match="damaged or no store of users"):
        SqliteStore.open(path)
    os.unlink(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("create table users (name)")
    before = digest_of(path)
    for readonly in (False, True):
        with pytest.raises(DataError, match="no store of users, although a file of SQLite's"):
            SqliteStore.open(path, readonly=readonly)
    assert digest_of(path) == before


def test_a_damaged_page_is_told_when_it_is_read(path):
    filled(f"sqlite://{path}")
    with open(path, "r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 12)
    store = SqliteStore.open(path)
    with pytest.raises(DataError, match=r"damaged.*restore it from a backup"):
        [events_of(store, b"u%d" % number) for number in range(300)]
    store.close()


def test_a_log_without_its_file_is_told(path, forks):
    with forks.job("hold", f"sqlite://{path}") as job:
        assert job.line() == "open"
    os.rename(path, f"{path}.moved")
    with pytest.raises(DataError, match="its write-ahead log is: bring both together again"):
        SqliteStore.open(path)
    os.rename(f"{path}.moved", path)
    store = SqliteStore.open(path)
    assert all_events(store) == [b"event1"]
    store.close()


def test_what_a_process_left_that_died_making_it_is_no_hindrance(path, tmp_path):
    for name in ("users.db-new", "users.db-new-wal", "users.db-lock"):
        (tmp_path / name).write_text("half")
    store = SqliteStore.open(path)
    log(store, b"u", event(1))
    store.close()
    assert os.listdir(tmp_path) == ["users.db"]


def test_a_log_that_a_power_cut_made_shorter_has_lost_whole_commits_from_its_end(
    path, tmp_path, forks
):
    with forks.job("groups", f"sqlite://{path}", "process", 12) as job:
        assert job.lines()[-1] == "end"
    size, found = os.path.getsize(f"{path}-wal"), []
    for part in range(41):
        cut = tmp_path / f"cut{part}.db"
        shutil.copy(path, cut)
        shutil.copy(f"{path}-wal", f"{cut}-wal")
        os.truncate(f"{cut}-wal", size * part // 40)
        store = SqliteStore.open(str(cut))
        numbers = sorted(int(name.removeprefix(b"event")) for name in all_events(store))
        whole = len(numbers) // 5  # commits of five events, after one of one
        assert numbers in ([], [*range(5 * whole), 10**6])
        for user in store.users(b"", 10):
            one = kept(store, user)
            assert read_header(one.record).sequence == one.last
        store.close()
        found.append(len(numbers))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 61)
    assert len(set(found)) > 8


# Who else is at work in it.


def test_a_killed_writers_log_is_read_by_who_may_only_read(path, forks):
    with forks.job("hold", f"sqlite://{path}") as job:
        assert job.line() == "open"
    assert os.path.getsize(f"{path}-wal") > 0
    reader = SqliteStore.open(path, readonly=True)
    assert all_events(reader) == [b"event1"]
    reader.close()


def test_readers_do_not_wait_for_a_commit(store):
    log(store, b"u", event(1))
    inside, leave = threading.Event(), threading.Event()

    def change(meta):
        inside.set()
        assert leave.wait(60)
        meta["changed"] = True

    writer = threading.Thread(target=store.change_meta, args=(change,))
    writer.start()
    assert inside.wait(60)
    assert events_of(store, b"u") == [event(1)]
    assert "changed" not in store.meta()
    leave.set()
    writer.join()
    assert store.meta()["changed"]


def test_a_file_that_others_lock_is_told_and_goes_on(path, monkeypatch):
    monkeypatch.setattr(sqlite_layout, "PATIENCE", 0.05)
    store = SqliteStore.open(path)
    log(store, b"u", event(1))
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("begin immediate")
        with pytest.raises(StoreUnavailable, match="is locked: another process, perhaps"):
            log(store, b"u", event(2))
        assert events_of(store, b"u") == [event(1)]
    log(store, b"u", event(2))
    assert events_of(store, b"u") == [event(1), event(2)]
    store.close()


def test_a_compaction_that_a_reader_is_in_the_way_of_is_told(path, monkeypatch):
    monkeypatch.setattr(sqlite_layout, "PATIENCE", 0.05)
    store = SqliteStore.open(path)
    log(store, b"forgotten", event(1))
    log(store, b"stays", event(1))
    assert store.forget(b"forgotten")
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("begin")
        shell.execute("select * from users").fetchall()
        with pytest.raises(StoreUnavailable, match=r"still in its log \(users\.db-wal"):
            store.compact()
        assert store.users(b"", 9) == [b"stays"]
    store.compact()
    assert os.path.getsize(f"{path}-wal") == 0
    store.close()
    assert b"forgotten" not in Path(path).read_bytes()


def test_a_failed_making_leaves_nothing(path, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_layout, "TABLES", "create table meta (key")
    with pytest.raises(LongrecError):
        SqliteStore.open(path)
    assert os.listdir(tmp_path) == []


def test_no_room_for_a_log_of_one_call(path, store, monkeypatch):
    log(store, b"u", event(1))
    before = kept(store, b"u")
    store._opened._writer.execute("pragma max_page_count = 60")
    done = until_full(store, 3000)
    with pytest.raises(StoreFull, match="no room to grow"):
        send(store, range(done, done + 50), 3000)
    assert len(all_events(store)) == 1 + done
    assert kept(store, b"u") == before
    store._opened._writer.execute("pragma max_page_count = 100000")
    assert all(all(new) for new in send(store, range(done, done + 50), 3000))
