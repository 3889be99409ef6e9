"""The best of many scores, without sorting them: block by block first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from longrec.core.arrays import Ints

BLOCKS, LARGEST = 128, 1024
"""Blocks that scores are cut into, at least, and scores of one at most."""


class Best(NamedTuple):
    """The best items (m,) and their scores (m,), best first; of equal scores the smaller item."""

    items: Ints
    scores: np.ndarray


def best_vector(products: np.ndarray, users: int) -> np.ndarray:
    """Products (users R, m) of users' R vectors -> per user and item the best one (users, m)."""
    if len(products) == users:
        return products
    found: np.ndarray = products.reshape(users, -1, products.shape[1]).max(1)
    return found


def reached(scores: np.ndarray, k: int) -> Any:
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
    least = reached(scores, k)
    items = np.flatnonzero(scores >= least if least > -np.inf else scores > least)
    return first(items, scores[items], k)


def first(items: Ints, scores: np.ndarray, k: int) -> Best:
    """The k best of items, whose indices ascend, by scores of their own."""
    if len(items) > 8 * k:  # a sort of all would take long
        reach = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
        items, scores = items[reach], scores[reach]
    order = np.argsort(-scores, kind="stable")[:k]
    return Best(items[order], scores[order])
