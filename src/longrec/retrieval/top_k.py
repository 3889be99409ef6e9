"""The best of many scores without sorting them, of few items without any search, and of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from longrec.core.arrays import Ints
from longrec.models.common.base import AddedRows
from longrec.retrieval.index import TopK, all_allowed, allowed, as_bits, count_allowed
from longrec.retrieval.vectors import ItemVectors

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


class Peaks:
    """Scores (m,) in blocks, of each of which the best one is known: where high ones are wanted,
    few blocks are looked at."""

    def __init__(self, scores: np.ndarray) -> None:
        block = max(1, min(LARGEST, len(scores) // BLOCKS))
        self._scores, self._whole = scores, len(scores) - len(scores) % block
        self._blocks = scores[: self._whole].reshape(-1, block)
        self._peaks = self._blocks.max(1)

    def threshold(self, k: int) -> Any:
        """A score that at least k of all reach, near the k-th best; the lowest one if there are
        fewer. With few k it is the k-th best of the blocks' best ones."""
        if k >= len(self._scores):
            return self._scores.min()
        among = self._scores if 4 * k >= len(self._peaks) else self._peaks
        return np.partition(among, len(among) - k)[len(among) - k]

    def at_least(self, least: Any) -> Ints:
        """The places, ascending, of all scores that are at least so much."""
        high = np.flatnonzero(self._peaks >= least)
        if 4 * len(high) > len(self._peaks):
            return np.flatnonzero(self._scores >= least)
        block, place = np.nonzero(self._blocks[high] >= least)
        end = self._whole + np.flatnonzero(self._scores[self._whole :] >= least)
        return np.concatenate([high[block] * self._blocks.shape[1] + place, end])


def threshold(scores: np.ndarray, k: int) -> Any:
    """As `Peaks.threshold`."""
    return Peaks(scores).threshold(k)


def best_of(scores: np.ndarray, k: int) -> Best:
    """The k best items of scores (m,), but for those of -inf."""
    peaks = Peaks(scores)
    least = peaks.threshold(k)
    items = peaks.at_least(least) if least > -np.inf else np.flatnonzero(scores > least)
    return best_of_items(items, scores[items], k)


def best_of_items(items: Ints, scores: np.ndarray, k: int) -> Best:
    """The k best of items, whose indices ascend, by scores of their own."""
    if len(items) > 8 * k:  # a sort of all would take long
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores >= kth)
        items, scores = items[above], scores[above]
    order = np.argsort(-scores, kind="stable")[:k]
    return Best(items[order], scores[order])


def score_items(vectors: ItemVectors, items: Ints, user: np.ndarray, k: int) -> Best:
    """The k best of some items, whose indices ascend, for one user (R, D), each scored in full."""
    return best_of_items(items, products(vectors, items, user), k)


def products(vectors: ItemVectors, items: Ints, user: np.ndarray) -> np.ndarray:
    """Scores (m,) of some items for one user (R, D).

    Each is summed in the same order whichever items are asked for, unlike in a matrix product, so
    that an item's score is the same to the bit however it was found.
    """
    some = vectors.take(items)
    scores: np.ndarray = np.einsum("md,d->m", some, user[0])
    for interest in user[1:]:
        np.maximum(scores, np.einsum("md,d->m", some, interest), out=scores)
    return scores


def products_of_pairs(
    vectors: ItemVectors, items: Ints, users: np.ndarray, row: Ints
) -> np.ndarray:
    """Scores (m,) of items for users row (m,) of (n, R, D), each the one that `products` gives."""
    some = vectors.take(items)
    scores: np.ndarray = np.einsum("md,md->m", some, users[row, 0])
    for interest in range(1, users.shape[1]):
        np.maximum(scores, np.einsum("md,md->m", some, users[row, interest]), out=scores)
    return scores


def search_or_score(
    search: Search, vectors: ItemVectors, users: np.ndarray, k: int, excluded: np.ndarray | None
) -> list[Best]:
    """The best items of each user: searched for, or all scored where few items are allowed.

    Parameters
    ----------
    search : callable
        Asked for the users to whom many items are allowed.
    vectors : ItemVectors
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


def search_with_rows(
    search: Search,
    vectors: ItemVectors,
    users: np.ndarray,
    k: int,
    excluded: np.ndarray | None,
    rows: AddedRows | None,
) -> list[Best]:
    """The best items of each user, some of whose items get something added to their scores.

    The others are searched for as ever, those of the rows are scored one by one, and both are
    merged: nothing is lost. Parameters as of `search_or_score`; `rows`: what is added, or None.
    """
    if rows is None or not len(users):
        return search_or_score(search, vectors, users, k, excluded)
    added, masks = [], []
    for number, (items, values) in enumerate(_by_user(rows, len(users))):
        mask = as_bits(items, len(vectors) - 1)
        if excluded is not None:
            barred = excluded[number if len(excluded) > 1 else 0]
            free = allowed(barred, items)
            values, mask = values[np.searchsorted(items, free)], mask | barred
            items = free
        scores = products(vectors, items, users[number])
        added.append(Best(items, scores + values.astype(scores.dtype)))
        masks.append(mask)
    found = search_or_score(search, vectors, users, k, np.stack(masks))
    return [merge(one, other, k) for one, other in zip(found, added, strict=True)]


def merge(one: Best, other: Best, k: int) -> Best:
    """The k best of two lists without an item in common; of equal scores the smaller item."""
    items = np.concatenate([one.items, other.items])
    scores = np.concatenate([one.scores, other.scores])
    order = np.lexsort((items, -scores))[:k]
    return Best(items[order], scores[order])


def _by_user(rows: AddedRows, users: int) -> list[tuple[Ints, np.ndarray]]:
    """The items, ascending, and values of each user."""
    row, item, value = (part.cpu().numpy() for part in rows)
    order = np.lexsort((item, row))
    bounds = np.searchsorted(row[order], np.arange(1, users))
    parts = (np.split(part[order], bounds) for part in (item, value))
    return list(zip(*parts, strict=True))


def as_top_k(found: Sequence[Best], k: int) -> TopK:
    """What was found for each user as one result."""
    scores = np.full((len(found), k), -np.inf, found[0].scores.dtype if found else np.float32)
    items = np.zeros((len(found), k), np.int64)
    for row, best in enumerate(found):
        scores[row, : len(best.items)], items[row, : len(best.items)] = best.scores, best.items
    return TopK(torch.from_numpy(scores), torch.from_numpy(items))
