"""`longrec bench stream` and `serve` at tiny sizes: whole results, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from bench.command import longrec_bench
from forking import run_code, run_command
from serving.redis_server import RedisServer

from longrec.core.errors import LongrecError
from longrec.serving.stores.protocol import StoreFull
from longrec.serving.stream.stream import Stream
from longrec_bench.plan import ServingPlan
from longrec_bench.serving import bench, clients, pairs, users
from longrec_bench.serving.clients import HttpClient, Server
from longrec_bench.serving.parts import PARTS
from longrec_bench.serving.users import random_recommender
from longrec_bench.tables import as_markdown, tables

CONDITION = ("system", "history", "catalog", "clients", "transport", "durability", "batch")
FIGURES = {"p50_ms", "p95_ms", "p99_ms", "pairs_per_second", "recall_at_10"}
USERS = 8
ONE = {"histories": (5,), "durabilities": ("process",), "rounds": 1, "seconds": 0.05}


@pytest.fixture(scope="module")
def small():
    """A recommender that has no step to be recorded, which takes longer than all else."""
    return random_recommender("last-item", 40)


@pytest.fixture(scope="module", autouse=True)
def servers():
    """All servers that were started, forked from a process that has imported longrec; few users."""
    started = []

    def start(self, log):
        started.append(run_command(*self._arguments, stdin=subprocess.DEVNULL, stderr=log))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_start", start)
        patch.setattr(users, "MOST", USERS)
        yield started


@pytest.fixture(autouse=True)
def _no_server_is_left(servers):
    yield
    assert all(server.poll() is not None for server in servers)


def bench_serving(recommenders, plan, folder, store=None):
    return bench.bench_serving(recommenders, plan, folder, store, lambda *_: None)


def run(folder, command, *argv):
    """What a whole command prints and what it writes; nothing else is left."""
    out = folder / "found.json"
    tiny = ["--histories", "50,3", "--rounds", 2, "--seconds", 0.1]
    done = longrec_bench(command, *tiny, *argv, "--folder", folder, "--out", out, "--json")
    assert done.exit_code == 0
    written = json.loads(out.read_text())
    out.unlink()
    assert list(folder.iterdir()) == []
    return json.loads(done.stdout), written


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    argv = ["--models", "hydrarec,last-item", "--items", 40, "--clients", "1,3"]
    return run(tmp_path_factory.mktemp("bench"), "stream", *argv)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    argv = ["--models", "last-item", "--catalogs", 40, "--durability", "process"]
    argv += ["--transports", "python,http"]
    return run(tmp_path_factory.mktemp("bench"), "serve", *argv, "--clients", "1,2")


# ---- whole results


@pytest.mark.slow
def test_cells_are_complete(streamed, served):
    both = ("power", "process")
    stream = product(("hydrarec", "last-item"), (3, 50), (40,), (1, 3), ("python",), both, (1,))
    serve = product(("last-item",), (3, 50), (40,), (1, 2), ("python", "http"), ("process",), (1,))
    alone = (40,), (1,), ("python",), ("none",)
    one_stream = (50,), (40,), (1,), ("python",)
    steps = [
        [
            *product((f"{name} step",), (3,), *alone, (1, 256)),
            *product((f"{name} counting",), (50,), *alone, (256,)),
            *product((f"{name}, counted meanwhile",), *one_stream, (durability,), (1,)),
        ]
        for name, durability in (
            ("hydrarec", "power"),
            ("last-item", "power"),
            ("last-item", "process"),
        )
    ]
    again = [*product(("re-encode 200",), (3, 50), *alone, (1,))]
    for cells, expected in (
        (streamed[0], [*stream, *steps[0], *steps[1], *again]),
        (served[0], [*serve, *steps[2], *again]),
    ):
        assert all(set(cell) == {*CONDITION} | FIGURES for cell in cells)
        conditions = [tuple(cell[key] for key in CONDITION) for cell in cells]
        assert sorted(conditions) == sorted(expected)
        for cell in cells:  # searched exactly, but for steps and counting
            alone = any(word in cell["system"] for word in ("step", "count"))
            assert cell["recall_at_10"] == (None if alone else 1.0)


@pytest.mark.slow
def test_percentiles_are_in_order_and_pairs_no_more_than_clients_can_ask(streamed, served):
    for cell in (*streamed[0], *served[0]):
        assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
        # Half of the calls take the median or longer, so that no client can do more than this.
        most = 2e3 * cell["clients"] / cell["p50_ms"]
        assert 0 < cell["pairs_per_second"] <= most * 1.001


@pytest.mark.slow
def test_the_file_of_streams_holds_the_rest(streamed):
    cells, written = streamed
    assert written["cells"] == cells
    parts = {(part["system"], part["durability"]): part["ms"] for part in written["breakdown"]}
    assert set(parts) == set(product(("hydrarec", "last-item"), ("power", "process")))
    for ms in parts.values():
        whole = ms.pop("observe"), ms.pop("recommend")
        assert all(part > 0 for part in whole)
        assert all(ms[name] > 0 for name in PARTS)
        assert sum(ms.values()) == pytest.approx(sum(whole))
    machine = written["machine"]
    assert machine["sync_ms"] > 0
    assert machine["cores_used"] == 1
    assert machine["file_system"] == "unknown" or machine["file_system"].isprintable()
    assert machine["versions"]["torch"] == torch.__version__
    assert written["command"]
    assert any("3, 50 events" in line for line in written["method"])
    assert "40 items, last-item: found with exact." in written["method"]


def test_the_file_of_what_is_served_holds_the_rest(served):
    cells, written = served
    assert written["cells"] == cells
    assert written["machine"]["cores_used"] == len(os.sched_getaffinity(0))
    python, http = written["breakdown"]
    assert (python["transport"], python["of"], set(python["ms"])) == (
        *("python", "medians"),
        {"observe", "recommend", *PARTS, "frame", "rest"},
    )
    assert (http["transport"], http["history"], http["of"]) == ("http", 50, "means")
    ms = http["ms"]
    assert all(ms[stage] > 0 for stage in pairs.STAGES)
    assert 0 < ms.pop("client's processor") < ms["pair"]
    assert sum(ms.values()) == pytest.approx(2 * ms["pair"])
    assert ms["sockets and client"] > 0
    text = "".join(as_markdown(table) for table in tables(written))
    assert "| last-item | 50 | 40 | 2 | http | process | 1 |" in text
    assert text.count("\n| ---") == len(list(tables(written)))


def test_a_run_tables_for_people_and_a_warning_where_memory_is_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("longrec_bench.serving.workspace.file_system", lambda folder: "tmpfs")
    saved = random_recommender("sasrec", 40).save(tmp_path / "run")
    argv = ["--histories", "5,210", "--durability", "process", "--clients", 1, "--rounds", 2]
    done = longrec_bench("stream", saved, *argv, "--folder", tmp_path)
    for words in ("re-encode 2048", "ratios", "file system", "sync of 32 KiB", "2 rounds"):
        assert words in done.stdout
    assert "warning: measured on tmpfs" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_stream_is_the_real_one(small, tmp_path, monkeypatch):
    """Every pair is an event in the log, and what is measured lies on the disk that was named.

    Catalogs come one after the other.
    """
    asked, totals = set(), []
    observe, close = Stream.observe, Stream.close

    def watched(self, user, item, when, event_id=None):
        done = observe(self, user, item, when, event_id)
        assert done.new
        assert done.known
        assert Path(self.stats()["url"].partition("://")[2]).is_relative_to(tmp_path)
        asked.add(user)
        return done

    def noted(self):
        totals.append(self.stats())
        close(self)

    monkeypatch.setattr(Stream, "observe", watched)
    monkeypatch.setattr(Stream, "close", noted)
    plan = ServingPlan(**ONE, clients=(1, 3))
    cells = bench_serving([random_recommender("last-item", 60), small], plan, tmp_path)["cells"]
    counted = ("last-item, counted meanwhile", "last-item counting")
    names = (*["last-item"] * 2, *["last-item step"] * 2, *counted, "re-encode 200")
    in_order = [(cell["system"], cell["catalog"]) for cell in cells]
    assert in_order == [(name, items) for items in (40, 60) for name in names]
    assert {cell["durability"] for cell in cells} == {"process", "none"}
    assert len(asked) > 3
    for filled, ended, recall in (totals[:3], totals[3:]):  # of both catalogs
        assert filled["events"] == 5 * USERS
        # Besides, the parts of a pair are timed alone, whose events the store is given directly.
        assert ended["events"] - filled["events"] >= ended["accepted"] >= 2 * 10 + 2 * 3
        assert recall["events"] == ended["events"]


# ---- failures


@pytest.mark.parametrize("n_clients", [1, 3])
def test_nothing_is_left_after_a_failure(small, n_clients, tmp_path, monkeypatch):
    calls, recommend = iter(range(10**6)), Stream.recommend

    def full(self, *args, **options):
        if next(calls) == 15:
            raise StoreFull("no room")
        return recommend(self, *args, **options)

    monkeypatch.setattr(Stream, "recommend", full)
    allowed, threads = os.sched_getaffinity(0), threading.active_count()
    plan = ServingPlan(**ONE | {"rounds": 3, "seconds": 9}, clients=(n_clients,))
    with pytest.raises(StoreFull, match="no room"):
        bench_serving([small], plan, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert os.sched_getaffinity(0) == allowed
    assert threading.active_count() == threads


def test_a_store_folder_that_is_named_is_removed_again(small, tmp_path, monkeypatch):
    plan = ServingPlan(**ONE, clients=(1,))
    (tmp_path / "empty").mkdir()
    bench_serving([small], plan, tmp_path / "none", f"lmdb://{tmp_path / 'empty'}")
    assert not list(tmp_path.iterdir())

    def interrupted(self):
        assert list((tmp_path / "new").rglob("last-item-python-process"))
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs.Reencoding, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_serving([small], plan, tmp_path / "none", str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_a_server_that_dies_is_reported_and_nothing_is_left(servers, small, tmp_path, monkeypatch):
    observe, asked = HttpClient.observe, iter(range(100))

    def shot(self, *event):
        if next(asked) == 12:  # not in the sample that does not count
            servers[-1].kill()
        observe(self, *event)

    monkeypatch.setattr(HttpClient, "observe", shot)
    allowed = os.sched_getaffinity(0)
    plan = ServingPlan(**ONE, clients=(1,), transports=("http",))
    words = "longrec serve ended with status -9; its log ends"
    with pytest.raises(LongrecError, match=words) as raised:
        bench_serving([small], plan, tmp_path)
    assert '"event": "serving"' in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert os.sched_getaffinity(0) == allowed


def test_a_server_that_does_not_start_is_reported(tmp_path, monkeypatch):
    def start():
        log = tmp_path / "log"
        argv = (tmp_path / "none", str(tmp_path / "store"), "process", log, set())
        with Server(*argv) as server:
            server.wait()

    words = r"ended with status 1; its log ends with\nerror: .*none"
    with pytest.raises(LongrecError, match=words):
        start()
    sleep = lambda self, log: subprocess.Popen(["sleep", "60"])  # noqa: E731
    monkeypatch.setattr(Server, "_start", sleep)
    monkeypatch.setattr(clients, "START", 0.0)
    with pytest.raises(LongrecError, match="longrec serve failed: not ready after 0 seconds"):
        start()


INTERRUPTED = """
import subprocess
from forking import run_command
from longrec.cli.main import main
from longrec_bench.serving import users
from longrec_bench.serving.clients import Server
Server._start = lambda self, log: run_command(*self._arguments, stdin=-3, stderr=log)
users.MOST = 8
main()
"""


def test_an_interrupted_command_leaves_nothing(tmp_path):
    argv = ["--models", "last-item", "--catalogs", "40", "--histories", "5", "--seconds", "60"]
    more = ["--clients", "2", "--durability", "process", "--folder", tmp_path]
    process = run_code(
        INTERRUPTED, "bench", "serve", *argv, *more, stderr=subprocess.PIPE, text=True
    )
    found, deadline = None, time.monotonic() + 60
    while found is None and time.monotonic() < deadline:
        text = "".join(log.read_text() for log in tmp_path.rglob("*.log"))
        found = clients._ADDRESS.search(text)
        time.sleep(0.05)
    address = found[1], int(found[2])
    socket.create_connection(address).close()
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert printed.strip() == "error: interrupted; begin again: nothing is left of the stores"
    assert process.returncode == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert list(tmp_path.iterdir()) == []


# ---- Redis


def test_keys_of_its_own_in_a_redis(small, tmp_path, monkeypatch):
    sample, made = pairs.ClientPairs.sample, set[bytes]()
    plan = ServingPlan(**ONE, clients=(1,))
    with (
        RedisServer(tmp_path / "redis", appendfsync="everysec") as server,
        server.client() as client,
    ):
        here = tmp_path / "here"
        here.mkdir()
        client.set("longrec:meta", b"somebody's")

        def watched(self):
            made.update(client.keys("*"))
            sample(self)

        monkeypatch.setattr(pairs.ClientPairs, "sample", watched)
        found = bench_serving([small], plan, here, f"{server.url}?prefix=a%5B*%5D")
        assert len(made) > USERS
        assert {key[:5] for key in made} == {b"longr", b"a[*]b"}
        assert client.keys("*") == [b"longrec:meta"]
        assert client.get("longrec:meta") == b"somebody's"
        assert found["machine"]["store"].startswith(server.url)
        assert found["machine"]["sync_ms"] is None
        durable = ServingPlan(histories=(5,), durabilities=("power",))
        with pytest.raises(LongrecError, match="appendfsync"):
            bench_serving([small], durable, here, server.url)
        assert client.keys("*") == [b"longrec:meta"]
        assert not list(here.iterdir())
