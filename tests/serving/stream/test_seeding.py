"""A store filled from histories, and brought up to new items, whoever comes meanwhile."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving.redis_server import RedisServer
from serving.small_streams import (
    FIRST,
    UNKNOWN,
    check_best,
    frame_of,
    grown,
    quick_engine,
    recommender,
    small_stream,
)
from serving.stream.test_rebuild import USERS, Killed, check_records, histories_of, log_of

from longrec.serving.stores.protocol import read_header
from longrec.serving.stream import rebuild as module
from longrec.serving.stream import stream as stream_module
from longrec.serving.stream import writer as writer_module
from longrec.serving.stream.imports import is_imported
from longrec.serving.stream.store_models import new_items

OLDER = [[(FIRST + n, 10 + n), (FIRST + 9, 50)] for n in range(4)]
"""Histories of the four `USERS`."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(stream_module, "Engine", quick_engine)
    monkeypatch.setattr(module, "USERS", 2)


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), appendfsync="everysec") as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def url(request, tmp_path) -> str:
    if request.param == "lmdb":
        return f"lmdb://{tmp_path}/store"
    server = request.getfixturevalue("redis")
    return f"{server.url}?prefix={tmp_path.name}:"


def kill_at(wanted: int):
    def progress(done: int, _: int) -> None:
        if done >= wanted:
            raise Killed

    return progress


def test_an_empty_store_gets_all_of_the_histories_in_front_of_what_came_meanwhile(
    url: str, tmp_path: Path
) -> None:
    """Also of users whose first events are late, and after it was killed."""
    histories = histories_of(tmp_path / "h", OLDER)
    live = {USERS[0]: (FIRST + 20, 50), USERS[1]: (FIRST + 21, 60), USERS[3]: (FIRST + 22, 5)}

    def come(stream):
        for user, event in live.items():
            assert stream.observe(user, *event, "live").new

    with small_stream("elastic", url) as stream:
        with pytest.raises(Killed):
            stream.rebuild(histories, kill_at(2))
        assert not is_imported(stream.store.meta(), histories)
        assert set(stream.recommend(USERS[2])["policy"]) == {"cold"}
        come(stream)
        assert log_of(stream, USERS[0]) == [*OLDER[0], live[USERS[0]]]
    with small_stream("elastic", url) as stream:
        done = stream.rebuild(histories)
        assert (done.users, done.imported, done.left_out) == (4, 8, 0)
        assert is_imported(stream.store.meta(), histories)
        for user, older in zip(USERS, OLDER, strict=True):
            assert log_of(stream, user) == older + ([live[user]] if user in live else [])
            assert not stream.observe(user, FIRST, 99, "live").new or user not in live
        stream.rebuild()
        check_records(stream, "elastic", USERS)


def test_a_page_that_was_done_before_a_kill_is_not_imported_twice(tmp_path, monkeypatch) -> None:
    """What was put in front before it was noted, of users with and without events of their own."""
    histories = histories_of(tmp_path / "h", OLDER)
    note = module.Rebuild._note

    def killed(self, **changes):
        if changes.get("read") == 4:
            raise Killed
        note(self, **changes)

    with small_stream("elastic", tmp_path / "s") as stream:
        with monkeypatch.context() as patched:
            patched.setattr(module.Rebuild, "_note", killed)
            with pytest.raises(Killed):
                stream.rebuild(histories)
        assert log_of(stream, USERS[2]) == OLDER[2]
        stream.observe(USERS[3], FIRST + 20, 1)
        stream.rebuild(histories)
        assert log_of(stream, USERS[2]) == OLDER[2]
        assert log_of(stream, USERS[3]) == [*OLDER[3], (FIRST + 20, 1)]


def test_who_is_forgotten_meanwhile_does_not_come_back(tmp_path, monkeypatch) -> None:
    """Before the import came to the user, after a kill, and just while it was at it."""
    histories = histories_of(tmp_path / "h", OLDER)
    with small_stream("elastic", tmp_path / "s") as stream:
        with pytest.raises(Killed):
            stream.rebuild(histories, kill_at(2))
        assert stream.forget(USERS[0])
        assert not stream.forget(USERS[3])
    put_in_front = module.put_in_front

    def forgotten_before(store, *given):
        monkeypatch.undo()
        stream.forget(USERS[2])
        done = put_in_front(store, *given)
        stream.observe(USERS[2], FIRST + 30, 70)
        return done

    with small_stream("elastic", tmp_path / "s") as stream:
        monkeypatch.setattr(module, "put_in_front", forgotten_before)
        stream.rebuild(histories)
        assert log_of(stream, USERS[0]) == log_of(stream, USERS[3]) == []
        assert log_of(stream, USERS[1]) == OLDER[1]
        assert log_of(stream, USERS[2]) == [(FIRST + 30, 70)]
        assert "forgotten" not in stream.store.meta()["imports"][histories.fingerprint]


def test_another_model_goes_on_with_the_histories(tmp_path) -> None:
    histories = histories_of(tmp_path / "h", OLDER)
    with small_stream("elastic", tmp_path / "s") as stream:
        with pytest.raises(Killed):
            stream.rebuild(histories, kill_at(2))
        with recommender("hydrarec").open_stream(stream.store.url, "process", True) as beside:
            reports = []
            assert beside.rebuild(histories, lambda *both: reports.append(both)).imported == 8
            assert reports[0][0] == 4
            check_records(beside, "hydrarec", USERS)
            assert beside.stats()["current"]


# ---- items that are new


def test_new_items_are_applied_to_the_records_that_skipped_them(url: str, monkeypatch) -> None:
    """Only those are made anew; after a kill it goes on; then they count as seen."""
    small = recommender("elastic")
    big = grown(small, [7, 8])
    users = [f"u{n}" for n in range(6)]
    with small.open_stream(url, "process") as stream:
        stream.observe_many(frame_of((u, FIRST + n, n) for n, u in enumerate(users)))
        stream.observe_many(frame_of((u, 7, 20) for u in users[1::2]))
        assert not new_items(stream.store.meta(), small)
    with pytest.warns(UserWarning, match=r"2 items of .*apply_new_items\(\)"):
        stream = big.open_stream(url, "process")
    with stream:
        assert new_items(stream.store.meta(), big) == 2
        assert 7 in stream.recommend("u1", 99)["item"]
        with pytest.raises(Killed):
            stream.apply_new_items(kill_at(2))
        assert new_items(stream.store.meta(), big) == 2
        made = []
        rebuild_page = module._Page

        def page(*given):
            made.extend(given[-1])
            return rebuild_page(*given)

        monkeypatch.setattr(module, "_Page", page)
        done = stream.apply_new_items()
        assert made == [b"u3", b"u5"]
        assert (done.users, done.events) == (3, 6)
        assert new_items(stream.store.meta(), big) == 0
        wanted = big.recommend(histories=[[FIRST + n, 7] for n in (1, 3, 5)], exclude_seen=True)
        for number, user in enumerate(users[1::2]):
            found = stream.recommend(user, exclude_seen=True)
            theirs = wanted.filter(wanted["user"] == number)
            assert found["item"].to_list() == theirs["item"].to_list()
            np.testing.assert_allclose(found["score"], theirs["score"], rtol=1e-3, atol=1e-6)
            assert 7 not in stream.recommend(user, 99, exclude_seen=True)["item"]
            [stored] = stream.store.read(stream.engine.digest, [(user.encode(), ())])
            assert read_header(stored.record).skipped == 0
        check_best("elastic", stream.recommend("u0", exclude=[7, 8]), [(FIRST, 0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big.open_stream(url, "process").close()


def test_a_note_for_another_server_holds_up_no_event(tmp_path, monkeypatch) -> None:
    """That events of unknown items are skipped is noted on one server, which may be silent."""
    silent = threading.Event()
    with small_stream("hydrarec", tmp_path / "s") as stream:
        monkeypatch.setattr(stream.store, "parts", 2, raising=False)
        monkeypatch.setattr(stream.writer, "_on_skipped", lambda: silent.wait(60))
        for time in (1, 2):
            assert not stream.observe("u", UNKNOWN, time).known
            assert stream.writer._telling.locked(), "it is still being noted"
        silent.set()
        assert stream.writer._telling.acquire(timeout=60)


def test_a_replica_with_fewer_items_that_goes_on_is_made_up_for(tmp_path, monkeypatch) -> None:
    """It skips events after the larger catalog was applied: that is applied again."""
    monkeypatch.setattr(writer_module, "TELL_EVERY", 0)
    small = recommender("elastic")
    big, url = grown(small, [7, 8]), str(tmp_path / "s")
    with small.open_stream(url, "process") as old:
        with pytest.warns(UserWarning, match="apply_new_items"):
            new = big.open_stream(url, "process")
        new.apply_new_items()
        old.observe("u", FIRST, 1)
        assert new_items(new.store.meta(), big) == 0
        old.observe("u", 7, 2)
        assert new_items(new.store.meta(), big) == 2
        assert new.apply_new_items().users == 1
        assert 7 not in new.recommend("u", 99, exclude_seen=True)["item"]
        new.close()


def test_a_rebuild_applies_new_items_too(tmp_path) -> None:
    small = recommender("elastic")
    big, url = grown(small, [7, 8]), str(tmp_path / "s")
    with small.open_stream(url, "process") as stream:
        stream.observe("u", 7, 2)
    with pytest.warns(UserWarning, match="apply_new_items"):
        stream = big.open_stream(url, "process")
    with stream:
        # A store of an earlier version notes nothing: the smallest catalog counts.
        stream.store.change_meta(lambda meta: meta["models"][big.state_digest].pop("applied"))
        assert new_items(stream.store.meta(), big) == 2
        stream.rebuild()
        assert new_items(stream.store.meta(), big) == 0
