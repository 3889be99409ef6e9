"""What children do to whole streams before they are killed (see forking.py).

Several workers, a thread each, take steps on a few users. What a worker does at a step is decided
by seed, worker and number of the step alone: who knows which steps are done knows all that a store
must hold, and a killed worker goes on at the step that it was in, which is a retry.
"""

from __future__ import annotations

import importlib
import random
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

from serving.small_streams import FIRST, UNKNOWN, frame_of, recommender

from longrec.core.choices import Durability
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import StoreUnavailable
from longrec.serving.stream import rebuild
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream

CASES = ("hydrarec", "elastic")
SHARED = ("anna", "boris", "42")
ITEMS = range(FIRST, FIRST + 25)
"""Those that are observed: there are always ten others left to recommend."""
BEGIN = 1_600_000_000
PAGE = 4
"""Users per page of a rebuild, so that one of few users has many pages."""


@cache
def recommender_and_engine(case: str) -> tuple[Recommender, Engine]:
    """A small recommender, and its engine, which takes longer to make than most streams live."""
    rec = recommender(case)
    return rec, Engine(rec)


if "pytest" not in sys.modules:  # in a fork server: once, before any child is forked
    # Nothing here may start polars' threads, for which those forked later would wait for ever.
    for name in CASES:
        recommender_and_engine(name)
    for name in (
        "longrec.serving.stores.lmdb_store",
        "longrec.serving.stores.redis_store",
        "pandas",
    ):
        with suppress(ImportError):
            importlib.import_module(name)


def small_stream(case: str, url: str, durability: Durability) -> Stream:
    """`open_stream` with what is made already."""
    rec, engine = recommender_and_engine(case)
    store = open_store(url, durability)
    register(store, rec, False)
    return Stream(rec, engine, store)


class Step(NamedTuple):
    """What a worker does at one step.

    what : "observe", "many", "recommend" or "forget"; user : of these two;
    events : (user, item, time, event id).
    """

    what: str
    user: str
    events: tuple[tuple[str, int, int, str], ...]


def own_user(worker: int) -> str:
    """The user whom this worker alone observes, and now and then forgets."""
    return f"own{worker}"


def sent_by_all(event_id: str) -> bool:
    """Whether every worker sends this event, and one of them is the first."""
    return event_id.startswith("all")


def columns_of(event_id: str) -> dict[str, Any]:
    """Further columns of an event: none of every third one."""
    number = sum(event_id.encode())
    return {"type": f"type {number % 7}", "weight": number / 4} if number % 3 else {}


def step_of(seed: int, worker: int, number: int) -> Step:
    """What a worker does at a step."""
    if number % 9 == 4:
        dice = random.Random(f"{seed} {number}")
        return Step("observe", "", (_event(dice, SHARED, number, f"all-{number}"),))
    dice = random.Random(f"{seed} {worker} {number}")
    users, kind = (*SHARED, own_user(worker)), dice.random()
    if kind < 0.02:
        return Step("forget", own_user(worker), ())
    if kind < 0.17:
        return Step("recommend", dice.choice(users), ())
    many = 1 if kind < 0.85 else dice.randint(2, 7)
    return Step(
        "observe" if many == 1 else "many",
        "",
        tuple(_event(dice, users, number, f"{worker}-{number}-{n}") for n in range(many)),
    )


def _event(
    dice: random.Random, users: Sequence[str], number: int, event_id: str
) -> tuple[str, int, int, str]:
    item = UNKNOWN if dice.random() < 0.1 else dice.choice(ITEMS)
    # Some are late, some simultaneous.
    return dice.choice(users), item, BEGIN + 60 * number + 30 * dice.randint(-4, 4), event_id


def run_workers(
    report: Callable[[str], None],
    url: str,
    durability: Durability,
    case: str,
    seed: int,
    starts: dict[str, int],
    ends: dict[str, int] | None = None,
    histories: str | None = None,
) -> None:
    """Let workers go on at their steps, until `ends` or for ever; report what is acknowledged.

    report : "WORKER STEP ACCEPTED TRIES" after each step; with histories, which a thread besides
        rebuilds with over and over, "progress DONE IN_ALL" and "rebuilt IMPORTED LEFT_OUT".
    """
    with small_stream(case, url, durability) as stream, patch.object(rebuild, "USERS", PAGE):
        works: list[tuple[Any, ...]] = [
            (_run_steps, stream, seed, int(worker), start, (ends or {}).get(worker))
            for worker, start in starts.items()
        ]
        if histories is not None:
            works.append((_rebuild, stream, histories, ends is None))
        threads = [
            threading.Thread(target=_reporting_failure, args=(report, *work)) for work in works
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _reporting_failure(
    report: Callable[[str], None], work: Callable[..., None], *arguments: Any
) -> None:
    try:
        work(report, *arguments)
    except BaseException as error:
        report(f"failed {type(error).__name__}: {error}")
        raise


def _run_steps(
    report: Callable[[str], None],
    stream: Stream,
    seed: int,
    worker: int,
    start: int,
    end: int | None,
) -> None:
    seen: dict[str, set[int]] = {user: set() for user in (*SHARED, own_user(worker))}
    for number in range(start):
        _note_seen(seen, step_of(seed, worker, number))
    number = start
    while number != end:
        step, tries = step_of(seed, worker, number), 1
        while True:
            try:
                accepted = _do_step(stream, step, seen)
                break
            except StoreUnavailable:
                tries += 1
        _note_seen(seen, step)
        report(f"{worker} {number} {accepted:d} {tries}")
        number += 1


def _do_step(stream: Stream, step: Step, seen: dict[str, set[int]]) -> int:
    if step.what == "observe":
        [(user, item, time, event_id)] = step.events
        found = stream.observe(user, item, time, event_id, columns_of(event_id))
        assert found.known == (item != UNKNOWN)
        return found.new
    if step.what == "many":
        rows = []
        for event in step.events:
            columns = columns_of(event[-1])
            rows.append((*event, columns.get("type"), columns.get("weight")))
        frame = frame_of(rows, "event_id", "type", "weight")
        counts = stream.observe_many(frame, columns=("type", "weight"))
        assert counts.accepted + counts.duplicates == len(step.events)
        return counts.accepted
    if step.what == "forget":
        return stream.forget(step.user)
    best = stream.recommend(step.user)
    if step.user not in SHARED or seen[step.user]:
        assert set(best["policy"]) == {"personal" if seen[step.user] else "cold"}
        again = seen[step.user].intersection(best["item"])
        assert not again, f"recommended what was observed before: {again}"
    assert len(best) == 10
    return 0


def _note_seen(seen: dict[str, set[int]], step: Step) -> None:
    """What a worker knows that its users have seen."""
    if step.what == "forget":
        seen[step.user] = set()
    for user, item, _, _ in step.events:
        seen[user] |= {item} - {UNKNOWN}


def _rebuild(report: Callable[[str], None], stream: Stream, histories: str, again: bool) -> None:
    while True:
        try:
            done = stream.rebuild(histories, progress=lambda n, of: report(f"progress {n} {of}"))
        except StoreUnavailable:  # the same call goes on
            continue
        report(f"rebuilt {done.imported} {done.left_out}")
        if not again:
            return
