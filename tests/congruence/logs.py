"""Small random logs that other people might have: with many repeats, and with none.

Both have events of items that no recommender knows, users who have seen everything, users and
targets that are cold, and many events at one time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from congruence.systems import FIRST, N
from small_histories import histories_of_ids

from longrec.data.histories import Histories
from longrec.data.splits import Targets

KINDS = ("many repeats", "no repeats")
UNKNOWN = (5, 6, 7)
Rows = dict[str, list[tuple[int, int]]]
"""Of each user (item id, time), oldest first."""


def rows_of(kind: str, users: int) -> Rows:
    """A log of one kind; the same whenever it is called."""
    random = np.random.default_rng(KINDS.index(kind))
    ids = np.arange(FIRST, FIRST + N)
    rows: Rows = {}
    for number in range(users):
        length = int(random.integers(1, 30))
        if kind == "no repeats":
            items = random.permutation(np.concatenate([ids, UNKNOWN]))[:length].tolist()
        else:
            few = random.choice(ids, 5)
            items = np.where(
                random.random(length) < 0.8, random.choice(few, length), random.choice(ids, length)
            ).tolist()
            items = [7 if random.random() < 0.1 else item for item in items]
        times = np.sort(random.integers(0, 50, length) * 100).tolist()
        rows[f"user {number}"] = list(zip(items, times, strict=True))
    everything = random.permutation(ids).tolist()
    last = {"no repeats": [5], "many repeats": [everything[3]]}[kind]
    rows["has seen everything"] = [(item, 90 * n) for n, item in enumerate([*everything, *last])]
    rows["cold"] = [(item, 4000 + n) for n, item in enumerate([5, 6, 7, FIRST + 1])]
    rows["cold and unknown"] = [(item, 4000 + n) for n, item in enumerate([5, 6, 7])]
    return rows


def inputs_of(data: Histories, targets: Targets) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Of each target the events before it, (item id, time), and its item's id."""
    ids = data.catalog.ids
    assert data.times is not None
    for user, position in zip(targets.users, targets.positions, strict=True):
        here = slice(data.offsets[user], position)
        items = ids.gather(data.items[here] - 1).to_list()
        yield (
            list(zip(items, data.times[here].tolist(), strict=True)),
            ids[int(data.items[position]) - 1],
        )


def histories(kind: str, folder: Path, users: int) -> Histories:
    """A log of one kind on disk."""
    return histories_of_ids(folder, rows_of(kind, users))
