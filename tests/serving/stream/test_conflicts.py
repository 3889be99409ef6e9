"""An event id that comes again with another event: the first stays, and the second is told."""

from __future__ import annotations

import pytest
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, UNKNOWN, frame_of, small_stream

from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.protocol import Append, Event
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.writer import Counts, Observed

SAME = Observed(False, True, False)
OTHER = Observed(False, True, False, conflicting=True)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def stream(request, tmp_path):
    url = str(tmp_path / "users")
    if request.param == "redis":
        url = request.getfixturevalue("redis").empty(1)
    with small_stream("elastic", url, "power") as stream:
        yield stream


def test_each_value_counts(stream: Stream) -> None:
    columns = {"type": "buy", "weight": 2.5}
    assert stream.observe("ann", FIRST, 100, "e", columns).new
    assert stream.observe("ann", FIRST, 100, "e", dict(reversed(columns.items()))) == SAME
    assert stream.observe("ann", str(FIRST), 100.7, "e", columns) == SAME  # as it is logged
    assert stream.observe("ann", FIRST + 1, 100, "e", columns) == OTHER
    assert stream.observe("ann", FIRST, 101, "e", columns) == OTHER
    assert stream.observe("ann", FIRST, 100, "e", columns | {"weight": 2.25}) == OTHER
    assert stream.observe("ann", FIRST, 100, "e") == OTHER
    assert stream.observe("ann", UNKNOWN, 100, "e").conflicting
    assert stream.observe("bob", FIRST + 1, 100, "e").new  # ids are a user's own
    assert stream.stats()["events"] == 2
    assert stream.stats()["conflicting"] == 5
    assert verify(stream.store).problems == ()


def test_within_one_group_too(stream: Stream) -> None:
    rows = [("a", FIRST, 1, "x"), ("a", FIRST, 1, "x"), ("a", FIRST, 2, "x"), ("a", FIRST, 2, "y")]
    assert stream.observe_many(frame_of(rows, "event_id")) == Counts(2, 2, 0, 0, 1)
    assert stream.observe_many(frame_of(rows, "event_id")) == Counts(0, 4, 0, 0, 1)


def test_what_another_writer_logged_meanwhile(stream: Stream, monkeypatch) -> None:
    """Between reading and appending: the store says which are not new, and is asked again."""
    append, store = stream.store.append, stream.store

    def later(digest, appends):
        if digest != NO_MODEL:
            for number, item in ((1, b"1"), (2, b"%d" % (FIRST + 2))):
                event = Event(number, item, b"e%d" % number)
                append(NO_MODEL, [Append(b"ann", 0, 0, 0, [event], None, ())])
        return append(digest, appends)

    monkeypatch.setattr(store, "append", later)
    rows = [("ann", FIRST + n, n, f"e{n}") for n in (1, 2, 3)]
    assert stream.observe_many(frame_of(rows, "event_id")) == Counts(1, 2, 0, 0, 1)
    monkeypatch.undo()
    assert stream.stats()["events"] == 3


def test_after_a_rewrite_and_a_mended_event(stream: Stream) -> None:
    for n in range(3):
        stream.observe("ann", FIRST + n, 10 * n, f"e{n}")
    stream.drop_event("ann", event_id="e1")
    assert stream.observe("ann", FIRST + 2, 21, "e2") == OTHER
    assert stream.observe("ann", FIRST + 2, 20, "e2") == SAME
    assert stream.observe("ann", FIRST + 5, 40, "e1").new
    assert stream.observe("ann", FIRST + 1, 10, "e1") == OTHER


def test_of_an_event_of_an_earlier_longrec_it_is_not_known(stream: Stream, monkeypatch) -> None:
    stream.observe("ann", FIRST, 1, "e")
    read = stream.store.read

    def without_digests(digest, asked, seen=False):
        found = read(digest, asked, seen)
        return [one._replace(known=tuple(n and b"" for n in one.known)) for one in found]

    monkeypatch.setattr(stream.store, "read", without_digests)
    assert stream.observe("ann", FIRST + 1, 2, "e") == SAME
    assert verify(stream.store).problems == ()
