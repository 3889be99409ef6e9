"""What a server does to its store beside requests: seeding it, and applying new items."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from serving.http.served import ServeProcess, server_of
from serving.http.test_app import T0, events_of
from serving.http.test_serve import ask, lines_of, wait_for
from serving.redis_server import RedisServer
from serving.small_streams import (
    FIRST,
    check_best,
    grown,
    quick_engine,
    recommender,
    small_stream,
)

from longrec.data.histories import Histories
from longrec.data.write import write_histories
from longrec.recommender import Recommender
from longrec.serving.stores.checks import SEAL
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store
from longrec.serving.stream import rebuild as module
from longrec.serving.stream import stream as stream_module
from longrec.serving.stream.stream import Stream

LIVE = FIRST + 30


def many_histories(folder: Path, rec: Recommender, users: int, events: int) -> Histories:
    """Of so many users, each with so many events of the recommender's items."""
    random = np.random.default_rng(0)
    return write_histories(
        folder,
        user_ids=pl.Series([f"u{n:05d}" for n in range(users)]),
        offsets=np.arange(users + 1) * events,
        items=random.integers(1, 20, users * events),
        times=np.tile(T0 - 60 * np.arange(events)[::-1], users),
        catalog=rec.catalog,
        source="test",
        time_unit="s",
    )


def history_of(histories: Histories, row: int) -> list[tuple[int, int]]:
    here = slice(histories.offsets[row], histories.offsets[row + 1])
    return [
        (FIRST + int(item) - 1, int(time))
        for item, time in zip(histories.items[here], histories.times[here], strict=True)
    ]


def contents(store: Store, digest: str) -> dict[bytes, tuple]:
    """Per user the log, the record but for its version and its checksum, and the seen items."""
    users = store.users(b"", 10**6)
    stored = store.read(digest, [(user, ()) for user in users], seen=True)
    found = {}
    for user, one in zip(users, stored, strict=True):
        record = one.record and one.record[:24] + one.record[32 : -SEAL.size]
        events = store.events(user, one.log_id, 0, one.last)
        found[user] = (tuple(events), record, one.seen.rstrip(b"\0"))
    return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(stream_module, "Engine", quick_engine)
    monkeypatch.setattr(module, "USERS", 2)


def test_a_store_is_filled_beside_requests(quick, monkeypatch, tmp_path: Path) -> None:
    """Who is not in it is cold, who comes meanwhile keeps the order; then nothing is to do."""
    rec = recommender("elastic")
    histories = many_histories(tmp_path / "h", rec, 6, 5)
    go_on, put_in_front = threading.Semaphore(0), module.put_in_front

    def wait_first(*given):
        assert go_on.acquire(timeout=30)
        return put_in_front(*given)

    monkeypatch.setattr(module, "put_in_front", wait_first)
    stream = small_stream("elastic", tmp_path / "users")
    with server_of(stream, tmp_path, settings={"data": tmp_path / "h"}) as server:
        metrics = lambda: server.client.get("/metrics").text  # noqa: E731
        model = lambda: server.client.get("/v1/model").json()  # noqa: E731
        wait_for(lambda: model()["store"])
        assert model()["store"] == {"state": "seeding", "progress": 0, "error": None}
        assert server.post("/v1/recommendations", {"user": "u00000"}).json()["policy"] == "cold"
        server.post("/v1/events", events_of("u00004", [LIVE], T0 + 60)).raise_for_status()
        go_on.release()
        wait_for(lambda: model()["store"]["progress"] > 0.1)
        assert "longrec_store_work_progress 0.1" in metrics()
        answer = server.post("/v1/recommendations", {"user": "u00000"}).json()
        assert answer["policy"] == "personal"
        go_on.release(2)
        wait_for(lambda: model()["store"] is None)
        assert "longrec_store_work_progress -1.0" in metrics()
        log = server.client.get("/v1/users/u00004").json()["log"]
        wanted = [*history_of(histories, 4), (LIVE, T0 + 60)]
        assert [(int(event["item"]), event["time"]) for event in log] == wanted
        check_best("elastic", stream.recommend("u00004"), wanted)
    stream = small_stream("elastic", tmp_path / "users")
    with server_of(stream, tmp_path, settings={"data": tmp_path / "h"}) as server:
        wait_for(lambda: server.server.store_work._task.done())
        assert server.client.get("/v1/model").json()["store"] is None


def test_a_seeding_that_fails_is_told_and_the_server_goes_on(quick, tmp_path: Path) -> None:
    stream = small_stream("elastic", tmp_path / "users")
    with server_of(stream, tmp_path, settings={"data": tmp_path / "none"}) as server:
        wait_for(lambda: server.client.get("/v1/model").json()["store"])
        found = server.client.get("/v1/model").json()["store"]
        assert found["state"] == "failed"
        assert "no such folder" in found["error"]
        server.post("/v1/events", events_of("ann", [FIRST])).raise_for_status()


def test_new_items_count_without_a_hand_s_work(quick, tmp_path: Path) -> None:
    small = recommender("elastic")
    big = grown(small, [7, 8])
    with small_stream("elastic", tmp_path / "users") as stream:
        for time_, item in enumerate((FIRST, 7, FIRST + 1)):
            stream.observe("ann", item, T0 + time_)
    stream = Stream.open(big, str(tmp_path / "users"), "process")
    with server_of(stream, tmp_path) as server:
        skipped = lambda: server.client.get("/v1/users/ann").json()["record"]["skipped"]  # noqa: E731
        wait_for(lambda: skipped() == 0)
        wanted = {"user": "ann", "k": 99, "exclude_seen": True}
        items = [one["item"] for one in server.post("/v1/recommendations", wanted).json()["items"]]
        assert 7 not in items
        assert 8 in items
        best = big.recommend(histories=[[FIRST, 7, FIRST + 1]], k=99, exclude_seen=True)
        assert items == best["item"].to_list()


# ---- processes


class Seeds(NamedTuple):
    """A run, histories that take some pages, and a store's content after an undisturbed rebuild."""

    run: Path
    histories: Path
    digest: str
    wanted: dict[bytes, tuple]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Seeds:
    folder = tmp_path_factory.mktemp("seeds")
    rec = recommender("elastic")
    many_histories(folder / "histories", rec, 900, 24)
    with rec.open_stream(str(folder / "undisturbed"), "process") as stream:
        stream.observe("u00899", LIVE, T0 + 60)
        stream.rebuild(folder / "histories")
        wanted = contents(stream.store, stream.engine.digest)
    return Seeds(rec.save(folder / "run"), folder / "histories", rec.state_digest, wanted)


def seed_half(url: str, seeds: Seeds, number: int, part: float) -> None:
    """Seed a store in a server that a signal ends once so much is done.

    On a busy machine the seeding may have ended before the signal comes: what the store must hold
    after the next start is the same.
    """
    options = ("--data", seeds.histories, "--durability", "process", "--no-log-requests")
    with ServeProcess(seeds.run, url, *options) as child:
        assert any("filling the store from" in line for line in child.output)
        ask(child, "/v1/events", events_of("u00899", [LIVE], T0 + 60))
        end = time.monotonic() + 60
        while not any("seeding: done" in line for line in child.output):
            work = child.client.get("/v1/model").json()["store"]
            if work is not None and work["progress"] >= part:
                break
            assert time.monotonic() < end
        begun = time.monotonic()
        status = child.stop(number)
        assert status == (0 if number == signal.SIGTERM else -number)
        assert time.monotonic() - begun < 20


def check_seeded(url: str, seeds: Seeds) -> None:
    """End it in another server, and hold what is there against an undisturbed rebuild."""
    options = ("--data", seeds.histories, "--durability", "process", "--no-log-requests")
    with ServeProcess(seeds.run, url, *options) as child:
        wait_for(lambda: child.client.get("/v1/model").json()["store"] is None)
        assert child.stop() == 0
        [done] = [one for one in lines_of(child) if one["event"].startswith("seeding: done")]
        counts = {"left_out": 0}
        if done["event"] == "seeding: done":  # or the server before had ended it
            counts |= {"users": 900, "imported": 900 * 24}
        assert counts.items() <= done.items()
    store = open_store(url, "process", readonly=True)
    found = contents(store, seeds.digest)
    store.close()
    assert found == seeds.wanted


def test_killed_while_it_fills_a_store_it_goes_on_at_the_next_start(seeds, tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}/users"
    seed_half(url, seeds, signal.SIGKILL, 0.3)
    check_seeded(url, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_ended_anywhere_while_it_fills_a_store(kind, number, part, seeds, tmp_path: Path) -> None:
    if kind == "lmdb":
        url = f"lmdb://{tmp_path}/users"
        seed_half(url, seeds, number, part)
        check_seeded(url, seeds)
    else:
        with RedisServer(tmp_path / "redis", appendfsync="everysec") as redis:
            seed_half(redis.url, seeds, number, part)
            check_seeded(redis.url, seeds)
