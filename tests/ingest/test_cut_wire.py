"""A wire that loses answers: events are logged once and in order all the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from ingest.brokers import Broker
from ingest.ingest_jobs import event, logged, parts
from serving.redis_server import RedisServer
from serving.small_streams import small_stream
from serving.stores.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.long
EVENTS, USERS = 1500, 8


def check(url: str, folder: Path, session: float) -> None:
    with small_stream("last-item", folder / "users", "process") as stream:
        limits = {"until_end": True, "batch": 9, "patience": 120.0}
        assert parts(stream, url, folder, session=session, **limits).run().accepted == EVENTS
        for user in range(USERS):
            assert logged(stream.store, f"u{user}") == list(range(user, EVENTS, USERS))


def test_redis_over_a_wire_that_loses_answers(tmp_path: Path) -> None:
    dice = random.Random(3)
    with RedisServer(tmp_path / "redis") as server, CuttingProxy(server.port) as proxy:
        with server.client(db=1) as client, client.pipeline(transaction=False) as pipe:
            for number in range(EVENTS):
                pipe.xadd(f"s{number % 2}", event(f"u{number % USERS}", number))
            pipe.execute()
        proxy.lose = lambda: dice.random() < 0.15
        check(f"redis://127.0.0.1:{proxy.port}/1/s0,s1", tmp_path, 1.0)
        assert proxy.cuts > 20


def test_kafka_over_a_wire_that_loses_answers(tmp_path: Path) -> None:
    dice, proxies = random.Random(3), list[CuttingProxy]()

    def way(port: int) -> int:
        proxies.append(CuttingProxy(port))
        return proxies[0].port

    with Broker(way) as broker, proxies[0] as proxy:
        broker.create("s", 2)
        rows = (
            (number % 2, json.dumps(event(f"u{number % USERS}", number)).encode(), {})
            for number in range(EVENTS)
        )
        broker.produce("s", rows)
        proxy.lose = lambda: dice.random() < 0.05
        check(broker.url("s"), tmp_path, 2.0)
        assert proxy.cuts > 5
