"""A store under a service survives crashes by the hundred; the same seed does the same again."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from serving.stores import store_jobs
from serving.stores.store_properties import event, events_of, log
from serving.strace import need_strace
from simulation.crashes import scratch, survive
from simulation.disk import Disk, Entry, Moment, Sync, lay_out
from simulation.watched import Watched

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store

SEEDS = 2
"""Of each durability in the fast suite."""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_what_was_acknowledged_survives(durability) -> None:
    for seed in range(SEEDS):
        survive(seed, durability, lives=2)


def test_a_seed_does_the_same_again() -> None:
    first, again = (survive(1, "power", lives=2, crashes=10) for _ in range(2))
    assert first == again
    assert first.counts.total() == 20


def lived(disk: Disk, work: Callable[[Store], None]) -> list[Entry]:
    """What is done to a disk by a store that is opened, and by some work with it."""
    with scratch() as folder:
        lay_out(disk.image(), folder / "live")
        watched = Watched(folder / "live", random.Random(0), disk, 1)
        with watched.watching():
            store = open_store(str(folder / "live" / "users"))
            work(store)
            store.close()
    return watched.journal


def test_what_a_killed_process_left_is_on_the_disk_once_it_is_found() -> None:
    """Else a power cut takes what a retry was told to be there."""
    disk, dice, found = Disk(), random.Random(0), list[int]()

    def read(store: Store) -> None:
        found.append(len(events_of(store, b"u")))

    journal = lived(disk, lambda store: log(store, b"u", event(1)))
    last = max(number for number, entry in enumerate(journal) if isinstance(entry, Sync))
    for entry in journal[:last]:  # it was killed when all but the last sync was done
        disk.take(entry)
    for entry in lived(disk, read):
        disk.take(entry)
    for _ in range(10):
        lived(disk.cut(dice, Moment("")), read)
    assert found == [1] * 11


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("trained", [False, True])
def test_what_was_acknowledged_survives_more(durability, trained) -> None:
    for seed in range(100, 102 if trained else 106):
        survive(seed, durability, trained)


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "order"), [("power", "(D+SM)+A"), ("process", "(D+M)+A")])
def test_lmdb_writes_so(tmp_path, durability, order) -> None:
    """Data, a sync, and the page that makes it valid: what the simulation takes for granted."""
    need_strace()
    trace, calls = tmp_path / "trace", "trace=lseek,write,writev,pwrite64,pwritev,fdatasync,fsync"
    job = [sys.executable, store_jobs.__file__, f"lmdb://{tmp_path}/store", durability, "6"]
    path = os.pathsep.join(sys.path)
    subprocess.run(
        ["strace", "-f", "-y", "-e", calls, "-o", trace, *job],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    done, place = "", 0
    for line in re.split(r'write\(1<.*"begin\\n"', trace.read_text())[1].splitlines():
        if re.search(r'write\(1<.*"acknowledged', line):
            done += "A"
        elif "store-1.mdb>" not in line:
            continue
        elif found := re.search(r"lseek\(.* (\d+), SEEK_SET", line):
            place = int(found[1])
        elif re.search(r"(fdatasync|fsync)\(.* = 0", line):
            done += "S"
        else:
            at = re.search(r"pwrite(?:64|v)\(.*, (\d+)\) += ", line)
            done += "D" if (int(at[1]) if at else place) >= 8192 else "M"
    assert re.fullmatch(f"({order})+", done), done
