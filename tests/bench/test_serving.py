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
from longrec_bench.serving import pairs
from longrec_bench.serving import server as server_module
from longrec_bench.serving.bench import bench_serving
from longrec_bench.serving.breakdown import PARTS, STAGES, HttpPairs
from longrec_bench.serving.plan import ServingPlan
from longrec_bench.serving.recommenders import random_recommender
from longrec_bench.serving.server import Server
from longrec_bench.serving.tables import tables
from longrec_bench.tables import as_markdown

FIGURES = {"p50_ms", "p95_ms", "p99_ms", "pairs_per_second"}
STREAM = {"system", "history", "durability", "clients", "batch"} | FIGURES
SERVE = {"system", "history", "catalog", "clients", "transport", "durability", "recall_at_10"}
TINY = ["--histories", "50,3", "--rounds", 2, "--seconds", 0.1]
ONE = {"histories": (5,), "durabilities": ("process",), "rounds": 1, "seconds": 0.05}


@pytest.fixture(scope="module")
def small():
    """A recommender that has no step to be recorded, which takes longer than all else."""
    return random_recommender("last-item", 40)


@pytest.fixture(scope="module", autouse=True)
def servers():
    """All servers that were started; they are forked, from a process that has imported longrec."""
    started = []

    def start(self, log):
        started.append(run_command(*self._arguments, stdin=subprocess.DEVNULL, stderr=log))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_start", start)
        yield started


@pytest.fixture(autouse=True)
def _no_server_is_left(servers):
    yield
    assert all(server.poll() is not None for server in servers)


def run(folder, command, *argv):
    """What a whole command prints and what it writes; nothing else is left."""
    out = folder / "found.json"
    done = longrec_bench(command, *TINY, *argv, "--folder", folder, "--out", out, "--json")
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
    return run(tmp_path_factory.mktemp("bench"), "serve", *argv, "--clients", "1,2")


def conditions(cells, n):
    found = [tuple(cell.values())[:n] for cell in cells]
    assert len(found) == len(set(found))
    return set(found)


# ---- whole results


def test_cells_of_streams_are_complete(streamed):
    assert all(set(cell) == STREAM for cell in streamed[0])
    pairs = product(("last-item", "hydrarec"), (3, 50), ("power", "process"), (1, 3), (1,))
    steps = product(("hydrarec step",), (3,), ("none",), (1,), (1, 256))
    again = product(("re-encode 200", "re-encode 2048"), (50,), ("none",), (1,), (1,))
    assert conditions(streamed[0], 5) == {*pairs, *steps, *again}


def test_cells_of_what_is_served_are_complete(served):
    assert all(set(cell) == SERVE | FIGURES for cell in served[0])
    pairs = product(("last-item",), (3, 50), (40,), (1, 2), ("python", "http"), ("process",))
    again = product(("re-encode 200",), (3, 50), (40,), (1,), ("python",), ("none",))
    assert conditions(served[0], 6) == {*pairs, *again}
    assert {cell["recall_at_10"] for cell in served[0]} == {1.0}  # searched exactly


def test_percentiles_are_in_order_and_pairs_no_more_than_clients_can_ask(streamed, served):
    for cell in (*streamed[0], *served[0]):
        assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
        # Half of the calls take the median or longer, so that no client can do more than this.
        most = 2e3 * cell["clients"] / cell["p50_ms"]
        assert 0 < cell["pairs_per_second"] <= most * 1.001


def test_the_file_of_streams_holds_the_rest(streamed):
    cells, written = streamed
    assert written["cells"] == cells
    stores = {(part["system"], part["durability"]) for part in written["breakdown"]}
    assert stores == set(product(("hydrarec",), ("power", "process")))
    for part in written["breakdown"]:
        ms = part["ms"]
        assert all(ms[name] > 0 for name in PARTS)
        whole = ms.pop("observe") + ms.pop("recommend")
        assert sum(ms.values()) == pytest.approx(whole)
    machine = written["machine"]
    assert machine["sync_ms"] > 0
    assert machine["file_system"] == "unknown" or machine["file_system"].isprintable()
    assert machine["versions"]["torch"] == torch.__version__
    assert written["command"]
    assert any("3 events" in line for line in written["method"])


def test_the_file_of_what_is_served_holds_the_rest(served):
    cells, written = served
    assert written["cells"] == cells
    assert written["machine"]["cores_used"] == len(os.sched_getaffinity(0))
    [row] = written["breakdown"]
    assert (row["transport"], row["history"], row["of"]) == ("http", 50, "means")
    ms = row["ms"]
    assert all(ms[stage] > 0 for stage in STAGES)
    assert 0 < ms.pop("client's processor") < ms["pair"]
    assert sum(ms.values()) == pytest.approx(2 * ms["pair"])
    assert ms["sockets and client"] > 0
    text = "".join(as_markdown(table) for table in tables(written))
    assert "| last-item | 50 | 40 | 2 | http | process |" in text
    assert text.count("\n| ---") == len(list(tables(written)))


def test_tables_for_people_and_a_warning_where_memory_is_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("longrec_bench.serving.workspace.file_system", lambda folder: "tmpfs")
    argv = ["--models", "last-item", "--items", 40, "--durability", "process", "--clients", 1]
    done = longrec_bench("stream", *argv, *TINY, "--folder", tmp_path)
    for words in ("re-encode 2048", "ratios", "file system", "sync of 32 KiB", "2 rounds"):
        assert words in done.stdout
    assert "warning: measured on tmpfs" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_model_with_a_window(tmp_path):
    saved = random_recommender("sasrec", 40).save(tmp_path / "run")
    argv = ["--histories", 5, "--durability", "process", "--clients", 2, "--rounds", 1]
    more = ["--seconds", 0.05, "--folder", tmp_path, "--json"]
    cells = json.loads(longrec_bench("stream", saved, *argv, *more).stdout)
    assert [cell["system"] for cell in cells] == ["sasrec", "re-encode 200", "re-encode 2048"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_catalogs_come_one_after_the_other(tmp_path):
    chosen = [random_recommender("last-item", items) for items in (60, 40)]
    found = bench_serving(chosen, ServingPlan(**ONE, clients=(1,)), tmp_path, as_served=True)
    names = ("last-item", "re-encode 200")
    in_order = [(cell["system"], cell["catalog"]) for cell in found["cells"]]
    assert in_order == [(name, items) for items in (40, 60) for name in names]
    assert found["machine"]["cores_used"] == 1
    assert "60 items, last-item: found with exact." in found["method"]


def test_the_stream_is_the_real_one(tmp_path, monkeypatch):
    """Every pair is an event in the log, and what is measured lies on the disk that was named."""
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
    recommender = random_recommender("hydrarec", 40)
    plan = ServingPlan(**ONE, clients=(1, 3))
    cells = bench_serving([recommender], plan, tmp_path, as_served=False)["cells"]
    assert len(asked) > 3
    filled, ended = totals[0], totals[-1]
    assert filled["events"] == 5 * 256
    # One client's turns, the first of which does not count, and what the parts write themselves.
    assert ended["events"] - filled["events"] - ended["accepted"] == 2 * 10
    assert ended["accepted"] >= 2 * 10 + 2 * 3
    assert {cell["durability"] for cell in cells} == {"process", "none"}


# ---- failures


@pytest.mark.parametrize("clients", [1, 3])
def test_nothing_is_left_after_a_failure(small, clients, tmp_path, monkeypatch):
    calls, recommend = iter(range(10**6)), Stream.recommend

    def full(self, *args, **options):
        if next(calls) == 15:
            raise StoreFull("no room")
        return recommend(self, *args, **options)

    monkeypatch.setattr(Stream, "recommend", full)
    allowed, threads = os.sched_getaffinity(0), threading.active_count()
    plan = ServingPlan(**ONE | {"rounds": 3, "seconds": 9}, clients=(clients,))
    with pytest.raises(StoreFull, match="no room"):
        bench_serving([small], plan, tmp_path, as_served=False)
    assert list(tmp_path.iterdir()) == []
    assert os.sched_getaffinity(0) == allowed
    assert threading.active_count() == threads


def test_a_named_folder_is_removed_again(small, tmp_path, monkeypatch):
    plan = ServingPlan(**ONE, clients=(1,))
    (tmp_path / "empty").mkdir()
    bench_serving([small], plan, store=f"lmdb://{tmp_path / 'empty'}", as_served=False)
    assert not list(tmp_path.iterdir())

    def interrupted(self):
        assert list((tmp_path / "new").rglob("last-item-python-process"))
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs.Reencoding, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_serving([small], plan, store=str(tmp_path / "new"), as_served=False)
    assert not list(tmp_path.iterdir())


def test_a_server_that_dies_is_told_and_nothing_is_left(servers, small, tmp_path, monkeypatch):
    ask, asked = HttpPairs.ask, iter(range(10))

    def shot(self):
        if next(asked):  # not in the turn that does not count
            servers[-1].kill()
        ask(self)

    monkeypatch.setattr(HttpPairs, "ask", shot)
    allowed = os.sched_getaffinity(0)
    plan = ServingPlan(**ONE, clients=(1,), transports=("http",))
    words = "longrec serve ended with status -9; its log ends"
    with pytest.raises(LongrecError, match=words) as raised:
        bench_serving([small], plan, tmp_path, as_served=True)
    assert '"event": "serving"' in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert os.sched_getaffinity(0) == allowed


def test_a_server_that_does_not_start_is_told(tmp_path, monkeypatch):
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
    monkeypatch.setattr(server_module, "START", 0.0)
    with pytest.raises(LongrecError, match="longrec serve failed: not ready after 0 seconds"):
        start()


INTERRUPTED = """
import subprocess
from forking import run_command
from longrec.cli.main import main
from longrec_bench.serving.server import Server
Server._start = lambda self, log: run_command(*self._arguments, stdin=-3, stderr=log)
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
        found = server_module._ADDRESS.search(text)
        time.sleep(0.05)
    address = found[1], int(found[2])
    socket.create_connection(address).close()
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert printed.strip() == "error: interrupted; nothing is left of the stores"
    assert process.returncode == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert list(tmp_path.iterdir()) == []


# ---- Redis


def test_keys_of_its_own_in_a_redis(small, tmp_path, monkeypatch):
    turn, made = pairs.Pairs.sample, set[bytes]()
    plan = ServingPlan(**ONE, clients=(1,))
    with (
        RedisServer(tmp_path / "redis", appendfsync="everysec") as server,
        server.client() as client,
    ):
        (tmp_path / "here").mkdir()
        client.set("longrec:meta", b"somebody's")

        def watched(self):
            made.update(client.keys("*"))
            turn(self)

        monkeypatch.setattr(pairs.Pairs, "sample", watched)
        url = f"{server.url}?prefix=a%5B*%5D"
        found = bench_serving([small], plan, tmp_path / "here", url, as_served=False)
        assert len(made) > 256
        assert {key[:5] for key in made} == {b"longr", b"a[*]b"}
        assert client.keys("*") == [b"longrec:meta"]
        assert client.get("longrec:meta") == b"somebody's"
        assert found["machine"]["store"].startswith(server.url)
        assert found["machine"]["sync_ms"] is None
        durable = ServingPlan(histories=(5,), durabilities=("power",))
        with pytest.raises(LongrecError, match="appendfsync"):
            bench_serving([small], durable, tmp_path / "here", server.url, as_served=False)
        assert client.keys("*") == [b"longrec:meta"]
        assert not list((tmp_path / "here").iterdir())
