"""`longrec serve` as a process: its start, its end, changes of the model under load, replicas."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from serving.http.served import ServeProcess
from serving.http.test_app import T0, check_answer, events_of
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, UNKNOWN, recommender

from longrec.core.files import digest_of_file
from longrec.core.shared import key_of_file
from longrec.recommender import load
from longrec.serving.stores.open import open_store


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return recommender("elastic").save(tmp_path_factory.mktemp("runs") / "elastic")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another model of the same catalog: other weights, another name."""
    return recommender("hydrarec").save(tmp_path_factory.mktemp("runs") / "hydrarec")


def ask(child: ServeProcess, path: str, body: object) -> dict:
    answer = child.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines_of(child: ServeProcess) -> list[dict]:
    return [json.loads(line) for line in child.output if line.startswith("{")]


class Load:
    """Clients that send pairs until they are told to stop, and note every answer that is none."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.url, self.digests, self.failed = url, [], []
        self.sent: dict[str, list[tuple[int, int]]] = {f"u{n}": [] for n in range(clients)}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _go(self, number: int) -> None:
        user, rng = f"u{number}", np.random.default_rng(number)
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                item, at = FIRST + int(rng.integers(20)), T0 + 60 * len(self.sent[user])
                try:
                    logged = client.post(
                        "/v1/events", json={"events": [{"user": user, "item": item, "time": at}]}
                    )
                    if logged.status_code == 200:
                        self.sent[user].append((item, at))
                    found = client.post("/v1/recommendations", json={"user": user, "k": 3})
                    for answer in (logged, found):
                        if answer.status_code != 200:
                            self.failed.append(answer.text)
                    self.digests.append(found.json()["model"])
                except httpx.HTTPError as error:
                    if not self._stop.is_set():
                        self.failed.append(repr(error))
                    return

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


def put_in_place(run: Path, link: Path) -> None:
    """Let a link point at a run, at one moment."""
    new = link.with_suffix(".new")
    new.symlink_to(run)
    os.replace(new, link)


@contextmanager
def loaded(child: ServeProcess) -> Iterator[Load]:
    load_ = Load(child.url)
    try:
        yield load_
    finally:
        load_.stop()


def test_a_server_survives_a_damaged_run_and_drains_at_its_end(run: Path, tmp_path: Path):
    """Its log has no ids, and whatever it answered before SIGTERM is in the store."""
    copied, store = tmp_path / "run", str(tmp_path / "users")
    shutil.copytree(run, copied)
    with ServeProcess(copied, store) as child:
        ask(child, "/v1/events", events_of("secret-ann", [FIRST, FIRST + 1]))
        ask(child, "/v1/recommendations", {"user": "secret-ann"})
        child.client.get("/v1/items/secret-item/similar")
        child.client.get("/v1/users/secret-ann")
        # A run that cannot be loaded changes nothing.
        (copied / "model.safetensors").write_bytes(b"x")
        child.process.send_signal(signal.SIGHUP)
        wait_for(lambda: (child.client.get("/v1/model").json()["swap"] or {}).get("error"))
        model = child.client.get("/v1/model").json()
        assert (model["name"], model["swap"]["state"]) == ("elastic", "failed")
        history = [(FIRST, T0), (FIRST + 1, T0 + 60)]
        answer = ask(child, "/v1/recommendations", {"user": "secret-ann"})
        check_answer("elastic", answer, history, 10)
        shutil.copy(run / "model.safetensors", copied)
        child.process.send_signal(signal.SIGHUP)
        wait_for(lambda: child.client.get("/v1/model").json()["swap"] is None)
        sent, status = end_under_load(child, signal.SIGTERM)
        assert status == 0
    check_logged(store, sent)
    assert any("streams exactly" in line for line in child.output)
    [empty] = [line for line in child.output if line.startswith("the store is empty")]
    command = f"longrec --threads 1 serve {copied} --store {store} --port 0 --data HISTORIES"
    assert empty.endswith(f"stop and run: {command}\n")
    lines = lines_of(child)
    events = [line["event"] for line in lines if line["event"] != "request"]
    assert [event for event in events if not event.startswith("swap")] == [
        "serving",
        "stopping",
        "stopped",
    ]
    requests = [line for line in lines if line["event"] == "request"]
    assert any(
        {"method": "GET", "route": "/v1/users/{user}", "status": 200}.items() <= line.items()
        for line in requests
    )
    assert "secret" not in "".join(child.output)


@pytest.mark.slow
def test_what_was_answered_before_it_was_killed_is_in_the_store(run: Path, tmp_path: Path):
    store = str(tmp_path / "users")
    with ServeProcess(run, store) as child:
        sent, status = end_under_load(child, signal.SIGKILL)
        assert status == -signal.SIGKILL
    check_logged(store, sent)


def end_under_load(
    child: ServeProcess, number: int
) -> tuple[dict[str, list[tuple[int, int]]], int]:
    """Send a signal amid load; -> the acknowledged events by user, and the exit status."""
    with loaded(child) as load_:
        wait_for(lambda: sum(map(len, load_.sent.values())) > 40)
        child.process.send_signal(number)
        status = child.process.wait(60)
        load_._stop.set()
    return load_.sent, status


def check_logged(url: str, sent: dict[str, list[tuple[int, int]]]) -> None:
    """Whether acknowledged events, and one more of each user at most, are in a store."""
    store = open_store(url, readonly=True)
    for user, history in sent.items():
        [found] = store.read("0" * 64, [(user.encode(), ())])
        logged = store.events(user.encode(), found.log_id, 0, 10**6)
        got = [(int(event.item), event.time) for event in logged]
        assert got[: len(history)] == history
        assert len(got) <= len(history) + 1
    store.close()
    open_store(url).close()  # nobody holds it any more


def test_the_model_is_changed_under_load_without_a_failed_request(
    run: Path, other: Path, tmp_path: Path
):
    """First for one with more items, then for another model."""
    link, store = tmp_path / "current", str(tmp_path / "users")
    put_in_place(run, link)
    small = load(run)
    big = small.with_items([UNKNOWN], torch.full((1, small.model_config.dim), 0.1))
    old, new = small.state_digest, load(other).state_digest
    with ServeProcess(link, store, "--durability", "process") as child:
        ask(child, "/v1/events", events_of("ann", [FIRST, UNKNOWN, FIRST + 2]))
        put_in_place(big.save(tmp_path / "bigger"), link)
        child.process.send_signal(signal.SIGHUP)
        wait_for(lambda: child.client.get("/v1/model").json()["items"] == big.catalog.n_items)
        # Once nobody skips them any more, its events count.
        wait_for(lambda: child.client.get("/v1/users/ann").json()["record"]["skipped"] == 0)
        wanted = {"user": "ann", "k": 5, "exclude_seen": False}
        answer = ask(child, "/v1/recommendations", wanted)
        best = big.recommend(histories=[[FIRST, UNKNOWN, FIRST + 2]], k=5, exclude_seen=False)
        assert [one["item"] for one in answer["items"]] == best["item"].to_list()

        events = [
            {"user": f"old{user}", "item": item, "time": T0 + 60 * at}
            for user in range(300)
            for at, item in enumerate((FIRST + user % 20, FIRST + 3))
        ]
        ask(child, "/v1/events", {"events": events})
        with loaded(child) as load_:
            wait_for(lambda: len(load_.digests) > 30)
            put_in_place(other, link)
            child.process.send_signal(signal.SIGHUP)
            wait_for(lambda: new in load_.digests[-3:])
            many = len(load_.digests)
            wait_for(lambda: len(load_.digests) > many + 30)
        assert not load_.failed
        assert set(load_.digests) == {old, new}
        assert set(load_.digests[many:]) == {new}
        for user, history in load_.sent.items():
            answer = ask(child, "/v1/recommendations", {"user": user, "k": 4})
            check_answer("hydrarec", answer, history, 4)
        answer = ask(child, "/v1/recommendations", {"user": "old7", "k": 4})
        check_answer("hydrarec", answer, [(FIRST + 7, T0), (FIRST + 3, T0 + 60)], 4)
        model = child.client.get("/v1/model").json()
        assert (model["name"], model["swap"]) == ("hydrarec", None)
        assert 'longrec_swaps_total{outcome="done"} 2.0' in child.client.get("/metrics").text
        # What the models of before had in memory is let go of at once, without a look for garbage.
        weights = Path("/proc", str(child.process.pid), "maps")
        held = key_of_file(digest_of_file(link / "model.safetensors"))
        wait_for(lambda: set(re.findall(r"file-\w+", weights.read_text())) <= {held})
        child.process.send_signal(signal.SIGHUP)  # the same model again
        wait_for(lambda: any("nothing to do" in line for line in child.output))
        served = load(other)  # the same weights and records, another policy
        changed = replace(served, exclude_seen=not served.exclude_seen)
        put_in_place(changed.save(tmp_path / "another policy"), link)
        child.process.send_signal(signal.SIGHUP)
        done = 'longrec_swaps_total{outcome="done"} 3.0'
        wait_for(lambda: done in child.client.get("/metrics").text)
        assert child.stop() == 0
    found = open_store(store, "process", readonly=True)
    assert set(found.totals().records) == {new}
    found.close()


def test_two_replicas_on_one_redis_give_one_user(run: Path, tmp_path: Path):
    with RedisServer(tmp_path / "redis") as redis:
        options = ("--durability", "process", "--no-log-requests")
        with (
            ServeProcess(run, redis.url, *options) as one,
            ServeProcess(run, redis.url, *options) as two,
        ):
            history: list[tuple[int, int]] = []
            for at, item in enumerate([3, 7, 3, 1, 9, 12, 5, 5, 2]):
                event = (FIRST + item, T0 + 60 * at)
                history.append(event)
                where = (one, two)[at % 2]
                body = {"user": "ann", "item": event[0], "time": event[1], "event_id": f"e{at}"}
                assert ask(where, "/v1/events", {"events": [body]})["accepted"] == 1
                again = (two, one)[at % 2]
                assert ask(again, "/v1/events", {"events": [body]})["duplicates"] == 1
                answers = [
                    ask(child, "/v1/recommendations", {"user": "ann", "k": 6})
                    for child in (again, where)
                ]
                for answer in answers:
                    check_answer("elastic", answer, history, 6)
                shown = [child.client.get("/v1/users/ann").json() for child in (one, two)]
                assert shown[0]["log"] == shown[1]["log"]
            assert one.client.delete("/v1/users/ann").json() == {"forgotten": True}
            assert two.client.get("/v1/users/ann").status_code == 404
            assert one.stop() == two.stop() == 0


@pytest.mark.slow
def test_without_its_store_it_is_not_ready_and_says_when_to_come_again(run: Path, tmp_path: Path):
    with (
        RedisServer(tmp_path / "redis") as redis,
        ServeProcess(run, redis.url, "--durability", "process") as child,
    ):
        ask(child, "/v1/events", events_of("ann", [FIRST]))
        redis.kill()
        ready = child.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["error"]["code"] == "store"
        assert child.client.get("/healthz").status_code == 200
        redis.start()
        wait_for(lambda: child.client.get("/readyz").status_code == 200)
        ask(child, "/v1/events", events_of("ann", [FIRST]))
        assert child.stop() == 0
