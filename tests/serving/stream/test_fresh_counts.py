"""Counts kept fresh beside a stream are those that counting its log at once gives, and serve."""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from contextlib import ExitStack, closing

import numpy as np
import polars as pl
import pytest
from forking import ForkServer, kills
from hypothesis import given, settings
from hypothesis import strategies as st
from models.small_models import N
from serving.fresh_streams import (
    check_equal,
    counted,
    fresh,
    of_log,
    open_fresh,
    wait_until,
    with_transitions,
)
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, UNKNOWN, frame_of, grown

from longrec.core.errors import UsageError
from longrec.data.write import write_histories
from longrec.models.common.pairs import Pairs
from longrec.models.common.scorer import Scorer
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import StoreUnavailable
from longrec.serving.stream import counts_snapshot, fresh_counts, log_counts
from longrec.serving.stream.counts_snapshot import FOLDER, load_counts

USERS = ("ann", "bob", "cem")
ITEMS = [*range(FIRST, FIRST + 6), UNKNOWN]

events = st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 50))
steps = st.one_of(
    st.tuples(st.just("observe"), events),
    st.tuples(st.just("many"), st.lists(events, max_size=12)),
    st.tuples(st.just("retry"), st.none()),
    st.tuples(st.just("count"), st.none()),
    st.tuples(st.just("forget"), st.sampled_from(USERS)),
    st.tuples(st.just("drop"), st.tuples(st.sampled_from(USERS), st.integers(1, 6))),
    st.tuples(st.just("rebuild"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """Histories of two of the users, before all that is observed."""
    items = np.array([1, 2, 1, 5, 6, 3])
    return write_histories(
        tmp_path_factory.mktemp("older") / "histories",
        user_ids=pl.Series(USERS[:2]),
        offsets=np.array([0, 4, 6]),
        items=items,
        times=np.arange(-10, -4),
        catalog=with_transitions().catalog,
        source="test",
        time_unit="s",
    )


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
@settings(max_examples=12)
@given(walk=st.lists(steps, max_size=14), size=st.sampled_from([2, 8192]))
def test_the_table_is_the_one_counted_from_the_log(kind, request, older, walk, size):
    rec, last = with_transitions(), ("ann", FIRST, 0, "e")
    folder = tempfile.mkdtemp()
    url = f"{folder}/store"
    if kind == "redis":
        url = request.getfixturevalue("redis").empty(1)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.callback(shutil.rmtree, folder)
        patch.setattr(log_counts, "EVENTS", size)
        stream = stack.enter_context(open_fresh(url, rec))
        for number, (what, value) in enumerate(walk):
            if what == "observe":
                last = (*value, f"e{number}")
                stream.observe(*last)
            elif what == "many":
                stream.observe_many(frame_of(value))
            elif what == "retry":
                stream.observe(*last)
            elif what == "count":
                fresh(stream).refresh()
            elif what == "forget":
                stream.forget(value)
            elif what == "drop":
                stream.drop_event(value[0], number=value[1])
            elif what == "rebuild":
                stream.rebuild(older)
            else:
                stream.close()
                stream = stack.enter_context(open_fresh(url, rec))
        wanted = of_log(stream.store, rec)
        check_equal(counted(stream), wanted)
        assert fresh(stream).figures()["events_of_log"] == wanted.events


def test_the_log_serves_once_it_has_more_events(tmp_path):
    rec = with_transitions("elastic", followers=2)
    trained = rec.added.events
    with open_fresh(f"{tmp_path}/store", rec) as stream:
        history = [FIRST + n % 5 for n in range(trained + 1)]
        for number, item in enumerate(history[:-1]):
            stream.observe("ann", item, number)
        check_equal(counted(stream), of_log(stream.store, rec))
        figures = stream.stats()["transitions"]
        assert (figures["serves"], figures["events_of_log"]) == ("training", trained)
        assert stream.added is rec.added
        stream.observe("ann", history[-1], trained)
        table = counted(stream)
        figures = stream.stats()["transitions"]
        assert (figures["serves"], figures["events_of_log"]) == ("log", trained + 1)
        assert 0 <= figures["age_s"] < 60
        assert figures["error"] is None
        check_equal(stream.served.added, table)
        assert int((table.starts[1:] - table.starts[:-1]).max()) == 2
        asked = {"histories": [history], "k": 8, "exclude_seen": False}
        wanted = rec.with_added_score(table).recommend(**asked)
        mine = stream.recommend("ann", 8, exclude_seen=False)
        assert mine["item"].to_list() == wanted["item"].to_list()
        np.testing.assert_allclose(mine["score"], wanted["score"], rtol=1e-4, atol=1e-5)
        assert mine["score"].to_list() != rec.recommend(**asked)["score"].to_list()
        stream.forget("ann")  # and training's again
        assert counted(stream).events == 0
        assert (stream.added, stream.stats()["transitions"]["serves"]) == (rec.added, "training")
        mine = stream.rank(["ann"])
        assert not mine.personal.any()


def test_new_items_enter_through_what_they_followed(tmp_path):
    """Their events were skipped; with the catalog that has them the log is counted anew."""
    small = with_transitions("elastic")
    big = grown(small, [UNKNOWN])
    url = f"{tmp_path}/store"
    with open_fresh(url, small) as stream:
        for user in range(5):
            for number, item in enumerate([FIRST, UNKNOWN, FIRST + 1]):
                stream.observe(f"u{user}", item, number)
        check_equal(counted(stream), of_log(stream.store, small))
    with open_fresh(url, big) as stream:
        check_equal(counted(stream), of_log(stream.store, big))
        stream.observe("new", FIRST, 9)
        assert stream.recommend("new", 1)["item"][0] == UNKNOWN


@pytest.fixture
def read(monkeypatch):
    """How many events are read of logs, a number for each reading."""
    read: list[int] = []
    of_store = log_counts.read_events

    def noting(*arguments):
        found = of_store(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(log_counts, "read_events", noting)
    return read


def test_a_restart_goes_on_from_the_snapshot(tmp_path, read):
    rec, url = with_transitions(), f"{tmp_path}/store"
    with open_fresh(url, rec) as stream:
        stream.observe_many(frame_of((f"u{n % 4}", FIRST + n % 7, n) for n in range(40)))
        wanted = counted(stream)
    read.clear()
    with open_fresh(url, rec) as stream:
        check_equal(counted(stream), wanted)
        assert read == []
        assert stream.stats()["transitions"]["serves"] == "log"
        stream.observe("u1", FIRST, 50)
        check_equal(counted(stream), of_log(stream.store, rec))
        assert read == [1]
    shutil.copytree(tmp_path / "store", tmp_path / "old", ignore=shutil.ignore_patterns("*lock"))
    with open_fresh(url, rec) as stream:
        stream.observe("u2", FIRST, 60)
        stream.forget("u1")
        counted(stream)
        kept = load_counts(stream.store, rec.added, rec.catalog_version)
        check_equal(kept.table, of_log(stream.store, rec))  # at once
    newer = tmp_path / "store" / FOLDER
    shutil.rmtree(tmp_path / "old" / FOLDER)
    shutil.copytree(newer, tmp_path / "old" / FOLDER)  # counts of events that this log has not
    with closing(open_store(f"{tmp_path}/old", "process")) as old:
        assert load_counts(old, rec.added, rec.catalog_version) is None
    with closing(open_store(url, "process")) as store:
        assert load_counts(store, rec.added, rec.catalog_version) is not None
        assert load_counts(store, with_transitions(last=2).added, rec.catalog_version) is None
        assert load_counts(store, rec.added, "another") is None
        (newer / counts_snapshot.TENSORS).write_bytes(b"damaged")
        assert load_counts(store, rec.added, rec.catalog_version) is None


@pytest.mark.slow
@pytest.mark.kills
def test_killed_it_counts_the_same(tmp_path):
    rec, url, begin = with_transitions(), f"{tmp_path}/store", 0
    with ForkServer("serving.fresh_streams") as server:
        for _ in range(kills(3)):
            with server.job("count_for_ever", url, begin) as job:
                lines = [job.line() for _ in range(random.SystemRandom().randint(1, 4))]
                assert all(line.isdigit() for line in lines), lines
                time.sleep(random.SystemRandom().random() * 0.02)
                job.killed()
            with closing(open_store(url, "process")) as store:
                assert load_counts(store, rec.added, rec.catalog_version) is not None
            with open_fresh(url, rec) as stream:
                check_equal(counted(stream), of_log(stream.store, rec))
                begin = stream.stats()["events"] // 5 * 5


def test_a_table_is_swapped_whole(tmp_path):
    """Beside a thread that swaps, every answer is that of one table, to the bit."""
    rec = with_transitions("elastic")
    with open_fresh(f"{tmp_path}/store", rec) as stream:
        stream.observe_many(frame_of((f"u{n % 2}", FIRST + n * n % 13, n) for n in range(60)))
        tables = [rec.added, counted(stream)]
        indexes = [stream.index.with_scorer(Scorer(rec.model, table)) for table in tables]
        request = [stream.ranker.request("u1", 20)]
        answers = []
        for table, index in zip(tables, indexes, strict=True):
            stream.ranker.serve(table, index)
            found = stream.ranker.recommend(request)
            answers.append((found.items.tolist(), found.scores.tolist()))
        assert answers[0] != answers[1]
        done = threading.Event()

        def swap() -> None:
            number = 0
            while not done.wait(0.0005):
                number += 1
                stream.ranker.serve(tables[number % 2], indexes[number % 2])

        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            met = set()
            for _ in range(300):
                found = stream.ranker.recommend(request)
                met.add(answers.index((found.items.tolist(), found.scores.tolist())))
        finally:
            done.set()
            swapping.join()
        assert met == {0, 1}


def test_it_counts_by_itself_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    fails = threading.Event()
    count_log = fresh_counts.count_log

    def counting(*arguments):
        if fails.is_set():
            raise StoreUnavailable("the store is away.")
        return count_log(*arguments)

    monkeypatch.setattr(fresh_counts, "count_log", counting)
    monkeypatch.setattr(fresh_counts, "REST", 0)
    rec = with_transitions()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with open_fresh(f"{tmp_path}/store", rec, every=0.01) as stream:
            stream.observe_many(frame_of((f"u{n % 4}", FIRST + n % 7, n) for n in range(40)))
            wait_until(lambda: fresh(stream).figures()["events_of_log"] == 40)
            fails.set()
            wait_until(lambda: fresh(stream).figures()["error"] is not None)
            served = stream.added  # by now the pass before serves
            stream.observe("u1", FIRST, 50)
            time.sleep(0.05)  # it fails again, and says no more
            assert stream.added is served
            fails.clear()
            wait_until(lambda: fresh(stream).figures()["events_of_log"] == 41)
            wait_until(lambda: fresh(stream).figures()["error"] is None)
    [warning] = [one for one in told if "is away" in str(one.message)]
    assert "what was counted before serves on" in str(warning.message)


def test_it_is_off_where_it_is_not_wanted_or_nothing_is_counted(tmp_path):
    rec = with_transitions()
    with rec.open_stream(f"{tmp_path}/a", "process", fresh_counts=None) as stream:
        assert stream.stats()["transitions"] is None
    with rec.with_added_score(None).open_stream(f"{tmp_path}/b", "process") as stream:
        assert stream.fresh is None
    with rec.open_stream(f"{tmp_path}/c", "process") as stream:
        assert fresh(stream).every == 60
    for wrong in (0, -1, True, "60", float("nan")):
        with pytest.raises(UsageError, match=r"fresh_counts is .* seconds above 0, or None"):
            rec.open_stream(f"{tmp_path}/d", fresh_counts=wrong)


def test_exact_sums_hold_past_single_precision():
    rec = with_transitions()
    many = log_counts.LogCounts.none(rec.added).table
    none = np.zeros(N + 1, np.int64)
    key = np.array([1 * (N + 1) + 2])
    for times in (2.0**24, 1.0, 2.0**-20, 2.0**32):
        many = many.counting(none, Pairs(key, np.array([times])))
    assert many.times.item() == 2.0**32 + 2.0**24 + 1 + 2.0**-20


def test_a_closed_stream_lets_go_of_all_that_it_held_without_a_look_for_garbage(tmp_path):
    """Or a service whose model is changed keeps the old ones, and the first one for ever."""
    rec = with_transitions()
    gc.disable()
    try:
        stream = open_fresh(f"lmdb://{tmp_path}/users", rec)
        stream.observe("ann", FIRST, 1)
        stream.recommend("ann", 2)
        fresh(stream).refresh()
        held = [weakref.ref(one) for one in (stream, stream.ranker, stream.fresh)]
        stream.close()
        del stream
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()
