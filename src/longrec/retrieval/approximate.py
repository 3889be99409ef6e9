"""Approximate top-k: items in cells by direction (an inverted file), of which some are probed.

The cells hold vectors in 8 bits, so that a million of width 64 take 69 MiB; the best that are found
with these are scored in full.

The index decides which items are looked at. Everything else is exact: scores are the recommender's
own, items that an added score has rows of are all scored, an excluded item is never returned, and
where fewer items are allowed or found than wanted, exact search answers.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from longrec.models.common.scorer import Scorer
from longrec.retrieval.cells import faiss_package
from longrec.retrieval.index import TopK, all_allowed, count_allowed
from longrec.retrieval.top_k import Best, as_top_k, score_items, search_with_rows
from longrec.retrieval.vectors import checked_vectors

RESCORED = 4
"""Items found in 8 bits, for each one wanted, that are scored in full."""


class CellIndex:
    """Inverted-file search over item vectors on the CPU; see `Index`.

    Parameters
    ----------
    scorer : Scorer
        Whose scores are products of vectors, but for added rows; of a model in eval mode.
    cells : faiss.IndexIVFScalarQuantizer
        Made from these vectors (`longrec.retrieval.cells`).
    probes : int
        Cells that are searched per user vector.
    recall : float
        Measured with that.
    """

    name = "faiss-ivf"

    def __init__(self, scorer: Scorer, cells: Any, probes: int, recall: float = 0.0) -> None:
        self._scorer, self._vectors, self.cells = scorer, checked_vectors(scorer), cells
        self.n_items, self.probes, self.recall = scorer.n_items, probes, recall

    def with_scorer(self, scorer: Scorer) -> Self:
        """The same cells, made with the bias of before, from which alone an item is looked at; what
        is found in them is scored with the new one. See `Index`."""
        return type(self)(scorer, self.cells, self.probes, self.recall)

    @torch.inference_mode()
    def search(
        self,
        h: Tensor,
        k: int,
        excluded: np.ndarray | None = None,
        recent: Tensor | None = None,
    ) -> TopK:
        """The best items of each user among those in the cells that are probed, and of the rows."""
        width = min(k, self.n_items)
        users, rows = self._scorer.user_vectors(h).numpy(), self._scorer.rows(h, recent)
        search, vectors = self._search_cells, self._vectors
        return as_top_k(search_with_rows(search, vectors, users, width, excluded, rows), width)

    def _search_cells(self, users: np.ndarray, k: int, excluded: np.ndarray | None) -> list[Best]:
        """The best items of users (n, R, D), for each or for all of whom items are excluded."""
        if excluded is None or len(excluded) == 1:
            return self._search_alike(users, k, None if excluded is None else excluded[0])
        rows = zip(users, excluded, strict=True)
        return [self._search_alike(user[None], k, row)[0] for user, row in rows]

    def _search_alike(self, users: np.ndarray, k: int, excluded: np.ndarray | None) -> list[Best]:
        """The same of users for whom the same items are excluded."""
        faiss, selector, probes = faiss_package(), None, self.probes
        if excluded is not None:
            bits = faiss.IDSelectorBitmap(np.ascontiguousarray(excluded))
            selector = faiss.IDSelectorNot(bits)
            # As many items as with none excluded: where few are allowed, the best lie far apart.
            n_allowed = count_allowed(excluded, self.n_items)
            probes = min(self.cells.nlist, probes * self.n_items // n_allowed)
        options = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        flat = np.ascontiguousarray(users.reshape(-1, users.shape[2]))
        _, items = self.cells.search(flat, RESCORED * k, params=options)
        found = []
        for user, row in zip(users, items.reshape(len(users), -1), strict=True):
            near = np.unique(row[row > 0])  # -1 stands for none
            if len(near) >= k:
                found.append(score_items(self._vectors, near, user, k))
            else:  # the cells that were probed hold too few items
                found.append(self._search_all(user, k, excluded))
        return found

    def _search_all(self, user: np.ndarray, k: int, excluded: np.ndarray | None) -> Best:
        """The exact answer for one user (R, D)."""
        if excluded is None:
            items = np.arange(1, self.n_items + 1)
        else:
            items = all_allowed(excluded, self.n_items)
        return score_items(self._vectors, items, user, k)
