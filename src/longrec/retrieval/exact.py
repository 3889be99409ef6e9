"""Exact top-k: every item is scored, and what is excluded is never returned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longrec.models.common.scorer import Scorer
from longrec.retrieval.index import TopK, as_booleans, vectors_of
from longrec.retrieval.int8_scan import SLACK, Scan, pays
from longrec.retrieval.top_k import (
    Best,
    as_top_k,
    best_of,
    best_vector,
    score_items,
    search_with_rows,
    threshold,
)

AT_ONCE = 1 << 22
"""Scores held at once."""
LARGE = 50_000
"""Items from which a scan in 8 bits pays, where the processor multiplies them fast: at 20,000 it
does not, at 100,000 it takes a fifth of the time (docs/retrieval.md)."""


class ExactIndex:
    """Exact search over a catalog; see `Index`.

    Large catalogs are scanned in 8 bits first (`longrec.retrieval.int8_scan`), where the processor
    multiplies these fast: items and scores are the same to the bit as those of a scan in full.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode, on any device.
    in_8_bits : bool or None
        Whether to scan in 8 bits first; None: in a large catalog, where the processor is made
        for it.
    """

    name, recall = "exact", 1.0

    def __init__(self, scorer: Scorer, in_8_bits: bool | None = None) -> None:
        self._scorer, self._device, self.n_items = scorer, scorer.model.device, scorer.n_items
        self._vectors = vectors = vectors_of(scorer)
        self._scan: Scan | InFull | None = None
        if vectors is None or vectors.dtype != np.float32:
            return
        if in_8_bits is None:
            in_8_bits = self.n_items >= LARGE and pays(vectors.shape[1] - scorer.has_bias)
        if in_8_bits:
            self._scan = Scan(vectors, scorer.has_bias)
        elif self.n_items >= LARGE:
            self._scan = InFull(vectors)

    @property
    def in_8_bits(self) -> bool:
        """Whether items are scanned in 8 bits first."""
        return isinstance(self._scan, Scan)

    @torch.inference_mode()
    def search(
        self,
        h: Tensor,
        k: int,
        excluded: np.ndarray | None = None,
        recent: Tensor | None = None,
    ) -> TopK:
        """The k best items of each user."""
        width = min(k, self.n_items)
        found: list[Best] = []
        if self._scan is not None:
            search, vectors, users = self._scan.search, self._scan.vectors, self._users(h)
            rows = self._scorer.rows(recent)
            return as_top_k(search_with_rows(search, vectors, users, width, excluded, rows), width)
        block = max(1, AT_ONCE // (self.n_items + 1))
        for start in range(0, len(h), block):
            scores = self._scores(
                h[start : start + block], None if recent is None else recent[start : start + block]
            )
            _exclude(scores, excluded, start)
            found += [best_of(row, width) for row in scores]
        return as_top_k(found, width)

    def _scores(self, h: Tensor, recent: Tensor | None) -> np.ndarray:
        """(n, n_items + 1), new memory."""
        if self._vectors is None:
            return self._scorer.score(h.to(self._device), recent=recent).cpu().numpy()
        users = self._users(h)
        scores = best_vector(users.reshape(-1, users.shape[-1]) @ self._vectors.T, len(users))
        rows = self._scorer.rows(recent)
        if rows is not None:
            row, item, value = (part.numpy() for part in rows)
            scores[row, item] += value.astype(scores.dtype)
        return scores

    def _users(self, h: Tensor) -> np.ndarray:
        """User vectors (n, R, D)."""
        return self._scorer.user_vectors(h).numpy()


class InFull:
    """All items scored by matrix products, and those that may be among the best one by one.

    Parameters
    ----------
    vectors : ndarray
        (n_items + 1, D) float32, row 0 is padding; kept, not copied.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self._slack = 2 * SLACK * float(np.einsum("nd,nd->n", vectors, vectors).max()) ** 0.5

    def search(self, users: np.ndarray, k: int, excluded: np.ndarray | None) -> list[Best]:
        """The k best items for each user; see `Scan.search`."""
        found: list[Best] = []
        block = max(1, AT_ONCE // len(self.vectors))
        for start in range(0, len(users), block):
            part = users[start : start + block]
            products = part.reshape(-1, part.shape[2]) @ self.vectors.T
            scores = best_vector(products, len(part))
            _exclude(scores, excluded, start)
            for row, user in zip(scores, part, strict=True):
                least = threshold(row, k) - self._slack * np.linalg.norm(user, axis=1).max()
                items = np.flatnonzero(row >= least if least > -np.inf else row > least)
                found.append(score_items(self.vectors, items, user, k))
        return found


def _exclude(scores: np.ndarray, excluded: np.ndarray | None, start: int) -> None:
    """Put padding and excluded items of users `start`, ... behind all others in scores (n, N)."""
    scores[:, 0] = -np.inf
    if excluded is not None:
        rows = excluded if len(excluded) == 1 else excluded[start : start + len(scores)]
        np.copyto(scores, -np.inf, where=as_booleans(rows, scores.shape[1] - 1))


@torch.inference_mode()
def similar(vectors: Tensor, item: int, k: int) -> tuple[Tensor, Tensor]:
    """The k items of the largest cosine with an item, itself left out.

    Parameters
    ----------
    vectors : Tensor
        (n_items + 1, D), row 0 is padding.
    item : int
        Item index, 1 .. n_items.
    k : int
        Items wanted.

    Returns
    -------
    (Tensor, Tensor)
        Item indices (m,) and cosines (m,), best first, m = min(k, n_items - 1).
    """
    sizes = torch.linalg.vector_norm(vectors, dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    cosines = (vectors @ (vectors[item] / sizes[item])) / sizes
    cosines[[0, item]] = -torch.inf
    best = cosines.topk(max(0, min(k, len(vectors) - 2)))
    return best.indices.cpu(), best.values.cpu()
