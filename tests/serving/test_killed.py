"""Whole streams in processes that are killed at random instants, under load.

No acknowledged event is lost, none is logged twice, workers' events stand in their order, and every
record is what the log gives. The load is decided by a seed, the instants are not; a failure tells
the seed and the number of the kill.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from forking import ForkServer, Job, kills
from serving.acknowledged import Acknowledged, check_after_kill, finish, log_of
from serving.redis_server import RedisServer
from serving.small_streams import FIRST
from serving.stores.cutting_proxy import CuttingProxy
from serving.stream_jobs import (
    BEGIN,
    CASES,
    ITEMS,
    SHARED,
    recommender_and_engine,
    small_stream,
)

from longrec.core.choices import Durability
from longrec.data.write import write_histories
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event
from longrec.serving.stream.id_keys import item_key

instants = random.SystemRandom()
VISITORS = 30
"""Users of the histories whom nobody observes; the last of all in the store's order."""


@pytest.fixture(scope="module")
def server():
    with ForkServer("serving.stream_jobs") as server:
        yield server


@contextmanager
def at(seed: int, kill: int) -> Iterator[None]:
    """Tell in failures which load it was, and which kill."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}, kill {kill}")
        raise


# ---- stores in files


def kill_embedded(
    server: ForkServer, url: str, durability: Durability, case: str, seed: int, many: int
) -> None:
    acknowledged = Acknowledged(seed, 3)
    for kill in range(many):
        with (
            at(seed, kill),
            server.job("run_workers", url, durability, case, seed, acknowledged.starts) as job,
        ):
            acknowledged.read(wait(job, kill % 4 and instants.randint(1, 60)))
            acknowledged.read(job.killed())
            acknowledged.restarted(acknowledged.next)
            check_after_kill(acknowledged, url, durability, case)
    with at(seed, many):
        finish(acknowledged, url, durability, case)


def wait(job: Job, many: int, word: str = "") -> list[str]:
    """What it says until it has said so many lines that begin with a word, and a moment more."""
    lines: list[str] = []
    while many:
        lines.append(job.line() or "failed: it says nothing")
        many -= lines[-1].startswith((word, "failed"))
    time.sleep(instants.random() * (0.003 if lines else 0.02))
    return lines


QUICK_AND_SLOW = [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])]


@pytest.mark.kills
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("case", QUICK_AND_SLOW)
def test_killed_beside_its_users(server, tmp_path, case, durability) -> None:
    url = f"lmdb://{tmp_path}/store"
    kill_embedded(server, url, durability, case, len(case), kills(2))


def older_events(folder: Path) -> tuple[str, dict[str, list[Event]]]:
    """Histories of the shared users and many others, in a folder; and per user what they hold."""
    dice = random.Random(0)
    users = [*SHARED, *(f"visitor{n:02}" for n in range(VISITORS))]
    sizes = [dice.randint(1, 12) for _ in users]
    items = [dice.choice(ITEMS) for _ in range(sum(sizes))]
    times = [BEGIN - 10**6 + n for n in range(len(items))]
    write_histories(
        folder,
        user_ids=pl.Series(users),
        offsets=np.cumsum([0, *sizes]),
        items=np.array(items) - FIRST + 1,
        times=np.array(times),
        catalog=recommender_and_engine(CASES[0])[0].catalog,
        source="test",
        time_unit="s",
    )
    events = iter(Event(t, item_key(i), None) for i, t in zip(items, times, strict=True))
    return str(folder), {
        u: [next(events) for _ in range(n)] for u, n in zip(users, sizes, strict=True)
    }


def kill_rebuilding(
    server: ForkServer,
    folder: Path,
    durability: Durability,
    case: str,
    seed: int,
    many: int,
) -> None:
    histories, older = older_events(folder / "histories")
    acknowledged, url = Acknowledged(seed, 3, older), f"lmdb://{folder}/store"
    for kill in range(many):
        with (
            at(seed, kill),
            server.job(
                "run_workers", url, durability, case, seed, acknowledged.starts, None, histories
            ) as job,
        ):
            acknowledged.read(wait(job, instants.randint(1, 8), "progress"))
            acknowledged.read(job.killed())
            acknowledged.restarted(acknowledged.next)
            check_after_kill(acknowledged, url, durability, case)
    with at(seed, many):
        finish(acknowledged, url, durability, case, histories)
        assert acknowledged.resumed


@pytest.mark.kills
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("case", QUICK_AND_SLOW)
def test_killed_while_it_rebuilds_beside(server, tmp_path, case, durability) -> None:
    kill_rebuilding(server, tmp_path, durability, case, len(case), kills(2))


# ---- Redis: the server, the replicas and the connections between


def kill_shared(forks: ForkServer, folder: Path, case: str, seed: int, many: int) -> None:
    """Kill servers, connections and replicas in turn; the first replica rebuilds besides."""
    histories, older = older_events(folder / "histories")
    acknowledged, workers = Acknowledged(seed, 4, older), [(0, 1), (2, 3)]

    def start(one: int) -> Job:
        mine = {str(worker): acknowledged.next[worker] for worker in workers[one]}
        rebuilt = None if one else histories
        return forks.job("run_workers", server.url, "power", case, seed, mine, None, rebuilt)

    with RedisServer(folder / "redis") as server, ExitStack() as stack:
        store = open_store(server.url, "power")
        replicas = [start(one) for one in range(2)]
        stack.callback(lambda: [replica.killed() for replica in replicas])
        for kill in range(many):
            with at(seed, kill):
                for replica in replicas:
                    acknowledged.read(wait(replica, instants.randint(1, 20)))
                if kill % 5 in (0, 3):
                    server.kill()
                    time.sleep(instants.random() * 0.02)
                    server.start()
                elif kill % 5 in (1, 4):
                    with server.client() as client:
                        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
                else:
                    one = kill // 5 % 2
                    acknowledged.read(replicas[one].killed())
                    acknowledged.restarted(workers[one])
                    replicas[one] = start(one)
                acknowledged.read(line for replica in replicas for line in new_lines(replica))
                acknowledged.check(store, running=True)
        with at(seed, many):
            for replica in replicas:
                acknowledged.read(replica.killed())
            acknowledged.restarted(acknowledged.next)
            acknowledged.check(store)
            store.close()
            finish(acknowledged, server.url, "power", case, histories)


def new_lines(job: Job) -> Iterator[str]:
    """What it has said so far."""
    while (line := job.line(0)) is not None:
        yield line


@pytest.mark.kills
@pytest.mark.parametrize("case", QUICK_AND_SLOW)
def test_replicas_and_their_server_killed(server, tmp_path, case) -> None:
    kill_shared(server, tmp_path, case, len(case), kills(7))


def test_an_answer_is_lost_and_the_log_replaced_before_the_call_is_sent_again(tmp_path) -> None:
    histories, older = older_events(tmp_path / "histories")
    with RedisServer(tmp_path / "redis") as server, CuttingProxy(server.port) as proxy:
        stream, other = (small_stream("elastic", url, "power") for url in (proxy.url, server.url))
        with stream, other:
            assert stream.observe("anna", FIRST, BEGIN).new
            answers = iter(["of what is read", "of what is logged"])

            def lose() -> bool:
                if next(answers, None) != "of what is logged":
                    return False
                other.rebuild(histories)
                return True

            proxy.lose = lose
            assert stream.observe("anna", FIRST + 1, BEGIN + 1).new  # without an event id
            assert proxy.cuts == 1
            logged = [Event(BEGIN + n, item_key(FIRST + n), None) for n in range(2)]
            assert log_of(other.store, b"anna")[1] == older["anna"] + logged
