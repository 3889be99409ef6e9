"""The parts that measure serving: users, calls, the HTTP client, the machine, and analysis."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import LongrecError
from longrec.models.common.scorer import Scorer
from longrec.retrieval.exact import ExactIndex
from longrec_bench.analysis import serving_ratios
from longrec_bench.goals import serving_goals
from longrec_bench.plan import PAIRS
from longrec_bench.serving.bench import recall_of
from longrec_bench.serving.clients import HttpClient, OneRequestClient, StreamClient
from longrec_bench.serving.pairs import ClientPairs, Counting, Pairs, Reencoding, Steps
from longrec_bench.serving.parts import StreamParts
from longrec_bench.serving.users import Users, random_recommender, window_model, write_users
from longrec_bench.serving.workspace import one_core

CATALOG = random_recommender("last-item", 30).catalog


def half_of(users: Users, number: int) -> set[int]:
    """The item indices of a user's events, those to come included."""
    places = (users._starts[number] + np.arange(users._half)) % len(users._order)
    return set(users._order[places].tolist())


def test_random_weights_have_the_shape_that_is_documented():
    config = random_recommender("elastic", 40).model_config
    assert (config.dim, config.layers, config.experts) == (64, 2, 16)
    digests = {random_recommender("hydrarec", 40, seed).state_digest for seed in (0, 0, 1)}
    assert len(digests) == 2


# ---- users


@settings(max_examples=25)
@given(length=st.integers(1, 40), items=st.integers(20, 60), seed=st.integers(0, 9))
def test_users_leave_half_of_the_items_alone(length, items, seed):
    catalog = random_recommender("last-item", items).catalog
    users = Users(length, catalog, seed)
    assert users.items.shape == (256, length)
    rng, last = random.Random(seed), 0
    for row in (0, 255):
        half = half_of(users, row)
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
    groups = [Users(length, CATALOG, 0) for length in (2, 10)]
    histories = write_users(groups, CATALOG, tmp_path / "histories")
    assert histories.n_users == 512
    for users in groups:
        rows = histories.find_users(users.ids)
        for number in (0, 7, 255):
            begin, end = histories.offsets[rows[number]], histories.offsets[rows[number] + 1]
            assert np.array_equal(histories.items[begin:end], users.items[number])
            assert (np.diff(histories.times[begin:end]) > 0).all()
            assert histories.times[end - 1] < users.event(number, random.Random(0))[2]


# ---- what is timed


@settings(max_examples=25)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=50), st.integers(1, 256))
def test_a_row_has_what_was_timed(seconds, batch):
    pairs = Pairs({"system": "x", "history": 1}, Users(1, CATALOG, 0))
    pairs.batch = batch
    pairs.seconds.extend(seconds)
    row = pairs.row()
    assert row["p50_ms"] == pytest.approx(1e3 * np.median(seconds) / batch)
    assert row["p99_ms"] == pytest.approx(1e3 * np.quantile(seconds, 0.99) / batch)
    assert row["pairs_per_second"] == pytest.approx(len(seconds) * batch / sum(seconds))


def test_recall_counts_what_is_missed(tmp_path):
    class Missing(ExactIndex):
        """Never finds the best item."""

        def search(self, h, k, excluded=None, recent=None):
            found = super().search(h, k + 1, excluded, recent)
            return type(found)(found.scores[:, 1:], found.items[:, 1:])

    recommender = random_recommender("sasrec", 60)
    users = [Users(length, recommender.catalog, 0) for length in (2, 4)]
    with recommender.open_stream(str(tmp_path / "store"), "process") as stream:
        for some in users:
            some.ids = some.ids[:5]
            for name, items in zip(some.ids, some.items, strict=False):
                for item in items:
                    stream.observe(name, int(item), 1)
        assert recall_of(stream, users) == 1.0
        stream.ranker.index = Missing(recommender.scorer)
        assert recall_of(stream, users) == pytest.approx(0.9)


def test_parts_and_steps_are_those_of_a_stream(tmp_path, monkeypatch):
    """Parts append events with records that are up to date; steps write nothing."""
    monkeypatch.setattr("longrec_bench.serving.users.MOST", 4)
    recommender = random_recommender("hydrarec", 40)
    users = Users(3, recommender.catalog, 0)
    histories = write_users([users], recommender.catalog, tmp_path / "histories")
    with recommender.open_stream(str(tmp_path / "store"), "process") as stream:
        stream.rebuild(histories)
        parts = StreamParts(stream, ClientPairs({}, users, StreamClient(stream)))
        steps = Steps({"batch": 6}, users, stream)
        parts.sample()
        steps.sample()
        assert stream.stats()["events"] == 4 * 3 + PAIRS
        stream.rank(users.ids)
        assert stream.ranker.replayed == 0
        assert steps._records["sequence"].tolist() == [3 + PAIRS] * 6
        assert len(steps.seconds) == PAIRS
        counting = Counting({"batch": 6}, users, stream)
        counting.sample()
        assert counting._counted.table.events == stream.stats()["events"] == 4 * 3 + PAIRS + 6
        assert len(counting.seconds) == 1


def test_reading_again_excludes_what_was_read():
    recommender = random_recommender("hydrarec", 60)
    users, excluded = Users(30, recommender.catalog, 0), []

    class Noting(ExactIndex):
        def search(self, h, k, out=None, recent=None):
            excluded.append(np.flatnonzero(np.unpackbits(out[0], bitorder="little")))
            return super().search(h, k, out, recent)

    model = window_model(recommender, 200)
    assert model.items.data_ptr() == recommender.item_vectors().data_ptr()
    again = Reencoding({}, users, model, Noting(Scorer(model)))
    again.sample()
    for number, out in enumerate(excluded):
        assert set(users.items[number]) <= set(out.tolist()) <= half_of(users, number)
        assert set(again._recent[number].tolist()) <= set(out.tolist())
        assert len(again._recent[number]) == 31


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


# ---- over HTTP


class Answering:
    """A server whose one answer is given, in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._pieces = pieces
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            connection.recv(1 << 16)
            for piece in self._pieces:
                connection.sendall(piece)
                time.sleep(0.02)

    def failed(self, error):
        return LongrecError(f"failed: {error}")


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([b"HTTP/1.1 503 Busy\r\nContent-", b"Length: 4\r\n\r\nbu", b"sy"], "answered 503: busy"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"], "closed amid an answer"),
        ([b"HTTP/1.1 200 OK\r\ncontent-le"], "closed amid an answer"),
        ([b"HTTP/1.1 200 OK\r\n\r\nendless"], "without a length"),
    ],
)
def test_answers_that_are_none(pieces, words):
    client = HttpClient(Answering(*pieces))
    with pytest.raises(LongrecError, match=words):
        client.connect()
    client.close()


def test_answers_in_pieces():
    pieces = (
        b"HTTP/1.1 200 O",
        b"K\r\ncontent-length: 10\r",
        b"\n\r\nab 1",
        b'\nc{d="e"} .5\n'[:6],
    )
    client = HttpClient(Answering(*pieces))
    assert client.connect() == {"ab": 1.0}
    client.close()


def test_a_pair_in_one_request_is_asked_once():
    answer = b'{"accepted": 1, "recommended": {"items": [1]}}'
    server = Answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
    client = OneRequestClient(server)
    client._socket = socket.create_connection(server.address)
    client.observe("ann", 5, 7)  # nothing is sent yet
    client.recommend("ann")
    client.close()


# ---- what rows mean


def cell(system, history, p50, durability="process", clients=1, **more):
    usual = {"catalog": 40, "transport": "python"}
    return {
        **{"system": system, "history": history, **usual, "clients": clients},
        **{"durability": durability, "p50_ms": p50, **more},
    }


def test_ratios_of_streams():
    rows = serving_ratios(
        [
            cell("a", 1000, 3.0, "power"),
            cell("a", 10, 2.0, "power"),
            cell("a", 10, 99.0, "power", 32),
            cell("b", 1000, 4.0),
            cell("a step", 10, 0.1, "none"),
            cell("re-encode 9", 1000, 60.0, "none"),
        ]
    )
    assert [(row["system"], row["of"], row["ratio"]) for row in rows] == [
        ("a", "after 1,000 events / after 10", 1.5),
        ("a", "re-encode 9 / stream, after 1,000 events", 20.0),
        ("b", "re-encode 9 / stream, after 1,000 events", 15.0),
    ]


def test_ratios_are_of_one_catalog_and_transport():
    python, http = {"transport": "python"}, {"transport": "http"}
    rows = serving_ratios(
        [
            cell("a", 10, 2.0, catalog=40, **python),
            cell("a", 1000, 3.0, catalog=40, **python),
            cell("a", 1000, 99.0, clients=8, catalog=40, **python),
            cell("a", 10, 4.0, catalog=90, **python),
            cell("a", 10, 8.0, catalog=40, **http),
            cell("a", 1000, 4.0, catalog=40, **http),
            cell("re-encode 9", 10, 10.0, "none", catalog=90, **python),
            cell("re-encode 9", 1000, 60.0, "none", catalog=40, **python),
        ]
    )
    assert [(row["catalog"], row["transport"], row["of"], row["ratio"]) for row in rows] == [
        (40, "python", "after 1,000 events / after 10", 1.5),
        (40, "python", "re-encode 9 / stream, after 1,000 events", 20.0),
        (90, "python", "re-encode 9 / stream, after 10 events", 2.5),
        (40, "http", "after 1,000 events / after 10", 0.5),
        (40, "http", "http / python, after 10 events", 4.0),
        (40, "http", "http / python, after 1,000 events", 4 / 3),
    ]


def test_goals_are_held_against_the_worst_cell():
    def row(catalog, history, p50, p99, rate=1.0, clients=1, transport="http", share=0.96):
        more = {"p99_ms": p99, "pairs_per_second": rate, "recall_at_10": share}
        of = {"catalog": catalog, "transport": transport}
        return cell("a", history, p50, "power", clients, **of, **more)

    large, small, python = 1_000_000, 3_402, {"transport": "python"}
    cells = [
        row(large, 100, 4.0, 9.0),
        row(large, 10_000, 4.4, 11.0, share=0.94),
        row(large, 10_000, 4.0, 99.0, clients=8, share=0.1),
        row(large, 100, 2.0, 5.0, **python),
        row(large, 10_000, 2.0, 9.9, **python),
        row(small, 100, 1.0, 2.0, rate=200.0),
        row(small, 100, 1.0, 2.0, rate=900.0, clients=8),
        row(small, 10_000, 1.3, 2.0, rate=310.0),
        row(small, 10_000, 1.3, 2.0, rate=250.0, clients=8),
        row(small, 100, 0.8, 2.0, **python),
        row(small, 10_000, 0.8, 2.0, **python),
        row(100_000, 100, 9.0, 99.0, rate=1.0, share=0.1),
        row(large, 100, 99.0, 999.0) | {"system": "re-encode 200", "durability": "none"},
        row(large, 100, 9.0, 9.0, share=None) | {"system": "a step", "durability": "none"},
    ]
    judged = serving_goals(cells)
    found = {goal["goal"]: (goal["figure"], goal["at"], goal["met"]) for goal in judged}
    p99, flat = "p99 under 10 ms at 1,000,000 items, one client", "p50 flat in the history"
    assert found == {
        f"{p99}, http": (11.0, "10,000 events, power", False),
        f"{p99}, python": (9.9, "10,000 events, power", True),
        "recall@10 of at least 0.95 at 1,000,000 items": (0.94, "1,000,000 items", False),
        f"{flat} (at most 1.1 of the shortest's), http": (
            *(1.3, "3,402 items, 10,000 events, power", False),
        ),
        f"{flat} (at most 1.1 of the shortest's), python": (
            *(1.0, "1,000,000 items, 10,000 events, power", True),
        ),
        "300 pairs per second over HTTP at 3,400 items": (
            *(310.0, "clients: 1, 10,000 events, power", True),
        ),
        "p50 at most 1.6 times that in process at 3,400 items, one client, http": (
            *(1.3 / 0.8, "10,000 events, power", False),
        ),
    }
