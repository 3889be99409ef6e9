"""Time a store: read some users, then log an event of each.

    taskset -c 0 python benchmarks/stores.py FOLDER [--redis redis://host/0] [--repeats 3]

Through `Store.read` and `Store.append`, as a stream does: per event it is read whether its id is
known, the user's record (18,500 bytes) and bitmap (425 bytes), and written are event, id, record
and bitmap. A group of events of different users is one commit, which waits for the disk with
"power" and not with "process". Printed are medians of the repeats, for LMDB and, where a server is
named, for Redis; runs of both are interleaved. FOLDER should lie on the disk that a store would lie
on. The server must be set up for the durability (`--durability`): Redis has one setting at a time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, get_args

from longrec.core.choices import Durability
from longrec.serving.stores.checks import seal
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import HEADER, Append, Event, Store

USERS, ITEMS = 2000, 3400
DIGEST, RECORD = "ab" * 32, os.urandom(18_500)
EVENTS = {1: 500, 8: 4000, 64: 12_800, 256: 25_600}
"""Events timed per group."""

LINE = "{:6} {:8} {:>5}  {:>17}  {:>9}  {:>9}  {:>10}  {:>7}"


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
    for (user, name, number), stored in zip(rows, read, strict=True):
        version = stored.version + 1
        head = HEADER.pack(b"LRU2", len(RECORD), b"digest..", stored.last + 1, version, 0, 0)
        event = Event(number, b"item%d" % (number % ITEMS), name)
        after = seal(user, head + RECORD[HEADER.size :])
        append = Append(
            user, stored.log_id, stored.last, version - 1, [event], after, [number % ITEMS]
        )
        appends.append(append)
    assert all(result.current for result in store.append(DIGEST, appends))


def run(url: str, durability: Durability, group: int, seed: int) -> Taken:
    """Fill an empty store with users, then time groups of events; the users are deleted again."""
    store = open_store(url, durability)
    numbers, dice, seconds = itertools.count(), random.Random(seed), []
    for start in range(0, USERS, 500):
        step(store, [(user, next(numbers)) for user in range(start, start + 500)])
    for _ in range(EVENTS[group] // group):
        batch = [(user, next(numbers)) for user in dice.sample(range(USERS), group)]
        began = time.perf_counter()
        step(store, batch)
        seconds.append(time.perf_counter() - began)
    megabytes = store.totals().bytes / 1e6
    if url.startswith("redis"):
        for user in store.users(b"", USERS):
            store.forget(user)
    store.close()
    ordered = sorted(seconds)
    p50, p99 = (1e3 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Taken(len(seconds) * group / sum(seconds), p50, p99, 1e3 * ordered[-1], megabytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="made for this")
    parser.add_argument("--redis", metavar="URL", help="of a server that holds nothing else")
    parser.add_argument("--durability", choices=get_args(Durability), action="append")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    kinds = ["lmdb", "redis"] if options.redis else ["lmdb"]
    heads = ("", "", "group", "events per second", "p50 ms", "p99 ms", "longest ms", "MB")
    print(LINE.format(*heads))
    for durability, group in itertools.product(options.durability or get_args(Durability), EVENTS):
        taken: dict[str, list[Taken]] = {kind: [] for kind in kinds}
        for repeat, kind in itertools.product(range(options.repeats), kinds):
            if kind == "redis":
                url = f"{options.redis}?prefix=benchmark-{durability}-{group}-{repeat}:"
                taken[kind].append(run(url, durability, group, repeat))
            else:
                with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                    taken[kind].append(run(f"lmdb://{folder}", durability, group, repeat))
        for kind, runs in taken.items():
            medians = [statistics.median(values) for values in zip(*runs, strict=True)]
            formats = (",.0f", ".3f", ".2f", ".1f", ".0f")
            cells = [f"{value:{form}}" for value, form in zip(medians, formats, strict=True)]
            print(LINE.format(kind, durability, group, *cells), flush=True)


if __name__ == "__main__":
    main()
