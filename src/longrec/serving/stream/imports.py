"""Histories put in front of users' logs, so that a store knows the users whom the histories know.

A store's meta notes of each histories folder, by its fingerprint, how far that came:

    read, users          rows of the histories that are done, and all of them
    imported, left_out   events that were put in front of logs, and that were not
    whole                whether the store was empty when it began: see `put_in_front`
    forgotten            users (hex) who were forgotten meanwhile, until it has ended

That is of no model: one that takes over before the end goes on where the other one was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    LogReplaced,
    read_events,
    read_log,
    read_users,
    retry_if_replaced,
)
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import DAMAGED, Event, Rewrite, Store, StoredUser

TRIES = 100
"""How often users are tried again whose logs went on meanwhile."""
NOTED = ("read", "imported", "left_out", "whole")


def is_imported(meta: dict[str, Any], histories: Histories) -> bool:
    """Whether a store's meta says that all of these histories were put in front of its logs."""
    noted = meta.get("imports", {}).get(histories.fingerprint)
    return noted is not None and not _under_way(noted)


def is_half_imported(meta: dict[str, Any]) -> bool:
    """Whether a store's meta says that some histories are in front of its logs in part."""
    return any(map(_under_way, meta.get("imports", {}).values()))


def left_out(meta: dict[str, Any], histories: Histories) -> int:
    """How many events of histories that were imported are not in front of any log by that."""
    return int(meta["imports"][histories.fingerprint]["left_out"])


def begin_import(store: Store, histories: Histories) -> dict[str, Any]:
    """What is `NOTED` of an import that begins, or that another model's rebuild has begun."""
    noted = store.meta().get("imports", {}).get(histories.fingerprint)
    if noted is not None and _under_way(noted):
        return {name: noted[name] for name in NOTED}
    return {"read": 0, "imported": 0, "left_out": 0, "whole": not store.users(b"", 1)}


def note_import(meta: dict[str, Any], histories: Histories, done: Mapping[str, Any]) -> set[bytes]:
    """Note in a store's meta how far an import came; -> users who were forgotten since it began."""
    noted = meta.setdefault("imports", {}).setdefault(histories.fingerprint, {})
    noted |= {name: done[name] for name in NOTED} | {"users": histories.n_users}
    forgotten = {bytes.fromhex(user) for user in noted.get("forgotten", ())}
    if not _under_way(noted):
        noted.pop("forgotten", None)
    return forgotten


def note_forgotten(store: Store, user: bytes) -> None:
    """Let imports that are under way leave a user out, before the user is forgotten."""

    def change(meta: dict[str, Any]) -> None:
        for noted in filter(_under_way, meta.get("imports", {}).values()):
            noted["forgotten"] = sorted({*noted.get("forgotten", ()), user.hex()})

    if is_half_imported(store.meta()):
        store.change_meta(change)


def _under_way(noted: Mapping[str, Any]) -> bool:
    return bool(noted["read"] < noted["users"])


def put_in_front(
    store: Store, older: Mapping[bytes, Sequence[Event]], timed: bool, whole: bool
) -> int:
    """Put each user's older events in front of the user's log; -> how many stand there by that.

    whole : the store was empty when the first ones were put there: what is logged came since, and
        all older events go in front of it. Else the log may hold some of them: those go in front
        that are earlier than its first event, and where their times do not count (`timed` is
        False), only users without a log get them. Either way none are put there twice.
    """
    pending = {user: events for user, events in older.items() if events}
    imported, in_front = 0, dict[bytes, int]()

    def missing(user: bytes, stored: StoredUser) -> Sequence[Event]:
        """The events that are to be put in front of a log."""
        events = pending[user]
        if not stored.last:
            return events
        if whole:
            begin = read_events(store, user, stored, 0, min(len(events), stored.last))
            return [] if _common(begin, events) == len(begin) == len(events) else events
        [first] = read_events(store, user, stored, 0, 1)
        return [event for event in events if timed and event.time < first.time]

    def put_pending() -> None:
        nonlocal imported
        stored = read_users(store, NO_MODEL, list(pending))
        for user in pending.keys() - {user for user, _ in stored}:
            del pending[user]  # damaged: nothing can be put there
        rewrites = []
        for user, one in stored:
            try:
                if events := missing(user, one):
                    logged = whole_events(store, user, one)
                    rewrites.append(Rewrite(user, one.log_id, one.last, [*events, *logged]))
                    in_front[user] = len(events)
                else:
                    if whole:  # there already: whoever put them there ended before noting it
                        imported += len(pending[user])
                    del pending[user]
            except LogReplaced:
                continue
        for rewrite, done in zip(rewrites, store.rewrite(rewrites), strict=True):
            if done:
                imported += in_front[rewrite.user]
                del pending[rewrite.user]
        if pending:
            raise LogReplaced

    retry_if_replaced(store, put_pending, TRIES)
    return imported


def take_back(store: Store, user: bytes, older: Sequence[Event]) -> None:
    """Take older events from the front of a log again: the user was forgotten while they were put
    there."""

    def take() -> None:
        [stored] = store.read(NO_MODEL, [(user, ())])
        logged = [event for part in read_log(store, user, stored) for event in part]
        common = _common(logged, older)
        if not common:
            return
        rest = [event for event in logged[common:] if event is not DAMAGED]
        if not rest:
            store.forget(user)
        elif not store.rewrite([Rewrite(user, stored.log_id, stored.last, rest)])[0]:
            raise LogReplaced

    retry_if_replaced(store, take, TRIES)


def whole_events(store: Store, user: bytes, stored: StoredUser) -> list[Event]:
    """A user's log as it is when it is rewritten: without what is damaged."""
    parts = read_log(store, user, stored)
    return [event for part in parts for event in part if event is not DAMAGED]


def _common(logged: Sequence[Event], older: Sequence[Event]) -> int:
    """How many events both begin with; one that is damaged may have been any."""
    pairs = zip(logged, older, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] in (pair[1], DAMAGED), pairs))


def packed_columns(histories: Histories, here: slice) -> list[bytes]:
    """Further columns of some events as they are logged: all that the histories have.

    Raises
    ------
    DataError
        When a name or a word is too long to be logged, or there are too many columns.
    """
    values = []
    for name, column in histories.columns.items():
        stored = histories.extra[name][here].tolist()
        if column.words is not None:
            words = (*column.words, None)  # -1 is the last place
            values.append([words[code] for code in stored])
        else:
            values.append([value if math.isfinite(value) else None for value in stored])
    if not values:
        return [b""] * (here.stop - here.start)
    try:
        names = list(histories.columns)
        rows = zip(*values, strict=True)
        return [pack_columns(dict(zip(names, row, strict=True))) for row in rows]
    except UsageError as error:
        raise DataError(f"{histories.path}: {error}") from None
