"""What a user's recommendation rests on, from the log in a store: a state keeps no single events.

Only the log is read, so any recommender may be asked, whichever model the store serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.errors import UsageError
from longrec.inference.explain import Explanation, check_explains, explain_history
from longrec.serving.stores.log_reader import NO_MODEL, LogChanged, log
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.id_keys import ItemIndex, id_of, item_key
from longrec.serving.stream.log_rewrite import restless

TRIES = 20
"""How often a log is read again that was replaced while it was read."""


def explain_user(
    artifact: Artifact,
    store: Store,
    items: ItemIndex,
    user: bytes,
    item: Any,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """What the model reads of a user's log for an item, O(T); see `Recommender.explain`.

    Parameters
    ----------
    artifact : Artifact
    store : Store
    items : ItemIndex
        Of the recommender's catalog.
    user : bytes
        The user's key.
    item : id
    progress : callable or None
        Called with (events read, events to read) once the log is here.

    Raises
    ------
    UsageError
        When the model's attention is not known, or the item, the user or all of the user's items
        are unknown.
    DataError
        When the log lacks events, or is replaced again and again.
    StoreUnavailable
        When the store cannot be reached.
    """
    check_explains(artifact.model)
    index = items.one(item_key(item))
    if not index:
        raise UsageError(f"item {item!r} is not in the catalog: give one that the model knows")
    for _ in range(TRIES):
        try:
            events, times = _log(store, items, user)
            break
        except LogChanged:
            continue
    else:
        raise restless(store)
    if not len(events):
        raise UsageError(f"user {id_of(user)!r} has no events in {store.url}: give one who has")
    return explain_history(
        artifact.model, artifact.catalog, index, events, times, artifact.limit, progress
    )


def _log(store: Store, items: ItemIndex, user: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Item indices (T,), 0 where unknown, and times (T,) of a user's whole log."""
    [kept] = store.read(NO_MODEL, [(user, ())])
    indices, times = np.empty(kept.last, np.int64), np.empty(kept.last, np.int64)
    done = 0
    for events in log(store, user, kept.born, kept.last):
        here = slice(done, done + len(events))
        indices[here] = items.find([event.item for event in events])
        times[here] = [event.time for event in events]
        done += len(events)
    return indices, times
