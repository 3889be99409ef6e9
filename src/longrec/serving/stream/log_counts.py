"""What followed what, counted from a store's log: the whole log once, then what is new in it.

Of each user the events of known items count, in commit order. Logs only grow, so it is enough to
keep how many events of each are counted and the last known items, after which the next one comes:
what a pass over all users adds makes the very table that counting the whole log at once makes.
Nothing can be taken out of it again: when a log is gone, of a user who was forgotten or whose log
was rewritten, all is counted anew.

Users are known by the ids of their logs, which no two logs ever have; their own ids are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.inference.encode import last_items
from longrec.models.common.followers import distance_weights
from longrec.models.common.pairs import PairSums, pairs_of
from longrec.models.transitions import TransitionsScore
from longrec.serving.stores.log_reader import (
    EVENTS,
    NO_MODEL,
    LogReplaced,
    read_events,
    read_users,
    user_pages,
)
from longrec.serving.stores.protocol import LOG_ID, Store, StoredUser
from longrec.serving.stream.id_keys import ItemIndex


class LogGone(Exception):
    """A log that was counted is there no more, or shorter: count all anew."""


@dataclass(frozen=True, eq=False)
class LogCounts:
    """What is counted of a log; never changed, but replaced by another.

    Attributes
    ----------
    table : what followed what.
    logs : (n,) int64, the ids of users' logs, ascending.
    numbers : (n,) int64, of each the number of the last event that is counted.
    tails : (n, reach) int32, the last known items, the latest first; 0 where there were none.
    """

    table: TransitionsScore
    logs: Ints
    numbers: Ints
    tails: np.ndarray

    @classmethod
    def none(cls, like: TransitionsScore) -> LogCounts:
        """Nothing counted yet, with the settings and the catalog of a table."""
        table = TransitionsScore(like.config, like.n_items).eval()
        nothing = np.zeros(0, np.int64)
        return cls(table, nothing, nothing, np.zeros((0, table.reach), np.int32))


def count_log(
    store: Store, items: ItemIndex, before: LogCounts, pause: Callable[[], None]
) -> LogCounts:
    """What `before` is with all that was logged since.

    Parameters
    ----------
    store, items : Store, ItemIndex
        Of the stream.
    before : LogCounts
        Itself given back where nothing is new.
    pause : callable
        Called after each page of users; what it raises ends the pass.

    Raises
    ------
    LogGone
        When a log that is counted is gone.
    DataError, StoreUnavailable
    """
    counting = _Pass(store, items, before)
    for users in user_pages(store):
        counting.page(users)
        pause()
    return counting.end()


class _New(NamedTuple):
    """Events of a user that are not counted yet: the user's row, and the items' keys in order."""

    row: int
    keys: list[bytes]


class _Pass:
    """One pass; rows are those of `before`, then logs that it did not have, as they are met."""

    def __init__(self, store: Store, items: ItemIndex, before: LogCounts) -> None:
        self._store, self._items, self._before = store, items, before
        config = before.table.config
        self._weights = distance_weights(config.last, config.decay)
        self._met = np.zeros(len(before.logs), bool)
        self._changed: dict[int, tuple[int, np.ndarray]] = {}  # of a page, row: number, tail
        self._done: list[tuple[Ints, Ints, np.ndarray]] = []  # of the pages before
        self._born: list[int] = []
        self._sums = PairSums()
        self._counts = np.zeros(before.table.n_items + 1, np.int64)

    def page(self, users: Sequence[bytes]) -> None:
        """Count what is new of some users."""
        stored = read_users(self._store, NO_MODEL, users)
        ids = np.array([one.log_id & LOG_ID for _, one in stored], np.int64)
        known, of_before = self._before.logs, len(self._before.logs)
        at = np.searchsorted(known, ids)
        found = at < of_before
        found[found] = known[at[found]] == ids[found]
        self._met[at[found]] = True
        part: list[_New] = []
        size = 0
        rows = np.where(found, at, -1).tolist()
        for (user, one), known_row in zip(stored, rows, strict=True):
            row = known_row
            done = int(self._before.numbers[row]) if row >= 0 else 0
            if one.last < done:
                raise LogGone
            if one.last == done:
                continue
            for keys in self._new_events(user, one, done):
                if row < 0:
                    row = of_before + len(self._born)
                    self._born.append(one.log_id & LOG_ID)
                if part and part[-1].row == row:  # a tail is that of before the part
                    self._count(part)
                    part, size = [], 0
                done += len(keys)
                part.append(_New(row, keys))
                self._changed[row] = (done, self._tail(row))
                size += len(keys)
                if size >= EVENTS:
                    self._count(part)
                    part, size = [], 0
        if part:
            self._count(part)
        if self._changed:
            numbers = np.array([number for number, _ in self._changed.values()])
            tails = np.stack([tail for _, tail in self._changed.values()])
            self._done.append((np.array(list(self._changed)), numbers, tails))
            self._changed = {}

    def end(self) -> LogCounts:
        """All that is counted now."""
        before = self._before
        if not self._met.all():
            raise LogGone
        if not self._done:
            return before
        pairs, table = self._sums.total(), before.table
        if self._counts.any():
            table = table.counting(self._counts, pairs)
        logs = np.concatenate([before.logs, np.array(self._born, np.int64)])
        numbers = np.pad(before.numbers, (0, len(self._born)))
        tails = np.pad(before.tails, ((0, len(self._born)), (0, 0)))
        for rows, of_rows, last in self._done:
            numbers[rows], tails[rows] = of_rows, last
        order = np.argsort(logs)
        return LogCounts(table, logs[order], numbers[order], tails[order])

    def _new_events(self, user: bytes, stored: StoredUser, after: int) -> Iterator[list[bytes]]:
        """The items' keys of a log after a number, some at a time; up to where it is replaced.

        What is given of a log that is replaced meanwhile is found to be gone by the next pass.
        """
        while after < stored.last:
            count = min(EVENTS, stored.last - after)
            try:
                events = read_events(self._store, user, stored, after, count)
            except LogReplaced:
                return
            yield [event.item for event in events]
            after += count

    def _tail(self, row: int) -> np.ndarray:
        """The last known items of a row's counted events."""
        if row in self._changed:
            return self._changed[row][1]
        tails = self._before.tails
        return np.array(tails[row] if row < len(tails) else np.zeros(tails.shape[1]), np.int32)

    def _count(self, part: list[_New]) -> None:
        """Count new events, of each user at most one stretch."""
        tails = np.stack([self._tail(one.row) for one in part])
        index = np.array(self._items.find([key for one in part for key in one.keys]), np.int64)
        owner = np.repeat(np.arange(len(part)), [len(one.keys) for one in part])
        owner, index = owner[index > 0], index[index > 0]
        if not len(index):
            return
        self._counts += np.bincount(index, minlength=len(self._counts))
        row, column = np.nonzero(tails[:, ::-1])
        whole = np.concatenate([tails[:, ::-1][row, column], index])
        owner = np.concatenate([row, owner])
        new = np.arange(len(whole)) >= len(row)
        order = np.argsort(owner, kind="stable")  # a user's tail, then the new events
        whole, owner, new = whole[order], owner[order], new[order]
        n_items = self._before.table.n_items
        self._sums.add(pairs_of(whole, owner, new, self._weights, n_items))
        ends = np.bincount(owner, minlength=len(part)).cumsum()
        begins = np.pad(ends, (1, 0))[:-1]
        last = last_items(whole, begins, ends, tails.shape[1])
        for one, tail in zip(part, last.numpy().astype(np.int32), strict=True):
            self._changed[one.row] = (self._changed[one.row][0], tail)
