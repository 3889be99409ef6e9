"""What a stream recommends is what the model gives on the whole history, whatever happened."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from serving.small_streams import (
    FIRST,
    UNKNOWN,
    check_best,
    frame_of,
    grown,
    in_threads,
    quick_engine,
    recommender,
    small_stream,
)

import longrec
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.serving.stores.checks import seal
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import (
    Append,
    Event,
    Put,
    StoreFull,
    StoreUnavailable,
)
from longrec.serving.stream import catch_up as catchup
from longrec.serving.stream import recommending as ranking
from longrec.serving.stream import stream as module
from longrec.serving.stream.catch_up import seen_items
from longrec.serving.stream.stream import Counts, Observed, Stream

USERS = ("anna", 42, b"\xff\x00")


@pytest.fixture(autouse=True)
def quick_engines(request, monkeypatch):
    """Opening a stream takes longer than most tests; one of them does it in earnest."""
    if "in_earnest" not in request.node.name:
        monkeypatch.setattr(module, "Engine", quick_engine)


@pytest.fixture
def stream(tmp_path):
    with small_stream("elastic", tmp_path / "store") as opened_stream:
        yield opened_stream


def record_of(stream: Stream, user: bytes):
    """The stored record of a user as an array, and the user's seen items."""
    [stored] = stream.store.read(stream.engine.digest, [(user, ())], seen=True)
    record = stream.engine.layout.load([stored.record])[0]
    return record, set(seen_items(stored.seen).tolist())


def test_late_events_count_as_simultaneous(stream) -> None:
    assert stream.observe("u", FIRST, 100) == Observed(True, True, False)
    assert stream.observe("u", FIRST + 1, 100) == Observed(True, True, False)
    assert stream.observe("u", FIRST + 2, 99) == Observed(True, True, True)
    assert stream.observe("u", UNKNOWN, 10**6) == Observed(True, False, False)
    assert stream.observe("u", FIRST + 3, 100) == Observed(True, True, False)
    assert stream.observe("u", FIRST + 3, 50, "e") == Observed(True, True, True)
    assert not stream.observe("u", FIRST + 3, 50, "e").new
    record, seen = record_of(stream, b"u")
    assert (record["sequence"], record["skipped"], record["late"]) == (6, 1, 2)
    assert (record["time"], seen) == (100, {1, 2, 3, 4})
    assert record["version"] == 6  # one more with each event


def test_duplicates_within_a_group_and_of_other_users(stream) -> None:
    rows = [("a", FIRST, 1, "x"), ("a", FIRST, 1, "x"), ("b", FIRST, 1, "x"), ("a", FIRST, 2, "y")]
    assert stream.observe_many(frame_of(rows, "event_id")) == Counts(3, 1, 0, 0)
    assert stream.observe_many(frame_of(rows, "event_id")) == Counts(0, 4, 0, 0)
    stats = stream.stats()
    assert (stats["events"], stats["accepted"], stats["duplicates"]) == (3, 3, 5)
    assert record_of(stream, b"a")[0]["sequence"] == 2


def test_an_unknown_item_that_is_known_later(tmp_path) -> None:
    """Its events are logged, skipped, and taken in by the rebuild after the catalog has grown."""
    small = recommender("elastic")
    big = grown(small, [7, 8])
    url = str(tmp_path / "s")
    with small.open_stream(url, "process") as stream:
        stream.observe("u", FIRST, 10)
        assert not stream.observe("u", 7, 20).known
        assert not stream.observe("cold", 7, 20).known
        before = stream.recommend("u")
        assert stream.recommend("cold")["policy"][0] == "cold"
    with big.open_stream(url, "process") as stream:
        # The state is good as it is; all that is missing is the event that it skipped.
        assert_frame_equal(before, stream.recommend("u", exclude=[7, 8]))
        assert stream.observe("v", 7, 20).known
        assert stream.rebuild().users == 3
        assert record_of(stream, b"u")[0]["skipped"] == 0
        wanted = big.recommend(histories=[[FIRST, 7], [7]])
        for number, user in enumerate(["u", "cold"]):
            theirs = wanted.filter(pl.col("user") == number)
            mine = stream.recommend(user)
            assert mine["item"].to_list() == theirs["item"].to_list()
            np.testing.assert_allclose(mine["score"], theirs["score"], rtol=1e-3, atol=1e-6)
            assert 7 not in mine["item"]
    # A replica that has not got the larger catalog yet goes on, though items it does not know
    # stand in records and bitmaps; another way of growing would give indices another meaning.
    with small.open_stream(url, "process") as stream:
        assert set(stream.recommend("v", 99)["item"]) == set(range(FIRST, FIRST + 40))
    with pytest.raises(DataError, match=r"with 42 items, and its catalog of 42 does not begin"):
        grown(small, [9, 8]).open_stream(url)


def test_a_shrunk_catalog_is_refused(tmp_path) -> None:
    small = recommender("elastic")
    big = grown(small, [7, 8])
    with big.open_stream(str(tmp_path / "s")):
        pass
    with pytest.raises(DataError, match=r"its catalog of 40 does not .* use another store"):
        small.open_stream(str(tmp_path / "s"))
    with big.open_stream(str(tmp_path / "s")) as stream:
        assert stream.stats()["current"]


# ---- recommending


@pytest.fixture
def lively(stream):
    """Five users with twelve events each."""
    stream.observe_many(frame_of((f"u{n % 5}", FIRST + n * 7 % 40, n) for n in range(60)))
    return stream


def test_frames_are_those_of_the_recommender(lively) -> None:
    rec = recommender("elastic")
    histories = [[FIRST + n * 7 % 40 for n in range(u, 60, 5)] for u in range(5)]
    wanted = rec.recommend(histories=[*histories, []], k=7)
    for number, user in enumerate([*(f"u{n}" for n in range(5)), "nobody"]):
        mine = lively.recommend(user, 7)
        theirs = wanted.filter(pl.col("user") == number).with_columns(user=pl.lit(user))
        assert mine.schema == theirs.schema
        assert_frame_equal(mine.drop("score"), theirs.drop("score"))
        np.testing.assert_allclose(mine["score"], theirs["score"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("user", ["u1", "nobody"])
def test_exclude_and_among(lively, user: str, exclude_seen: bool) -> None:
    """Exact too where next to nothing is left, and unknown ids of any type do not matter."""
    full = lively.recommend(user, 99, exclude_seen=exclude_seen)
    order = dict(zip(full["item"], full["score"], strict=True))
    everything = set(range(FIRST, FIRST + 40))
    some = [FIRST, str(FIRST + 1), FIRST + 2.0, np.int64(FIRST + 9), "none", UNKNOWN, b"\xff"]
    chosen = {FIRST, FIRST + 1, FIRST + 2, FIRST + 9}
    for exclude, among, allowed in [
        (some, None, everything - chosen),
        ((), some, chosen),
        ((), [], set()),
        (np.arange(FIRST + 1, FIRST + 40), None, {FIRST}),
        (pl.Series(sorted(everything)), None, set()),
        ([FIRST + 1], some, chosen - {FIRST + 1}),
        (iter([FIRST + 1]), set(some), chosen - {FIRST + 1}),
    ]:
        found = lively.recommend(user, 10, exclude, among, exclude_seen)
        wanted = [item for item in order if item in allowed][:10]
        assert found["item"].to_list() == wanted
        assert found["rank"].to_list() == list(range(1, len(wanted) + 1))
        assert found["score"].to_list() == [order[item] for item in wanted]
        assert found.schema == full.schema


@pytest.mark.parametrize("user", ["u1", 5, b"u1", 2.0, np.int32(4)])
def test_users_of_any_type_come_back_as_given(lively, user) -> None:
    found = lively.recommend(user, 2)
    assert found["user"].to_list() == [user, user]
    assert found["policy"][0] == ("personal" if user in ("u1", b"u1") else "cold")


def test_text_ids_of_items(tmp_path) -> None:
    rec = recommender("elastic")
    rec.catalog = Catalog(rec.catalog.ids.cast(pl.String), rec.catalog.counts)
    with rec.open_stream(str(tmp_path / "s"), "process") as stream:
        assert stream.observe("u", FIRST, 5).known  # 100 and "100" are one id
        found = stream.recommend("u", 5)
        assert found["item"].dtype == pl.String
        wanted = rec.recommend(histories=[[str(FIRST)]], k=5)
        assert found["item"].to_list() == wanted["item"].to_list()


@pytest.mark.parametrize("case", ["elastic", "last-item"])
def test_many_users_at_once(case: str, tmp_path) -> None:
    with small_stream(case, tmp_path / "s") as stream:
        stream.observe_many(frame_of((f"u{n % 5}", FIRST + n * 7 % 40, n) for n in range(60)))
        users = ["u3", "nobody", "u0", "u3"]
        for arguments in [{}, {"exclude": [FIRST]}, {"among": [FIRST, FIRST + 3]}]:
            found = stream.rank(users, 5, **arguments)
            assert found.personal.tolist() == [True, False, True, True]
            for row, user in enumerate(users):
                one = stream.recommend(user, 5, **arguments)
                here = found.items[row] > 0
                assert (found.items[row][here] + FIRST - 1).tolist() == one["item"].to_list()
                np.testing.assert_allclose(found.scores[row][here], one["score"], rtol=1e-5)
        assert len(stream.rank([], 5).items) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"user": None}, "user is None"),
        ({"user": "u", "k": 0}, "k is 0"),
        ({"user": "u", "exclude": "abc"}, "exclude is one id; give a list"),
        ({"user": "u", "among": 5}, "among is of type int; give a list"),
        ({"user": "u", "exclude": [None]}, "item is None"),
    ],
)
def test_wrong_calls_of_recommend(lively, arguments, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lively.recommend(**arguments)


@pytest.mark.parametrize("case", ["elastic", "sasrec"])
def test_records_that_are_behind(case: str, tmp_path, monkeypatch) -> None:
    """Catch up by replay; what took long is written back, and what did not is not."""
    history = [(FIRST + n * 3 % 40 if n % 4 else UNKNOWN, n) for n in range(100)]
    monkeypatch.setattr(catchup, "CHUNK", 7)
    with small_stream(case, tmp_path / "s") as stream:
        stream.observe_many(frame_of(("u", *event) for event in history[:80]))
        stream.store.drop(stream.engine.digest)
        check_best(case, stream.recommend("u", exclude_seen=False), history[:80], seen=False)
        assert stream.stats()["records"] == 1
        replayed = stream.stats()["replayed"]
        check_best(case, stream.recommend("u"), history[:80])
        assert stream.stats()["replayed"] == replayed

        stream.store.drop(stream.engine.digest)
        with monkeypatch.context() as patched:
            patched.setattr(ranking, "WRITE_BACK", 81)
            check_best(case, stream.recommend("u"), history[:80])
        assert stream.stats()["records"] == 0
        replayed = stream.stats()["replayed"]
        # An event brings the record up to date, and with it the items of all events before.
        for item, time in history[80:]:
            stream.observe("u", item, time)
        assert stream.stats()["replayed"] == replayed + 80
        record, seen = record_of(stream, b"u")
        assert record["sequence"] == 100
        assert seen == {item - FIRST + 1 for item, _ in history if item != UNKNOWN}
        check_best(case, stream.recommend("u"), history)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_seen_items_of_records_that_are_long_behind(exclude_seen: bool, stream) -> None:
    """Written back with the record are those from before, and those of the events replayed."""
    history = [(FIRST + (n if n < 10 else 20 + n % 5), n) for n in range(50)]
    stream.observe_many(frame_of(("u", *event) for event in history[:10]))
    [stored] = stream.store.read(stream.engine.digest, [(b"u", ())])
    events = [Event(time, b"%d" % item, None) for item, time in history[10:]]
    stream.store.append("00" * 32, [Append(b"u", stored.log_id, 10, 0, events, None, ())])
    check_best("elastic", stream.recommend("u", 10, (), None, exclude_seen), history, exclude_seen)
    record, seen = record_of(stream, b"u")
    assert record["sequence"] == 50
    assert seen == {item - FIRST + 1 for item, _ in history}


def test_windowed_models_look_past_unknown_items(tmp_path) -> None:
    history = [(FIRST + n % 40, n) for n in range(30)] + [(UNKNOWN, 50)] * 70 + [(FIRST, 60)]
    with small_stream("sasrec", tmp_path / "s") as stream:
        stream.observe_many(frame_of(("u", *event) for event in history))
        check_best("sasrec", stream.recommend("u"), history)
        stream.observe_many(frame_of([("v", UNKNOWN, 5)] * 20))
        assert stream.recommend("v")["policy"][0] == "cold"
        assert "last 5 events" in stream.stats()["statement"]


@pytest.mark.parametrize(
    ("case", "behind"), [("elastic", True), ("sasrec", True), ("sasrec", False)]
)
def test_a_log_that_is_replaced_while_it_is_read(case, behind, tmp_path, monkeypatch) -> None:
    """Forgotten and observed again between the reads of one recommendation."""
    with small_stream(case, tmp_path / "s") as stream:
        stream.observe_many(frame_of(("u", FIRST + n, n) for n in range(9)))
        if behind:
            stream.store.drop(stream.engine.digest)
        events, turns = stream.store.events, iter([20, 21, 22])

        def replaced(*given):
            turn = next(turns, None)
            if turn is not None:
                stream.forget("u")
                stream.observe("u", FIRST + turn, 5)
                if behind:
                    stream.store.drop(stream.engine.digest)
            return events(*given)

        monkeypatch.setattr(stream.store, "events", replaced)
        check_best(case, stream.recommend("u"), [(FIRST + 22, 5)])
        assert next(turns, None) is None
        monkeypatch.setattr(stream.store, "events", lambda *_: [])
        stream.store.drop(stream.engine.digest)
        with pytest.raises(DataError, match="is replaced again and again"):
            stream.recommend("u")
        # Such a log is gone on with, and no record pretends to have read it.
        assert stream.observe("u", FIRST, 6).new
        assert stream.stats()["records"] == 0


def test_another_replica_writes(tmp_path) -> None:
    """Two streams of one store take turns, each finding the other's events in the log."""
    history = []
    url = f"lmdb://{tmp_path}/s"
    with small_stream("elastic", url) as one, small_stream("elastic", url) as two:
        for n in range(40):
            event = (FIRST + n * 3 % 40, n, f"e{n}")
            assert (one, two)[n % 3 == 0].observe("u", *event).new
            assert not (one, two)[n % 2].observe("u", *event).new
            history.append(event[:2])
        check_best("elastic", one.recommend("u"), history)

        append = one.store.append

        def overtaken(digest, appends):
            """Between the read and the write of one, the other logs some events."""
            one.store.append = append
            two.observe("u", FIRST, 50, "x")
            two.observe("u", FIRST + 1, 51, "same")
            return append(digest, appends)

        one.store.append = overtaken
        assert one.observe("u", FIRST + 2, 52, "y").new
        history += [(FIRST, 50), (FIRST + 1, 51), (FIRST + 2, 52)]
        check_best("elastic", two.recommend("u"), history)
        one.store.append = overtaken
        two.forget("u")
        assert not one.observe("u", FIRST + 1, 51, "same").new
        check_best("elastic", one.recommend("u"), history[-3:-1])
        assert one.stats()["events"] == 2


def test_a_record_of_a_newer_longrec_harms_its_user_alone(lively) -> None:
    digest = lively.engine.digest
    [stored] = lively.store.read(digest, [(b"u1", ())])
    bad = seal(b"u1", b"LRU9" + stored.record[4:])
    assert lively.store.put(digest, [Put(b"u1", stored.log_id, stored.version, bad, b"")])
    results = in_threads(10, lambda n: lively.observe(f"u{n % 5}", FIRST, 100 + n))
    for number, found in enumerate(results):
        if number % 5 == 1:
            assert type(found) is DataError
            assert "upgrade longrec" in str(found)
        else:
            assert found.new
    with pytest.raises(DataError, match="upgrade longrec"):
        lively.recommend("u1")
    lively.rebuild()
    assert lively.recommend("u1")["policy"][0] == "personal"
    assert lively.observe("u1", FIRST, 200).new


# ---- threads


@pytest.mark.parametrize("case", ["elastic", "sasrec"])
def test_threads(case: str, tmp_path) -> None:
    """Each thread's events stand in its order, and records are those of the log as it is."""
    users, threads, turns = ("a", "b", "c"), 8, 25

    def work(number: int, stream: Stream) -> list[Observed]:
        random = np.random.default_rng(number)
        found = []
        for turn in range(turns):
            item = int(random.integers(FIRST, FIRST + 40))
            user = users[int(random.integers(3))]
            found.append(stream.observe(user, item, number * 1000 + turn, f"{number}-{turn}"))
            if turn % 5 == 0:
                assert not stream.observe(user, item, 0, f"{number}-{turn}").new
                assert stream.recommend(user)["policy"][0] == "personal"
        return found

    with small_stream(case, f"lmdb://{tmp_path}/s", "power") as stream:
        results = in_threads(threads, lambda number: work(number, stream))
        assert all(observed.new for found in results for observed in found)
        stats = stream.stats()
        assert stats["accepted"] == stats["events"] == threads * turns
        assert stats["duplicates"] == threads * turns // 5
        assert stats["groups"] < threads * turns  # some were committed together
        orders: dict[tuple[int, str], list[int]] = {}
        for user in users:
            [stored] = stream.store.read(stream.engine.digest, [(user.encode(), ())])
            events = stream.store.events(user.encode(), stored.log_id, 0, 10**6)
            history = [(int(event.item), event.time) for event in events]
            assert record_of(stream, user.encode())[0]["sequence"] == len(history)
            check_best(case, stream.recommend(user), history)
            for event in events:
                number, turn = map(int, event.event_id.split(b"-"))
                orders.setdefault((number, user), []).append(turn)
        assert all(order == sorted(order) for order in orders.values())


# ---- frames


ROWS = [("u", FIRST + 3, 1_700_000_000), ("v", UNKNOWN, 1_700_000_005), ("u", FIRST, 1_600_000_000)]
FRAME = frame_of(ROWS)
FRAMES = {
    "polars": lambda: FRAME,
    "lazy": lambda: FRAME.lazy(),
    "pandas": lambda: FRAME.to_pandas(),
    "Arrow": lambda: FRAME.to_arrow(),
    "Arrow stream": lambda: pa.RecordBatchReader.from_stream(FRAME),
    "other names": lambda: FRAME.rename({"user": "userId", "item": "product_id", "time": "ts"}),
    "milliseconds": lambda: FRAME.with_columns(pl.col("time") * 1000),
    "datetimes": lambda: FRAME.with_columns(pl.from_epoch("time")),
    "text": lambda: FRAME.with_columns(pl.col("item").cast(pl.String)),
    "floats": lambda: FRAME.with_columns(pl.col("item").cast(pl.Float64)),
    "categories": lambda: FRAME.with_columns(pl.col("user").cast(pl.Categorical)),
    "more columns": lambda: FRAME.with_columns(more=pl.lit(1)),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_any_kind(stream, kind: str) -> None:
    reports = []
    counts = stream.observe_many(FRAMES[kind](), progress=lambda *both: reports.append(both))
    assert counts == Counts(3, 0, 1, 1)
    assert reports == [(3, 3)]
    [stored] = stream.store.read(stream.engine.digest, [(b"u", ())])
    events = stream.store.events(b"u", stored.log_id, 0, 9)
    assert events == [Event(1_700_000_000, b"103", None), Event(1_600_000_000, b"100", None)]


def test_files_are_read_first(stream, tmp_path) -> None:
    rows = [(*row, f"e{n}") for n, row in enumerate(ROWS)]
    frame_of(rows, "event_id").write_csv(tmp_path / "log.csv")
    events = longrec.read_events(tmp_path / "log.csv", columns=["event_id"])
    assert stream.observe_many(events) == Counts(3, 0, 1, 1)
    assert stream.observe_many(events).duplicates == 3
    with pytest.raises(UsageError, match=r"longrec\.read_events"):
        stream.observe_many(tmp_path / "log.csv")


def test_named_columns_and_empty_frames(stream) -> None:
    frame = pl.DataFrame({"a": ["u"], "b": [FIRST], "c": [5], "event_id": [1], "d": ["x"]})
    named = {"user": "a", "item": "b", "time": "c"}
    assert stream.observe_many(frame, **named) == Counts(1, 0, 0, 0)
    assert stream.observe_many(frame, **named) == Counts(0, 1, 0, 0)
    assert stream.observe_many(frame, **named, event_id="d") == Counts(1, 0, 0, 0)
    assert stream.observe_many(frame[:0], **named) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"user": None}, r"column 'user', row 3: is null"),
        ({"item": None}, r"column 'item', row 3: is null"),
        ({"time": None}, r"column 'time', row 3: is null"),
        ({"event_id": None}, r"column 'event_id', row 3: event_id is None"),
        ({"user": ""}, r"column 'user', row 3: is an empty id"),
        ({"event_id": "x" * 201}, r"column 'event_id', row 3: event_id has 201 bytes"),
        ({"user": "x" * 401}, r"column 'user', row 3: user has 401 bytes"),
    ],
)
def test_a_row_that_is_no_event_is_named_and_nothing_is_logged(stream, change, says) -> None:
    rows = [{"user": "u", "item": f"{FIRST}", "time": 5, "event_id": f"{n}"} for n in range(5)]
    rows[2] |= change
    with pytest.raises(DataError, match=says):
        stream.observe_many(pl.DataFrame(rows))
    assert stream.stats()["events"] == 0


def test_times_that_cannot_be_are_refused(stream) -> None:
    frame = frame_of([("u", FIRST, 5), ("u", FIRST, 10**12)])
    with pytest.raises(DataError, match=r"column 'time', row 2: 1,000,000,000,000 seconds"):
        stream.observe_many(frame, time_unit="s")
    with pytest.raises(UsageError, match="no column looks like the time"):
        stream.observe_many(frame.drop("time"))
    assert stream.stats()["events"] == 0


def test_a_frame_keeps_order_across_groups_and_tells_how_far_it_came(stream, monkeypatch) -> None:
    random = np.random.default_rng(0)
    rows = [(f"u{random.integers(4)}", FIRST + int(random.integers(40)), t) for t in range(1300)]
    frame = frame_of(((*row, n) for n, row in enumerate(rows)), "event_id")
    append, left = stream.store.append, [2]

    def full(*given):
        if not left[0]:
            raise StoreFull("the disk is full")
        left[0] -= 1
        return append(*given)

    monkeypatch.setattr(stream.store, "append", full)
    reports = []
    with pytest.raises(StoreFull, match=r"full \(The first 1,024 of 1,300 rows are in, rows 1,025"):
        stream.observe_many(frame, progress=lambda *both: reports.append(both))
    assert reports == [(512, 1300), (1024, 1300)]
    left[0] = 9
    assert stream.observe_many(frame) == Counts(276, 1024, 0, 0)
    for user in range(4):
        history = [(item, time) for u, item, time in rows if u == f"u{user}"]
        check_best("elastic", stream.recommend(f"u{user}"), history)


def test_rows_are_not_taken_one_by_one(stream, monkeypatch) -> None:
    """A group of a frame is one call of the store, of the engine and of the look-up of items."""
    calls = []

    def counted(owner: object, name: str) -> None:
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (calls.append(name), call(*given))[1])

    counted(stream.store, "append")
    counted(stream.store, "read")
    counted(stream.engine, "advance")
    counted(stream.items, "find")
    stream.observe_many(frame_of((f"u{n}", FIRST + n % 40, n) for n in range(1024)))
    assert sorted(calls) == sorted(["append", "read", "advance", "find"] * 2)


# ---- which model a store serves


def test_another_model_is_refused_and_built_beside(tmp_path) -> None:
    history = [(FIRST + n * 3 % 40, n) for n in range(50)]
    url = str(tmp_path / "s")
    new = recommender("hydrarec")
    with small_stream("elastic", url) as old:
        old.observe_many(frame_of(("u", *event) for event in history))
        with pytest.raises(DataError, match=r"serves elastic .* hydrarec .*store rebuild lmdb:"):
            new.open_stream(url, "process")
        with new.open_stream(url, "process", beside=True) as beside:
            assert (old.stats()["current"], beside.stats()["current"]) == (True, False)
            old.observe("u", FIRST, 60)
            beside.observe("u", FIRST + 1, 61)
            history += [(FIRST, 60), (FIRST + 1, 61)]
            check_best("elastic", old.recommend("u"), history)
            check_best("hydrarec", beside.recommend("u"), history)
            beside.rebuild()
            assert (old.stats()["current"], beside.stats()["current"]) == (False, True)
            # The old stream goes on while it is open.
            old.observe("u", FIRST + 2, 62)
            history.append((FIRST + 2, 62))
            check_best("elastic", old.recommend("u"), history)
            check_best("hydrarec", beside.recommend("u"), history)
    with pytest.raises(DataError, match="serves hydrarec"):
        recommender("elastic").open_stream(url)
    with new.open_stream(url) as again:
        check_best("hydrarec", again.recommend("u"), history)
        models = again.store.meta()["models"]
        assert sorted(model["name"] for model in models.values()) == ["elastic", "hydrarec"]


@pytest.mark.parametrize("name", ["hydrarec-bidirectional", "elastic-paper"])
def test_models_that_cannot_stream_are_refused_before_anything_is_made(name, tmp_path) -> None:
    with pytest.raises(UsageError, match=rf"{name} .*train "):
        recommender(name).open_stream(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_failed_opening_in_earnest_leaves_the_store_free(tmp_path) -> None:
    with small_stream("elastic", tmp_path / "s"):
        pass
    with pytest.raises(DataError):
        recommender("hydrarec").open_stream(str(tmp_path / "s"), "power")
    # Streams of one process share a folder only with the same durability.
    with recommender("elastic").open_stream(str(tmp_path / "s"), "process") as stream:
        assert stream.stats()["durability"] == "process"


def test_a_store_opened_again_is_not_written_to(tmp_path, monkeypatch) -> None:
    with small_stream("elastic", tmp_path / "s") as stream:
        meta = stream.store.meta()
        assert meta["current"] == stream.engine.digest
        assert meta["models"][meta["current"]]["name"] == "elastic"
        [catalog] = meta["models"][meta["current"]]["catalogs"]
        assert (catalog["items"], catalog["version"]) == (40, stream.artifact.catalog_version)
        monkeypatch.setattr(
            type(stream.store), "change_meta", lambda *_: pytest.fail("it was written to")
        )
        with small_stream("elastic", tmp_path / "s") as again:
            assert again.stats()["model"] == "elastic"


@pytest.mark.parametrize(
    ("meta", "says"),
    [({"schema": 4}, "schema 4.*upgrade longrec"), ({"restoring": "x"}, "half restored")],
)
def test_stores_that_may_not_be_used(tmp_path, meta, says: str) -> None:
    store = open_store(str(tmp_path / "s"), "process")
    store.change_meta(lambda old: old.update(meta))
    store.close()
    with pytest.raises(DataError, match=says):
        recommender("elastic").open_stream(str(tmp_path / "s"))


# ---- the rest


def test_forget(stream) -> None:
    stream.observe("u", FIRST, 5, "e")
    assert stream.forget("u")
    assert not stream.forget("u")
    assert stream.recommend("u")["policy"][0] == "cold"
    assert stream.stats()["users"] == stream.stats()["events"] == stream.stats()["records"] == 0
    assert stream.observe("u", FIRST, 5, "e").new


def test_stats_are_ready_for_json(lively) -> None:
    stats = lively.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert (stats["users"], stats["events"], stats["records"]) == (5, 60, 5)
    assert stats["bytes"] > 5 * stats["record_bytes"]
    assert stats["url"].startswith("lmdb://")
    assert "exactly" in stats["statement"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, FIRST, 5), "user is None"),
        (("u", None, 5), "item is None"),
        (("u", FIRST, None), "time is None"),
        (("u", FIRST, 1_700_000_000_000), "milliseconds"),
        (("u", FIRST, 5, ""), "event_id is empty"),
    ],
)
def test_wrong_events_are_not_logged(stream, arguments, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        stream.observe(*arguments)
    assert stream.stats()["events"] == 0


def test_a_closed_stream_says_so(tmp_path) -> None:
    stream = small_stream("elastic", tmp_path / "s")
    stream.close()
    stream.close()
    for call in (
        lambda: stream.observe("u", FIRST, 5),
        lambda: stream.observe_many(FRAME),
        lambda: stream.recommend("u"),
        lambda: stream.rank(["u"]),
        lambda: stream.forget("u"),
        stream.rebuild,
        stream.stats,
    ):
        with pytest.raises(UsageError, match="was closed: open it again"):
            call()


def test_the_context_of_training_is_warned_of_once(tmp_path) -> None:
    exact, windowed = recommender("elastic", context=5), recommender("sasrec", context=3)
    with (
        exact.open_stream(str(tmp_path / "s"), "process") as stream,
        windowed.open_stream(str(tmp_path / "w"), "process") as other,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        for turn in range(20):
            stream.observe("u", FIRST, turn)
        stream.observe("v", FIRST, 0)
        with pytest.warns(UserWarning, match=r"trained on the last 5 events .* has 21"):
            stream.observe("u", FIRST, 21)
        stream.observe("u", FIRST, 22)
        assert stream.stats()["events"] == 23
        other.observe_many(frame_of(("u", FIRST, turn) for turn in range(50)))


def test_a_lost_connection_is_told_to_all_of_the_group(stream, monkeypatch) -> None:
    def lost(*_):
        raise StoreUnavailable("the server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(stream.store, "append", lost)
        found = in_threads(5, lambda n: stream.observe(f"u{n}", FIRST, 5, "e"))
        assert all(type(error) is StoreUnavailable for error in found)
    assert stream.observe("u1", FIRST, 5, "e").new
