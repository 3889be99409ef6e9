"""Users to whom few items are allowed: to score these one by one takes less than any search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from longrec.core.arrays import Ints
from longrec.retrieval.best import Best, first
from longrec.retrieval.item_mask import all_allowed, many_allowed

FEW = 16
"""Where one in so many items is allowed, or fewer, they are scored one by one."""

Search = Callable[[np.ndarray, int, np.ndarray | None], list[Best]]
"""Users (n, R, D), k, rows of bits or None -> the best items of each user."""


def search_beside_few(
    search: Search, vectors: np.ndarray, users: np.ndarray, k: int, barred: np.ndarray | None
) -> list[Best]:
    """The best items of each user, searched for where many are allowed.

    Parameters
    ----------
    search : callable
        Asked for the users to whom many items are allowed.
    vectors : ndarray
        (n_items + 1, D), row 0 is padding.
    users : ndarray
        (n, R, D).
    k : int
        Items wanted.
    barred : ndarray or None
        Rows of bits, n of them or one; see `Index.search`.
    """
    if barred is None:
        return search(users, k, None)
    few = [_few(row, len(vectors) - 1, k) for row in barred]
    if len(barred) == 1 and few[0] is not None:
        return [best_among(vectors, few[0], user, k) for user in users]
    many = [row for row, items in enumerate(few) if items is None]
    if len(many) == len(barred):
        return search(users, k, barred)
    searched = iter(search(users[many], k, barred[many]) if many else ())
    return [
        next(searched) if items is None else best_among(vectors, items, user, k)
        for user, items in zip(users, few, strict=True)
    ]


def best_among(vectors: np.ndarray, items: Ints, user: np.ndarray, k: int) -> Best:
    """The k best of some items, whose indices ascend, for one user (R, D)."""
    return first(items, (vectors.take(items, 0) @ user.T).max(1), k)


def _few(row: np.ndarray, n_items: int, k: int) -> Ints | None:
    """All items that a row does not bar, if they are few."""
    if many_allowed(row, n_items) > max(k, n_items // FEW):
        return None
    return all_allowed(row, n_items)
