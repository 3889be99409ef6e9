"""What an index is: the best items of the catalog for users, but for those that are excluded.

Excluded items are rows of bits: bit i of a row, the lowest of a byte first, is of item index i.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.models.common.scorer import Scorer

ROW_BYTES = 1 << 25
"""Bytes of rows of bits that are in memory at once."""
PERSONAL, COLD = "personal", "cold"
"""How a user's items were found: by the model from a history, or without one the popular items."""


class TopK(NamedTuple):
    """Best items per user: scores and items, both (n, k); -inf and 0 where items ran out."""

    scores: Tensor
    items: Tensor


class Index(Protocol):
    """Finds items; for any number of threads.

    Attributes
    ----------
    name : "exact", or what an approximate one is.
    recall : recall@10 against exact search, measured when it was built; 1.0 of an exact one.
    n_items : items of the catalog.
    """

    name: str
    recall: float
    n_items: int

    def search(
        self,
        h: Tensor,
        k: int,
        excluded: np.ndarray | None = None,
        recent: Tensor | None = None,
    ) -> TopK:
        """The best items of each user.

        Parameters
        ----------
        h : Tensor
            (n, D), what the model knows of each user.
        k : int
            Items per user.
        excluded : ndarray or None
            (n, n_items // 8 + 1) uint8, or (1, ...) for all users: an item index whose bit is set,
            the lowest of a byte first, is not returned.
        recent : Tensor or None
            (n, reach) int64, the last known items that an added score reads; see `Scorer.score`.

        Returns
        -------
        TopK
            On the CPU, (n, min(k, n_items)), best first; of equal scores the smaller item index.
            The scores are those of the `Scorer`. Fewer are found only where fewer are allowed.
        """

    def with_scorer(self, scorer: Scorer) -> Self:
        """The same items by the same model, with another added score of the same reach.

        This one stays as it is. What is made of the model's vectors alone is shared.
        """


def row_bytes(n_items: int) -> int:
    """Bytes of a row: a bit for each item index, padding included."""
    return n_items // 8 + 1


def as_bits(items: Ints | list[int], n_items: int) -> np.ndarray:
    """Item indices as a row (row_bytes,) of uint8."""
    whole = np.zeros(8 * row_bytes(n_items), bool)
    whole[items] = True
    return np.packbits(whole, bitorder="little")


def as_booleans(rows: np.ndarray, n_items: int) -> np.ndarray:
    """Rows (n, row_bytes) as booleans (n, n_items + 1)."""
    return np.unpackbits(rows, axis=-1, count=n_items + 1, bitorder="little").view(bool)


def allowed(row: np.ndarray, items: Ints) -> Ints:
    """Those of some items that a row does not exclude."""
    found: Ints = items[row[items >> 3] >> (items & 7).astype(np.uint8) & 1 == 0]
    return found


def count_allowed(row: np.ndarray, n_items: int) -> int:
    """How many items a row allows; up to eight less where bits beside the items are set."""
    words = len(row) // 8 * 8
    excluded = np.bitwise_count(row[:words].view(np.uint64)).sum(dtype=np.int64)
    return n_items - int(excluded) - int(np.bitwise_count(row[words:]).sum())


def all_allowed(row: np.ndarray, n_items: int) -> Ints:
    """All items that a row does not exclude."""
    items = np.flatnonzero(~as_booleans(row, n_items))
    return items[items > 0]
