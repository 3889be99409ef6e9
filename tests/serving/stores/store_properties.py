"""What every store does, as tests: a store's test file makes a class of `StoreContract`.

Its fixture `open_named(name)` opens the store of that name: an empty one when the name is new,
otherwise what is in it. Names are used one after the other, never two at once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrec.serving.stores.checks import event_digest, seal
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.protocol import (
    HEADER,
    SCHEMA,
    Append,
    Event,
    Put,
    Rewrite,
    Store,
    StoredUser,
    read_header,
)

OpenNamed = Callable[..., Store]
DIGEST, OTHER = "ab" * 32, "0c" * 32
SIZE = 300


def record(
    version: int, sequence: int, filling: int = 7, size: int = SIZE, user: bytes = b"u"
) -> bytes:
    """A record as models write them, its content not distinguishable from theirs to a store."""
    header = HEADER.pack(b"LRU2", size, bytes.fromhex(DIGEST)[:8], sequence, version, 0, 0)
    return seal(user, header + bytes([filling % 256]) * (size - len(header)))


def event(number: int, named: bool = True) -> Event:
    """An event; every third one has further columns."""
    columns = b"" if number % 3 else b'{"n":%d}' % number
    return Event(1000 - number, b"item%d" % number, b"event%d" % number if named else None, columns)


def read_user(
    store: Store, user: bytes, digest: str = DIGEST, names: Sequence[bytes] = ()
) -> StoredUser:
    return store.read(digest, [(user, names)], seen=True)[0]


def version(found: StoredUser) -> int:
    return read_header(found.record).version if found.record is not None else 0


def step(
    found: StoredUser,
    user: bytes,
    events: Sequence[Event],
    seen: Sequence[int] = (),
    filling: int = 7,
) -> Append:
    """What a stream writes that has read `found`."""
    after = record(version(found) + 1, found.last + len(events), filling, user=user)
    return Append(user, found.log_id, found.last, version(found), events, after, seen)


def log(store: Store, user: bytes, *events: Event, seen: Sequence[int] = ()) -> None:
    """Append as a stream does."""
    assert store.append(DIGEST, [step(read_user(store, user), user, events, seen)])[0].current


def events_of(store: Store, user: bytes, digest: str = DIGEST) -> list[Event]:
    found = read_user(store, user, digest)
    return store.events(user, found.log_id, 0, found.last + 10) if found.log_id else []


def all_events(store: Store) -> list[bytes | None]:
    """The ids of all events of a small store."""
    return [one.event_id for user in store.users(b"", 100) for one in events_of(store, user)]


def bits(seen: bytes) -> set[int]:
    """The item indices in a bitmap."""
    return set(np.flatnonzero(np.unpackbits(np.frombuffer(seen, np.uint8), bitorder="little")))


def bitmap(indices: Iterable[int]) -> bytes:
    """The bitmap of item indices."""
    whole = np.zeros(max(indices, default=-1) + 1, np.uint8)
    whole[list(indices)] = 1
    return np.packbits(whole, bitorder="little").tobytes()


def together(workers: Sequence[Callable[[], Any]]) -> None:
    """Run in threads that begin at once; what one of them raises is raised."""
    barrier, failures = threading.Barrier(len(workers)), []

    def run(work: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class StoreContract:
    """Needs the fixture `open_named`."""

    @pytest.fixture
    def store(self, open_named: OpenNamed) -> Iterable[Store]:
        opened = open_named("contract")
        yield opened
        opened.close()

    def test_a_new_store_is_empty(self, store):
        assert read_user(store, b"u", names=[b"a"]) == StoredUser(0, 0, None, b"", (None,))
        assert store.users(b"", 10) == []
        assert set(store.meta()) <= {"schema", "id", "place"}
        totals = store.totals()
        assert (totals.users, totals.events, sum(totals.records.values())) == (0, 0, 0)
        assert not store.forget(b"u")
        assert store.read(DIGEST, []) == []
        assert store.append(DIGEST, []) == []

    def test_what_is_appended_is_read(self, store):
        first = Append(b"u", 0, 0, 0, [event(1), event(2, named=False)], record(1, 2), [3, 20_000])
        assert store.append(DIGEST, [first]) == [((True, True), 2, True)]
        found = read_user(store, b"u", names=[b"event1", b"event2"])
        assert found.log_id > 0
        known = (event_digest(b"u", pack_event(event(1))), None)
        assert (found.last, found.record, found.known) == (2, record(1, 2), known)
        assert bits(found.seen) == {3, 20_000}
        assert store.read(DIGEST, [(b"u", ())])[0].seen == b""
        assert events_of(store, b"u") == [event(1), event(2, named=False)]
        assert read_user(store, b"u", OTHER).record is None
        assert read_user(store, b"u", OTHER).last == 2
        log(store, b"u", event(3), seen=[4])
        assert bits(read_user(store, b"u").seen) == {3, 4, 20_000}

    @pytest.mark.parametrize(
        "odd",
        [
            Event(-(2**63), b"", b""),
            Event(2**63 - 1, bytes(range(256)) * 4, bytes(range(200))),
            Event(0, b"\xff", None),
            Event(0, b"item", b"e" * 200, b'{"type":"buy"}'),
            Event(7, b"", None, b"{" + b"x" * 65_000),
        ],
    )
    def test_events_come_back_as_they_were(self, store, odd):
        log(store, b"u", event(1), odd)
        assert events_of(store, b"u") == [event(1), odd]
        first, second = read_user(store, b"u", names=[b"event1", b""]).known
        assert first == event_digest(b"u", pack_event(event(1)))
        assert second == (event_digest(b"u", pack_event(odd)) if odd.event_id == b"" else None)

    def test_events_with_columns_are_rewritten_and_an_older_longrec_is_kept_out(self, store):
        log(store, b"u", event(1), event(2))
        log(store, b"v", event(3), event(4))
        assert store.meta()["schema"] == SCHEMA == 3
        found = read_user(store, b"u")
        assert store.rewrite([Rewrite(b"u", found.log_id, 2, [event(6)])]) == [True]
        assert events_of(store, b"u") == [event(6)]

    def test_users_may_be_any_bytes(self, store):
        users = [b"\0", b"\0\0", b"a", b"a\0", b"ab", bytes(range(256)) + b"z" * 144, b"\xff" * 400]
        for number, user in enumerate(users):
            log(store, user, event(number))
        for number, user in enumerate(users):
            assert events_of(store, user) == [event(number)]
        assert store.users(b"", 100) == sorted(users)

    def test_users_come_in_pages(self, store):
        users = [b"%03d" % number for number in range(23)]
        store.append(DIGEST, [Append(u, 0, 0, 0, [event(1)], None, []) for u in users[::-1]])
        pages, after = [], b""
        while page := store.users(after, 5):
            pages.append(page)
            after = page[-1]
        assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
        assert [user for page in pages for user in page] == users
        assert store.users(b"0045", 1) == [b"005"]
        assert store.users(b"022", 5) == []

    def test_events_come_in_ranges(self, store):
        log(store, b"a", *map(event, range(1, 8)))
        log(store, b"u", *map(event, range(1, 31)))
        log(store, b"z", *map(event, range(1, 8)))
        log_id = read_user(store, b"u").log_id
        wanted = [event(number) for number in range(1, 31)]
        for after, limit in itertools.product((0, 1, 13, 29, 30, 31), (0, 1, 7, 30, 100)):
            assert store.events(b"u", log_id, after, limit) == wanted[after : after + limit]
        assert store.events(b"u", log_id + 100, 0, 5) == []
        assert store.events(b"nobody", log_id, 0, 5) == []
        assert store.events(b"nobody", 0, 0, 5) == []

    def test_a_retry_is_logged_once(self, store):
        log(store, b"u", event(1))
        before = read_user(store, b"u")
        again = step(before, b"u", [event(1)])
        assert store.append(DIGEST, [again]) == [((False,), 1, False)]
        assert read_user(store, b"u") == before
        # Beside new ones, and twice in one call: what is new is logged, the record is not.
        mixed = step(before, b"u", [event(2), event(1), event(2), event(3)])
        assert store.append(DIGEST, [mixed]) == [((True, False, False, True), 3, False)]
        assert events_of(store, b"u") == [event(1), event(2), event(3)]
        assert read_user(store, b"u").record == before.record
        # The same id of another user is another event.
        log(store, b"v", event(1))
        # Events without an id are always new.
        log(store, b"v", event(2, named=False), event(2, named=False))
        assert len(events_of(store, b"v")) == 3

    def test_a_record_is_written_by_who_read_the_last_one(self, store):
        log(store, b"u", event(1), seen=[1])
        old = read_user(store, b"u")
        log(store, b"u", event(2), seen=[2])
        new = read_user(store, b"u")
        late = step(old, b"u", [event(3)], [3])
        assert store.append(DIGEST, [late]) == [((True,), 3, False)]
        found = read_user(store, b"u")
        assert (found.record, found.last, found.log_id) == (new.record, 3, new.log_id)
        assert bits(found.seen) == {1, 2}
        for wrong in (
            late._replace(last=3, version=1),  # another one wrote a record
            late._replace(last=2, version=2),  # another one logged
            late._replace(last=3, version=2, log_id=0),
            late._replace(last=3, version=2, log_id=old.log_id + 100),
        ):
            number = found.last + 1
            wrong = wrong._replace(events=[event(number)])
            assert store.append(DIGEST, [wrong]) == [((True,), number, False)]
            found = read_user(store, b"u")
            assert (found.record, found.last) == (new.record, number)
            late = late._replace(last=number)
        assert store.append(DIGEST, [step(found, b"u", [event(50)], [5])])[0].current
        # Without a record only the log goes on.
        bare = Append(b"u", found.log_id, 8, 3, [event(51)], None, [6])
        assert store.append(DIGEST, [bare])[0] == ((True,), found.last + 2, False)
        assert bits(read_user(store, b"u").seen) == {1, 2, 5}

    def test_a_record_is_put_if_the_log_is_the_same_and_nobody_wrote_one(self, store):
        log(store, b"u", event(1), event(2), seen=[1, 9000])
        found = read_user(store, b"u")
        good = Put(b"u", found.log_id, 0, record(1, 2, 9), bitmap([70_000]))
        assert store.put(OTHER, [good]) == 1
        other = read_user(store, b"u", OTHER)
        assert (other.record, bits(other.seen)) == (good.record, {70_000})
        assert read_user(store, b"u") == found
        for wrong in (
            good,
            good._replace(version=2),
            good._replace(log_id=found.log_id + 1, version=1),
            good._replace(log_id=0, version=1),
            good._replace(user=b"v", version=1),
            good._replace(user=b"v", version=0, log_id=0),
        ):
            assert store.put(OTHER, [wrong]) == 0
        assert read_user(store, b"u", OTHER) == other
        assert store.users(b"", 9) == [b"u"]
        again = Put(b"u", found.log_id, 1, record(2, 2, 10), bitmap([0, 8191, 8192]))
        assert store.put(OTHER, [again, good._replace(user=b"v")]) == 1
        assert bits(read_user(store, b"u", OTHER).seen) == {0, 8191, 8192}
        assert store.put(OTHER, [again._replace(version=2, record=record(3, 2), seen=b"")]) == 1
        assert read_user(store, b"u", OTHER).seen == b""

    def test_forgetting_leaves_nothing_and_a_new_log_is_another_one(self, store):
        for user in (b"t", b"u", b"v"):
            log(store, user, event(1), event(2), seen=[5, 30_000])
            found = read_user(store, user)
            assert (
                store.put(OTHER, [Put(user, found.log_id, 0, record(1, 2, user=user), bitmap([1]))])
                == 1
            )
        old, beside = read_user(store, b"u"), [read_user(store, user) for user in (b"t", b"v")]
        assert store.forget(b"u")
        assert not store.forget(b"u")
        assert store.users(b"", 9) == [b"t", b"v"]
        totals = store.totals()
        assert (totals.users, totals.events) == (2, 4)
        assert totals.records == {DIGEST: 2, OTHER: 2}
        for digest in (DIGEST, OTHER):
            gone = read_user(store, b"u", digest, [b"event1"])
            assert gone == StoredUser(0, 0, None, b"", (None,))
        assert store.events(b"u", old.log_id, 0, 9) == []
        assert [read_user(store, user) for user in (b"t", b"v")] == beside
        # Who read the old log: its event is logged, its record is of another log.
        assert store.put(DIGEST, [Put(b"u", old.log_id, 1, record(2, 2), b"")]) == 0
        assert store.append(DIGEST, [step(old, b"u", [event(1)])]) == [((True,), 1, False)]
        new = read_user(store, b"u")
        assert new.log_id not in (0, old.log_id)
        assert (new.record, new.seen) == (None, b"")
        assert store.put(DIGEST, [Put(b"u", old.log_id, 0, record(1, 1), b"")]) == 0

    def test_a_log_is_rewritten_if_it_is_the_same(self, store):
        log(store, b"u", event(1), event(2), seen=[5])
        log(store, b"v", event(1))
        old = read_user(store, b"u")
        assert store.put(OTHER, [Put(b"u", old.log_id, 0, record(1, 2), bitmap([1]))]) == 1
        events = [event(3), event(1), event(4, named=False)]
        right = Rewrite(b"u", old.log_id, 2, events)
        new_user = Rewrite(b"w", 0, 0, [event(9)])
        wrong = [
            right._replace(last=1),
            right._replace(log_id=old.log_id + 100),
            right._replace(log_id=0, last=0),
            new_user._replace(last=1),
            new_user._replace(log_id=old.log_id + 100),
            new_user._replace(user=b"v"),
        ]
        assert store.rewrite(wrong) == [False] * 6
        assert read_user(store, b"u") == old
        assert store.users(b"", 9) == [b"u", b"v"]
        assert store.rewrite([right, new_user]) == [True, True]
        new = read_user(store, b"u", names=[b"event1", b"event2", b"event3"])
        assert new.log_id not in (0, old.log_id)
        known = [event_digest(b"u", pack_event(event(n))) for n in (1, 3)]
        assert new == StoredUser(new.log_id, 3, None, b"", (known[0], None, known[1]))
        assert read_user(store, b"u", OTHER).record is None
        assert events_of(store, b"u") == events
        assert events_of(store, b"w") == [event(9)]
        assert store.events(b"u", old.log_id, 0, 9) == []
        assert store.rewrite([right]) == [False]
        assert store.totals().events == 5
        assert store.totals().records == {DIGEST: 1}
        log(store, b"u", event(2))
        now = read_user(store, b"u")
        gone = Rewrite(b"u", now.log_id, 4, [])
        assert store.rewrite([gone._replace(last=3), gone, gone]) == [False, True, False]
        assert store.users(b"", 9) == [b"v", b"w"]
        assert store.rewrite([Rewrite(b"x", 0, 0, [])]) == [True]
        assert store.users(b"", 9) == [b"v", b"w"]

    def test_meta_is_changed_as_one_step(self, store):
        def add(meta):
            before = meta.get("n", 0)
            meta["n"] = before + 1
            return before

        assert store.change_meta(add) == 0
        store.change_meta(lambda meta: meta.update(deep={"a": [1, None, "ü"]}))

        def fail(meta):
            meta["n"] = 100
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.change_meta(fail)
        together([lambda: [store.change_meta(add) for _ in range(5)]] * 4)
        assert store.meta()["n"] == 21
        assert store.meta()["deep"] == {"a": [1, None, "ü"]}

    def test_a_dropped_model_takes_its_records_and_nothing_else(self, store):
        for user in (b"u", b"v"):
            log(store, user, event(1), seen=[4])
            log_id = read_user(store, user).log_id
            store.put(OTHER, [Put(user, log_id, 0, record(1, 1, user=user), bitmap([9]))])
        before = read_user(store, b"u", OTHER)
        assert store.totals().records == {DIGEST: 2, OTHER: 2}
        assert store.drop(DIGEST) == 2
        assert store.drop(DIGEST) == 0
        gone = read_user(store, b"u")
        assert (gone.record, gone.seen, gone.last, gone.log_id) == (None, b"", 1, before.log_id)
        assert read_user(store, b"u", OTHER) == before
        assert store.totals().records == {OTHER: 2}
        assert store.put(DIGEST, [Put(b"u", before.log_id, 0, record(1, 1), b"")]) == 1

    def test_opened_again_it_is_the_same(self, open_named):
        store = open_named("again")
        log(store, b"u", event(1), event(2), seen=[1, 10_000])
        log(store, b"gone", event(1))
        gone = read_user(store, b"gone").log_id
        store.forget(b"gone")
        store.change_meta(lambda meta: meta.update(current=DIGEST))
        before = read_user(store, b"u", names=[b"event1"])
        for compacted in (False, True):
            if compacted:
                store.compact()
            assert store.totals().bytes > 0
            store.close()
            store.close()
            store = open_named("again")
            assert read_user(store, b"u", names=[b"event1"]) == before
            assert events_of(store, b"u") == [event(1), event(2)]
            assert store.meta()["current"] == DIGEST
            totals = store.totals()
            assert (totals.users, totals.events, totals.records) == (1, 2, {DIGEST: 1})
        log(store, b"gone", event(1))
        assert read_user(store, b"gone").log_id not in (gone, before.log_id)
        store.close()

    def test_appends_from_many_threads_end_in_one_order(self, store):
        users, threads, rounds = [b"u", b"v"], 6, 12
        done: dict[bytes, list[tuple[int, Event, bool]]] = {user: [] for user in users}

        def work(worker: int) -> None:
            for number in range(rounds):
                names = [b"%d-%d-%s" % (worker, number, user) for user in users]
                found = store.read(DIGEST, [(user, ()) for user in users])
                appends = [
                    step(one, user, [Event(number, b"item", name)], [worker], worker)
                    for one, user, name in zip(found, users, names, strict=True)
                ]
                for append, result in zip(appends, store.append(DIGEST, appends), strict=True):
                    assert result.new == (True,)
                    done[append.user].append((result.last, append.events[0], result.current))

        together([lambda worker=worker: work(worker) for worker in range(threads)])
        for user in users:
            numbers = sorted(done[user])
            assert [number for number, _, _ in numbers] == list(range(1, threads * rounds + 1))
            assert events_of(store, user) == [event for _, event, _ in numbers]
            found = read_user(store, user)
            written = [number for number, _, current in numbers if current]
            assert read_header(found.record)[:2] == (written[-1], len(written))

    def test_one_event_sent_by_many_threads_is_logged_once(self, store):
        results = []

        def work() -> None:
            for number in range(10):
                append = step(read_user(store, b"u"), b"u", [event(number)])
                results.extend(store.append(DIGEST, [append])[0].new)

        together([work] * 5)
        assert results.count(True) == 10
        assert sorted(events_of(store, b"u")) == sorted(map(event, range(10)))

    @settings(
        max_examples=20,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(data=st.data())
    def test_it_does_what_plain_dictionaries_do(self, open_named, data):
        with closing(Mirrored(open_named, f"mirrored{next(_names)}")) as mirrored:
            for _ in range(data.draw(st.integers(1, 25), "steps")):
                mirrored.play(data.draw(_ACTIONS, "action"))
                mirrored.check()


_names = itertools.count()
_USER = st.sampled_from([b"a", b"b", b"b\0", b"c"])
_DIGEST = st.sampled_from([DIGEST, OTHER])
_EVENTS = st.lists(
    st.builds(
        Event,
        st.integers(-5, 5),
        st.sampled_from([b"x", b"y", b"z" * 300]),
        st.none() | st.sampled_from([b"", b"1", b"2", b"3", b"4", b"\xff"]),
    ),
    min_size=1,
    max_size=5,
)
_SEEN = st.lists(st.sampled_from([0, 1, 7, 8, 8191, 8192, 40_000]), max_size=4)
_AGED = st.sampled_from([0, 0, 0, 1, 2])  # how many reads ago a writer has read
_ACTIONS = st.one_of(
    st.tuples(st.just("append"), _DIGEST, _USER, _EVENTS, _SEEN, _AGED, st.booleans()),
    st.tuples(st.just("append"), _DIGEST, _USER, _EVENTS, _SEEN, st.just(0), st.just(True)),
    st.tuples(st.just("put"), _DIGEST, _USER, _SEEN, _AGED),
    st.tuples(st.just("rewrite"), _USER, _EVENTS, _AGED),
    st.tuples(st.just("forget"), _USER),
    st.tuples(st.just("drop"), _DIGEST),
    st.tuples(st.sampled_from(["compact", "reopen"])),
)


@dataclass
class Log:
    """What plain dictionaries hold of one user; `log_id` is the store's choice."""

    log_id: int
    events: list[Event] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)

    def add(self, events: Iterable[Event]) -> tuple[bool, ...]:
        """Log those that are new."""
        new = []
        for one in events:
            names = {known.event_id for known in self.events}
            new.append(one.event_id is None or one.event_id not in names)
            if new[-1]:
                self.events.append(one)
        return tuple(new)

    def version(self, digest: str) -> int:
        return read_header(self.records[digest]).version if digest in self.records else 0


class Mirrored:
    """A store, and beside it plain dictionaries that do the same by the words of the contract."""

    def __init__(self, open_named: OpenNamed, name: str) -> None:
        self.open_named, self.name, self.store = open_named, name, open_named(name)
        self.logs: dict[bytes, Log] = {}
        self.used_ids: set[int] = set()
        self.reads: dict[tuple[str, bytes], list[StoredUser]] = {}
        self.written = 0

    def play(self, action: tuple[Any, ...]) -> None:
        getattr(self, action[0])(*action[1:])

    def close(self) -> None:
        self.store.close()

    def read(self, digest: str, user: bytes, aged: int) -> StoredUser:
        """What a writer has read, now or some reads ago."""
        reads = self.reads.setdefault((digest, user), [])
        reads.append(read_user(self.store, user, digest))
        return reads[-min(aged + 1, len(reads))]

    def new_log(self, user: bytes) -> Log:
        log_id = read_user(self.store, user).log_id
        assert log_id not in self.used_ids | {0}, "a log's number was used again"
        self.used_ids.add(log_id)
        self.logs[user] = Log(log_id)
        return self.logs[user]

    def append(self, digest, user, events, seen, aged, with_record) -> None:
        found = self.read(digest, user, aged)
        self.written += 1
        append = step(found, user, events, seen, self.written)
        if not with_record:
            append = append._replace(record=None)
        before = self.logs.get(user)
        right = with_record and (
            found.log_id == 0
            if before is None
            else (found.log_id, found.last, version(found))
            == (before.log_id, len(before.events), before.version(digest))
        )
        [result] = self.store.append(digest, [append])
        log = before or self.new_log(user)
        new = log.add(events)
        right = bool(right and all(new))
        assert result == (new, len(log.events), right)
        if right:
            log.records[digest] = append.record
            log.seen[digest] = log.seen.get(digest, set()) | set(seen)

    def put(self, digest, user, seen, aged) -> None:
        found = self.read(digest, user, aged)
        self.written += 1
        after = record(version(found) + 1, found.last, self.written, user=user)
        log = self.logs.get(user)
        right = log is not None and (found.log_id, version(found)) == (
            log.log_id,
            log.version(digest),
        )
        put = Put(user, found.log_id, version(found), after, bitmap(seen))
        assert self.store.put(digest, [put]) == right
        if right:
            log.records[digest], log.seen[digest] = after, set(seen)

    def rewrite(self, user, events, aged) -> None:
        found = self.read(DIGEST, user, aged)
        log = self.logs.get(user)
        right = (found.log_id, found.last) == ((log.log_id, len(log.events)) if log else (0, 0))
        names = [one.event_id for one in events if one.event_id is not None]
        if len(set(names)) < len(names):
            events = events[:1]
        assert self.store.rewrite([Rewrite(user, found.log_id, found.last, events)]) == [right]
        if right:
            self.new_log(user).events.extend(events)

    def forget(self, user) -> None:
        assert self.store.forget(user) == (self.logs.pop(user, None) is not None)

    def drop(self, digest) -> None:
        had = [log for log in self.logs.values() if digest in log.records]
        assert self.store.drop(digest) == len(had)
        for log in had:
            del log.records[digest], log.seen[digest]

    def compact(self) -> None:
        before, after = self.store.compact()
        assert min(before, after) > 0

    def reopen(self) -> None:
        self.store.close()
        self.store = self.open_named(self.name)

    def check(self) -> None:
        """All that can be read is the same."""
        assert self.store.users(b"", 100) == sorted(self.logs)
        names = [b"", b"1", b"2", b"3", b"4", b"\xff"]
        users = [b"a", b"b", b"b\0", b"c"]
        for digest in (DIGEST, OTHER):
            for user, found in zip(
                users,
                self.store.read(digest, [(user, names) for user in users], seen=True),
                strict=True,
            ):
                log = self.logs.get(user, Log(0))
                logged = {one.event_id: event_digest(user, pack_event(one)) for one in log.events}
                assert found[:3] == (log.log_id, len(log.events), log.records.get(digest))
                assert bits(found.seen) == log.seen.get(digest, set())
                assert found.known == tuple(map(logged.get, names))
                if digest == DIGEST:
                    assert self.store.events(user, found.log_id, 0, 100) == log.events
        totals = self.store.totals()
        counts = (len(self.logs), sum(len(log.events) for log in self.logs.values()))
        assert (totals.users, totals.events) == counts
        for digest in (DIGEST, OTHER):
            many = sum(digest in log.records for log in self.logs.values())
            assert totals.records.get(digest, 0) == many
