"""Logs read while others may write to them; a log that is replaced meanwhile is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from longrec.core.errors import DataError
from longrec.serving.stores.protocol import Event, Store, StoredUser, UserDamaged

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


def user_pages(store: Store) -> Iterator[list[bytes]]:
    """All users in byte order, some at a time."""
    after = b""
    while users := store.users(after, USERS):
        yield users
        after = users[-1]


def read_users(
    store: Store, digest: str, users: Sequence[bytes], seen: bool = False
) -> list[tuple[bytes, StoredUser]]:
    """What a store has of users, but for those whose logs cannot be found, since they are damaged.

    The store counts these.
    """
    try:
        stored = store.read(digest, [(user, ()) for user in users], seen)
        return list(zip(users, stored, strict=True))
    except UserDamaged:
        if len(users) == 1:
            return []
        return [one for user in users for one in read_users(store, digest, [user], seen)]


def read_events(
    store: Store, user: bytes, stored: StoredUser, after: int, count: int
) -> list[Event]:
    """The `count` events after number `after` of the log that a user had when `stored` was read.

    In place of one that is damaged stands `DAMAGED`.

    Raises
    ------
    LogReplaced
        When the user has another log by now.
    """
    events = store.events(user, stored.log_id, after, count)
    if len(events) < count:
        raise LogReplaced
    return events


def read_log(
    store: Store, user: bytes, stored: StoredUser, at_once: int | None = None
) -> Iterator[list[Event]]:
    """A user's whole log as `stored` has it, some events at a time, `EVENTS` unless said otherwise;
    errors as of `read_events`."""
    most = at_once or EVENTS
    for after in range(0, stored.last, most):
        yield read_events(store, user, stored, after, min(most, stored.last - after))


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
        f"{store.url}: a user's log is replaced again and again, faster than it can be read: ask "
        "again when whoever rewrites it is done"
    )
