"""An event taken back: all is as if it had never been observed, on every store."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, UNKNOWN, recommender, small_stream

from longrec.core.errors import UsageError
from longrec.serving.maintenance.replay import Replay
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.log_reader import NO_MODEL, read_log
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.dropping import drop_event
from longrec.serving.stream.stream import Stream

EVENTS = [(FIRST + n % 7, 100 + 10 * n, f"e{n}") for n in range(9)]


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def stream(request, tmp_path):
    """Ann has all events, bob the first three."""
    url = str(tmp_path / "users")
    if request.param == "redis":
        url = request.getfixturevalue("redis").empty(1)
    with small_stream("elastic", url, "power") as stream:
        observe(stream, "ann", EVENTS)
        observe(stream, "bob", EVENTS[:3])
        yield stream


def observe(stream: Stream, user: str, events) -> None:
    for item, time, name in events:
        stream.observe(user, item, time, name)


def ids_of(store: Store, user: bytes) -> list[bytes]:
    [stored] = store.read(NO_MODEL, [(user, ())])
    return [event.event_id for part in read_log(store, user, stored) for event in part]


@pytest.mark.parametrize("at", [0, 4, 8])
@pytest.mark.parametrize("by", ["id", "number"])
def test_it_is_as_if_it_had_never_been(stream: Stream, tmp_path: Path, at: int, by: str) -> None:
    which = {"event_id": f"e{at}"} if by == "id" else {"number": at + 1}
    assert stream.drop_event("ann", **which)
    rest = EVENTS[:at] + EVENTS[at + 1 :]
    with small_stream("elastic", tmp_path / "never") as never:
        observe(never, "ann", rest)
        observe(never, "bob", EVENTS[:3])
        for user in ("ann", "bob"):
            found, wanted = stream.recommend(user, 20), never.recommend(user, 20)
            assert found["item"].to_list() == wanted["item"].to_list()
            assert np.allclose(found["score"], wanted["score"], atol=1e-5)
    [stored] = stream.store.read(stream.engine.digest, [(b"ann", ())])
    assert stored.record is not None, "the record is made at once, not when somebody asks"
    found = verify(stream.store, Replay(recommender("elastic")))
    assert (found.problems, found.events, found.compared) == ((), 11, 2)
    # The id is free again, for the mended event.
    assert stream.observe("ann", FIRST, 500, f"e{at}").new
    assert not stream.observe("ann", FIRST, 500, "e1" if at != 1 else "e2").new


def test_what_is_not_there_changes_nothing(stream: Stream) -> None:
    for which in ({"event_id": "e99"}, {"number": 10}, {"number": 10**9}):
        assert not stream.drop_event("ann", **which)
    assert not stream.drop_event("nobody", event_id="e1")
    assert not stream.drop_event("nobody", number=1)
    assert stream.stats()["events"] == 12
    for wrong in ({}, {"event_id": "e1", "number": 1}, {"number": 0}, {"number": True}):
        with pytest.raises(UsageError, match="number"):
            stream.drop_event("ann", **wrong)


def test_who_has_no_event_left_is_forgotten(stream: Stream) -> None:
    for number in range(3):
        assert stream.drop_event("bob", event_id=f"e{number}")
    assert stream.store.users(b"", 9) == [b"ann"]
    assert stream.recommend("bob")["policy"][0] == "cold"
    assert verify(stream.store).problems == ()
    assert stream.observe("bob", UNKNOWN, 7, "e0").new


def test_what_comes_meanwhile_is_kept(stream: Stream, monkeypatch) -> None:
    """An event is logged just before the log is written anew, also of a user with one event."""
    rewrite, left = stream.store.rewrite, [2]

    def later(rewrites):
        if left[0]:
            left[0] -= 1
            stream.observe("cem", FIRST + left[0], 50, f"late{left[0]}")
        return rewrite(rewrites)

    stream.observe("cem", FIRST, 40, "wrong")
    monkeypatch.setattr(stream.store, "rewrite", later)
    assert stream.drop_event("cem", event_id="wrong")
    assert ids_of(stream.store, b"cem") == [b"late1", b"late0"]
    left[0] = 1
    stream.observe("dan", FIRST, 40, "wrong")
    assert stream.drop_event("dan", event_id="wrong")
    assert ids_of(stream.store, b"cem") == [b"late1", b"late0"]  # late0 again: a duplicate
    assert stream.store.users(b"", 9) == [b"ann", b"bob", b"cem"]


def test_beside_events_and_questions(stream: Stream) -> None:
    observed: list[str] = []
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            for n in range(40):
                stream.observe("ann", FIRST + n % 5, 1000 + n, f"more{n}")
                observed.append(f"more{n}")
                stream.recommend("ann", 3)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    for _, _, name in EVENTS[1:]:
        assert stream.drop_event("ann", event_id=name)
    thread.join(60)
    assert not failures
    assert ids_of(stream.store, b"ann") == [b"e0", *[name.encode() for name in observed]]
    assert verify(stream.store, Replay(recommender("elastic"))).problems == ()


def test_not_while_histories_are_brought_in(stream: Stream) -> None:
    noted = {"read": 1, "users": 2, "imported": 0, "left_out": 0, "whole": True}
    stream.store.change_meta(lambda meta: meta.update(imports={"00": noted}))
    with pytest.raises(UsageError, match="once that is done"):
        drop_event(stream.store, b"ann", b"e1")
    assert stream.stats()["events"] == 12
