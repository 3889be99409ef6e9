"""What a store holds, to be looked at: a user's log and record, and records behind their logs."""

from __future__ import annotations

from typing import NamedTuple

from longrec.serving.stores.protocol import Event, Header, Store, read_header

TRIES = 20
"""How often a log is read again that was replaced while it was read."""


class UserLog(NamedTuple):
    """A part of a user's log, and how far the record of a model is.

    events : in the whole log; header : of the record, None: there is none;
    part : events from some place on; next : where the rest begins, None: that is all.
    """

    events: int
    header: Header | None
    part: list[Event]
    next: int | None


class Behind(NamedTuple):
    """Users looked at, how many records of theirs were behind or missing, and the last user."""

    users: int
    behind: int
    after: bytes


def user_log(store: Store, digest: str, user: bytes, after: int, limit: int) -> UserLog | None:
    """What is kept of a user for a model, with at most `limit` events numbered after + 1, ...;
    None: no such user."""
    for _ in range(TRIES):
        [kept] = store.read(digest, [(user, ())])
        if not kept.last:
            return None
        many = max(0, min(limit, kept.last - after))
        part = store.events(user, kept.born, after, many) if many else []
        if len(part) == many:
            break
    header = None if kept.record is None else read_header(kept.record)
    end = after + len(part)
    return UserLog(kept.last, header, part, end if end < kept.last else None)


def look_behind(store: Store, digest: str, after: bytes, limit: int) -> Behind:
    """How many records of the next `limit` users are behind; from the first again at the end."""
    users = store.users(after, limit)
    kept = store.read(digest, [(user, ()) for user in users])
    behind = sum(
        one.last > 0 and (one.record is None or read_header(one.record).sequence < one.last)
        for one in kept
    )
    return Behind(len(users), behind, users[-1] if len(users) == limit else b"")
