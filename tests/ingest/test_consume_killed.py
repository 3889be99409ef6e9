"""Consumers killed at random instants: no event is lost, none is logged twice, all are in order."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forking import ForkServer, Job
from ingest.brokers import SESSION, Broker
from ingest.ingest_jobs import CASE, event, logged
from serving.redis_server import RedisServer
from serving.small_streams import small_stream

KILLS = int(os.environ.get("LONGREC_TEST_KILLS", "200"))
PARTITIONS, USERS = 4, 8
"""User n's events are all in partition n % 4."""
LEASE = 0.5
FEW = 3
BATCH = 7

Send = Callable[[list[tuple[int, bytes]]], None]


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer("ingest.ingest_jobs") as server:
        yield server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


class Sender:
    """Sends events of all users, some garbage among them, and knows what it has sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.number, self.garbage = send, 0, 0
        self.sent: dict[str, list[int]] = {f"u{user}": [] for user in range(USERS)}

    def some(self, many: int) -> None:
        rows = []
        for _ in range(many):
            user = self.number % USERS
            body = json.dumps(event(f"u{user}", self.number)).encode()
            self.sent[f"u{user}"].append(self.number)
            rows.append((user % PARTITIONS, body))
            self.number += 1
        rows.append((self.number % PARTITIONS, b'{"user": 1}'))
        self.garbage += 1
        self._send(rows)


def kill_and_check(
    children: ForkServer, url: str, store: str, session: float, sender: Sender, kills: int, folder
) -> str:
    """Two consumers share the partitions, one of them is killed; in the end one finishes."""
    dice, began = random.Random(7), time.monotonic()

    def start() -> Job:
        return children.job("consume", url, store, session, BATCH, False, str(folder))

    sender.some(200)
    running, progressed, hung = [start(), start()], 0, 0
    for _ in range(kills):
        sender.some(20)
        victim, other = dice.sample(running, 2)
        hangs = dice.random() < 0.2
        if hangs:  # for longer than its session, and goes on with what it holds
            other.send_signal(signal.SIGSTOP)
            hung += 1
        if victim.line(dice.choice([0.2, 1.0, 3.0])) is not None:
            progressed += 1
        time.sleep(dice.random() * 0.05)
        lines = victim.killed()
        assert not any("failed" in line for line in lines), lines
        assert victim.returncode == -signal.SIGKILL, "it had ended by itself"
        running = [other, start()]
        if hangs:
            time.sleep(1.5 * session)
            other.send_signal(signal.SIGCONT)
    for one in running:
        assert not any("failed" in line for line in one.killed())
        assert one.returncode == -signal.SIGKILL, "it had ended by itself"
    with children.job("consume", url, store, session, 100, True, str(folder)) as job:
        lines = []
        while (line := job.line(120)) is not None:
            lines.append(line)
    assert lines[-1].startswith("ended"), lines[-3:]
    with small_stream(CASE, store, "process") as stream:
        for user, numbers in sender.sent.items():
            found = logged(stream.store, user)
            assert sorted(found) == numbers, f"{user}: lost or twice"
            assert found == numbers, f"{user}: out of order"
    letters = [json.loads(one) for one in (folder / "dead.jsonl").read_text().splitlines()]
    places = {(one["partition"], one["offset"]) for one in letters}
    assert len(places) == sender.garbage
    return (
        f"{kills} kills ({progressed} of a consumer that had logged by then), {hung} times another "
        f"one hung for longer than its session; {sender.number:,} events "
        f"of {USERS} users in {PARTITIONS} partitions: each logged once and in order; "
        f"{sender.garbage} dead letters, {len(letters) - len(places)} of them kept twice; "
        f"{time.monotonic() - began:.0f} s"
    )


def kafka(broker: Broker, children: ForkServer, store: str, kills: int, folder: Path) -> str:
    topic = broker.create(f"kills{kills}", PARTITIONS)

    def send(rows: list[tuple[int, bytes]]) -> None:
        broker.produce(topic, [(partition, body, {}) for partition, body in rows])

    sender = Sender(send)
    url = broker.url(topic)
    return kill_and_check(children, url, store, SESSION, sender, kills, folder)


def streams(server: RedisServer, children: ForkServer, store: str, kills: int, folder: Path) -> str:
    server.empty(2)
    names = [f"part{n}" for n in range(PARTITIONS)]
    with server.client(db=2) as client:

        def send(rows: list[tuple[int, bytes]]) -> None:
            with client.pipeline() as pipe:
                for partition, body in rows:
                    pipe.xadd(names[partition], json.loads(body))
                pipe.execute()

        sender = Sender(send)
        url = f"redis://127.0.0.1:{server.port}/2/{','.join(names)}"
        return kill_and_check(children, url, store, LEASE, sender, kills, folder)


@pytest.mark.slow
def test_a_few_kills_with_redis(redis_server, children, tmp_path):
    streams(redis_server, children, redis_server.empty(0), FEW, tmp_path)


@pytest.mark.slow
def test_a_few_kills_with_kafka(broker, redis_server, children, tmp_path):
    kafka(broker, children, redis_server.empty(0), FEW, tmp_path)


@pytest.mark.long
def test_many_kills_with_redis(redis_server, children, tmp_path):
    print(streams(redis_server, children, redis_server.empty(0), KILLS, tmp_path))


@pytest.mark.long
def test_many_kills_with_kafka(broker, redis_server, children, tmp_path):
    print(kafka(broker, children, redis_server.empty(0), KILLS, tmp_path))
