"""Logs read while others may write to them; a log that is replaced meanwhile is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from longrec.core.errors import DataError
from longrec.serving.stores.protocol import Event, Store, StoredUser

T = TypeVar("T")

USERS = 128
"""Users read at once: with records of 24 KiB, 3 MiB."""
NO_MODEL = "0" * 64
"""A digest that no model has: to read logs alone."""
EVENTS = 8_192
"""Events of one user read at once."""
TRIES = 20
"""How often a log is read that is replaced while it is read."""


class LogReplaced(Exception):
    """The user was forgotten, or the log rewritten, while it was read: read the user again."""


class LogDamaged(DataError):
    """A log lacks events that it says it has."""


def user_pages(store: Store) -> Iterator[list[bytes]]:
    """All users in byte order, some at a time."""
    after = b""
    while users := store.users(after, USERS):
        yield users
        after = users[-1]


def read_events(
    store: Store, user: bytes, stored: StoredUser, after: int, count: int
) -> list[Event]:
    """The `count` events after number `after` of the log that a user had when `stored` was read.

    Raises
    ------
    LogReplaced
        When the user has another log by now.
    LogDamaged
        When it is the same one, and has fewer events.
    """
    events = store.events(user, stored.log_id, after, count)
    if len(events) < count:
        if store.read(NO_MODEL, [(user, ())])[0].log_id != stored.log_id:
            raise LogReplaced
        raise LogDamaged(
            f"{store.url}: a user's log of {stored.last:,} events lacks some after "
            f"{after + len(events):,}. See `longrec store verify`; the mend is to restore a backup."
        )
    return events


def read_log(store: Store, user: bytes, stored: StoredUser) -> Iterator[list[Event]]:
    """A user's whole log as `stored` has it, some events at a time; errors as of `read_events`."""
    for after in range(0, stored.last, EVENTS):
        yield read_events(store, user, stored, after, min(EVENTS, stored.last - after))


def retry_if_replaced(store: Store, read: Callable[[], T], tries: int = TRIES) -> T:
    """What `read` gives; it is called again where it raises LogReplaced.

    Raises
    ------
    DataError
        When it raised that each time.
    """
    for _ in range(tries):
        try:
            return read()
        except LogReplaced:
            continue
    raise DataError(
        f"{store.url}: a user's log lacks events, or is replaced again and again. See "
        "`longrec store verify`"
    )
