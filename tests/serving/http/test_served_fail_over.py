"""A service on a store behind a Sentinel: it refuses in words while nobody answers, and goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from serving.http.served import server_of
from serving.http.test_app import T0
from serving.redis_sentinel import Watched
from serving.small_streams import FIRST, N, small_stream

from longrec.client import Client
from longrec.serving.stores import redis_client

pytestmark = pytest.mark.slow


def test_a_service_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Watched(tmp_path) as watched,
        server_of(small_stream("elastic", watched.url), tmp_path) as server,
    ):
        sent: list[int] = []
        failed: list[str] = []
        moved = threading.Event()

        def shop() -> None:
            with Client(server.url, timeout=30, patience=90) as client:
                after = 5
                while after:
                    after -= moved.is_set()
                    item = FIRST + len(sent) % N
                    event = {"user": "ann", "item": item, "time": T0 + len(sent)}
                    answer = client.log([event])
                    if answer["accepted"] + answer["duplicates"] != 1:
                        failed.append(str(answer))
                    sent.append(item)
                    rows = client.recommend("ann", k=N, exclude_seen=True)
                    if {row["item"] for row in rows} & set(sent):
                        failed.append(f"after {len(sent)} events one of them was recommended")

        def until(count: int) -> None:
            while len(sent) < count:
                assert thread.is_alive()
                thread.join(0.01)

        thread = threading.Thread(target=shop)
        thread.start()
        until(3)
        monkeypatch.setattr(redis_client, "PATIENCE", 0.2)
        watched.kill_sentinel()
        watched.servers[0].kill()  # nobody decides who is the next master
        event = {"user": "bob", "item": FIRST, "time": T0, "event_id": "order-1"}
        refused = server.post("/v1/events", {"events": [event]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1" in refused.json()["error"]["message"]
        watched.start_sentinel(alone=True)
        watched.until_moved(watched.servers[0])
        moved.set()
        thread.join(120)
        assert not thread.is_alive()
        assert not failed
        page = server.client.get("/v1/users/ann?limit=1000").json()
        assert [int(one["item"]) for one in page["log"]] == sent
        assert server.post("/v1/events", {"events": [event]}).json()["accepted"] == 1
