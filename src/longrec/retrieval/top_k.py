"""The best of many scores without sorting them, and of few items without any search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from longrec.core.arrays import Ints
from longrec.retrieval.index import TopK, all_allowed, count_allowed

BLOCKS, LARGEST = 128, 1024
"""Blocks that scores are cut into, at least, and scores of one at most."""
DIRECT_SHARE = 16
"""Where one in so many items is allowed, or fewer, all of them are scored without a search."""


class Best(NamedTuple):
    """The best items (m,) and their scores (m,), best first; of equal scores the smaller item."""

    items: Ints
    scores: np.ndarray


Search = Callable[[np.ndarray, int, np.ndarray | None], list[Best]]
"""Users (n, R, D), k, rows of excluded items or None -> the best items of each user."""


def best_vector(products: np.ndarray, users: int) -> np.ndarray:
    """Products (users R, m) of users' R vectors -> per user and item the best one (users, m)."""
    if len(products) == users:
        return products
    found: np.ndarray = products.reshape(users, -1, products.shape[1]).max(1)
    return found


def threshold(scores: np.ndarray, k: int) -> Any:
    """A score that at least k of all scores (m,) reach, near the k-th best; the lowest one if there
    are fewer. With few k it is the k-th best of the blocks' best ones."""
    if k >= len(scores):
        return scores.min()
    block = max(1, min(LARGEST, len(scores) // BLOCKS))
    whole = len(scores) - len(scores) % block
    peaks = scores[:whole].reshape(-1, block).max(1)
    if 4 * k >= len(peaks):
        peaks = scores
    return np.partition(peaks, len(peaks) - k)[len(peaks) - k]


def best_of(scores: np.ndarray, k: int) -> Best:
    """The k best items of scores (m,), but for those of -inf."""
    least = threshold(scores, k)
    items = np.flatnonzero(scores >= least if least > -np.inf else scores > least)
    return best_of_items(items, scores[items], k)


def best_of_items(items: Ints, scores: np.ndarray, k: int) -> Best:
    """The k best of items, whose indices ascend, by scores of their own."""
    if len(items) > 8 * k:  # a sort of all would take long
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores >= kth)
        items, scores = items[above], scores[above]
    order = np.argsort(-scores, kind="stable")[:k]
    return Best(items[order], scores[order])


def score_items(vectors: np.ndarray, items: Ints, user: np.ndarray, k: int) -> Best:
    """The k best of some items, whose indices ascend, for one user (R, D), each scored in full."""
    return best_of_items(items, (vectors.take(items, 0) @ user.T).max(1), k)


def search_or_score(
    search: Search, vectors: np.ndarray, users: np.ndarray, k: int, excluded: np.ndarray | None
) -> list[Best]:
    """The best items of each user: searched for, or all scored where few items are allowed.

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
    excluded : ndarray or None
        Rows of bits, n of them or one; see `Index.search`.
    """
    if excluded is None:
        return search(users, k, None)
    n_items = len(vectors) - 1
    direct = max(k, n_items // DIRECT_SHARE)
    items_of = [
        all_allowed(row, n_items) if count_allowed(row, n_items) <= direct else None
        for row in excluded
    ]
    if len(excluded) == 1 and items_of[0] is not None:
        return [score_items(vectors, items_of[0], user, k) for user in users]
    searched = [row for row, items in enumerate(items_of) if items is None]
    if len(searched) == len(excluded):
        return search(users, k, excluded)
    found = iter(search(users[searched], k, excluded[searched]) if searched else ())
    return [
        next(found) if items is None else score_items(vectors, items, user, k)
        for user, items in zip(users, items_of, strict=True)
    ]


def as_top_k(found: Sequence[Best], k: int) -> TopK:
    """What was found for each user as one result."""
    scores = np.full((len(found), k), -np.inf, found[0].scores.dtype if found else np.float32)
    items = np.zeros((len(found), k), np.int64)
    for row, best in enumerate(found):
        scores[row, : len(best.items)], items[row, : len(best.items)] = best.scores, best.items
    return TopK(torch.from_numpy(scores), torch.from_numpy(items))
