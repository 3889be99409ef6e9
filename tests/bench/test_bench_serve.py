"""`longrec bench serve` on tiny catalogs: whole cells, real servers, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from bench.called import FIGURES, check_figures, longrec_bench

from longrec.core.errors import LongrecError, UsageError
from longrec.retrieval.exact import ExactIndex
from longrec_bench import server as server_module
from longrec_bench.clients import Connection
from longrec_bench.goals import goals
from longrec_bench.plan import Plan, random_recommender
from longrec_bench.ratios import ratios
from longrec_bench.recall import recall_of
from longrec_bench.reencoding import Reencoding, window_models
from longrec_bench.serve import bench_serve
from longrec_bench.server import Server
from longrec_bench.shown import as_markdown, tables
from longrec_bench.stages import STAGES, Served
from longrec_bench.users import Users

KEYS = {
    *("system", "history", "catalog", "clients", "transport", "durability"),
    *FIGURES,
    "recall_at_10",
}
TINY = ["--models", "last-item", "--durability", "process", "--rounds", 2, "--seconds", 0.1]
ONE = Plan(histories=(5,), durabilities=("process",), clients=(1,), rounds=1, seconds=0.05)


def children():
    """Processes that this one started and that have not ended."""
    found = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [pid for pid in found if "longrec.cli.main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one whole run prints, and what it writes to a file."""
    folder = tmp_path_factory.mktemp("bench")
    out = folder / "found.json"
    argv = ["--catalogs", 40, "--histories", "50,3", "--clients", "1,2", "--folder", folder]
    done = longrec_bench("serve", *TINY, *argv, "--out", out, "--json")
    assert done.exit_code == 0
    written = json.loads(out.read_text())
    out.unlink()
    assert list(folder.iterdir()) == []
    assert children() == []
    return json.loads(done.stdout), written


def test_cells_are_complete(found):
    cells = found[0]
    assert all(set(cell) == KEYS for cell in cells)
    told = [tuple(list(cell.values())[:6]) for cell in cells]
    served = product(("last-item",), (3, 50), (40,), (1, 2), ("python", "http"), ("process",))
    again = product(("re-encode 200",), (3, 50), (40,), (1,), ("python",), ("none",))
    assert len(told) == len(set(told))
    assert set(told) == {*served, *again}
    check_figures(cells)
    assert {cell["recall_at_10"] for cell in cells} == {1.0}  # such catalogs are searched exactly


def test_the_file_holds_the_rest(found):
    cells, written = found
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


def test_catalogs_come_one_after_the_other(tmp_path):
    chosen = [random_recommender("last-item", items) for items in (60, 40)]
    found = bench_serve(chosen, ONE, ["python"], tmp_path)
    told = [(cell["system"], cell["catalog"]) for cell in found["cells"]]
    names = ("last-item", "re-encode 200")
    assert told == [(name, items) for items in (40, 60) for name in names]
    assert found["machine"]["cores_used"] == 1
    assert "60 items, last-item: found with exact." in found["method"]


def test_ratios_are_of_one_catalog_and_transport():
    def cell(system, history, catalog, transport, p50, durability="process", clients=1):
        names = ("system", "history", "catalog", "transport", "p50_ms", "durability", "clients")
        values = (system, history, catalog, transport, p50, durability, clients)
        return dict(zip(names, values, strict=True))

    told = ratios(
        [
            cell("a", 10, 40, "python", 2.0),
            cell("a", 1000, 40, "python", 3.0),
            cell("a", 1000, 40, "python", 99.0, clients=8),
            cell("a", 10, 90, "python", 4.0),
            cell("a", 10, 40, "http", 8.0),
            cell("a", 1000, 40, "http", 4.0),
            cell("re-encode 9", 10, 90, "python", 10.0, "none"),
            cell("re-encode 9", 1000, 40, "python", 60.0, "none"),
        ]
    )
    assert [(row["catalog"], row["transport"], row["of"], row["ratio"]) for row in told] == [
        (40, "python", "after 1,000 events / after 10", 1.5),
        (40, "python", "re-encode 9 / stream, after 1,000 events", 20.0),
        (90, "python", "re-encode 9 / stream, after 10 events", 2.5),
        (40, "http", "after 1,000 events / after 10", 0.5),
    ]


def test_goals_are_held_against_the_worst_cell():
    def cell(catalog, history, p50, p99, rate=1.0, clients=1, transport="http", share=0.96):
        return {
            **{"system": "a", "history": history, "catalog": catalog, "clients": clients},
            **{"transport": transport, "durability": "power", "p50_ms": p50, "p99_ms": p99},
            **{"pairs_per_second": rate, "recall_at_10": share},
        }

    cells = [
        cell(1_000_000, 100, 4.0, 9.0),
        cell(1_000_000, 10_000, 4.4, 11.0, share=0.94),
        cell(1_000_000, 10_000, 4.0, 99.0, clients=8, share=0.1),
        cell(1_000_000, 100, 2.0, 5.0, transport="python"),
        cell(1_000_000, 10_000, 2.0, 9.9, transport="python"),
        cell(3_402, 100, 1.0, 2.0, rate=200.0),
        cell(3_402, 100, 1.0, 2.0, rate=900.0, clients=8),
        cell(3_402, 10_000, 1.3, 2.0, rate=310.0),
        cell(3_402, 10_000, 1.3, 2.0, rate=250.0, clients=8),
        cell(100_000, 100, 9.0, 99.0, rate=1.0, share=0.1),
        cell(1_000_000, 100, 99.0, 999.0) | {"system": "re-encode 200", "durability": "none"},
    ]
    told = {row["goal"]: (row["figure"], row["at"], row["met"]) for row in goals(cells)}
    assert told == {
        "p99 under 10 ms at 1,000,000 items, one client, http": (
            11.0,
            "10,000 events, power",
            False,
        ),
        "p99 under 10 ms at 1,000,000 items, one client, python": (
            9.9,
            "10,000 events, power",
            True,
        ),
        "recall@10 of at least 0.95 at 1,000,000 items": (0.94, "1,000,000 items", False),
        "p50 flat in the history (at most 1.1 of the shortest's), http": (
            *(1.3, "3,402 items, 10,000 events, power", False),
        ),
        "p50 flat in the history (at most 1.1 of the shortest's), python": (
            *(1.0, "1,000,000 items, 10,000 events, power", True),
        ),
        "300 pairs per second over HTTP at 3,400 items": (
            *(310.0, "clients: 1, 10,000 events, power", True),
        ),
    }


def test_recall_counts_what_is_missed(tmp_path):
    class Missing(ExactIndex):
        """Never finds the best item."""

        def search(self, h, k, barred=None):
            found = super().search(h, k + 1, barred)
            return type(found)(found.scores[:, 1:], found.items[:, 1:])

    recommender = random_recommender("hydrarec", 60)
    users = [Users(length, recommender.catalog, 0) for length in (2, 4)]
    with recommender.open_stream(str(tmp_path / "store"), "process") as stream:
        for some in users:
            some.ids = some.ids[:5]
            for name, items in zip(some.ids, some.items, strict=False):
                for item in items:
                    stream.observe(name, int(item), 1)
        assert recall_of(stream, users) == 1.0
        stream.ranker.index = Missing(recommender.model)
        assert recall_of(stream, users) == pytest.approx(0.9)


def test_reading_again_bars_what_was_read():
    recommender = random_recommender("hydrarec", 60)
    users, barred = Users(30, recommender.catalog, 0), []

    class Told(ExactIndex):
        def search(self, h, k, out=None):
            barred.append(np.flatnonzero(np.unpackbits(out[0], bitorder="little")))
            return super().search(h, k, out)

    model = window_models(recommender)[0]
    assert model.items.data_ptr() == recommender.item_vectors().data_ptr()
    again = Reencoding(model, Told(model), users, {}, 2)
    again.burst()
    for number, out in enumerate(barred):
        assert set(users.items[number]) <= set(out.tolist()) <= set(users.half(number).tolist())
        assert set(again._tails[number].tolist()) <= set(out.tolist())
        assert len(again._tails[number]) == 31


# ---- mistakes and failures


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--transports python,grpc", "transport is 'grpc'; choose 'python' or 'http'"),
        ("--transports http,http", "transports needs different values"),
        ("--catalogs 40,many", "catalogs is '40,many'"),
        ("--catalogs 40,40", "different names or catalogs"),
        ("--catalogs 40,19", "items is 19"),
        ("--histories 0", "histories has 0"),
        ("--models elastik", "Did you mean 'elastic'"),
        ("--folder {tmp}/none", "no such folder"),
        ("--out {tmp}/found.csv", "name a .json file in a folder"),
        ("{tmp} --catalogs 40", "leave --models and --catalogs out"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(argv, words, tmp_path):
    if "--models" not in argv and not argv.startswith("{tmp}"):
        argv += " --models last-item"
    if "--catalogs" not in argv:
        argv += " --catalogs 40"
    with pytest.raises(UsageError) as told:
        longrec_bench("serve", *argv.format(tmp=tmp_path).split())
    assert words in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    ask, asked = Served.ask, iter(range(10))

    def shot(self):
        if next(asked):  # not in the turn that does not count
            os.kill(int(children()[0]), signal.SIGKILL)
        ask(self)

    monkeypatch.setattr(Served, "ask", shot)
    allowed = os.sched_getaffinity(0)
    with pytest.raises(
        LongrecError, match="longrec serve ended with status -9; its log ends"
    ) as told:
        bench_serve([random_recommender("last-item", 40)], ONE, ["http"], tmp_path)
    assert '"event": "serving"' in str(told.value)
    assert list(tmp_path.iterdir()) == []
    assert children() == []
    assert os.sched_getaffinity(0) == allowed


def test_a_server_that_does_not_start_is_told(tmp_path, monkeypatch):
    def start(*argv):
        with Server(*argv, tmp_path / "log", set()) as server:
            server.wait()

    with pytest.raises(
        LongrecError, match=r"ended with status 1; its log ends with\nerror: .*none"
    ):
        start(tmp_path / "none", str(tmp_path / "store"), "process")
    monkeypatch.setattr(server_module, "START", 0.0)
    with pytest.raises(LongrecError, match="longrec serve failed: not ready after 0 seconds"):
        start(tmp_path / "none", str(tmp_path / "store"), "process")
    assert children() == []


class Told:
    """A server whose every answer is given, in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._pieces = pieces
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            connection.recv(1 << 16)
            for piece in self._pieces:
                connection.sendall(piece)
                time.sleep(0.02)

    def failed(self, error):
        return LongrecError(f"told: {error}")


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (
            [b"HTTP/1.1 503 Busy\r\nContent-", b"Length: 4\r\n\r\nbu", b"sy"],
            "answered 503: \r\n\r\nbusy",
        ),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"], "closed amid an answer"),
        ([b"HTTP/1.1 200 OK\r\n\r\nendless"], "without a length"),
    ],
)
def test_answers_that_are_none(pieces, words):
    connection = Connection(Told(*pieces))
    with pytest.raises(LongrecError, match=words):
        connection.ready()
    connection.close()


def test_answers_in_pieces():
    connection = Connection(
        Told(b"HTTP/1.1 200 O", b"K\r\ncontent-length: 10\r", b"\n\r\nab 1", b'\nc{d="e"} .5\n'[:6])
    )
    connection.ready()
    connection.close()
    assert connection.metrics == {"ab": 1.0}


@pytest.mark.slow
def test_an_interrupted_command_leaves_no_server(tmp_path):
    code = "from longrec.cli.main import main; main()"
    argv = [*TINY, "--catalogs", 40, "--histories", 5, "--seconds", 60, "--clients", 2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "bench", "serve", *map(str, argv), "--folder", tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        text=True,
    )
    logs, deadline = [], time.monotonic() + 60
    while not any("serving" in log.read_text() for log in logs) and time.monotonic() < deadline:
        logs = list(tmp_path.rglob("*.log"))
        time.sleep(0.05)
    own = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert own
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert told.strip() == "error: interrupted; nothing is left of the stores"
    assert process.returncode == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in own)
    assert list(tmp_path.iterdir()) == []
