"""What one client asks holds up no other, and the timeout holds whatever blocks."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from models.small_models import N
from serving.http.served import LocalServer, local_server
from serving.http.test_app import T0, events_of
from serving.small_streams import FIRST, recommender, small_stream

from longrec.serving.http import admission, readiness, service, threads
from longrec.serving.http.answers import explained
from longrec.serving.http.batcher import Batcher
from longrec.serving.http.server import serve
from longrec.serving.http.settings import Settings
from longrec.serving.http.signals import Signals
from longrec.serving.http.threads import Abandoned, Courtesy, Threads

LARGE = {"history": [FIRST + n % 20 for n in range(3000)]}


# ---- large requests give way


def test_long_work_waits_for_short_requests_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(threads, "PIECE", 0.0)

    async def run() -> list[str]:
        courtesy, order = Courtesy(), list[str]()
        lane, begun, go = Threads("test", 1, 4, courtesy), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work(pause) -> None:
            loop.call_soon_threadsafe(begun.set)
            go.wait(20)
            pause()
            order.append("long")

        monkeypatch.setattr(threads, "MOST", 60.0)
        monkeypatch.setattr(threads, "SHARE", 1e9)
        long = asyncio.create_task(lane.run_long(work))
        await begun.wait()
        with courtesy.short():
            go.set()
            await asyncio.sleep(0.05)
            order.append("short")
        await long
        monkeypatch.setattr(threads, "MOST", 0.01)
        with courtesy.short():  # which does not end
            await lane.run_long(work)
            order.append("short")
        await lane.close()
        return order

    assert asyncio.run(run()) == ["short", "long", "long", "short"]


def test_work_that_nobody_waits_for_ends_at_its_next_pause(monkeypatch):
    monkeypatch.setattr(threads, "PIECE", 0.0)

    async def run() -> list[object]:
        lane, begun, found = Threads("test", 1, 4, Courtesy()), asyncio.Event(), list[object]()
        go, loop = threading.Event(), asyncio.get_running_loop()

        def work(pause) -> None:
            loop.call_soon_threadsafe(begun.set)
            go.wait(20)
            try:
                pause()
            except Abandoned as error:
                found.append(error)
                raise

        under_way = asyncio.create_task(lane.run_long(work))
        waiting = asyncio.create_task(lane.run_long(lambda pause: found.append("never")))
        await begun.wait()
        under_way.cancel()
        waiting.cancel()
        await asyncio.wait([under_way, waiting])
        go.set()
        await lane.close()
        return found

    [error] = asyncio.run(run())
    assert isinstance(error, Abandoned)


@pytest.mark.parametrize(
    "body", [LARGE, {"user": "a", "k": 1000}, {"users": ["a"] * 40}, {"histories": [[FIRST]] * 40}]
)
def test_large_requests_are_no_part_of_others_batches(body, tmp_path: Path):
    with local_server("elastic", tmp_path) as server:
        stream = server.server.service.current.stream
        hold, held, answer_all = threading.Event(), threading.Event(), stream.ranker.recommend_each

        def slowly(requests, pause=None):
            if pause is not None:
                held.set()
                assert hold.wait(20)
            return answer_all(requests)

        stream.ranker.recommend_each = slowly
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(server.post("/v1/recommendations", body))
        )
        thread.start()
        assert held.wait(10)
        assert server.post("/v1/events", events_of("b", [FIRST])).status_code == 200
        assert server.post("/v1/recommendations", {"user": "b", "k": 3}).status_code == 200
        hold.set()
        thread.join(20)
        assert answers[0].status_code == 200


def test_many_events_are_logged_in_parts_in_their_order(tmp_path: Path, monkeypatch):
    sizes: list[int] = []
    submit = Batcher.submit

    async def noted(self, work, weight=1):
        sizes.append(weight)
        return await submit(self, work, weight)

    monkeypatch.setattr(Batcher, "submit", noted)
    monkeypatch.setattr(service, "MANY_AT_ONCE", service.AT_ONCE)
    with local_server("elastic", tmp_path) as server:
        items = [FIRST + n % N for n in range(300)]
        answer = server.post("/v1/events", events_of("many", items))
        assert answer.json().items() >= {"accepted": 300, "duplicates": 0, "unknown": 0}.items()
        assert max(sizes) == service.AT_ONCE
        log = server.client.get("/v1/users/many", params={"limit": 300}).json()["log"]
        assert [event["item"] for event in log] == [str(item) for item in items]


def test_a_long_history_read_in_pieces_gives_what_it_gives_in_one(tmp_path: Path):
    with small_stream("elastic", tmp_path / "users") as stream:
        ranker = stream.ranker
        history = [(FIRST + n * 7 % N, T0 + n) for n in range(1000)]
        request = ranker.history_request([(*event, None) for event in history], 5)
        pauses: list[int] = []
        [whole] = ranker.recommend_each([request])
        [pieces] = ranker.recommend_each([request], lambda: pauses.append(1))
        assert len(pauses) >= 3
        assert pieces.items.tolist() == whole.items.tolist()
        assert np.allclose(pieces.scores, whole.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whose", ["a user's", "one that is sent along"])
def test_an_explanation_gives_way_all_along(whose: str, tmp_path: Path):
    """Reading the log, or what was sent, as well as reading it through the model."""
    events = 3000
    history = [{"item": FIRST + n * 7 % N, "time": T0 + n, "columns": None} for n in range(events)]
    with small_stream("elastic", tmp_path / "users") as stream:
        body = {"item": FIRST, "top": 1, "user": "ann", "history": None}
        if whose == "a user's":
            log = {name: [one[name] for one in history] for name in ("item", "time")}
            stream.observe_many(pl.DataFrame({"user": ["ann"] * events} | log))
        else:
            body |= {"user": None, "history": history}
        pauses: list[int] = []
        found = explained(stream, body, lambda *_: pauses.append(1))
    assert found["events_read"] == events
    read = events // (256 if whose == "a user's" else 64)  # twice, as given and as the model has it
    assert len(pauses) >= read + 2 * events // 512


def test_a_group_is_ranked_at_each_ones_own_k(tmp_path: Path, monkeypatch):
    with small_stream("elastic", tmp_path / "users") as stream:
        for user in "abcd":
            stream.observe(user, FIRST + ord(user) % 7, T0)
        ranker, ks = stream.ranker, []
        search = ranker.index.search

        def noted(h, k, *rest):
            ks.append((len(h), k))
            return search(h, k, *rest)

        wanted = [
            ranker.request(user, k) for user, k in zip("abcde", (2, N, 1, N - 1, N), strict=True)
        ]
        alone = [ranker.recommend_each([one])[0] for one in wanted]
        monkeypatch.setattr(ranker.index, "search", noted)
        together = ranker.recommend_each(wanted)
        assert sorted(ks) == [(2, 2), (2, N)]
        for one, other in zip(together, alone, strict=True):
            assert one.items.tolist() == other.items.tolist()
            assert np.allclose(one.scores, other.scores)


def test_bodies_may_take_so_much_memory_together(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(admission, "HELD", 1000)
    with local_server("elastic", tmp_path) as server:
        ranker = server.server.service.current.stream.ranker
        hold, held, answer_all = threading.Event(), threading.Event(), ranker.recommend_each

        def slowly(requests, pause=None):
            held.set()
            assert hold.wait(20)
            return answer_all(requests)

        ranker.recommend_each = slowly
        body = {"user": "ann", "exclude": ["x" * 300, "y" * 300]}
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(server.post("/v1/recommendations", body))
        )
        thread.start()
        assert held.wait(10)
        answer = server.post("/v1/recommendations", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert answer.headers["retry-after"] == "1"
        hold.set()
        thread.join(20)
        assert answers[0].status_code == 200
        assert server.post("/v1/recommendations", body).status_code == 200


def test_compressed_bodies_are_refused_by_name(tmp_path: Path):
    with local_server("popularity", tmp_path) as server:
        for coding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
            headers = {"content-type": "application/json", "content-encoding": coding}
            body = json.dumps({"user": "ann"})
            answer = server.client.post("/v1/recommendations", content=body, headers=headers)
            assert answer.status_code == status


# ---- who watches


def test_many_who_ask_whether_it_is_ready_cost_one_question(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(readiness, "KEPT", 60.0)
    with local_server("popularity", tmp_path) as server:
        store = server.server.service.current.stream.store
        asked, meta = [], store.meta
        monkeypatch.setattr(store, "meta", lambda: asked.append(1) or meta())
        for _ in range(50):
            assert server.client.get("/readyz").status_code == 200
        assert len(asked) == 1


def test_a_store_that_hangs_is_not_ready_and_takes_nobodys_place(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(readiness, "KEPT", 0.0)
    monkeypatch.setattr(readiness, "WITHIN", 0.1)
    with local_server("popularity", tmp_path) as server:
        store, hold = server.server.service.current.stream.store, threading.Event()
        asked, meta = [], store.meta

        def hangs():
            asked.append(1)
            assert hold.wait(30)
            return meta()

        store.meta = hangs
        for _ in range(5):
            answer = server.client.get("/readyz")
            assert answer.status_code == 503
            assert "did not answer in 0.1 s" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
        assert len(asked) == 1
        assert server.client.get("/v1/users/nobody").status_code == 404
        assert server.client.get("/healthz").status_code == 200
        hold.set()
        store.meta = meta
        for _ in range(500):
            if server.client.get("/readyz").status_code == 200:
                break
        else:
            raise AssertionError("it is never ready again")


def test_metrics_are_made_once_for_all_who_ask_meanwhile(tmp_path: Path):
    async def run() -> list[bytes]:
        texts = iter(b"abcdefgh")
        made = readiness.SharedText(lambda: bytes([next(texts)]))
        together = await asyncio.gather(*(made.get() for _ in range(20)))
        return [*dict.fromkeys(together), await made.get()]

    assert asyncio.run(run()) == [b"a", b"b"]


# ---- the timeout


BLOCKED = {
    "events": ("POST", "/v1/events", events_of("ann", [FIRST])),
    "many events": ("POST", "/v1/events", events_of("ann", [FIRST] * 100)),
    "recommendations": ("POST", "/v1/recommendations", {"user": "ann"}),
    "many recommendations": ("POST", "/v1/recommendations", {"users": ["ann"] * 100}),
    "explanation": ("POST", "/v1/explanations", {"user": "ann", "item": FIRST}),
    "a user": ("GET", "/v1/users/ann", None),
    "forgetting": ("DELETE", "/v1/users/ann", None),
}


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A server whose store hangs until the end."""
    path = tmp_path_factory.mktemp("hanging")
    with local_server("elastic", path, settings={"timeout": 0.3}) as server:
        server.post("/v1/events", events_of("ann", [FIRST]))
        hold, store = threading.Event(), server.server.service.current.stream.store

        def hang(*_, **__):
            hold.wait(60)
            raise AssertionError("it was held to the end")

        for name in ("read", "append", "events", "users", "put", "delete", "forget", "erase"):
            if hasattr(store, name):
                setattr(store, name, hang)
        yield server
        hold.set()


@pytest.mark.parametrize("what", BLOCKED)
def test_the_timeout_holds_whatever_blocks(what: str, hanging: LocalServer):
    method, path, body = BLOCKED[what]
    answer = hanging.client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
    assert hanging.client.get("/healthz").status_code == 200
    assert hanging.client.get("/v1/model").status_code == 200


def test_a_server_whose_store_hangs_ends_in_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(service, "PATIENCE", 0.3)
    hold = threading.Event()
    with local_server("elastic", tmp_path, settings={"timeout": 0.3}) as server:
        store = server.server.service.current.stream.store
        read = store.read
        store.read = lambda *given, **more: hold.wait(60) and read(*given, **more)
        assert server.post("/v1/events", events_of("ann", [FIRST])).status_code == 503
    hold.set()  # `local_server` has ended before


def test_what_there_is_when_it_begins_is_not_looked_through_for_garbage(tmp_path: Path):
    frozen: list[int] = []

    class Ended(Exception):
        pass

    def ready(address, stream, need) -> None:
        frozen.append(gc.get_freeze_count())
        raise Ended

    run = recommender("popularity").save(tmp_path / "run")
    with pytest.raises(Ended):
        serve(Settings(run=run, store=str(tmp_path / "users"), port=0), Signals(), ready=ready)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0


def test_what_requests_took_and_freed_is_given_back(tmp_path: Path, monkeypatch):
    """Once the process has grown, not more often than now and then, and not without growth."""
    grown, given_back = [0], threading.Semaphore(0)
    monkeypatch.setattr(service, "LOOK_EVERY", 0.005)
    monkeypatch.setattr(service, "HOLES_EVERY", 0.02)
    monkeypatch.setattr(service, "own_bytes", lambda: grown[0])
    monkeypatch.setattr(service, "give_back_holes", given_back.release)
    with local_server("elastic", tmp_path):
        assert not given_back.acquire(timeout=0.1)
        grown[0] += service.HOLES + 1
        assert given_back.acquire(timeout=20)
        assert not given_back.acquire(timeout=0.1), "it has grown no further"
        grown[0] += service.HOLES + 1
        assert given_back.acquire(timeout=20)
