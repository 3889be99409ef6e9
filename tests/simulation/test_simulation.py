"""A store under a service survives crashes by the hundred; the same seed does the same again."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving.stores import store_jobs
from serving.stores.store_properties import event, events_of, log
from serving.strace import need_strace
from simulation.crashes import lived, survive
from simulation.disk import Disk, Moment, Sync

from longrec.core.sealed import SealedKind
from longrec.serving.stores.open import open_store


@pytest.mark.parametrize("durability", ["power", "process"])
def test_what_was_acknowledged_survives(durability) -> None:
    survive(0, durability)


def test_a_seed_does_the_same_again() -> None:
    first, _, again = (survive(seed, "power", lives=2, crashes=10) for seed in (1, 2, 1))
    assert first == again
    assert first.counts.total() == 20


def test_what_a_killed_process_left_is_on_the_disk_once_it_is_found() -> None:
    """Else a power cut takes what a retry was told to be there."""
    disk, dice, found = Disk(), random.Random(0), list[int]()

    def observe(folder: Path) -> None:
        store = open_store(str(folder / "users"))
        log(store, b"u", event(1))
        store.close()

    def read(folder: Path) -> None:
        store = open_store(str(folder / "users"))
        found.append(len(events_of(store, b"u")))
        store.close()

    journal = lived(disk, observe)
    last = max(number for number, entry in enumerate(journal) if isinstance(entry, Sync))
    disk.follow(journal[:last])  # it was killed when all but the last sync was done
    disk.follow(lived(disk, read))
    for _ in range(10):
        lived(disk.cut(dice, Moment("")), read)
    assert found == [1] * 11


def test_files_of_a_killed_writer_take_no_place_before_they_are_on_the_disk() -> None:
    """Else a power cut takes a file that was saved long ago, and is in the new ones, too."""
    kind = SealedKind("a thing", "thing.json", 1, "", "", files=("same", "other"))
    disk, dice, found = Disk(), random.Random(0), set[str]()

    def save(other: str) -> Callable[[Path], object]:
        def write(work: Path) -> None:
            (work / "same").write_text("the same")
            (work / "other").write_text(other)

        return lambda folder: kind.replace(folder / "new" / "thing", {}, write)

    def read(folder: Path) -> None:
        found.add(
            kind.read_whole(folder / "new" / "thing", lambda _, files: files["other"].read_text())
        )

    disk.follow(lived(disk, save("old")))
    for _ in range(5):  # its folder, and the one above, were new
        lived(disk.cut(dice, Moment("")), read)
    assert found == {"old"}
    journal = lived(disk, save("of one who was killed"))
    disk.follow(journal[: next(n for n, entry in enumerate(journal) if isinstance(entry, Sync))])
    for entry in lived(disk, save("new")):
        for _ in range(3):
            lived(disk.cut(dice, entry), read)
        disk.take(entry)
    assert found == {"old", "new"}


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
