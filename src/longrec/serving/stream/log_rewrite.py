"""Logs changed as a whole: older events put in front, late ones sorted in. Users may be observed
meanwhile: a log that went on is read again."""

from __future__ import annotations

from collections.abc import Sequence

from longrec.core.errors import DataError
from longrec.serving.stores.log_reader import NO_MODEL, LogChanged, log
from longrec.serving.stores.protocol import Event, Kept, Rewrite, Store

TRIES = 100
"""How often a user is tried again whose log went on meanwhile."""


def put_in_front(
    store: Store, users: Sequence[bytes], older: Sequence[Sequence[Event]], timed: bool
) -> int:
    """Put events in front of users' logs: those before the first one that is logged.

    Parameters
    ----------
    store : Store
    users : sequence of bytes
    older : sequence of sequences of Event
        Per user, in the order in which they are to stand.
    timed : bool
        Whether their times count. Otherwise only users without a log get them.

    Returns
    -------
    int
        How many.
    """
    many, todo = 0, [row for row, events in enumerate(older) if events]
    for _ in range(TRIES):
        kept = store.read(NO_MODEL, [(users[row], ()) for row in todo])
        again, rows, rewrites = [], [], []
        for row, one in zip(todo, kept, strict=True):
            try:
                first = _first(store, users[row], one)
                events = [e for e in older[row] if first is None or (timed and e.time < first.time)]
                if events:
                    many += len(events)
                    rows.append(row)
                    events += _whole(store, users[row], one)
                    rewrites.append(Rewrite(users[row], one.born, one.last, events))
            except LogChanged:
                again.append(row)
        for row, rewrite, done in zip(rows, rewrites, store.rewrite(rewrites), strict=True):
            if not done:
                many -= len(rewrite.events) - rewrite.last
                again.append(row)
        if not again:
            return many
        todo = sorted(again)
    raise restless(store)


def sort_by_time(store: Store, user: bytes) -> bool:
    """Sort a user's log by time, simultaneous events in the order that they have; -> if need be."""
    for _ in range(TRIES):
        [kept] = store.read(NO_MODEL, [(user, ())])
        try:
            if _is_sorted(store, user, kept):
                return False
            events = sorted(_whole(store, user, kept), key=lambda event: event.time)
        except LogChanged:
            continue
        if store.rewrite([Rewrite(user, kept.born, kept.last, events)])[0]:
            return True
    raise restless(store)


def restless(store: Store) -> DataError:
    """What to say of a log that is another one whenever it is read."""
    return DataError(
        f"{store.url}: a user's log lacks events, or is replaced again and again. See "
        "`longrec store verify`"
    )


def _first(store: Store, user: bytes, kept: Kept) -> Event | None:
    for events in log(store, user, kept.born, kept.last, 1):
        return events[0]
    return None


def _whole(store: Store, user: bytes, kept: Kept) -> list[Event]:
    return [event for events in log(store, user, kept.born, kept.last) for event in events]


def _is_sorted(store: Store, user: bytes, kept: Kept) -> bool:
    clock = None
    for events in log(store, user, kept.born, kept.last):
        for event in events:
            if clock is not None and event.time < clock:
                return False
            clock = event.time
    return True
