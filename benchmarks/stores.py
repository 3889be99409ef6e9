"""Time the embedded stores, LMDB and SQLite: read some users, then log an event of each.

    taskset -c 0 python benchmarks/stores.py FOLDER [--repeats 3]

Through `Store.read` and `Store.append`, as a stream does: per event it is read whether its id is
known, the user's record (18,500 bytes) and bitmap (425 bytes), and written are event, id, record
and bitmap. A group of events of different users is one commit, which waits for the disk with
"power" and not with "process". Runs are interleaved; printed are medians of the repeats,
LMDB / SQLite. FOLDER should lie on the disk that a store would lie on.
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
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import lmdb

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import HEADER, Append, Durability, Event, Store, version_of

USERS, ITEMS = 2000, 3400
DIGEST, RECORD = "ab" * 32, os.urandom(18_500)
EVENTS = {1: 500, 8: 4000, 64: 12_800, 256: 25_600}
"""Events timed per group."""

LINE = "{:8} {:>5}  {:>17}  {:>17}  {:>17}  {:>17}  {:>11}"


class Taken(NamedTuple):
    """What a run took."""

    rate: float
    p50: float
    p99: float
    longest: float
    megabytes: float


def step(store: Store, group: Iterable[tuple[int, int]]) -> None:
    """Read users, and log an event of each, told by its number."""
    rows = [(b"user%06d" % user, b"%016d" % number, number) for user, number in group]
    appends = []
    read = store.read(DIGEST, [(user, [name]) for user, name, _ in rows], seen=True)
    for (user, name, number), kept in zip(rows, read, strict=True):
        version = version_of(kept.record) + 1
        head = HEADER.pack(b"LRU1", len(RECORD), b"digest..", kept.last + 1, version, 0, 0)
        event = Event(number, b"item%d" % (number % ITEMS), name)
        after = head + RECORD[HEADER.size :]
        append = Append(user, kept.born, kept.last, version - 1, [event], after, [number % ITEMS])
        appends.append(append)
    assert all(result.current for result in store.append(DIGEST, appends))


def run(scheme: str, durability: Durability, group: int, folder: Path, seed: int) -> Taken:
    """Fill a new store with users, then time groups of events."""
    folder.mkdir()
    store = open_store(f"{scheme}://{folder}/store", durability)
    numbers, dice, seconds = itertools.count(), random.Random(seed), []
    for start in range(0, USERS, 500):
        step(store, [(user, next(numbers)) for user in range(start, start + 500)])
    for _ in range(EVENTS[group] // group):
        batch = [(user, next(numbers)) for user in dice.sample(range(USERS), group)]
        began = time.perf_counter()
        step(store, batch)
        seconds.append(time.perf_counter() - began)
    megabytes = store.totals().bytes / 1e6
    store.close()
    shutil.rmtree(folder)
    ordered = sorted(seconds)
    p50, p99 = (1e3 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Taken(len(seconds) * group / sum(seconds), p50, p99, 1e3 * ordered[-1], megabytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="made for this")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    print(f"lmdb {lmdb.__version__}, sqlite {sqlite3.sqlite_version}")
    heads = ("", "group", "events per second", "p50 ms", "p99 ms", "longest ms", "file MB")
    print(LINE.format(*heads))
    durabilities: tuple[Durability, ...] = ("power", "process")
    for durability, group in itertools.product(durabilities, EVENTS):
        taken: dict[str, list[Taken]] = {"lmdb": [], "sqlite": []}
        for repeat, scheme in itertools.product(range(asked.repeats), taken):
            place = asked.folder / scheme
            taken[scheme].append(run(scheme, durability, group, place, repeat))
        medians = [map(statistics.median, zip(*runs, strict=True)) for runs in taken.values()]
        digits = (",.0f", ".3f", ".2f", ".1f", ".0f")
        pairs = [
            f"{ours:{digit}} / {theirs:{digit}}"
            for ours, theirs, digit in zip(*medians, digits, strict=True)
        ]
        print(LINE.format(durability, group, *pairs), flush=True)


if __name__ == "__main__":
    main()
