"""What a store has of users, to be looked at: logs, how far records are, and explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.errors import UsageError
from longrec.data.given_histories import GivenEvent
from longrec.inference.encode import Events
from longrec.inference.explain import Explanation, check_explains, explain_history, find_item
from longrec.serving.records.logged_columns import LoggedColumns, Values
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    read_events,
    read_log,
    read_users,
    retry_if_replaced,
)
from longrec.serving.stores.protocol import Event, Header, Store, read_header
from longrec.serving.stream.id_keys import ItemIndex, id_of, item_key
from longrec.serving.stream.recommending import EVENTS_AT_ONCE, Ranker


class UserLog(NamedTuple):
    """A part of a user's log, and how far the record of a model is.

    events : in the whole log; header : of the record, None: there is none;
    part : events from some number on; next : where the rest begins, None: that is all.
    """

    events: int
    header: Header | None
    part: list[Event]
    next: int | None


def user_log(store: Store, digest: str, user: bytes, after: int, limit: int) -> UserLog | None:
    """What is kept of a user for a model, with at most `limit` events numbered after + 1, ...;
    None: no such user."""

    def read() -> UserLog | None:
        [stored] = store.read(digest, [(user, ())])
        if not stored.last:
            return None
        count = max(0, min(limit, stored.last - after))
        part = read_events(store, user, stored, after, count) if count else []
        header = None if stored.record is None else read_header(stored.record)
        end = after + count
        return UserLog(stored.last, header, part, end if end < stored.last else None)

    return retry_if_replaced(store, read)


def record_lag(store: Store, digest: str, after: bytes, limit: int) -> tuple[int, int, bytes]:
    """How many of the next `limit` users there are, how many of their records are behind or
    missing, and the last of these users; b"", the first again, at the end."""
    users = store.users(after, limit)
    behind = sum(
        one.last > 0 and (one.record is None or read_header(one.record).sequence < one.last)
        for _, one in read_users(store, digest, users)
    )
    return len(users), behind, users[-1] if len(users) == limit else b""


def explain_user(
    artifact: Artifact,
    store: Store,
    items: ItemIndex,
    user: bytes,
    item: Any,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """What the model reads of a user's log for an item; see `Stream.explain`.

    A state keeps no single events, so the log is read, and any recommender may be asked, whichever
    the store serves. `items` are those of its catalog.
    """
    check_explains(artifact.scorer)
    index = items.one(item_key(item))
    if not index:
        raise UsageError(f"item {item!r} is not in the catalog: give one that the model knows")

    reads, columns = artifact.model.reads_columns, None
    if reads:
        columns = LoggedColumns(artifact.name, reads, artifact.columns)

    def read() -> Events:
        """The whole log."""
        [stored] = store.read(NO_MODEL, [(user, ())])
        parts, values = [np.empty((2, 0), np.int64)], list[Values]()
        for events in read_log(store, user, stored, EVENTS_AT_ONCE):
            found, clock = items.find([e.item for e in events]), [e.time for e in events]
            parts.append(np.array([found, clock], np.int64))
            if columns is not None:
                values += [columns.values(e.columns) for e in events]
            if progress is not None:
                progress(0, 2 * stored.last)
        further = {} if columns is None else dict(zip(reads, columns.arrays(values), strict=True))
        indices, times = np.concatenate(parts, axis=1)
        return Events(indices, times, further)

    history = retry_if_replaced(store, read)
    if not len(history.items):
        raise UsageError(f"user {id_of(user)!r} has no events in {store.url}: give one who has")
    return explain_history(
        artifact.scorer, artifact.catalog, index, history, artifact.limit, progress
    )


def explain_given(
    artifact: Artifact,
    ranker: Ranker,
    item: Any,
    history: Sequence[GivenEvent],
    pause: Callable[..., None],
) -> Explanation:
    """The same for a history that is given instead of a user of the store."""
    check_explains(artifact.scorer)
    reads, moments = artifact.model.reads_columns, ranker.moments(history, pause=pause)
    items, times, *columns = ranker.engine.arrays(moments)
    events = Events(items, times, dict(zip(reads, columns, strict=True)))
    index = find_item(artifact.catalog, item)
    return explain_history(artifact.scorer, artifact.catalog, index, events, artifact.limit, pause)
