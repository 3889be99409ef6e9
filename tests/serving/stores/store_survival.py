"""What every store survives, as tests: no room, kills, compaction beside others, foreign content.

A store's test file makes a class of `SurvivalContract` with a fixture `backend`, a `Backend` of the
store's kind, and another, `make_backend(folder, durability)`, that makes one with its files there.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from forking import kills
from serving.stores.store_jobs import (
    DIGEST,
    event_of,
    record_after,
    send_numbers,
    send_until_full,
)
from serving.stores.store_properties import (
    OTHER,
    all_events,
    bits,
    event,
    events_of,
    log,
    read_user,
    record,
    together,
)

from longrec.core.choices import Durability
from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import (
    LOG_ID,
    Append,
    Event,
    Put,
    Rewrite,
    Store,
    StoreFull,
    StoreUnavailable,
    read_header,
)

LARGE = 2**21
"""Bytes for which there is no room where a store may not grow."""


class Backend(Protocol):
    """A store of a kind, and what tests do to it from outside.

    Attributes
    ----------
    url : str
    kills : int
        Its share of the kills, where there are 20 in all.
    record_may_lag : bool
        Whether a record may be behind its log after a writer was killed: a call that was on its way
        may be done later.
    """

    url: str
    kills: int
    record_may_lag: bool

    def content(self) -> Any:
        """All that is stored, to be compared."""

    def files(self) -> list[bytes]:
        """The contents of all files of a closed store."""

    def damage(self) -> Iterator[str]:
        """Put something else in the store's stead, one after the other; -> words of the error."""

    def fill(self, store: Store) -> AbstractContextManager[str]:
        """Let an open store find no room for more than a little; -> words of the error."""

    def strike(self, kill: int) -> None:
        """Kill what belongs to the store, beside its client, at some of the kills."""

    def recover(self) -> None:
        """Start again what ended."""

    def trace(self, durability: Durability, calls: int) -> list[int]:
        """Syncs before each acknowledgement of so many calls."""


MakeBackend = Callable[[Path, Durability], AbstractContextManager[Backend]]


def check_logs(store: Store) -> list[int]:
    """Each record is what its log makes of it, up to where it is; -> the times of all events."""
    times = []
    for user in store.users(b"", 100):
        events, found = events_of(store, user), read_user(store, user)
        assert len(events) == found.last
        times += [event.time for event in events]
        reached = read_header(found.record).sequence
        expected = record_after(user, None, events[:reached])
        assert found.record[48:-8] == expected[48:-8], "a record was made from another state"
        assert bits(found.seen) <= {event.time % 5000 for event in events[:reached]}
    assert len(set(times)) == len(times), "an event was logged twice"
    assert store.totals().events == len(times)
    return times


def state_of(store: Store) -> tuple[Any, ...]:
    """All that can be read of a small store, whatever run of its server it is."""
    users = store.users(b"", 100)
    read = [read_user(store, user, digest) for user in users for digest in (DIGEST, OTHER)]
    found = [one._replace(log_id=one.log_id & LOG_ID) for one in read]
    return users, found, [events_of(store, user) for user in users], store.meta()


def check_current(store: Store) -> None:
    """Each record has taken in its whole log."""
    for user in store.users(b"", 10):
        found = read_user(store, user)
        assert read_header(found.record).sequence == found.last


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 3 MB, of which a file `ballast` takes one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        (folder / "ballast").write_bytes(bytes(2**20))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class SurvivalContract:
    """Needs the fixtures `backend`, `make_backend` and `forks`."""

    # ---- what stands there

    def test_looking_for_a_store_makes_none(self, backend):
        before = backend.content()
        with pytest.raises(DataError, match="no store of users"):
            open_store(backend.url, readonly=True)
        assert backend.content() == before
        open_store(backend.url).close()
        open_store(backend.url, readonly=True).close()

    def test_a_store_that_was_closed_says_so(self, backend):
        store = open_store(backend.url)
        store.close()
        store.close()
        for use in (store.meta, lambda: store.append(DIGEST, [])):
            with pytest.raises(UsageError, match="was closed"):
                use()

    def test_a_store_of_a_newer_schema_is_left_as_it_is(self, backend):
        store = open_store(backend.url)
        log(store, b"u", event(1))
        store.change_meta(lambda meta: meta.update(schema=4))
        store.close()
        before = backend.content()
        for readonly in (False, True):
            with pytest.raises(DataError, match="has schema 4, this longrec reads 3: upgrade"):
                open_store(backend.url, readonly=readonly)
        assert backend.content() == before

    def test_what_is_no_store_is_refused_and_left_as_it_is(self, backend):
        open_store(backend.url).close()
        for words in backend.damage():
            before = backend.content()
            for readonly in (False, True):
                with pytest.raises(DataError, match=words):
                    open_store(backend.url, readonly=readonly)
            assert backend.content() == before

    # ---- no room

    def test_without_room_calls_are_done_whole_or_not_and_with_room_it_goes_on(self, backend):
        store = open_store(backend.url)
        send_numbers(store, range(20))
        large = bytes(LARGE)
        with backend.fill(store) as words:
            refused = send_until_full(store, 20, 3000)
            before, found = state_of(store), read_user(store, b"u1")
            longer = record(2, found.last, size=LARGE, user=b"u1")
            for write in (
                lambda: send_numbers(store, [refused], LARGE),
                lambda: store.append(
                    DIGEST, [Append(b"new", 0, 0, 0, [Event(1, large, b"a")], None, [])]
                ),
                lambda: store.put(OTHER, [Put(b"u1", found.log_id, 0, longer, b"")]),
                lambda: store.change_meta(lambda meta: meta.update(large="x" * LARGE)),
                lambda: store.rewrite(
                    [Rewrite(b"u1", found.log_id, found.last, [Event(1, large, None)])]
                ),
            ):
                with pytest.raises(StoreFull, match=words):
                    write()
            assert state_of(store) == before
            assert sorted(check_logs(store)) == list(range(refused))
        send_numbers(store, range(refused, refused + 20), 3000)
        assert sorted(check_logs(store)) == list(range(refused + 20))
        check_current(store)
        store.close()

    @pytest.mark.parametrize("durability", ["process", "power"])
    def test_a_full_disk_is_reported_and_with_room_it_goes_on(
        self, make_backend, tmp_path, durability
    ):
        with (
            small_disk(tmp_path / "disk") as disk,
            make_backend(disk / "store", durability) as backend,
        ):
            store = open_store(backend.url, durability)
            try:
                sent = send_until_full(store, 0, 3000)
                assert sent > 10
                with pytest.raises((StoreFull, StoreUnavailable), match=r"room|cannot be reached"):
                    send_numbers(store, range(sent, sent + 50), 3000)
                (disk / "ballast").unlink()
                backend.recover()
                give_up = time.monotonic() + 30
                while True:  # Redis tries again once a second
                    try:
                        send_numbers(store, [sent], 3000)
                        break
                    except StoreFull:
                        assert time.monotonic() < give_up
                        time.sleep(0.05)
                send_numbers(store, range(sent + 1, sent + 10), 3000)
                assert sorted(check_logs(store)) == list(range(sent + 10))
            finally:
                store.close()

    # ---- forgetting and compacting

    def test_forgetting_and_compacting_leave_no_byte_of_a_user(self, make_backend, tmp_path):
        with make_backend(tmp_path / "own", "process") as backend:
            store = open_store(backend.url, "process")
            # Many, so that ids stand in the branch pages of LMDB's trees too.
            users = [b"%06d-%s" % (n, b"stays" if n % 2 else b"forgotten") for n in range(1500)]
            for start in range(0, len(users), 500):
                store.append(
                    DIGEST,
                    [
                        Append(
                            user, 0, 0, 0, [Event(1, b"item-" + user, b"id-" + user)], None, [start]
                        )
                        for user in users[start : start + 500]
                    ],
                )
            rewritten = [Event(1, b"other-" + users[0], b"id-" + users[0])]
            log_id = read_user(store, users[0]).log_id
            assert store.rewrite([Rewrite(users[0], log_id, 1, rewritten)]) == [True]
            assert all(store.forget(user) for user in users if user.endswith(b"forgotten"))
            before, after = store.compact()
            assert after < before
            stay = [user for user in users if user.endswith(b"stays")]
            assert store.users(b"", 5000) == stay
            store.close()
            content = b"".join(backend.files())
            assert b"forgotten" not in content
            for prefix in (b"item-", b"id-"):
                found = re.findall(prefix + rb"(\d+-stays)", content)
                assert set(found) >= set(stay)

    def test_threads_go_on_while_it_is_compacted(self, backend):
        store = open_store(backend.url, "process")
        stop, sent = threading.Event(), [0, 0, 0]

        def write(worker: int) -> None:
            while not stop.is_set():
                send_numbers(store, [worker + 3 * sent[worker]])
                sent[worker] += 1

        def read() -> None:
            while not stop.is_set():
                for user in store.users(b"", 10):
                    found = read_user(store, user)
                    assert len(store.events(user, found.log_id, 0, found.last)) == found.last

        def compact() -> None:
            try:
                for count in range(1, 7):
                    while min(sent) < 5 * count and not stop.is_set():
                        time.sleep(0.001)
                    store.compact()
            finally:
                stop.set()

        together([lambda: write(0), lambda: write(1), lambda: write(2), read, read, compact])
        expected = {worker + 3 * n for worker in range(3) for n in range(sent[worker])}
        logged = check_logs(store)
        assert (len(logged), set(logged)) == (len(expected), expected)
        store.close()

    # ---- other processes

    def test_a_reader_beside_the_writer_sees_one_moment_each_time(self, forks, backend):
        with forks.job("write_for_ever", backend.url, "process", 0, 1, True) as job:
            assert job.line() is not None
            reader, compacted, last = open_store(backend.url, "process", readonly=True), 0, {}
            while compacted < 4:
                for user in reader.users(b"", 10):
                    found = read_user(reader, user)
                    assert read_header(found.record).sequence == found.last >= last.get(user, 0)
                    last[user] = found.last
                    assert len(reader.events(user, found.log_id, 0, found.last)) == found.last
                compacted += job.line() == "compacted"
            numbers = [int(line) for line in job.killed() if line.isdigit()]
        # What was acknowledged before is there.
        acknowledged = {event_of(0, n).event_id for n in range(max(numbers, default=0))}
        assert acknowledged <= set(all_events(reader))
        reader.close()

    @pytest.mark.kills
    def test_kills_of_a_writer(self, forks, backend):
        many = kills(backend.kills)
        dice, acknowledged, total = random.Random(many), 0, 0
        for kill in range(many):
            durability = ("power", "process")[kill % 2]
            # It begins with what was sent and not acknowledged: a retry.
            arguments = (durability, acknowledged, kill, kill % 4 > 1)
            with forks.job("write_for_ever", backend.url, *arguments) as job:
                lines = [job.line() or "failed: it says nothing"] if kill % 3 else []
                time.sleep(dice.random() * 0.03)
                backend.strike(kill)
                lines = [line for line in lines + job.killed() if line != "compacted"]
            assert not [line for line in lines if line.startswith("failed")]
            backend.recover()
            total += len(lines)
            acknowledged = max(acknowledged, *(int(line) for line in lines), 0)
            store = open_store(backend.url, durability)
            logged = check_logs(store)
            assert sorted(logged) == list(range(len(logged))), "events are missing"
            assert len(logged) >= acknowledged, "an acknowledged event was lost"
            for user in store.users(b"", 10):
                events = events_of(store, user)
                assert events == sorted(events), "events stand in another order"
            if not backend.record_may_lag:
                check_current(store)
            store.close()
        assert total > many // 2

    # ---- "power" is real

    @pytest.mark.parametrize("durability", ["power", "process"])
    def test_syncs_before_each_acknowledgement(self, make_backend, tmp_path, durability):
        calls = 12
        with make_backend(tmp_path / "traced", durability) as backend:
            syncs = backend.trace(durability, calls)
        assert len(syncs) == calls
        if durability == "power":
            assert min(syncs) >= 1, syncs
        else:
            assert sum(syncs) < calls, syncs
