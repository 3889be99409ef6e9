"""Records made anew are those of the log, whoever writes to it and whenever it is interrupted."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.small_streams import (
    FIRST,
    UNKNOWN,
    check_best,
    frame_of,
    quick_engine,
    recommender,
    small_stream,
)
from small_histories import tiny_histories

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.write import write_histories
from longrec.mixers.hydra import HydraMixer
from longrec.serving.stores.protocol import read_header
from longrec.serving.stream import rebuild as module
from longrec.serving.stream import stream as stream_module
from longrec.serving.stream.catch_up import seen_items
from longrec.serving.stream.stream import Stream

USERS = ("user00000", "user00001", "user00002", "user00003")
"""The ids that `tiny_histories` gives; its items begin at 1000."""


class Killed(BaseException):
    """What stops a rebuild."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(stream_module, "Engine", quick_engine)
    monkeypatch.setattr(module, "USERS", 2)


@pytest.fixture
def stream(tmp_path):
    with small_stream("elastic", f"lmdb://{tmp_path}/store") as one:
        yield one


def histories_of(path: Path, rows: list[list[tuple[int, int]]], timed: bool = True) -> Histories:
    """Histories of users with events (item id, time), in time order, over a catalog of its own."""
    ids = sorted({item for row in rows for item, _ in row}, reverse=True)
    items = [ids.index(item) + 1 for row in rows for item, _ in row]
    return write_histories(
        path,
        user_ids=pl.Series([USERS[n] for n in range(len(rows))]),
        offsets=np.cumsum([0, *map(len, rows)]),
        items=np.array(items),
        times=np.array([t for row in rows for _, t in row]) if timed else None,
        catalog=Catalog(pl.Series(ids), np.ones(len(ids), np.int64)),
        source="test",
        time_unit="s" if timed else None,
    )


def log_of(stream: Stream, user: str) -> list[tuple[int, int]]:
    [stored] = stream.store.read(stream.engine.digest, [(user.encode(), ())])
    events = stream.store.events(user.encode(), stored.log_id, 0, 10**6) if stored.log_id else []
    return [(int(event.item), event.time) for event in events]


def check_records(stream: Stream, case: str, users) -> None:
    """Every user's record is at the end of its log, and gives what the log gives."""
    for user in users:
        [stored] = stream.store.read(stream.engine.digest, [(user.encode(), ())], seen=True)
        history = log_of(stream, user)
        if history:
            assert read_header(stored.record).sequence == stored.last == len(history)
            seen = set((seen_items(stored.seen) + FIRST - 1).tolist())
            assert seen == {item for item, _ in history if item != UNKNOWN}
        check_best(case, stream.recommend(user), history)


events = st.lists(
    st.tuples(st.integers(FIRST, FIRST + 39) | st.just(UNKNOWN), st.integers(0, 60)), max_size=12
)


@settings(max_examples=10)
@given(
    older=st.lists(events.map(lambda e: sorted(e, key=lambda x: x[1])), min_size=1, max_size=4),
    logged=st.lists(events, min_size=4, max_size=4),
    timed=st.booleans(),
)
@pytest.mark.parametrize("case", ["elastic by time", "sasrec"])
def test_the_rule_of_imports(case: str, older, logged, timed: bool) -> None:
    """What is earlier than the log goes in front of it, once; and all of a user without a log."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "histories"
        histories = histories_of(path, older, timed) if any(older) else None
        with small_stream(case, Path(folder) / "store") as stream:
            stream.observe_many(
                frame_of((u, *e) for u, some in zip(USERS, logged, strict=True) for e in some)
            ) if any(logged) else None
            wanted, imported = {}, 0
            for number, user in enumerate(USERS):
                before = older[number] if number < len(older) and histories else []
                before = [(item, time if timed else 0) for item, time in before]
                if logged[number]:
                    first = logged[number][0][1]
                    before = [event for event in before if timed and event[1] < first]
                imported += len(before)
                wanted[user] = before + logged[number]
            for again in (False, True):
                done = stream.rebuild(histories)
                assert {user: log_of(stream, user) for user in USERS} == wanted
                assert done.imported == (0 if again else imported)
                everything = sum(map(len, older)) if histories else 0
                assert done.left_out == everything - done.imported
                assert done.users == sum(map(bool, wanted.values()))
                assert done.events == sum(map(len, wanted.values()))
                check_records(stream, case, USERS)


def test_what_is_observed_afterwards_goes_on_from_there(stream, tmp_path) -> None:
    histories = tiny_histories(tmp_path / "h", [[1, 2, 3], [4]], [[1, 2, 3], [4]])
    assert stream.rebuild(str(histories.path)).imported == 4
    assert log_of(stream, "user00000") == [(1000, 1), (1001, 2), (1002, 3)]
    # None of these are in the recommender's catalog; they are kept all the same.
    assert stream.recommend("user00000")["policy"][0] == "cold"
    stream.observe("user00000", FIRST, 10)
    check_best("elastic", stream.recommend("user00000"), [(UNKNOWN, 3), (FIRST, 10)])
    # Event ids of the log are known still.
    stream.observe("user00001", FIRST, 3, "e")
    assert not stream.observe("user00001", FIRST, 3, "e").new


@pytest.mark.parametrize("case", ["elastic", "sasrec"])
def test_beside_live_observes(case: str, tmp_path) -> None:
    """Users are observed on the same stream and new ones come while it goes on."""
    users = [f"user{n:05d}" for n in range(30)]
    random = np.random.default_rng(0)
    rows = [[(FIRST + int(i), t) for t, i in enumerate(random.integers(0, 40, 25))]] * 4
    histories = histories_of(tmp_path / "h", rows)
    acknowledged: dict[str, list[int]] = {user: [] for user in users}
    stop, failures = threading.Event(), []

    def observe(seed: int) -> None:
        mine = np.random.default_rng(seed)
        try:
            turn = 0
            while not stop.is_set():
                # Two threads have users of their own: so many of their events must be there.
                user = users[int(mine.integers(15)) * 2 + seed]
                time = 10**6 + turn if mine.random() < 0.8 else 10**5
                assert stream.observe(user, FIRST + int(mine.integers(40)), time, turn).new
                acknowledged[user].append(turn)
                if turn % 20 == 19:
                    stream.recommend(user)
                turn += 1
        except BaseException as error:
            failures.append(error)

    with small_stream(case, tmp_path / "s") as stream:
        stream.observe_many(
            frame_of((user, FIRST + n, 10**6 + n) for n in range(40) for user in users[:20])
        )
        threads = [threading.Thread(target=observe, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            for again in (histories, None):
                done = stream.rebuild(again)
                assert done.users >= 20
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures
        for number, user in enumerate(users):
            imported = 25 if number < 4 else 0
            assert len(log_of(stream, user)) == sum(
                (len(acknowledged[user]), 40 * (number < 20), imported)
            )
            check_best(case, stream.recommend(user), log_of(stream, user))
            assert not any(stream.observe(user, FIRST, 1, turn).new for turn in acknowledged[user])
        stream.rebuild()  # a record that an observe could not write is one event behind
        check_records(stream, case, users)


@pytest.mark.parametrize("stop", range(1, 8))
def test_killed_and_called_again(stop: int, tmp_path) -> None:
    """It goes on where it was, in another process as in this one, and the counts are of both."""
    rows = [[(FIRST + n, n), (FIRST + 9, 50)] for n in range(4)]
    histories = histories_of(tmp_path / "h", rows)
    reports: list[tuple[int, int]] = []

    def progress(*both: int) -> None:
        reports.append(both)
        if len(reports) == stop:
            raise Killed

    with small_stream("elastic", tmp_path / "s") as stream:
        stream.observe_many(
            frame_of((f"user{n:05d}", FIRST + 20 + n, 40 - t) for t in range(3) for n in range(7))
        )
        if stop < 7:
            with pytest.raises(Killed):
                stream.rebuild(histories, progress)
            assert stream.store.meta()["rebuild"][stream.engine.digest]["job"]
        else:
            stream.rebuild(histories, progress)
    with small_stream("elastic", tmp_path / "s") as stream:
        done = stream.rebuild(histories, lambda *both: reports.append(both))
        # 4 users are imported in 2 pages, the records of 7 made in 4: each page is done once.
        assert len(reports) == 6 + (6 if stop == 7 else 0)
        assert [both[0] for both in reports[:6]] == [2, 4, 6, 8, 10, 11]
        assert reports[-1] == (11, 11)
        assert (done.users, done.events) == (7, 7 * 3 + 4)
        assert (done.imported, done.left_out) == ((4, 4) if stop < 7 else (0, 8))
        assert stream.store.meta()["rebuild"] == {}
        check_records(stream, "elastic", [f"user{n:05d}" for n in range(7)])


def test_another_rebuild_begins_at_the_beginning(stream, tmp_path) -> None:
    """What was interrupted with other arguments, or an older catalog, is not gone on with."""
    stream.observe_many(frame_of((f"u{n}", FIRST + n, n) for n in range(6)))

    def kill(done: int, _: int) -> None:
        if done >= 4:
            raise Killed

    with pytest.raises(Killed):
        stream.rebuild(progress=kill)
    reports = []
    stream.rebuild(tiny_histories(tmp_path / "h", [[1], [2]]), lambda *both: reports.append(both))
    assert (reports[0], reports[-1]) == ((2, 4), (10, 10))
    with pytest.raises(Killed):
        stream.rebuild(progress=kill)
    vars(stream.artifact.catalog)["digest"] = "another"
    reports.clear()
    stream.rebuild(progress=lambda *both: reports.append(both))
    assert reports == [(2, 8), (4, 8), (6, 8), (8, 8)]


def test_a_model_takes_over_only_when_its_records_are_there(stream, tmp_path) -> None:
    users = [f"u{n}" for n in range(6)]
    stream.observe_many(frame_of((u, FIRST + n, n) for n, u in enumerate(users)))
    with recommender("hydrarec").open_stream(stream.store.url, "process", True) as beside:

        def come(done: int, _: int) -> None:
            """Users come and go; the first would be met no more."""
            assert stream.stats()["current"]
            if done == 4:
                stream.observe("a-new-one", FIRST, 5)
                stream.observe("u1", FIRST + 5, 6)
                stream.forget("u0")
                stream.forget("u5")

        beside.rebuild(progress=come)
        assert beside.stats()["current"]
        assert not stream.stats()["current"]
        assert beside.stats()["records"] == beside.stats()["users"] == 5
        check_records(beside, "hydrarec", ["a-new-one", "u2", "u3", "u4"])
        check_best("hydrarec", beside.recommend("u1"), log_of(beside, "u1"))
        assert beside.recommend("u0")["policy"][0] == "cold"


def test_records_with_the_states_of_a_version_before_are_made_anew(tmp_path, monkeypatch) -> None:
    url = f"lmdb://{tmp_path / 'store'}"
    with monkeypatch.context() as before:  # as 0.1.0 kept HydraRec's sum
        before.setattr(HydraMixer, "state_version", 1)
        before.setattr("longrec.mixers.hydra.LASTING", torch.float32)
        with recommender("hydrarec").open_stream(url, "process") as old:
            for item in (FIRST, FIRST + 3, FIRST + 1):
                old.observe("u", item, 0)
            [blob] = [one.record for one in old.store.read(old.engine.digest, [(b"u", ())])]
    rec = recommender("hydrarec")
    with pytest.raises(DataError, match=r"another version of longrec.*longrec store rebuild"):
        rec.open_stream(url)
    with pytest.raises(DataError, match="belongs to a model of digest"):
        quick_engine(rec).layout.load([blob])
    with rec.open_stream(url, "process", True) as new:
        new.rebuild()
    with rec.open_stream(url, "process") as new:
        check_records(new, "hydrarec", ["u"])


def test_a_user_who_is_replaced_or_goes_on_while_its_record_is_made(stream, monkeypatch) -> None:
    """Between the replay and the writing: observed, forgotten, forgotten and observed again."""
    users = ["goes on", "goes", "comes again"]
    put = stream.store.put
    for user in users:
        stream.observe_many(frame_of((user, FIRST + n, n) for n in range(20)))

    def meanwhile(*given):
        monkeypatch.undo()
        stream.observe("goes on", FIRST + 30, 40)
        stream.forget("goes")
        stream.forget("comes again")
        stream.observe("comes again", FIRST + 31, 40)
        return put(*given)

    monkeypatch.setattr(module, "USERS", 9)
    monkeypatch.setattr(stream.store, "put", meanwhile)
    stream.rebuild()
    assert len(log_of(stream, "goes on")) == 21
    assert log_of(stream, "goes") == []
    assert log_of(stream, "comes again") == [(FIRST + 31, 40)]
    check_records(stream, "elastic", users)


def test_a_user_who_goes_on_while_events_are_put_in_front(stream, tmp_path, monkeypatch) -> None:
    """Observed between the reading and the rewriting of the log: imported once, counted once."""
    histories = histories_of(tmp_path / "h", [[(FIRST, 1), (FIRST + 1, 2)], [(FIRST, 1)]])
    stream.observe(USERS[0], FIRST + 2, 2)
    rewrite = stream.store.rewrite

    def meanwhile(*given):
        monkeypatch.undo()
        stream.observe(USERS[0], FIRST + 3, 3)
        stream.observe(USERS[1], FIRST + 3, 1)
        return rewrite(*given)

    monkeypatch.setattr(stream.store, "rewrite", meanwhile)
    assert stream.rebuild(histories)[:4] == (2, 4, 1, 2)
    assert log_of(stream, USERS[0]) == [(FIRST, 1), (FIRST + 2, 2), (FIRST + 3, 3)]
    assert log_of(stream, USERS[1]) == [(FIRST + 3, 1)]
    check_records(stream, "elastic", USERS[:2])


def test_a_log_that_cannot_be_read_is_told(stream, monkeypatch) -> None:
    stream.observe("u", FIRST, 1)
    monkeypatch.setattr(stream.store, "events", lambda *_: [])
    with pytest.raises(DataError, match="is replaced again and again"):
        stream.rebuild()


def test_one_rebuild_at_a_time(stream) -> None:
    stream.observe("u", FIRST, 1)
    caught = []

    def twice(*_: int) -> None:
        try:
            stream.rebuild()
        except UsageError as error:
            caught.append(error)

    stream.rebuild(progress=twice)
    assert "rebuilding already" in str(caught[0])
    assert stream.rebuild().users == 1


def test_wrong_calls(stream, tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        stream.rebuild(tmp_path / "none")
    rebuilt = stream.rebuild()
    assert rebuilt[:4] == (0, 0, 0, 0)
    histories = tiny_histories(tmp_path / "h", [[1], [2]])
    long = replace(histories, user_ids=pl.Series("user", ["x", "x" * 500]))
    with pytest.raises(DataError, match=r"column 'user', row 2: user has 500 bytes"):
        stream.rebuild(long)
    assert stream.stats()["users"] == 0


def test_long_histories_are_warned_of(tmp_path) -> None:
    histories = histories_of(tmp_path / "h", [[(FIRST, t) for t in range(50)]])
    rec = recommender("elastic", context=5)
    with (
        rec.open_stream(str(tmp_path / "s"), "process") as stream,
        pytest.warns(UserWarning, match=r"last 5 events .* has 50"),
    ):
        stream.rebuild(histories)


def test_pages_hold_few_users_or_few_events(monkeypatch) -> None:
    monkeypatch.setattr(module, "EVENTS", 10)
    monkeypatch.setattr(module, "USERS", 3)
    offsets = np.cumsum([0, 1, 1, 1, 1, 50, 4, 6, 1, 0, 0, 0, 0])
    assert list(module._pages(offsets, 0)) == [(0, 3), (3, 4), (4, 5), (5, 7), (7, 10), (10, 12)]
    assert list(module._pages(offsets, 5)) == [(5, 7), (7, 10), (10, 12)]
    assert list(module._pages(offsets, 12)) == []
