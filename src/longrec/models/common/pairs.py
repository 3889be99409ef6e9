"""Pairs of items that stood one after the other, and what they count: summed, and put in a table.

A pair's key is a (n_items + 1) + i, for item i that stood after item a, so that keys in order are
the rows of a table in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longrec.core.arrays import Ints


class Pairs(NamedTuple):
    """Keys (m,), ascending and each once, and what each counts (m,)."""

    key: Ints
    times: np.ndarray

    def plus(self, other: Pairs) -> Pairs:
        """Both together."""
        key = np.concatenate([self.key, other.key])
        return Pairs(*summed(key, np.concatenate([self.times, other.times])))


NO_PAIRS = Pairs(np.zeros(0, np.int64), np.zeros(0))


def pairs_of(items: Ints, owner: Ints, new: np.ndarray, weights: np.ndarray, n_items: int) -> Pairs:
    """The pairs that new events end: their items came 1, 2, … events after others of their users.

    Parameters
    ----------
    items : ndarray
        (n,) item indices, the events of a user in their order and next to each other.
    owner : ndarray
        (n,) a number of whose they are.
    new : ndarray
        (n,) bool; the others are only come after.
    weights : ndarray
        What a pair counts, by the distance from 1 on.
    n_items : int
        Items of the catalog.
    """
    keys, times = [NO_PAIRS.key], [NO_PAIRS.times]
    for distance, weight in enumerate(weights.tolist(), 1):
        ends = np.flatnonzero(new[distance:] & (owner[distance:] == owner[:-distance])) + distance
        keys.append(items[ends - distance].astype(np.int64) * (n_items + 1) + items[ends])
        times.append(np.full(len(ends), weight))
    return Pairs(*summed(np.concatenate(keys), np.concatenate(times)))


def summed(key: Ints, counts: np.ndarray) -> tuple[Ints, np.ndarray]:
    """Keys, ascending and each once, with the sums of their counts."""
    order = np.argsort(key, kind="stable")  # quick where two sorted runs are one after the other
    key, counts = key[order], counts[order]
    first = firsts(key)
    return key[first], np.add.reduceat(counts, first) if len(key) else counts


def firsts(key: Ints) -> Ints:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.diff(key, prepend=-1))


class PairSums:
    """Pairs of many parts summed up as they come, each added to one of about its own size."""

    def __init__(self) -> None:
        self._parts: list[Pairs] = []

    def add(self, pairs: Pairs) -> None:
        """Take in a part."""
        self._parts.append(pairs)
        while len(self._parts) > 1 and len(self._parts[-2].key) <= 2 * len(self._parts[-1].key):
            last = self._parts.pop()
            self._parts[-1] = self._parts[-1].plus(last)

    def total(self) -> Pairs:
        """All together."""
        found = NO_PAIRS
        for part in reversed(self._parts):
            found = part.plus(found)
        return found
