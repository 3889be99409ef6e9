"""What an index is: the best items of the catalog for users, but for those that are barred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from longrec.retrieval.best import Best

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

    def search(self, h: Tensor, k: int, barred: np.ndarray | None = None) -> TopK:
        """The best items of each user.

        Parameters
        ----------
        h : Tensor
            (n, D), what the model knows of each user.
        k : int
            Items per user.
        barred : ndarray or None
            (n, n_items // 8 + 1) uint8, or (1, ...) for all users: an item index whose bit is set,
            the lowest of a byte first, is not returned.

        Returns
        -------
        TopK
            On the CPU, (n, min(k, n_items)), best first; of equal scores the smaller item index.
            The scores are the model's own. Fewer are found only where fewer are allowed.
        """


def as_top_k(found: Sequence[Best], k: int) -> TopK:
    """What was found for each user as one result."""
    scores = np.full((len(found), k), -np.inf, found[0].scores.dtype if found else np.float32)
    items = np.zeros((len(found), k), np.int64)
    for row, one in enumerate(found):
        scores[row, : len(one.items)], items[row, : len(one.items)] = one.scores, one.items
    return TopK(torch.from_numpy(scores), torch.from_numpy(items))
