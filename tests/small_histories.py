"""Tiny histories on disk, and rows of items that one can learn something of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.write import write_histories

MakeHistories = Callable[..., Histories]


def tiny_histories(
    path: Path,
    rows: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    n_items: int | None = None,
) -> Histories:
    """Histories with these item indices per user, at these times."""
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    size = n_items or int(items.max(initial=0))
    moments = None if times is None else np.array([t for row in times for t in row])
    return write_histories(
        path,
        user_ids=pl.Series([f"user{n:05d}" for n in range(len(rows))]),
        offsets=np.cumsum([0, *map(len, rows)]),
        items=items,
        times=moments,
        catalog=Catalog(
            pl.Series(np.arange(1000, 1000 + size)),
            np.bincount(items, minlength=size + 1)[1:].astype(np.int64),
        ),
        source="test",
        time_unit=None if times is None else "s",
    )


def walks(users: int, n_items: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Item indices per user: mostly the next item of a ring, so that one can learn something."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(shortest, longest + 1, users):
        jumps = np.where(random.random(length) < 0.8, 1, random.integers(1, n_items, length))
        rows.append(((random.integers(n_items) + jumps.cumsum()) % n_items + 1).tolist())
    return rows


def histories_of_ids(path: Path, rows: Mapping[str, Sequence[tuple[int, int]]]) -> Histories:
    """Histories of users by their ids: of each (item id, time), oldest first."""
    ids = sorted({item for row in rows.values() for item, _ in row})
    index = {item: number for number, item in enumerate(ids, 1)}
    items = np.array([index[item] for row in rows.values() for item, _ in row], dtype=np.int32)
    return write_histories(
        path,
        user_ids=pl.Series(list(rows)),
        offsets=np.cumsum([0, *map(len, rows.values())]),
        items=items,
        times=np.array([time for row in rows.values() for _, time in row]),
        catalog=Catalog(pl.Series(ids), np.bincount(items, minlength=len(ids) + 1)[1:]),
        source="test",
        time_unit="s",
    )
