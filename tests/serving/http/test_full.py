"""A full disk: the server says so and is not ready, still forgets, and goes on by itself."""

from __future__ import annotations

import time
from pathlib import Path

from serving.http.served import LocalServer, local_server, server_of
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, small_stream
from serving.stores.test_room import MIB, files_of

from longrec.serving.stores.protocol import StoreFull

T0 = 1_700_000_000


def event(number: int) -> dict[str, object]:
    return {"user": f"u{number}", "item": FIRST + number % 9, "time": T0, "event_id": f"e{number}"}


def is_ready(server: LocalServer, wanted: bool) -> dict:
    """The answer of /readyz, once it is as wanted: what it found is kept for a second."""
    end = time.monotonic() + 20
    while True:
        answer = server.client.get("/readyz")
        if (answer.status_code == 200) == wanted:
            return answer.json()
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)


def log_until_full(server: LocalServer) -> int:
    """Log users with an event each until there is no room; -> how many there are."""
    for number in range(0, 10**5, 50):
        answer = server.post("/v1/events", {"events": [event(number + n) for n in range(50)]})
        if answer.status_code != 200:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "full"
            assert answer.headers["retry-after"]
            return number
    raise AssertionError("it was never full")


def check_full(server: LocalServer, logged: int, reason: str) -> None:
    """While it is full: not ready and why, recommendations go on, users are forgotten."""
    error = is_ready(server, False)["error"]
    assert reason in error["message"]
    assert server.client.get("/healthz").status_code == 200
    answer = server.post("/v1/recommendations", {"user": "u1"})
    assert (answer.status_code, answer.json()["policy"]) == (200, "personal")
    for number in range(0, logged, 7):
        assert server.client.delete(f"/v1/users/u{number}").json() == {"forgotten": True}
    assert server.client.get("/v1/users/u0").status_code == 404
    assert server.client.get("/v1/users/u1").json()["events"] == 1


def check_goes_on(server: LocalServer, logged: int) -> None:
    is_ready(server, True)
    sent = {"events": [event(logged + n) for n in range(50)]}
    assert server.post("/v1/events", sent).json()["accepted"] == 50
    assert server.client.get("/v1/users/u1").json()["events"] == 1


def test_a_store_in_a_folder(tmp_path: Path) -> None:
    with local_server("elastic", tmp_path) as server:
        is_ready(server, True)
        with files_of(MIB):
            logged = log_until_full(server)
            check_full(server, logged, "has no room to grow")
            again = {"events": [event(number) for number in (0, 7, 14)]}
            assert server.post("/v1/events", again).json()["accepted"] == 3
            is_ready(server, True)  # events are taken again, where the forgotten ones were
            # Events that histories bring in are noted as left out, which takes room as well.
            noted = {"read": 1, "users": 2, "imported": 0, "left_out": 0, "whole": True}
        store = server.server.service.current.stream.store
        store.change_meta(lambda meta: meta.update(imports={"00": noted}))
        with files_of(MIB):
            assert server.client.delete("/v1/users/u3").json() == {"forgotten": True}
        check_goes_on(server, logged)


def test_a_store_in_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis, redis.client() as admin:
        stream = small_stream("elastic", redis.empty(1), "power")
        with server_of(stream, tmp_path) as server:
            is_ready(server, True)
            used = admin.info("memory")["used_memory"]
            admin.config_set("maxmemory", used + MIB)
            logged = log_until_full(server)
            check_full(server, 8, "maxmemory")
            admin.config_set("maxmemory", used - MIB // 8)
            error = is_ready(server, False)["error"]
            assert "maxmemory" in error["message"]
            assert server.client.delete("/v1/users/u3").json() == {"forgotten": True}
            admin.config_set("maxmemory", "0")
            check_goes_on(server, logged)


def test_who_is_forgotten_while_histories_come_in_does_not_come_back(tmp_path, monkeypatch) -> None:
    """Where there is no room to note it before, it is noted in the room that forgetting makes."""
    with small_stream("elastic", tmp_path / "s") as stream:
        stream.observe("ann", FIRST, T0)
        noted = {"read": 1, "users": 2, "imported": 0, "left_out": 0, "whole": True}
        stream.store.change_meta(lambda meta: meta.update(imports={"00": noted}))
        change, left = stream.store.change_meta, [1]

        def full_once(work):
            if left:
                left.pop()
                raise StoreFull("full")
            return change(work)

        monkeypatch.setattr(stream.store, "change_meta", full_once)
        assert stream.forget("ann")
        assert stream.store.meta()["imports"]["00"]["forgotten"] == [b"ann".hex()]
