"""Events into the log, and the records that hold after them, in one go for many events."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.core.errors import DataError
from longrec.serving.records.engine import Engine
from longrec.serving.records.record import TIME
from longrec.serving.stores.protocol import Append, Event, Kept, Store
from longrec.serving.stream.catch_up import catch_up, records_of
from longrec.serving.stream.id_keys import ItemIndex, event_key, item_key, seconds, user_key


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
    """

    new: bool
    known: bool
    late: bool


class Tally:
    """Counters of a process."""

    def __init__(self) -> None:
        self.accepted = self.duplicates = self.unknown = self.late = 0
        self.groups = self.replayed = self.longest = 0

    def add(self, outcomes: Sequence[Observed]) -> None:
        """Count events."""
        for new, known, late in outcomes:
            self.accepted += new
            self.duplicates += not new
            self.unknown += new and not known
            self.late += new and late


class Writer:
    """Logs events of any users; one thread at a time.

    Attributes
    ----------
    tally : what was counted so far; `longest`: most known events of a user that was observed.
    """

    def __init__(self, store: Store, engine: Engine, items: ItemIndex) -> None:
        self.store, self.engine, self.items = store, engine, items
        self.tally = Tally()

    def entry(self, user: Any, item: Any, time: Any, event_id: Any = None) -> Entry:
        """An event to be logged, of a caller's values; errors as of `Stream.observe`."""
        name = None if event_id is None else event_key(event_id)
        key = item_key(item)
        return Entry(user_key(user), Event(seconds(time), key, name), self.items.one(key))

    def write(self, works: Sequence[Sequence[Entry]]) -> list[list[Observed] | BaseException]:
        """Log works of some events each, all in one go; -> per work what became of its events.

        Where a user's record is damaged, only the works with that user fail.
        """
        entries = [entry for work in works for entry in work]
        try:
            users = self._read(entries)
        except DataError as error:
            if len(works) == 1:
                return [error]
            return [found for work in works for found in self.write([work])]
        outcomes = self._write(entries, users)
        self.tally.groups += 1
        self.tally.add(outcomes)
        ends = np.cumsum([len(work) for work in works]).tolist()
        return [outcomes[end - len(work) : end] for work, end in zip(works, ends, strict=True)]

    def _read(self, entries: Sequence[Entry]) -> _Users:
        """Whom the events are of, with records at the end of their logs."""
        of_user: dict[bytes, list[int]] = {}
        for number, entry in enumerate(entries):
            of_user.setdefault(entry.user, []).append(number)
        names = list(of_user)
        ids = [
            [name for n in numbers if (name := entries[n].event.event_id) is not None]
            for numbers in of_user.values()
        ]
        kept = self.store.read(self.engine.digest, list(zip(names, ids, strict=True)))
        records = records_of(self.engine, kept)
        done = int(records["sequence"].sum())
        met = catch_up(self.store, self.engine, self.items, names, kept, records)
        self.tally.replayed += int(records["sequence"].sum()) - done
        fresh = [
            _fresh(entries, numbers, set(compress(asked, one.known)))
            for numbers, asked, one in zip(of_user.values(), ids, kept, strict=True)
        ]
        return _Users(names, fresh, kept, records, met)

    def _write(self, entries: Sequence[Entry], users: _Users) -> list[Observed]:
        names, fresh, kept, records, met = users
        late = _late(entries, fresh, records[TIME])
        versions = records["version"].tolist()
        # No record where the log was replaced while it was read: it catches up when it is read.
        whole = (records["sequence"] == [one.last for one in kept]).tolist()
        self.engine.advance(
            records,
            [[(entries[n].item, entries[n].event.time) for n in numbers] for numbers in fresh],
        )
        records["version"] += 1
        appends = []
        for at in [at for at, numbers in enumerate(fresh) if numbers]:
            seen = {entries[n].item for n in fresh[at]} - {0}
            if at in met:
                seen.update(met[at].tolist())
            appends.append(
                Append(
                    user=names[at],
                    born=kept[at].born,
                    last=kept[at].last,
                    version=versions[at],
                    events=[entries[n].event for n in fresh[at]],
                    record=self.engine.dump(records, at) if whole[at] else None,
                    seen=sorted(seen),
                )
            )
        logged = self.store.append(self.engine.digest, appends) if appends else []
        new = set[int]()
        for numbers, found in zip(filter(None, fresh), logged, strict=True):
            new.update(compress(numbers, found.new))
        longest = int((records["sequence"] - records["skipped"]).max())
        self.tally.longest = max(self.tally.longest, longest)
        return [
            Observed(number in new, entry.item > 0, number in late)
            for number, entry in enumerate(entries)
        ]


class _Users(NamedTuple):
    """Users with events to be logged.

    fresh : per user the numbers of the events that are new; met : see `catch_up`.
    """

    names: list[bytes]
    fresh: list[list[int]]
    kept: list[Kept]
    records: np.ndarray
    met: dict[int, Ints]


def _fresh(entries: Sequence[Entry], numbers: Sequence[int], known: set[bytes]) -> list[int]:
    """Those of a user's events whose ids are neither in the log nor among the ones before."""
    fresh = []
    for number in numbers:
        name = entries[number].event.event_id
        if name is None or name not in known:
            fresh.append(number)
            if name is not None:
                known.add(name)
    return fresh


def _late(entries: Sequence[Entry], fresh: Sequence[Sequence[int]], clocks: np.ndarray) -> set[int]:
    """Those of the new events, by user, that are earlier than a known one before them."""
    late = set[int]()
    for numbers, clock in zip(fresh, clocks.tolist(), strict=True):
        for number in numbers:
            if entries[number].item:
                if entries[number].event.time < clock:
                    late.add(number)
                clock = max(clock, entries[number].event.time)
    return late
