from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import lmdb
import pytest
from serving.stores.embedded_jobs import DIGEST, filled, send, until_full, user_of
from serving.stores.store_properties import all_events

from longrec.core.errors import DataError
from longrec.serving.stores import lmdb_file
from longrec.serving.stores.lmdb_store import LmdbStore
from longrec.serving.stores.protocol import StoreFull


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store")


@pytest.fixture
def store(path):
    opened = LmdbStore.open(path)
    yield opened
    opened.close()


def file_of(path: str) -> Path:
    [file] = Path(path).glob("store-*.mdb")
    return file


def test_what_cannot_be_read_is_named(path, tmp_path):
    with pytest.raises(DataError, match="no store of users in this folder"):
        LmdbStore.open(path, readonly=True)
    assert not Path(path).exists()
    (tmp_path / "file").write_text("text")
    with pytest.raises(DataError, match="is a file"):
        LmdbStore.open(str(tmp_path / "file"))


# Damage is told, and nothing is made worse.


@pytest.mark.parametrize("left", [0, 100, 4096, 8192, 0.3, 0.7, -1])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_truncated_file_is_told(path, left, readonly):
    filled(path)
    file = file_of(path)
    size = file.stat().st_size
    # Whole pages, where it takes a look at all of them to see that some are missing; or parts.
    shares = {-1: size - 1, 0.3: int(0.3 * size), 0.7: int(0.7 * size) // 4096 * 4096}
    os.truncate(file, shares.get(left, left))
    before = hashlib.sha256(file.read_bytes()).digest()
    with pytest.raises(DataError, match=r"damaged.*restore"):
        LmdbStore.open(path, readonly=readonly)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_files_of_others_are_told(path):
    filled(path)
    file = file_of(path)
    content = file.read_bytes()
    file.write_bytes(b"what is this" * 2000)
    with pytest.raises(DataError, match=r"damaged or no store of users \(.*not an LMDB file"):
        LmdbStore.open(path)
    file.unlink()
    with lmdb.open(str(file), subdir=False, max_dbs=2) as env:
        env.open_db(b"something else")
    with pytest.raises(DataError, match="no store of users"):
        LmdbStore.open(path)
    file.write_bytes(content)
    store = LmdbStore.open(path)
    assert store.totals().users == 300
    store.close()


# No room.


def test_a_full_map_is_told(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**20])
    store = LmdbStore.open(path)
    done = until_full(store, 3000)
    with pytest.raises(StoreFull, match="address space"):
        send(store, [done], 3000)
    logged = all_events(store)
    assert len(logged) == done > 10
    store.close()
    monkeypatch.undo()
    store = LmdbStore.open(path)
    assert all_events(store) == logged
    send(store, [done], 3000)
    store.close()


def test_a_smaller_map_is_taken_where_the_process_gets_no_large_one(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**60, 2**24])
    store = LmdbStore.open(path)
    send(store, [1])
    assert all_events(store) == [b"event1"]
    store.close()


class Broken:
    """Stands for an environment that LMDB has given up."""

    def __init__(self, env) -> None:
        self.env, self.closed = env, False

    def begin(self, **options):
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC")

    def close(self):
        self.closed = True
        self.env.close()


def test_an_environment_that_lmdb_gave_up_is_folder_anew(store):
    send(store, [1])
    for act in (lambda: send(store, [2]), lambda: store.append(DIGEST, []), store.users):
        broken = store._folder._env = Broken(store._folder._env)
        if act == store.users:
            assert store.users(b"", 9) == [user_of(1), user_of(2)]
        else:
            act()
        assert broken.closed
    assert sorted(all_events(store)) == [b"event1", b"event2"]


# Compacting.


def test_what_a_killed_compaction_left_is_deleted(path):
    filled(path)
    store = LmdbStore.open(path)
    store.compact()
    store.close()
    folder = Path(path)
    for name in ("store-1.mdb", "store-1.mdb-lock", "store-3.tmp"):
        shutil.copy(folder / "store-2.mdb", folder / name)
    (folder / "store-of-shoes.mdb").write_text("not ours")
    reader = LmdbStore.open(path, readonly=True)
    assert reader.totals().users == 300
    assert len(os.listdir(folder)) == 7
    reader.close()
    LmdbStore.open(path).close()
    ours = [".lock", "store-2.mdb", "store-2.mdb-lock", "store-of-shoes.mdb"]
    assert sorted(os.listdir(folder)) == ours
