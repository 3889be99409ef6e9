"""Time durable commits of an embedded store's writes: LMDB and SQLite, engine against engine.

    taskset -c 0 python benchmarks/stores.py FOLDER [--repeats 3]

Per event both read whether its id is known, the user's record (18,500 bytes) and bitmap (425), and
write log, id, record and bitmap. A group of events of different users is one transaction. "power":
a commit waits for the disk (LMDB's default; SQLite in WAL mode, synchronous=FULL); "process": it
does not (LMDB sync=False; synchronous=NORMAL, where only checkpoints do). SQLite has tables without
row ids, 4 KiB pages, 200 MB of cache, its file mapped, and checkpoints of 10,000 pages, which were
faster than of 1,000. Runs are interleaved; printed are medians of the repeats, LMDB / SQLite.
FOLDER should lie on the disk that a store would lie on.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import lmdb

USERS = 2000
RECORD, SEEN, EVENT = os.urandom(18_500), os.urandom(425), b"x" * 24
EVENTS = {1: 500, 8: 4000, 64: 12_800, 256: 25_600}
"""Events timed per group."""

LINE = "{:8} {:>5}  {:>17}  {:>17}  {:>17}  {:>11}"


class Engine(Protocol):
    """One of the two."""

    def commit(self, batch: Sequence[tuple[int, int]]) -> None:
        """Users and the numbers of their events, read and written in one transaction."""

    def close(self) -> None: ...


class Lmdb:
    """LMDB with four tables."""

    def __init__(self, path: Path, power: bool) -> None:
        self.env = lmdb.open(
            str(path), map_size=2**36, max_dbs=4, sync=power, metasync=power, readahead=False
        )
        self.tables = [self.env.open_db(name) for name in (b"log", b"ids", b"records", b"seen")]

    def commit(self, batch: Sequence[tuple[int, int]]) -> None:
        log, ids, records, seen = self.tables
        with self.env.begin(write=True) as transaction:
            get, put = transaction.get, transaction.put
            for user, number in batch:
                owner = user.to_bytes(8, "big")
                key = owner + number.to_bytes(8, "big")
                assert get(key, db=ids) is None
                get(owner, db=records)
                get(owner, db=seen)
                put(key, EVENT, db=log)
                put(key, b"", db=ids)
                put(owner, RECORD, db=records)
                put(owner, SEEN, db=seen)

    def close(self) -> None:
        self.env.close()


class Sqlite:
    """SQLite with the same four."""

    def __init__(self, path: Path, power: bool) -> None:
        path.mkdir(parents=True)
        self.connection = sqlite3.connect(path / "store.db", isolation_level=None)
        for setting in (
            "page_size=4096",
            "journal_mode=wal",
            f"synchronous={'full' if power else 'normal'}",
            "cache_size=-200000",
            "mmap_size=4000000000",
            "wal_autocheckpoint=10000",
        ):
            self.connection.execute(f"pragma {setting}")
        for table in ("log", "ids", "seen"):
            self.connection.execute(
                f"create table {table} (k blob primary key, v blob) without rowid"
            )
        # Large values are slow in a table without row ids.
        self.connection.execute("create table records (k integer primary key, v blob)")

    def commit(self, batch: Sequence[tuple[int, int]]) -> None:
        do = self.connection.execute
        do("begin immediate")
        for user, number in batch:
            owner = user.to_bytes(8, "big")
            key = owner + number.to_bytes(8, "big")
            assert do("select v from ids where k=?", (key,)).fetchone() is None
            do("select v from records where k=?", (user,)).fetchone()
            do("select v from seen where k=?", (owner,)).fetchone()
            do("insert into log values (?, ?)", (key, EVENT))
            do("insert into ids values (?, ?)", (key, b""))
            do("replace into records values (?, ?)", (user, RECORD))
            do("replace into seen values (?, ?)", (owner, SEEN))
        do("commit")

    def close(self) -> None:
        self.connection.close()


ENGINES: dict[str, type[Lmdb] | type[Sqlite]] = {"lmdb": Lmdb, "sqlite": Sqlite}


class Taken(NamedTuple):
    """What a run took."""

    rate: float
    p50: float
    p99: float
    megabytes: float


def run(name: str, power: bool, group: int, folder: Path, seed: int) -> Taken:
    """Fill a new store with users, then time groups of events."""
    path = folder / name
    engine: Engine = ENGINES[name](path, power)
    for start in range(0, USERS, 500):
        engine.commit([(user, 0) for user in range(start, start + 500)])
    dice, numbers, seconds = random.Random(seed), itertools.count(1), []
    for _ in range(EVENTS[group] // group):
        batch = [(user, next(numbers)) for user in dice.sample(range(USERS), group)]
        began = time.perf_counter()
        engine.commit(batch)
        seconds.append(time.perf_counter() - began)
    megabytes = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    engine.close()
    shutil.rmtree(path)
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    rate = len(seconds) * group / sum(seconds)
    return Taken(rate, 1e3 * statistics.median(seconds), 1e3 * p99, megabytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="made for this")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    print(f"lmdb {lmdb.__version__}, sqlite {sqlite3.sqlite_version}")
    print(LINE.format("", "group", "events per second", "p50 ms", "p99 ms", "file MB"))
    for power, group in itertools.product((True, False), EVENTS):
        taken: dict[str, list[Taken]] = {name: [] for name in ENGINES}
        for repeat in range(asked.repeats):
            for name in ENGINES:
                taken[name].append(run(name, power, group, asked.folder, repeat))
        ours, theirs = (
            Taken(*(statistics.median(column) for column in zip(*runs, strict=True)))
            for runs in taken.values()
        )
        pairs = (
            f"{ours.rate:,.0f} / {theirs.rate:,.0f}",
            f"{ours.p50:.3f} / {theirs.p50:.3f}",
            f"{ours.p99:.2f} / {theirs.p99:.2f}",
            f"{ours.megabytes:.0f} / {theirs.megabytes:.0f}",
        )
        print(LINE.format("power" if power else "process", group, *pairs), flush=True)


if __name__ == "__main__":
    main()
