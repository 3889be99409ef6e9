"""Through a whole store, user by user, while others may write to it."""

from __future__ import annotations

from collections.abc import Iterator

from longrec.core.errors import DataError
from longrec.serving.stores.protocol import Event, Store

USERS = 128
"""Users read at once: with records of 24 KiB, 3 MiB."""
NO_MODEL = "0" * 64
"""A digest that no model has: to read logs alone."""
EVENTS = 8_192
"""Events of one user read at once."""


class LogChanged(Exception):
    """The user was forgotten, or the log rewritten, while it was read: read the user again."""


class LogDamaged(DataError):
    """A log lacks events that it says it has."""


def pages(store: Store) -> Iterator[list[bytes]]:
    """All users in byte order, some at a time."""
    after = b""
    while users := store.users(after, USERS):
        yield users
        after = users[-1]


def log(
    store: Store, user: bytes, born: int, last: int, at_once: int = EVENTS
) -> Iterator[list[Event]]:
    """The events 1 .. `last` of a user's log, some at a time; what is logged meanwhile is not read.

    Raises
    ------
    LogChanged
        When the log is not `born` any more.
    LogDamaged
        When it is, and has fewer events.
    """
    done = 0
    while done < last:
        wanted = min(at_once, last - done)
        events = store.events(user, born, done, wanted)
        done += len(events)
        if len(events) < wanted:
            if store.read(NO_MODEL, [(user, ())])[0].born != born:
                raise LogChanged
            raise LogDamaged(
                f"{store.url}: a user's log of {last:,} events lacks some after {done:,}. See "
                "`longrec store verify`; the mend is to restore a backup."
            )
        yield events
