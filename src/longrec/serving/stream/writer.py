"""Events into the log, and the records that hold after them, in one go for many events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.core.errors import DataError, LongrecError
from longrec.data.moments import seconds
from longrec.serving.records.engine import Engine
from longrec.serving.records.record import TIME
from longrec.serving.stores.checks import event_digest
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import (
    Append,
    Event,
    Store,
    StoreDamaged,
    StoredUser,
    next_version,
)
from longrec.serving.stream.ahead import Clock
from longrec.serving.stream.catch_up import catch_up, records_of
from longrec.serving.stream.id_keys import ItemIndex, event_key, item_key, user_key

TELL_EVERY, TELL_PATIENCE = 10.0, 0.1
"""Seconds between two times that it is told that events are skipped, and that events wait for it
which may be of another server."""


class Entry(NamedTuple):
    """An event to be logged: whose it is, the event, and its item's index (0: unknown)."""

    user: bytes
    event: Event
    item: int


class Observed(NamedTuple):
    """What became of an event.

    new : whether it was logged; False: its event id was in the log already.
    known : whether the model knows its item; else it is logged, and a rebuild takes it in later.
    late : whether it is earlier than an event before it; it then counts as simultaneous.
    conflicting : whether another event has its id: that one stays, and this one is not logged.
    """

    new: bool
    known: bool
    late: bool
    conflicting: bool = False


class Counts(NamedTuple):
    """What became of some events.

    accepted : logged; duplicates : not, since their ids were in the log; of the accepted ones
    unknown : with items that the model does not know; late : earlier than one before them;
    conflicting : of the duplicates those that are other events than the ones with their ids.
    """

    accepted: int = 0
    duplicates: int = 0
    unknown: int = 0
    late: int = 0
    conflicting: int = 0

    def plus(self, outcomes: Sequence[Observed]) -> Counts:
        """The counts of these and of further events."""
        accepted, duplicates, unknown, late, conflicting = self
        for one in outcomes:
            accepted += one.new
            duplicates += not one.new
            unknown += one.new and not one.known
            late += one.new and one.late
            conflicting += one.conflicting
        return Counts(accepted, duplicates, unknown, late, conflicting)


class Writer:
    """Logs events; for any number of threads, of one user's events one at a time.

    Parameters
    ----------
    store, engine, items : of the stream.
    on_skipped : called now and then before records skip events of unknown items.
    clock : which times are too far ahead.

    Attributes
    ----------
    counts : of the events so far.
    groups : commits; replayed : events of records that were behind.
    longest : most known events of a user that was observed.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        items: ItemIndex,
        on_skipped: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.store, self.engine, self.items, self.clock = store, engine, items, clock
        self._on_skipped, self._tell_after = on_skipped, 0.0
        self._telling = threading.Lock()
        self._count_lock = threading.Lock()
        self.counts = Counts()
        self.groups = self.replayed = self.longest = 0

    def entry(
        self,
        user: Any,
        item: Any,
        time: Any,
        event_id: Any = None,
        columns: Mapping[str, Any] | None = None,
    ) -> Entry:
        """An event to be logged, of a caller's values; errors as of `Stream.observe`."""
        name = None if event_id is None else event_key(event_id)
        key = item_key(item)
        event = Event(seconds(time), key, name)
        self.clock.check(event.time)
        if columns is not None and (not isinstance(columns, Mapping) or len(columns)):
            event = event._replace(columns=pack_columns(columns))
            if self.engine.columns is not None:
                self.engine.columns.check(event.columns)
        return Entry(user_key(user), event, self.items.one(key))

    def write(self, batches: Sequence[Sequence[Entry]]) -> list[list[Observed] | BaseException]:
        """Log batches of events, all in one go; -> per batch what became of its events.

        Where the log of a user cannot be found, or cannot be written to, since the store is damaged
        there, only the batches with that user fail.
        """
        entries = [entry for batch in batches for entry in batch]
        try:
            users = self._read(entries)
        except DataError as error:
            return self._write_each(batches, error)
        try:
            outcomes = self._append(entries, users)
        except StoreDamaged as error:  # and wrote nothing
            return self._write_each(batches, error)
        with self._count_lock:
            self.groups += 1
            self.counts = self.counts.plus(outcomes)
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        return [outcomes[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]

    def _write_each(
        self, batches: Sequence[Sequence[Entry]], error: DataError
    ) -> list[list[Observed] | BaseException]:
        """The same batch by batch, where one of them has failed with an error."""
        if len(batches) == 1:
            return [error]
        return [outcome for batch in batches for outcome in self.write([batch])]

    def _read(self, entries: Sequence[Entry]) -> _Users:
        """The users of some events, with records at the ends of their logs."""
        of_user: dict[bytes, list[int]] = {}
        for number, entry in enumerate(entries):
            of_user.setdefault(entry.user, []).append(number)
        keys = list(of_user)
        event_ids = [
            [name for n in numbers if (name := entries[n].event.event_id) is not None]
            for numbers in of_user.values()
        ]
        stored = self.store.read(self.engine.digest, list(zip(keys, event_ids, strict=True)))
        records, _ = records_of(self.engine, stored, self.store.damage)
        before = int(records["sequence"].sum())
        replayed = catch_up(self.store, self.engine, self.items, keys, stored, records)
        with self._count_lock:
            self.replayed += int(records["sequence"].sum()) - before
        new, late, conflicting = [], set[int](), set[int]()
        for numbers, asked, one, clock in zip(
            of_user.values(), event_ids, stored, records[TIME].tolist(), strict=True
        ):
            known = {a: b for a, b in zip(asked, one.known, strict=True) if b is not None}
            new.append(_new(entries, numbers, known, clock, late, conflicting))
        return _Users(keys, new, late, conflicting, stored, records, replayed)

    def _append(self, entries: Sequence[Entry], users: _Users) -> list[Observed]:
        """Log the new events with the records that hold after them."""
        keys, new, late, conflicting, stored, records, replayed = users
        versions = [one.version for one in stored]
        # No record where the log was replaced while it was read: it catches up when it is read.
        complete = (records["sequence"] == [one.last for one in stored]).tolist()
        moments = self.engine.moments
        self.engine.advance(
            records,
            [
                moments([entries[n].item for n in numbers], [entries[n].event for n in numbers])
                for numbers in new
            ],
        )
        records["version"] = list(map(next_version, versions))
        appends = []
        for row in [row for row, numbers in enumerate(new) if numbers]:
            seen = {entries[n].item for n in new[row]} - {0}
            if row in replayed:
                seen.update(replayed[row].tolist())
            appends.append(
                Append(
                    user=keys[row],
                    log_id=stored[row].log_id,
                    last=stored[row].last,
                    version=versions[row],
                    events=[entries[n].event for n in new[row]],
                    record=self.engine.dump(records, row, keys[row]) if complete[row] else None,
                    seen=sorted(seen),
                )
            )
        if any(not entries[n].item for numbers in new for n in numbers):
            self._tell_of_skipped()
        appended = self.store.append(self.engine.digest, appends) if appends else []
        logged = set[int]()
        for numbers, found in zip(filter(None, new), appended, strict=True):
            logged.update(compress(numbers, found.new))
            if not all(found.new):  # others logged events of these ids meanwhile
                conflicting |= self._conflicting(entries, set(numbers) - logged)
        longest = int((records["sequence"] - records["skipped"]).max())
        with self._count_lock:
            self.longest = max(self.longest, longest)
        return [
            Observed(number in logged, entry.item > 0, number in late, number in conflicting)
            for number, entry in enumerate(entries)
        ]

    def _conflicting(self, entries: Sequence[Entry], numbers: set[int]) -> set[int]:
        """Those of some events, with ids that are in the log, which are not the ones logged."""
        asked = [(entries[n].user, (entries[n].event.event_id or b"",)) for n in sorted(numbers)]
        stored = self.store.read(NO_MODEL, asked)
        return {
            number
            for number, one in zip(sorted(numbers), stored, strict=True)
            if one.known[0] not in (None, b"", _digest(entries[number]))
        }

    def _tell_of_skipped(self) -> None:
        """Have it noted first, which is done on one server of a store: events of users of others
        wait for it no longer than it takes where that server is there."""
        if monotonic() < self._tell_after or not self._telling.acquire(blocking=False):
            return
        telling = threading.Thread(target=self._tell, name="longrec-skipped", daemon=True)
        telling.start()
        telling.join(None if self.store.parts == 1 else TELL_PATIENCE)

    def _tell(self) -> None:
        try:
            with suppress(LongrecError):  # away, full, or closed meanwhile: it is tried again
                self._on_skipped()
                self._tell_after = monotonic() + TELL_EVERY
        finally:
            self._telling.release()


class _Users(NamedTuple):
    """Users with events to be logged.

    new : per user the numbers of the events that are to be logged; late : of these, of all users,
    those that are earlier than a known one before them; conflicting : of those that are not to be
    logged the ones that are other events than those with their ids; replayed : see `catch_up`.
    """

    keys: list[bytes]
    new: list[list[int]]
    late: set[int]
    conflicting: set[int]
    stored: list[StoredUser]
    records: np.ndarray
    replayed: dict[int, Ints]


def _digest(entry: Entry) -> bytes:
    """What tells it from another event with its id."""
    return event_digest(entry.user, pack_event(entry.event))


def _new(
    entries: Sequence[Entry],
    numbers: Sequence[int],
    known: dict[bytes, bytes],
    clock: int,
    late: set[int],
    conflicting: set[int],
) -> list[int]:
    """Those of a user's events whose ids are neither in the log nor among the ones before.

    Those of them that are late go into `late`; `clock` is the time of the last known event. The
    others go into `conflicting` where the event with their id, whose digest is `known`, is another.
    """
    new = []
    for number in numbers:
        _, (time, _, event_id, _), item = entries[number]
        if event_id is not None:
            digest = _digest(entries[number])
            if event_id in known:
                if known[event_id] not in (b"", digest):
                    conflicting.add(number)
                continue
            known[event_id] = digest
        new.append(number)
        if item:
            if time < clock:
                late.add(number)
            clock = max(clock, time)
    return new
