"""`longrec bench stream` on tiny histories: whole cells, nothing left behind, mistakes refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.called import FIGURES, check_figures, longrec_bench
from hypothesis import given
from hypothesis import strategies as st
from serving.redis_server import RedisServer

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores.protocol import StoreFull
from longrec.serving.stream.stream import Stream
from longrec_bench import reencoding, systems
from longrec_bench.cells import Measured
from longrec_bench.machine import file_system, one_core
from longrec_bench.plan import Plan, random_recommender
from longrec_bench.ratios import ratios
from longrec_bench.stream import bench_stream
from longrec_bench.users import Users, write

KEYS = {"system", "history", "durability", "clients", "batch"} | FIGURES
TINY = ["--histories", "50,3", "--rounds", "2", "--seconds", "0.1", "--clients", "1,3"]
ONE = Plan(histories=(5,), durabilities=("process",), clients=(1, 3), rounds=1, seconds=0.05)


def longrec(*argv):
    return longrec_bench("stream", *argv)


@pytest.fixture(scope="module")
def small():
    """A recommender that has no step to be recorded, which takes longer than all else."""
    return random_recommender("last-item", 40)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one whole run prints, and what it writes to a file."""
    folder = tmp_path_factory.mktemp("bench")
    out = folder / "found.json"
    argv = ["--models", "hydrarec,last-item", "--items", 40, "--folder", folder, "--out", out]
    done = longrec(*TINY, *argv, "--json")
    assert done.exit_code == 0
    written = json.loads(out.read_text())
    out.unlink()
    assert list(folder.iterdir()) == []
    return json.loads(done.stdout), written


def test_cells_are_complete(found):
    cells = found[0]
    assert isinstance(cells, list)
    assert all(set(cell) == KEYS for cell in cells)
    told = [tuple(list(cell.values())[:5]) for cell in cells]
    streams = product(("last-item", "hydrarec"), (3, 50), ("power", "process"), (1, 3), (1,))
    steps = product(("hydrarec step",), (3,), ("none",), (1,), (1, 256))
    again = product(("re-encode 200", "re-encode 2048"), (50,), ("none",), (1,), (1,))
    assert len(told) == len(set(told))
    assert set(told) == {*streams, *steps, *again}


def test_figures_are_of_one_measure(found):
    check_figures(found[0])


def test_the_file_holds_the_rest(found):
    cells, written = found
    assert written["cells"] == cells
    parts = {(part["system"], part["durability"]): part for part in written["breakdown"]}
    assert set(parts) == set(product(("hydrarec",), ("power", "process")))
    for part in parts.values():
        medians = part["ms"]
        assert all(
            medians[name] > 0
            for name in ("ids", "read", "record", "step", "commit", "read, seen items", "top-k")
        )
        whole = medians.pop("observe") + medians.pop("recommend")
        assert sum(medians.values()) == pytest.approx(whole)
    machine = written["machine"]
    assert machine["sync_ms"] > 0
    assert machine["file_system"] == "unknown" or machine["file_system"].isprintable()
    assert machine["versions"]["torch"] == torch.__version__
    assert written["command"]
    assert any("3 events" in line for line in written["method"])


def test_tables_for_people(tmp_path):
    argv = ["--models", "last-item", "--items", 40, "--durability", "process", "--folder", tmp_path]
    shown = longrec(*argv, *TINY).stdout
    for words in ("re-encode 2048", "ratios", "file system", "sync of 32 KiB", "2 rounds"):
        assert words in shown
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_model_with_a_window(tmp_path):
    run = random_recommender("sasrec", 40).save(tmp_path / "run")
    argv = ["--histories", 5, "--durability", "process", "--clients", 2, "--rounds", 1]
    done = longrec(run, *argv, "--seconds", 0.05, "--folder", tmp_path, "--json")
    cells = json.loads(done.stdout)
    assert [cell["system"] for cell in cells] == ["sasrec", "re-encode 200", "re-encode 2048"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---- what is measured


def test_random_weights_have_the_shape_that_is_told():
    config = random_recommender("elastic", 40).model_config
    assert (config.dim, config.layers, config.experts) == (64, 2, 16)
    digests = {random_recommender("hydrarec", 40, seed).state_digest for seed in (0, 0, 1)}
    assert len(digests) == 2


def test_the_stream_is_the_real_one(tmp_path, monkeypatch):
    """Every pair is an event in the log, and what is measured lies on the disk that was named."""
    recommender = random_recommender("hydrarec", 40)
    asked, totals = set(), []
    observe, close = Stream.observe, Stream.close

    def watched(self, user, item, when, event_id=None):
        done = observe(self, user, item, when, event_id)
        assert done.new
        assert done.known
        assert Path(self.stats()["url"].removeprefix("lmdb://")).is_relative_to(tmp_path)
        asked.add(user)
        return done

    def told(self):
        totals.append(self.stats())
        close(self)

    monkeypatch.setattr(Stream, "observe", watched)
    monkeypatch.setattr(Stream, "close", told)
    cells = bench_stream([recommender], ONE, tmp_path)["cells"]
    assert len(asked) > 3
    filled, ended = totals[0], totals[-1]
    assert filled["events"] == 5 * 256
    # One client's bursts, the first of which does not count, and what the parts write themselves.
    assert ended["events"] - filled["events"] - ended["accepted"] == 2 * 10
    assert ended["accepted"] >= 2 * 10 + 2 * 3
    assert {cell["durability"] for cell in cells} == {"process", "none"}


@given(length=st.integers(1, 40), items=st.integers(20, 60), seed=st.integers(0, 9))
def test_users_leave_half_of_the_items_alone(length, items, seed):
    catalog = random_recommender("last-item", items).catalog
    users = Users(length, catalog, seed)
    assert users.items.shape == (256, length)
    rng, last = random.Random(seed), 0
    for row in (0, 255):
        half = set(users.half(row).tolist())
        assert len(half) == (items + 1) // 2
        assert set(users.items[row].tolist()) <= half <= set(range(1, items + 1))
        for _ in range(3):
            name, item, when = users.event(row, rng)
            assert name == users.ids[row]
            assert item in half
            assert when > last
            last = when
    assert np.array_equal(users.items, Users(length, catalog, seed).items)


def test_histories_are_those_of_the_users(tmp_path):
    catalog = random_recommender("last-item", 30).catalog
    groups = [Users(length, catalog, 0) for length in (2, 10)]
    histories = write(groups, catalog, tmp_path / "histories")
    assert histories.n_users == 512
    for users in groups:
        rows = histories.find_users(users.ids)
        for number in (0, 7, 255):
            begin, end = histories.offsets[rows[number]], histories.offsets[rows[number] + 1]
            assert np.array_equal(histories.items[begin:end], users.items[number])
            assert (np.diff(histories.times[begin:end]) > 0).all()
            assert histories.times[end - 1] < users.event(number, random.Random(0))[2]


@given(
    st.lists(st.floats(1e-6, 10), min_size=1, max_size=50),
    st.integers(1, 256),
)
def test_a_cell_tells_what_was_timed(seconds, batch):
    one = Measured({"system": "x", "history": 1}, batch)
    one.seconds.extend(seconds)
    one.wall = sum(seconds)
    cell = one.cell()
    assert cell["p50_ms"] == pytest.approx(1e3 * np.median(seconds) / batch)
    assert cell["p99_ms"] == pytest.approx(1e3 * np.quantile(seconds, 0.99) / batch)
    assert cell["pairs_per_second"] == pytest.approx(len(seconds) * batch / sum(seconds))


def test_ratios():
    def cell(system, history, p50, durability="none", clients=1):
        names = ("system", "history", "durability", "clients", "p50_ms")
        return dict(zip(names, (system, history, durability, clients, p50), strict=True))

    told = ratios(
        [
            cell("a", 1000, 3.0, "power"),
            cell("a", 10, 2.0, "power"),
            cell("a", 10, 99.0, "power", 32),
            cell("b", 1000, 4.0, "process"),
            cell("a step", 10, 0.1),
            cell("re-encode 9", 1000, 60.0),
        ]
    )
    assert [(row["system"], row["of"], row["ratio"]) for row in told] == [
        ("a", "after 1,000 events / after 10", 1.5),
        ("a", "re-encode 9 / stream, after 1,000 events", 20.0),
        ("b", "re-encode 9 / stream, after 1,000 events", 15.0),
    ]


# ---- the machine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_all_threads_are_on_one_core_and_go_back():
    stop, allowed = threading.Event(), os.sched_getaffinity(0)
    torch.set_num_threads(2)
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with suppress(KeyboardInterrupt), one_core() as core:
            assert torch.get_num_threads() == 1
            for task in (0, thread.native_id):
                assert os.sched_getaffinity(task) == {core}
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 2
        for task in (0, thread.native_id):
            assert os.sched_getaffinity(task) == allowed
    finally:
        stop.set()
        thread.join()
        torch.set_num_threads(1)


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="this system does not tell")
def test_file_systems():
    assert file_system(Path("/proc/self")) == "proc"
    with open("/proc/self/mounts") as mounts:
        kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert file_system(Path("/")) == kinds["/"]


def test_memory_is_no_disk(small, monkeypatch, tmp_path):
    monkeypatch.setattr("longrec_bench.place.file_system", lambda folder: "tmpfs")
    argv = ["--models", "last-item", "--items", 40, "--histories", 5, "--durability", "process"]
    done = longrec(*argv, "--clients", 1, "--rounds", 1, "--folder", tmp_path, "--json")
    assert "warning: measured on tmpfs" in " ".join(done.stderr.split())


# ---- mistakes and failures


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--models elastik", "Did you mean 'elastic'"),
        ("--models hydrarec,hydrarec", "different names"),
        ("--models elastic-paper", "For a stream, train elastic"),
        ("--histories 100,0", "histories has 0"),
        ("--histories 100,many", "whole numbers"),
        ("--histories 9,9", "different values"),
        ("--durability power,disk", "durability is 'disk'; choose 'power' or 'process'"),
        ("--clients 0", "clients has 0"),
        ("--seconds 0", "seconds is 0"),
        ("--seconds nan", "seconds is nan"),
        ("--items 19", "at least 20"),
        ("--folder {tmp}/none", "no such folder"),
        ("--store {tmp}/none/store", "no such folder"),
        ("--store lmdb://{tmp}/taken", "is not empty"),
        ("--store sqlite://{tmp}/store", "is not measured here"),
        ("--store redis://:secret@host:port/0", "cannot be read"),
        ("--out {tmp}/none/found.json", "name a .json file in a folder"),
        ("--out {tmp}/found.csv", "name a .json file in a folder"),
        ("{tmp}/taken --models hydrarec", "leave --models and --items out"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(argv, words, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "store-1.mdb").write_bytes(b"users")
    if "--models" not in argv:
        argv += " --models last-item"
    with pytest.raises(UsageError) as told:
        longrec(*argv.format(tmp=tmp_path).split(), *["--folder", tmp_path] * ("{tmp}" not in argv))
    assert words in str(told.value)
    assert "secret" not in str(told.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["store-1.mdb", "taken"]


@pytest.mark.parametrize("clients", [1, 3])
def test_nothing_is_left_after_a_failure(small, clients, tmp_path, monkeypatch):
    calls, recommend = iter(range(10**6)), Stream.recommend

    def full(self, *args, **options):
        if next(calls) == 15:
            raise StoreFull("no room")
        return recommend(self, *args, **options)

    monkeypatch.setattr(Stream, "recommend", full)
    allowed, threads = os.sched_getaffinity(0), threading.active_count()
    plan = Plan(histories=(5,), durabilities=("power",), clients=(clients,), rounds=3, seconds=9)
    with pytest.raises(StoreFull, match="no room"):
        bench_stream([small], plan, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert os.sched_getaffinity(0) == allowed
    assert threading.active_count() == threads


def test_a_named_folder_is_removed_again(small, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    bench_stream([small], ONE, store=f"lmdb://{tmp_path / 'empty'}")
    assert not list(tmp_path.iterdir())

    def interrupted(self):
        assert list((tmp_path / "new").rglob("store-*.mdb"))
        raise KeyboardInterrupt

    monkeypatch.setattr(reencoding.Reencoding, "burst", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_stream([small], ONE, store=str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_command_leaves_nothing(tmp_path):
    code = "from longrec.cli.main import main; main()"
    argv = ["bench", "stream", "--models", "last-item", "--items", "40", "--histories", "5"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv, "--seconds", "60", "--folder", tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A test run in the background of a shell ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/last-item-power")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert told.strip() == "error: interrupted; nothing is left of the stores"
    assert list(tmp_path.iterdir()) == []


# ---- Redis


def test_keys_of_its_own_in_a_redis(small, tmp_path, monkeypatch):
    burst, made = systems.Alone.burst, set[bytes]()
    with (
        RedisServer(tmp_path / "redis", appendfsync="everysec") as server,
        server.client() as client,
    ):
        (tmp_path / "here").mkdir()
        client.set("longrec:meta", b"somebody's")

        def watched(self):
            made.update(client.keys("*"))
            burst(self)

        monkeypatch.setattr(systems.Alone, "burst", watched)
        found = bench_stream([small], ONE, tmp_path / "here", f"{server.url}?prefix=a%5B*%5D")
        assert len(made) > 256
        assert {key[:5] for key in made} == {b"longr", b"a[*]b"}
        assert client.keys("*") == [b"longrec:meta"]
        assert client.get("longrec:meta") == b"somebody's"
        assert found["machine"]["store"].startswith(server.url)
        assert found["machine"]["sync_ms"] is None
        plan = Plan(histories=(5,), durabilities=("power",))
        with pytest.raises(LongrecError, match="appendfsync"):
            bench_stream([small], plan, tmp_path / "here", server.url)
        assert client.keys("*") == [b"longrec:meta"]
        assert not list((tmp_path / "here").iterdir())
