"""While one of several servers of a store is away, only its own users' requests fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving.http.served import LocalServer, server_of
from serving.http.test_app import T0, events_of
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, UNKNOWN, small_stream

from longrec.serving.stores import redis_client
from longrec.serving.stores.protocol import StoreUnavailable

pytestmark = pytest.mark.slow
ANN, BOB, FRED = "ann", "bob", "fred"
"""Of two servers ann is on the second, bob and fred are on the first."""


@contextmanager
def served(tmp_path: Path) -> Iterator[tuple[LocalServer, RedisServer, RedisServer]]:
    with (
        RedisServer(tmp_path / "one") as one,
        RedisServer(tmp_path / "two") as two,
        server_of(small_stream("elastic", f"{one.url},{two.url}"), tmp_path) as server,
    ):
        yield server, one, two


def of(user: str, number: int, item: int = FIRST + 1) -> dict[str, Any]:
    return {"events": [{"user": user, "item": item, "time": T0 + number}]}


def test_users_of_a_server_that_answers_do_not_wait_for_another_one(tmp_path, monkeypatch):
    with served(tmp_path) as (server, one, _), ThreadPoolExecutor(16) as threads:
        stream = server.server.service.current.stream
        assert [stream.store.part_of(user.encode()) for user in (BOB, FRED, ANN)] == [0, 0, 1]
        for user in (ANN, BOB):
            assert server.post("/v1/events", events_of(user, [FIRST, FIRST + 2])).is_success
        monkeypatch.setattr(redis_client, "PATIENCE", 20.0)
        one.kill()  # where what is kept of the store itself stands, too

        waiting: list[Future[Any]] = [
            threads.submit(server.post, "/v1/events", of(BOB, 9)),
            threads.submit(server.post, "/v1/recommendations", {"user": BOB, "k": 3}),
            threads.submit(server.post, "/v1/events", {**of(FRED, 9), **recommend(FRED)}),
            *(threads.submit(server.client.get, f"/v1/users/{user}") for user in 2 * [BOB, FRED]),
        ]
        mine = [
            threads.submit(call, *arguments)
            for call, *arguments in 4
            * [
                (server.post, "/v1/events", of(ANN, 9)),
                (server.post, "/v1/events", of(ANN, 9, UNKNOWN)),
                (server.client.get, f"/v1/users/{ANN}"),
                (server.post, "/v1/events", {**of(ANN, 10), **recommend(ANN)}),
                (server.post, "/v1/recommendations", {"user": ANN, "k": 3}),
                (server.post, "/v1/recommendations", {"history": [FIRST], "k": 3}),
                (server.client.get, "/readyz"),
            ]
        ]
        for answer in [one.result(15) for one in mine]:
            assert answer.status_code == 200, answer.text
        stream.observe(ANN, FIRST, T0 + 11)
        assert len(stream.recommend(ANN, 3)) == 3
        assert not any(one.done() for one in waiting), "they were to wait for their server"
        monkeypatch.setattr(redis_client, "PATIENCE", 0.0)
        for answer in [one.result(15) for one in waiting]:
            check_away(answer)

        # It is known to be away: nobody waits for it any more, and what is noted there can wait.
        monkeypatch.setattr(redis_client, "PATIENCE", 1.0)
        check_away(server.post("/v1/events", of(BOB, 20)))
        check_away(server.post("/v1/recommendations", {"user": BOB, "k": 3}))
        assert server.post("/v1/events", of(ANN, 12, UNKNOWN)).json()["accepted"] == 1
        both = {"events": of(BOB, 21)["events"] + of(ANN, 21)["events"]}
        check_away(server.post("/v1/events", both))
        with pytest.raises(StoreUnavailable):
            stream.observe(BOB, FIRST, T0 + 30)
        log = server.client.get(f"/v1/users/{ANN}?limit=1000").json()["log"]
        assert [event["time"] for event in log][-1] == T0 + 21

        monkeypatch.setattr(redis_client, "PATIENCE", 20.0)
        one.start()
        for user in (ANN, BOB, FRED):
            assert server.post("/v1/events", {**of(user, 40), **recommend(user)}).is_success
        times = [(user, 50 + at) for at in range(30) for user in (ANN, BOB)]
        many = {"events": [of(*one)["events"][0] for one in times]}
        assert server.post("/v1/events", many).json()["accepted"] == 60
        frame = stream.recommend([ANN, BOB, FRED], 2)
        assert frame["user"].to_list() == [ANN, ANN, BOB, BOB, FRED, FRED]


def test_when_no_server_answers_it_is_not_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(redis_client, "PATIENCE", 0.0)
    with served(tmp_path) as (server, one, two):
        assert server.client.get("/readyz").status_code == 200
        one.kill()
        two.kill()
        with pytest.raises(StoreUnavailable):
            server.server.service.current.stream.store.check_ready()


def recommend(user: str) -> dict[str, Any]:
    return {"recommend": {"user": user, "k": 3}}


def check_away(answer: Any) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "store"
