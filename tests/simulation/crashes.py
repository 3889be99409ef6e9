"""Crashes by the thousand, each from a seed: a service is simulated, and what a crash leaves of it
is held against what it had acknowledged.

    PYTHONPATH=src:tests python -m simulation.crashes --crashes 10000
    PYTHONPATH=src:tests python -m simulation.crashes --seed 17 --durability process

A seed is one history of a service: some lives, each of some steps with a journal of what they did
to the disk, crashes at instants of it, and what one of these left, with which the next life begins.
After each crash the store opens and has every acknowledged event once and in order, nothing of a
step by half, no damage, nothing that is said to be lost, and records that the log gives; backups
and restored stores that were acknowledged are whole. After a power cut of a store of durability
`process` this need not be so: what is not, is told.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from unittest.mock import patch
from zlib import crc32

from simulation.checks import Found, check, check_cut, logs_of, saved_in
from simulation.disk import Disk, Entry, Image, lay_out
from simulation.service import KINDS, STORE, Expected, Service, Step, draw
from simulation.watched import Watched, in_run

from longrec.core.choices import Durability
from longrec.serving.stores import damage

LIVES, STEPS, CRASHES = 3, 10, 40
"""Lives of a seed, steps of a life, crashes of a life."""

Kind = Literal["killed", "power cut"]


class Crash(NamedTuple):
    """The disk after it, and the step that was under way."""

    kind: Kind
    disk: Disk
    step: Step


class Survived(NamedTuple):
    """How many crashes of each kind were survived, and a digest of all that they left."""

    counts: Counter[str]
    digest: int


def survive(
    seed: int,
    durability: Durability,
    trained: bool = False,
    lives: int = LIVES,
    crashes: int = CRASHES,
) -> Survived:
    """Simulate a service by a seed.

    Parameters
    ----------
    trained : models with weights, which take longer, instead of models that count.
    Raises
    ------
    AssertionError
        When a crash leaves what it must not, with the command that does the same again.
    """
    counts, digest, disk = Counter[str](), 0, Disk()
    expected = Expected({}, 0)
    begun, redo = Step("open", expected, expected), None
    run = 1
    for life in range(lives):
        dice = random.Random(f"{seed} {life}")
        quiet = patch.object(damage.log, "disabled", True)
        with scratch() as folder, telling(seed, durability, trained, f"life {life}"), quiet:
            lay_out(disk.image(), folder / "live")
            watched = Watched(folder / "live", dice, disk, run)
            live(watched, durability, trained, begun, expected, redo, life)
            goes_on, after = dice.randrange(crashes), None
            for number, crash in enumerate(crash_often(watched.journal, disk, dice, crashes)):
                image = crash.disk.image()
                for path, content in image.items():
                    digest = crc32(content or b"", crc32(path.encode(), digest))
                place = f"crash {number}, {crash.kind} at {crash.step.kind!r}"
                after_it = in_run(run + (crash.kind == "power cut"))
                with telling(seed, durability, trained, f"life {life}, {place}"), after_it:
                    found = look(crash, image, folder / "left", durability, trained, number)
                counts[f"{crash.kind}: {found.told or 'all there'}"] += 1
                if number <= goes_on and found.expected is not None:
                    after = crash, found.expected
            if after is None:  # all that is left was damaged
                break
            (kind, disk, step), expected = after
            run += kind == "power cut"
            # What was found is on the disk after a power cut, and after a kill once it is open.
            begun = step if kind == "killed" else Step("", expected, expected)
            if step.kind not in ("open", "opened"):
                again = step.by_user or (step.kind in KINDS and dice.random() < 0.5)
                redo = step if again else None
    return Survived(counts, digest)


def live(
    watched: Watched,
    durability: Durability,
    trained: bool,
    begun: Step,
    expected: Expected,
    redo: Step | None,
    life: int,
) -> None:
    """One life of a service.

    Parameters
    ----------
    begun : what may be there until it is open; expected : what is there.
    redo : the step to begin with, as it was under way when the life before ended.
    """
    with watched.watching():
        watched.note(begun._replace(kind="open"))
        url = str(watched.root / STORE)
        with Service(url, durability, trained, expected.serves, watched) as service:
            watched.note(Step("opened", expected, expected))
            for number in range(STEPS):
                step = redo or draw(watched.dice, expected, life * STEPS + number)
                redo = None
                watched.note(step)
                service.do(step)
                expected = step.after
                watched.note(Step("wait", expected, expected))
            assert logs_of(service.stream.store) == expected.logs
        watched.note(Step("close", expected, expected))


def lived(disk: Disk, work: Callable[[Path], object]) -> list[Entry]:
    """What some work in a folder does to a disk, all of which is new or there already."""
    with scratch() as folder:
        lay_out(disk.image(), folder / "live")
        watched = Watched(folder / "live", random.Random(0), disk, 1)
        with watched.watching():
            work(folder / "live")
    return watched.journal


def crash_often(
    journal: list[Entry], disk: Disk, dice: random.Random, crashes: int
) -> Iterator[Crash]:
    """Crashes at instants of a life that began on a disk, in order."""
    disk, done = disk.killed(dice, journal[0]), 0
    for instant in sorted(dice.randrange(1, len(journal)) for _ in range(crashes)):
        disk.follow(journal[done:instant])
        done = instant
        kind: Kind = "killed" if dice.random() < 0.3 else "power cut"
        leave = disk.killed if kind == "killed" else disk.cut
        yield Crash(kind, leave(dice, journal[instant]), disk.moment)


def look(
    crash: Crash, image: Image, folder: Path, durability: Durability, trained: bool, number: int
) -> Found:
    """Hold what a crash left against what was acknowledged."""
    thorough = number % 4 == 0
    lay_out(image, folder)
    try:
        with patch.object(os, "fsync", lambda file: None):
            saved = saved_in(folder, crash.step, trained)
            if durability == "process" and crash.kind == "power cut":
                found = check_cut(folder, crash.step, durability, trained)
            else:
                found = check(folder, crash.step, durability, trained, thorough)
        if found.expected is None:
            return found
        return found._replace(expected=found.expected._replace(saved=saved))
    finally:
        shutil.rmtree(folder)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a while, in memory where there is one."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="longrec-simulation-", dir=place) as folder:
        yield Path(folder)


@contextmanager
def telling(seed: int, durability: Durability, trained: bool, where: str) -> Iterator[None]:
    """Let errors say where they were met, and how to meet them again."""
    try:
        yield
    except BaseException as error:
        if not getattr(error, "__notes__", None):
            more = " --trained" if trained else ""
            error.add_note(
                f"seed {seed}, {where}; again: PYTHONPATH=src:tests python -m simulation.crashes "
                f"--seed {seed} --durability {durability}{more}"
            )
        raise


def main() -> None:
    """Simulate one seed, or as many as make up a count of crashes."""
    parser = argparse.ArgumentParser(prog="python -m simulation.crashes")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed of many")
    parser.add_argument("--crashes", type=int, default=10_000)
    parser.add_argument("--durability", choices=get_args(Durability), default="power")
    parser.add_argument("--trained", action="store_true", help="models with weights")
    asked = parser.parse_args()
    begun, counts = (time.perf_counter(), time.process_time()), Counter[str]()
    seeds = count(asked.first) if asked.seed is None else [asked.seed]
    for seed in seeds:
        survived = survive(seed, asked.durability, asked.trained)
        counts += survived.counts
        if counts.total() >= asked.crashes:
            break
    ended = time.perf_counter(), time.process_time()
    took, worked = (
        60 * counts.total() / (now - then) for now, then in zip(ended, begun, strict=True)
    )
    print(f"{counts.total():,} crashes, {took:,.0f} a minute, {worked:,.0f} a minute of processor")
    for what, many in sorted(counts.items()):
        print(f"{many:8,} {what}")
    if asked.seed is not None:
        print(f"digest {survived.digest}")


if __name__ == "__main__":
    main()
