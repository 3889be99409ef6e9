"""Scores of all items in blocks, exact around one item of each user: what its rank is counted from.

All users of a call share each block of item vectors, which is read from memory once for them: of
two million items the vectors of one user alone are half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.models.common.base import AddedRows
from longrec.models.common.scorer import Scorer
from longrec.retrieval.exact import InFull
from longrec.retrieval.int8_scan import SLACK
from longrec.retrieval.top_k import products_of_pairs
from longrec.retrieval.vectors import ItemVectors

BLOCK, BLOCK_ON_GPU = 1 << 20, 1 << 26
"""Scores of a block: near to a core they stay in its cache."""
NARROWEST = 1024
"""Items of a block, at least."""
PAIRS_AT_ONCE = 1 << 18
"""Pairs of a user and an item scored one by one at once."""


class Block(NamedTuple):
    """Scores (n, m) of items first, first + 1, …, m of them, for n users."""

    first: int
    scores: Tensor


class Around:
    """The scores of all items for some users, those near one item of each as a search gives them.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode, on any device. Weights may not change while this is used.

    Attributes
    ----------
    holds : scores that are held at once for each user, whatever is asked.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._full, self.holds = scorer, None, scorer.n_items + 1
        if scorer.has_vectors:
            self._full = InFull(ItemVectors.of(scorer))
            self.holds = NARROWEST

    @torch.inference_mode()
    def scores(
        self, h: Tensor, items: Tensor, recent: Tensor | None = None
    ) -> tuple[Tensor, Iterator[Block]]:
        """Scores of the users' own items, and of all items.

        Parameters
        ----------
        h : Tensor
            (n, D), what the model knows of each user.
        items : Tensor
            (n,) int64, an item index of each user; 0, which is no item, has the score -inf.
        recent : Tensor or None
            As of `Index.search`.

        Returns
        -------
        own : Tensor
            (n,) scores of `items`, to the bit as `ExactIndex.search` gives them.
        blocks : iterator of Block
            All items from 1 on in their order. Scores that may tie with a user's own are those of a
            search, too; of the others it is certain whether they lie above it or below.
        """
        if self._full is None:
            scores = self._scorer.score(h, recent=recent)
            own = scores.gather(1, items[:, None])[:, 0]
            return own, iter([Block(1, scores[:, 1:])])
        users, rows = self._scorer.user_vectors(h), self._scorer.rows(h, recent)
        return self._around(users, items, None if rows is None else _by_item(rows, users))

    def _around(
        self, users: Tensor, items: Tensor, rows: AddedRows | None
    ) -> tuple[Tensor, Iterator[Block]]:
        assert self._full is not None
        whole = users.cpu().numpy()
        every = torch.arange(len(users), device=users.device)
        own = self._exactly(whole, every, items)
        slack = torch.from_numpy(self._full.slack(whole)).to(own)
        if rows is not None:
            wanted = rows.item == items[rows.row]
            own[rows.row[wanted]] += rows.value[wanted]
            largest = torch.zeros_like(own).scatter_reduce_(0, rows.row, rows.value.abs(), "amax")
            slack += SLACK * largest
        own = own.masked_fill(items == 0, -torch.inf)
        return own, self._blocks(users, whole, own, slack, rows)

    def _blocks(
        self, users: Tensor, whole: np.ndarray, own: Tensor, slack: Tensor, rows: AddedRows | None
    ) -> Iterator[Block]:
        assert self._full is not None
        vectors = self._full.vectors
        n, interests = users.shape[:2]
        at_once = BLOCK_ON_GPU if users.is_cuda else BLOCK
        width = max(NARROWEST, at_once // max(1, n * interests))
        flat = users.flatten(0, 1)
        low, high = (own - slack)[:, None], (own + slack)[:, None]
        for first in range(1, len(vectors), width):
            end = min(first + width, len(vectors))
            scores = vectors.products(flat, first, end).unflatten(0, (n, interests))
            scores = scores[:, 0] if interests == 1 else scores.amax(1)
            here = None
            if rows is not None:
                here = _between(rows, first, end)
                scores[here.row, here.item - first] += here.value
            if vectors.width > 1:  # a sum of one product has one order
                near = ~((scores < low) | (scores > high))
                self._settle(scores, near, whole, first, here)
            yield Block(first, scores)

    def _settle(
        self, scores: Tensor, near: Tensor, users: np.ndarray, first: int, rows: AddedRows | None
    ) -> None:
        """Put the scores of a search where they are near a user's own."""
        row, column = near.nonzero(as_tuple=True)
        if not len(row):
            return
        added = None
        if rows is not None:
            added = torch.zeros_like(scores)
            added[rows.row, rows.item - first] = rows.value
        for start in range(0, len(row), PAIRS_AT_ONCE):
            at = row[start : start + PAIRS_AT_ONCE], column[start : start + PAIRS_AT_ONCE]
            found = self._exactly(users, at[0], at[1] + first)
            scores[at] = found if added is None else found + added[at]

    def _exactly(self, users: np.ndarray, row: Tensor, items: Tensor) -> Tensor:
        assert self._full is not None
        pairs = items.cpu().numpy(), users, row.cpu().numpy()
        vectors = self._full.vectors
        return torch.from_numpy(products_of_pairs(vectors, *pairs)).to(vectors.own)


def _by_item(rows: AddedRows, users: Tensor) -> AddedRows:
    """Rows where the users are and in their type, in the order of items."""
    row, item, value = (part.to(users.device) for part in rows)
    order = item.argsort()
    return AddedRows(row[order], item[order], value[order].to(users))


def _between(rows: AddedRows, first: int, end: int) -> AddedRows:
    """Those of items first .. end - 1."""
    bounds = torch.tensor([first, end], device=rows.item.device)
    low, high = torch.searchsorted(rows.item, bounds).tolist()
    return AddedRows(*(part[low:high] for part in rows))
