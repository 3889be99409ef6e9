"""Users to measure with: as many as need be, with histories of given lengths, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from longrec.data.catalog import Catalog
from longrec.data.histories import Histories, write_histories

MOST, EVENTS = 256, 640_000
"""Users of one length: so many at most, with so many events in all, at least one user."""
END, GAP = 1_700_000_000, 60
"""Time of the last event of all histories, and seconds between two events."""


def number_of_users(length: int) -> int:
    """Users with histories of a length."""
    return max(1, min(MOST, EVENTS // length))


class Users:
    """Users with histories of one length, who go on one event after the other.

    Each has a half of the catalog and no events outside it, so that however long a history is
    there is something left to recommend.

    Attributes
    ----------
    length : events of each when the measurement begins.
    ids : of the users.
    items : (n, length) item indices of their histories.
    """

    def __init__(self, length: int, catalog: Catalog, seed: int) -> None:
        rng = np.random.default_rng([seed, length])
        n, self.length = number_of_users(length), length
        self.ids = [f"{length}-{number:04}" for number in range(n)]
        # One order of all items; each user's half begins somewhere in it.
        self._order = (rng.permutation(catalog.n_items) + 1).astype(np.int32)
        self._half = (catalog.n_items + 1) // 2
        self._starts = rng.integers(catalog.n_items, size=n)
        drawn = rng.integers(self._half, size=(n, length))
        self.items = self._order[(self._starts[:, None] + drawn) % catalog.n_items]
        self._names: list[Any] = catalog.ids.to_list()
        self._clock = count(END + 1)

    def __len__(self) -> int:
        return len(self.ids)

    def event(self, number: int, rng: random.Random) -> tuple[str, Any, int]:
        """The next event of a user: their id, an item's id, and the time; from any thread."""
        return self.ids[number], self._names[self.index(number, rng) - 1], next(self._clock)

    def index(self, number: int, rng: random.Random) -> int:
        """The item index of a user's next event."""
        position = int(self._starts[number]) + rng.randrange(self._half)
        return int(self._order[position % len(self._order)])


def write_users(groups: Sequence[Users], catalog: Catalog, path: Path) -> Histories:
    """The histories of users, as a folder that longrec reads."""
    items_of = {
        name: items for users in groups for name, items in zip(users.ids, users.items, strict=True)
    }
    names = sorted(items_of)
    lengths = np.array([len(items_of[name]) for name in names])
    return write_histories(
        path,
        user_ids=pl.Series("user", names),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=np.concatenate([items_of[name] for name in names]),
        times=np.concatenate([END - GAP * np.arange(n - 1, -1, -1) for n in lengths]),
        catalog=catalog,
        source="longrec bench",
        time_unit="s",
    )
