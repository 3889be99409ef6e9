"""Signals at every instant of a start and of a change of the model: the last word is obeyed.

After each the store is whole, and the service starts with the same command and answers as the
model that its link points at.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from forking import run_code
from serving.http.served import ServeProcess
from serving.http.swap_instants import INSTANTS, point
from serving.http.test_app import T0
from serving.http.test_serve import ask, lines_of, put_in_place, wait_for
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, recommender

from longrec.recommender import load
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.open import open_store

USERS = 12
HISTORIES = {f"u{n:02d}": [FIRST + n, FIRST + 3, FIRST + (5 * n) % 17] for n in range(USERS)}
CODE = "from serving.http.swap_instants import main\nmain()"
TERM, INT, HUP, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL
ENDS = {TERM: 0, INT: 0, KILL: -9}
FEW = [("after load", TERM), ("after page", HUP), ("after take over", KILL)]
SWAP = [i for i in INSTANTS if i.split(" ", 1)[1] not in ("signals", "lifespan")]
MANY = [(instant, (TERM, HUP, KILL)[at % 3]) for at, instant in enumerate(SWAP)]
ON_REDIS = [("after load", KILL), ("before page", HUP), ("after page", KILL)]
ON_REDIS += [("after take over", TERM)]
START = [i for i in INSTANTS if i.split(" ", 1)[1] in ("signals", "load", "open", "register")]
START += ["before lifespan", "after lifespan"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs by the digests of their models; what is answered for all users is known of each."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        rec.state_digest: rec.save(folder / rec.name)
        for rec in map(recommender, ("last-item", "hydrarec", "transitions"))
    }


class Watched(ServeProcess):
    """A server that gets signals at instants of its start and its changes."""

    def __init__(self, order: Path, link: Path, store: str) -> None:
        command = ("--threads", 1, "serve", link, "--store", store, "--port", 0)
        options = ("--durability", "process", "--no-log-requests")
        self._begin(
            run_code(
                *(CODE, order, *command, *options),
                stderr=subprocess.PIPE,
                text=True,
                env=dict(os.environ),
            )
        )


class Chain:
    """Servers one after the other, on one store, each ended by a signal."""

    def __init__(self, folder: Path, store: str, runs: dict[str, Path]) -> None:
        self.order, self.link, self.store = folder / "order", folder / "current", store
        self.runs, self.wanted = runs, next(iter(runs))
        put_in_place(runs[self.wanted], self.link)

    def another(self) -> str:
        digests = list(self.runs)
        return digests[(digests.index(self.wanted) + 1) % len(digests)]

    def want(self, digest: str) -> None:
        self.wanted = digest
        point(self.link, self.runs[digest])

    def give(self, instant: str, number: int, digest: str = "") -> None:
        """Order a signal, and perhaps that the link points at another run when it comes."""
        run = self.runs.get(digest, "")
        self.order.with_suffix(".new").write_text(f"{instant}|{int(number)}|{run}")
        os.replace(self.order.with_suffix(".new"), self.order)
        self.wanted = digest or self.wanted

    def check(self, server: ServeProcess) -> None:
        """Whether it answers as the wanted model, and what is in its store is that one's."""
        wait_for(lambda: self.model(server)["digest"] == self.wanted)
        check_lists(ask_all(server.client), load(self.runs[self.wanted]))
        wait_for(lambda: self.model(server)["swap"] is None)
        wait_for(lambda: self.model(server)["store"] is None)

    def model(self, server: ServeProcess) -> dict:
        return server.client.get("/v1/model").json()

    def check_store(self) -> None:
        store = open_store(self.store, readonly=True)
        found = verify(store)
        assert not found.problems
        assert found.users == USERS
        assert found.events == 3 * USERS
        store.close()


def fill(server: ServeProcess) -> None:
    events = [
        {"user": user, "item": item, "time": T0 + 60 * at}
        for user, items in HISTORIES.items()
        for at, item in enumerate(items)
    ]
    assert ask(server, "/v1/events", {"events": events})["accepted"] == 3 * USERS


def ask_all(client: httpx.Client) -> dict:
    answer = client.post("/v1/recommendations", json={"users": list(HISTORIES), "k": 5})
    assert answer.status_code == 200, answer.text
    return answer.json()


def check_lists(answer: dict, rec) -> None:
    """Whether an answer is of the model that it names, in all its lists."""
    assert answer["model"] == rec.state_digest
    wanted = rec.recommend(histories=list(HISTORIES.values()), k=5)
    scores = [one["score"] for found in answer["recommendations"] for one in found["items"]]
    assert scores == pytest.approx(wanted["score"].to_list(), rel=1e-3, abs=1e-4)


@contextmanager
def asked_meanwhile(server: ServeProcess) -> Iterator[list[dict]]:
    """A client that asks for all users' lists all the time; its answers."""
    answers, ended = [], threading.Event()

    def go() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not ended.is_set():
                answers.append(ask_all(client))

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join(30)


def change_at(chain: Chain, instants: list[tuple[str, signal.Signals]]) -> None:
    """Change the model, with a signal at each instant of the change."""
    server = None
    try:
        for instant, number in instants:
            if server is None:
                server = Watched(chain.order, chain.link, chain.store).__enter__()
                chain.check(server)
            chain.want(chain.another())
            chain.give(instant, number, chain.another() if number == HUP else "")
            server.process.send_signal(HUP)
            if number == HUP:
                chain.check(server)
                assert not chain.order.exists(), instant
            else:
                assert server.process.wait(60) == ENDS[number], (instant, server.output)
                assert not any("Traceback" in line for line in server.output), server.output
                server.__exit__()
                server = None
                chain.check_store()
        with server or Watched(chain.order, chain.link, chain.store) as server:
            chain.check(server)
            assert server.stop() == 0
        chain.check_store()
    finally:
        if server is not None:
            server.__exit__()


def filled(chain: Chain) -> Chain:
    with Watched(chain.order, chain.link, chain.store) as server:
        fill(server)
        assert server.stop() == 0
    return chain


@pytest.mark.parametrize("instants", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=len)
def test_a_change_may_be_ended_at_any_instant(instants, runs, tmp_path: Path) -> None:
    chain = filled(Chain(tmp_path, str(tmp_path / "users"), runs))
    change_at(chain, instants)
    store = open_store(chain.store, readonly=True)
    assert set(store.totals().records) == {chain.wanted}
    assert set(store.meta()["models"]) == {chain.wanted}
    store.close()


@pytest.mark.slow
def test_a_change_on_redis_may_be_ended_at_any_instant(runs, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        change_at(filled(Chain(tmp_path, redis.url, runs)), ON_REDIS)


@pytest.mark.slow
def test_a_start_may_be_ended_at_any_instant(runs, tmp_path: Path) -> None:
    """Also one that has the store's model to change; a HUP is remembered."""
    chain = filled(Chain(tmp_path, str(tmp_path / "users"), runs))
    for at, instant in enumerate(START):
        number = (TERM, KILL, INT)[at % 3]
        chain.want(chain.another())
        chain.give(instant, number)
        ended = Watched(chain.order, chain.link, chain.store)
        assert ended.process.wait(60) == ENDS[number], (instant, ended.output)
        ended._reader.join(10)
        assert not any("Traceback" in line for line in ended.output), ended.output
        chain.check_store()
    for instant in START[::3]:
        chain.give(instant, HUP, chain.another())
        with Watched(chain.order, chain.link, chain.store) as server:
            chain.check(server)
            wait_for(lambda server=server: any("swap: begins" in line for line in server.output))
            assert server.stop() == 0


def test_a_start_goes_on_with_a_change_and_no_answer_is_of_two_models(runs, tmp_path) -> None:
    chain = filled(Chain(tmp_path, str(tmp_path / "users"), runs))
    chain.want(chain.another())
    with Watched(chain.order, chain.link, chain.store) as server:  # the store has the other one's
        check_lists(ask_all(server.client), load(chain.link))
        chain.check(server)
        assert any("new model: done" in line for line in server.output)
        with asked_meanwhile(server) as answers:
            for _ in range(3):
                chain.want(chain.another())
                server.process.send_signal(HUP)
                chain.check(server)
        assert server.stop() == 0
    models = {digest: load(run) for digest, run in runs.items()}
    assert {answer["model"] for answer in answers} == set(models)
    for answer in answers:
        check_lists(answer, models[answer["model"]])
    assert [line["event"] for line in lines_of(server)].count("swap: done") == 3
