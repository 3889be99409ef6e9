"""An event taken back: out of its user's log, as if it had never been there.

The log is written anew without it, with an id of its own, and with it go the user's records and
bitmaps of all models, which are made again from the log. Counts of what followed what find that
the log is another one, and begin anew. The event's id is free again: a mended event may have it.
Events of the log that are damaged, of which nothing is known, go with it.
"""

from __future__ import annotations

from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    LogReplaced,
    read_log,
    retry_if_replaced,
)
from longrec.serving.stores.protocol import DAMAGED, Event, Rewrite, Store
from longrec.serving.stream.imports import TRIES, is_half_imported


def drop_event(
    store: Store, user: bytes, event_id: bytes | None = None, number: int | None = None
) -> Event | None:
    """Take an event out of a user's log; -> the event, None if there is no such.

    Parameters
    ----------
    store : Store
    user, event_id : bytes
        Keys of ids (`id_keys`).
    number : int or None
        The event's place in the log, from 1, in place of its id.

    Raises
    ------
    UsageError
        When neither or both of id and number are given, or histories are being brought in: they
        would bring it back.
    DataError
        When the log is damaged.
    StoreFull, StoreUnavailable
    """
    if (event_id is None) == (number is None):
        raise UsageError("give either the event's id or its number in the log")
    if is_half_imported(store.meta()):
        raise UsageError(
            f"{store.url} is being filled from histories, which may bring the event back: drop it "
            "once that is done"
        )

    def drop() -> Event | None:
        [stored] = store.read(NO_MODEL, [(user, () if event_id is None else (event_id,))])
        if event_id is None and not 0 < (number or 0) <= stored.last:
            return None
        if event_id is not None and stored.known[0] is None:
            return None
        logged = [event for part in read_log(store, user, stored) for event in part]
        ids = [event.event_id for event in logged]
        if event_id is not None and event_id not in ids:
            raise DataError(
                f"{store.url}: the event with this id is damaged: `longrec store verify` says "
                "which ones are; drop it by its number"
            )
        at = ids.index(event_id) if event_id is not None else (number or 0) - 1
        rest = [event for event in (*logged[:at], *logged[at + 1 :]) if event is not DAMAGED]
        if not store.rewrite([Rewrite(user, stored.log_id, stored.last, rest)])[0]:
            raise LogReplaced
        return logged[at]

    return retry_if_replaced(store, drop, TRIES)
