"""Redis Streams as a source, on a real server: order, leases, and what gets lost on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from ingest.ingest_jobs import GROUP, event, logged, parts
from redis.connection import Connection
from redis.exceptions import ConnectionError
from serving.redis_server import RedisServer

from longrec.core.errors import LongrecError
from longrec.ingest.address import SourceAddress
from longrec.ingest.redis_streams import RedisStreams
from longrec.ingest.source import Begin, Begun, Message, Notes, SourceAway
from longrec.serving.stream.stream import Stream

pytestmark = pytest.mark.slow
SESSION = 0.4

Source = Callable[..., RedisStreams]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    server.empty(1)
    with server.client(db=1) as client:
        yield client


@pytest.fixture
def source(server: RedisServer, stream: Stream) -> Iterator[Source]:
    made = []

    def make(
        *streams: str, begin: Begin = "earliest", session: float = SESSION, said: Any = None
    ) -> RedisStreams:
        address = SourceAddress.parse(f"redis://127.0.0.1:{server.port}/1/{','.join(streams)}")
        notes = Notes((said if said is not None else []).append)
        one = RedisStreams(address, GROUP, begin, session, Begun(stream.store), notes)
        one.notes = notes  # type: ignore[attr-defined]
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def add(client: redis.Redis, stream: str, numbers: range, user: str = "ann") -> None:
    for number in numbers:
        client.xadd(stream, event(user, number) | {"n": number})


def numbers(messages: list[Message]) -> list[int]:
    return [int(one.value[b"n"]) for one in messages]  # type: ignore[index]


def read(source: RedisStreams, many: int, seconds: float = 20) -> list[int]:
    """The numbers of the next messages, so many of them."""
    found: list[int] = []
    end = time.monotonic() + seconds
    while len(found) < many and time.monotonic() < end:
        found += numbers(source.poll(many - len(found), 0.1))
    return found


def url(server: RedisServer, *streams: str) -> str:
    return f"redis://127.0.0.1:{server.port}/1/{','.join(streams)}"


def test_events_are_logged_once_and_a_rerun_goes_on(server, client, stream, tmp_path):
    add(client, "a", range(10))
    run = lambda: parts(stream, url(server, "a"), tmp_path, until_end=True, batch=4).run()  # noqa: E731
    assert run().accepted == 10
    add(client, "a", range(10, 13))
    assert run()[:2] == (3, 0)
    assert logged(stream.store, "ann") == list(range(13))


def test_a_new_group_begins_where_it_is_told(client, source):
    add(client, "a", range(3))
    late = source("a", begin="latest")
    late.open()
    add(client, "a", range(3, 5))
    assert read(late, 2) == [3, 4]


@pytest.mark.parametrize("begin", ["latest", 4e9])
def test_a_group_that_is_gone_skips_nothing(client, source, begin):
    add(client, "a", range(2))
    one = source("a", begin=begin)
    one.open()
    add(client, "a", range(2, 4))
    if begin == "latest":
        assert read(one, 2) == [2, 3]
    one.close()
    client.xgroup_destroy("a", GROUP)
    said: list[str] = []
    again = source("a", begin=begin, said=said)
    again.open()
    assert read(again, 4) == [0, 1, 2, 3]
    assert again.notes.counts["reset"] == 1
    assert "not there any more" in said[0]
    client.xgroup_destroy("a", GROUP)  # and while it reads
    add(client, "a", range(4, 6))
    assert read(again, 6) == [0, 1, 2, 3, 4, 5]


def test_a_time_is_a_beginning(client, source):
    for number in range(4):
        client.xadd("a", {"n": number}, id=f"{1000 * (number + 1)}-{number}")
    one = source("a", begin=2.0)
    one.open()
    assert read(one, 3) == [1, 2, 3]


def test_what_a_consumer_held_that_is_gone_comes_first_and_in_order(client, source):
    add(client, "a", range(10))
    gone, held = source("a"), []
    gone.open()
    held = gone.poll(4, 5)
    gone.commit(held[:2])
    gone.poll(3, 5)  # and never a word again: no commit, no close
    taker = source("a")
    taker.open()
    assert taker.lag() == {}, "one stream has one reader"
    assert read(taker, 8) == [2, 3, 4, 5, 6, 7, 8, 9]
    [one] = client.xinfo_consumers("a", GROUP)
    assert one["name"].startswith(b"longrec-"), "who is gone is gone from the group"
    assert gone.poll(5, 0.1) == [], "and reads nothing by a lease that has ended"
    gone.commit(held)
    assert client.xpending("a", GROUP)["pending"] == 8


def lose_one_answer(monkeypatch: pytest.MonkeyPatch, word: str, error: BaseException) -> None:
    """Let the next command that has this word be done, and an error come in place of its answer."""
    read, pack, left = Connection.read_response, Connection.pack_command, [word]

    def packed(self: Connection, *command: Any) -> Any:
        if left and any(word in str(one) for one in command):
            left.clear()
            self.loses = True  # type: ignore[attr-defined]
        return pack(self, *command)

    def losing(self: Connection, *more: Any, **options: Any) -> Any:
        if getattr(self, "loses", False):
            self.loses = False  # type: ignore[attr-defined]
            time.sleep(0.05)  # it is done by then, and the answer is on its way
            raise error
        return read(self, *more, **options)

    monkeypatch.setattr(Connection, "pack_command", packed)
    monkeypatch.setattr(Connection, "read_response", losing)


@pytest.mark.parametrize("word", ["XREADGROUP", "XAUTOCLAIM", "XACK"])
def test_an_answer_that_was_lost_loses_nothing(client, source, monkeypatch, word):
    add(client, "a", range(6))
    one = source("a")
    lose_one_answer(monkeypatch, word, ConnectionError("cut"))
    one.open()
    first = one.poll(3, 5)
    assert numbers(first) == [0, 1, 2]
    one.commit(first)
    assert client.xpending("a", GROUP)["pending"] == 0
    assert read(one, 3) == [3, 4, 5]


def test_a_lost_answer_of_a_group_that_was_made_anew_loses_nothing(client, source, monkeypatch):
    add(client, "a", range(6))
    one = source("a", session=30.0)
    one.open()
    one.commit(one.poll(3, 5))
    client.xgroup_destroy("a", GROUP)
    assert one.poll(3, 0) == [], "now it makes the group anew, from the beginning"
    lose_one_answer(monkeypatch, "XREADGROUP", ConnectionError("cut"))
    assert read(one, 6) == [0, 1, 2, 3, 4, 5]


def test_a_call_that_was_cancelled_leaves_no_answer_to_the_next(client, source, monkeypatch):
    add(client, "a", range(6))
    one = source("a")
    one.open()
    lose_one_answer(monkeypatch, "XREADGROUP", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        one.poll(2, 5)
    assert one.lag() == {"a": 4}
    assert read(one, 6) == [0, 1, 2, 3, 4, 5]


def test_what_one_stream_gave_is_not_lost_when_another_fails(client, source, monkeypatch):
    add(client, "a", range(4))
    add(client, "b", range(10, 14))
    one = source("a", "b")
    one.open()
    ask, left = one._ask, [1]

    def failing(*command: Any) -> Any:
        if "b" in command and left:
            left.clear()
            raise SourceAway("cut")
        return ask(*command)

    monkeypatch.setattr(one, "_ask", failing)
    one._turn = 1  # so that the next turn begins with a
    with pytest.raises(SourceAway):
        one.poll(8, 1)
    found = read(one, 8)
    assert [n for n in found if n < 10] == [0, 1, 2, 3]
    assert [n for n in found if n >= 10] == [10, 11, 12, 13]


def test_a_second_xadd_of_the_same_event_is_logged_once(server, client, stream, tmp_path):
    for _ in range(2):  # its first answer was lost, say
        client.xadd("a", event("ann", 1) | {"event_id": "order-9"})
    one = parts(stream, url(server, "a"), tmp_path, until_end=True)
    assert one.run()[:2] == (1, 1)


def test_streams_are_shared_out_and_taken_over(client, source):
    streams = [f"s{n}" for n in range(4)]
    for one in streams:
        add(client, one, range(3))
    first, second = source(*streams), source(*streams)
    first.open()
    assert len(first.lag()) == 4
    second.open()
    end = time.monotonic() + 20
    while len(second.lag()) < 2 and time.monotonic() < end:
        first.poll(1, 0.05)
        second.poll(1, 0.05)
    assert set(first.lag()) | set(second.lag()) == set(streams)
    assert len(first.lag()) == len(second.lag()) == 2
    second.close()
    while len(first.lag()) < 4 and time.monotonic() < end:
        first.poll(1, 0.05)
    assert len(first.lag()) == 4


def test_entries_that_were_deleted_unread_are_counted(client, source):
    add(client, "a", range(10))
    said: list[str] = []
    one = source("a", said=said)
    one.open()
    one.commit(one.poll(2, 5))
    client.xtrim("a", maxlen=5, approximate=False)
    assert read(one, 5) == [5, 6, 7, 8, 9]
    one.close()
    client.xtrim("a", maxlen=3, approximate=False)  # 5 and 6: handed out, not acknowledged
    again = source("a", said=said)
    again.open()
    assert read(again, 3) == [7, 8, 9]
    assert "2 entries were deleted" in said[-1]


def test_entries_deleted_before_it_came_are_counted(client, source):
    add(client, "a", range(10))
    one = source("a")
    one.open()
    one.commit(one.poll(2, 5))
    one.close()
    client.xtrim("a", maxlen=5, approximate=False)
    said: list[str] = []
    again = source("a", said=said)
    again.open()
    assert again.notes.counts["lost"] == 3
    assert read(again, 5) == [5, 6, 7, 8, 9]


def test_what_is_wrong_is_told_with_its_mend(client, source):
    client.set("text", 1)
    with pytest.raises(SourceAway, match="there is no stream 'a'"):
        source("a").open()
    with pytest.raises(LongrecError, match="is a string"):
        source("text").open()


def test_a_server_that_was_started_anew_is_gone_on_with(tmp_path, stream):
    with RedisServer(tmp_path / "redis") as server:
        with server.client(db=1) as client:
            add(client, "a", range(5))
        one = parts(stream, url(server, "a"), tmp_path, session=SESSION, batch=2, patience=60.0)
        done: list[str] = []

        def progress(line: str) -> None:
            if logged(stream.store, "ann")[-1:] == [4] and not done:
                done.append("restart")
                server.kill()
                server.start()
                with server.client(db=1) as client:
                    add(client, "a", range(5, 8))
            one.stop.told = logged(stream.store, "ann")[-1:] == [7]

        one.run(progress)
        assert logged(stream.store, "ann") == list(range(8))
