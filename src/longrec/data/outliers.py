"""What a person should see of a log: rows given twice, and one user far above all others."""

from __future__ import annotations

import numpy as np
import polars as pl

FAR = 20
"""Times the second longest history that the longest one is when it is pointed out."""
SHARE = 0.01
"""Share of all events that it then has at least."""


class Repeats:
    """Counts events of one user, item and time beside each other, as events come in order."""

    def __init__(self) -> None:
        self.count = 0
        self._held: tuple[np.ndarray, ...] = ()

    def add(self, users: np.ndarray, keys: np.ndarray, items: np.ndarray) -> None:
        """The next events."""
        columns: tuple[np.ndarray, ...] = (users, keys, items)
        if self._held:
            columns = tuple(np.concatenate(pair) for pair in zip(self._held, columns, strict=True))
            self.count -= _repeats(*self._held)
        self.count += _repeats(*columns)
        users, keys = columns[:2]
        if not len(users):
            return
        # The last user and time may go on with the next events.
        same = (users == users[-1]) & (keys == keys[-1])
        start = len(same) - int(np.argmin(same[::-1])) if not same.all() else 0
        self._held = tuple(column[start:].copy() for column in columns)


def _repeats(users: np.ndarray, keys: np.ndarray, items: np.ndarray) -> int:
    tied = np.zeros(len(users) + 1, bool)
    tied[1:-1] = (users[1:] == users[:-1]) & (keys[1:] == keys[:-1])
    among = tied[:-1] | tied[1:]
    if not among.any():
        return 0
    group, items = np.cumsum(~tied[:-1])[among], items[among]
    order = np.lexsort((items, group))
    group, items = group[order], items[order]
    return int(((group[1:] == group[:-1]) & (items[1:] == items[:-1])).sum())


def one_far_above(user_ids: pl.Series, lengths: np.ndarray) -> str | None:
    """A remark on one user who has far more events than any other; None where there is none."""
    if len(lengths) < 10:
        return None
    second, first = np.partition(lengths, -2)[-2:]
    if first < FAR * second or first < SHARE * lengths.sum():
        return None
    user = user_ids[int(np.argmax(lengths))]
    return (
        f"user {user!r} has {first:,} events, {first / lengths.sum():.0%} of all, and no other "
        f"more than {second:,}: an id that stands for many, such as visitors without an "
        "account, is no history. Leave such rows out of the log."
    )
