"""Exact top-k: every item is scored, and what is excluded is never returned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.models.common.scorer import Scorer
from longrec.retrieval.index import (
    ROW_BYTES,
    TopK,
    all_allowed,
    as_bits,
    as_booleans,
    count_allowed,
    row_bytes,
)
from longrec.retrieval.int8_scan import SLACK, Scan, pays
from longrec.retrieval.restriction import ANY_ITEM, Restriction
from longrec.retrieval.top_k import (
    DIRECT_SHARE,
    Best,
    as_top_k,
    best_of,
    best_of_items,
    best_vector,
    score_items,
    search_with_rows,
    threshold,
)
from longrec.retrieval.vectors import ItemVectors

AT_ONCE = 1 << 22
"""Scores held at once."""
LARGE = 50_000
"""Items from which a scan in 8 bits pays, where the processor multiplies them fast: at 20,000 it
does not, at 100,000 it takes a fifth of the time (docs/retrieval.md)."""


class ExactIndex:
    """Exact search over a catalog; see `Index`.

    A score that is a product of vectors is summed in one order, whichever items and users are asked
    for together (`products`), so that items of one vector tie everywhere. Matrix products, or a
    scan in 8 bits in large catalogs (`longrec.retrieval.int8_scan`), find what may be among the
    best.

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
        self._scan: Scan | InFull | None = None
        if not scorer.has_vectors:
            return
        vectors = ItemVectors.of(scorer)
        if in_8_bits is None:
            in_8_bits = (
                vectors.on_cpu
                and vectors.own.dtype == torch.float32
                and self.n_items >= LARGE
                and pays(vectors.own.shape[1])
            )
        self._scan = Scan(vectors) if in_8_bits else InFull(vectors)

    def with_scorer(self, scorer: Scorer) -> Self:
        """The same with another added score; see `Index`."""
        made = copy.copy(self)
        made._scorer = scorer
        if self._scan is not None:
            vectors = self._scan.vectors.with_bias_of(scorer)
            scan = self._scan
            made._scan = scan.with_bias(vectors) if isinstance(scan, Scan) else InFull(vectors)
        return made

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
        # Rows may be as long as the catalog; without them the scan makes blocks of its own.
        block = max(1, AT_ONCE // (self.n_items + 1))
        if self._scan is not None and not self._scorer.has_rows:
            block = max(1, len(h))
        for start in range(0, len(h), block):
            part = slice(start, start + block)
            users, last = h[part].to(self._device), None if recent is None else recent[part]
            barred = excluded if excluded is None or len(excluded) == 1 else excluded[part]
            if self._scan is None:
                found += self._score_pairs(users, width, barred, last)
                continue
            search, vectors = self._scan.search, self._scan.vectors
            of_users = self._scorer.user_vectors(users).cpu().numpy()
            rows = self._scorer.rows(users, last)
            found += search_with_rows(search, vectors, of_users, width, barred, rows)
        return as_top_k(found, width)

    def _score_pairs(
        self, users: Tensor, width: int, excluded: np.ndarray | None, recent: Tensor | None
    ) -> list[Best]:
        """The best items where scores are no products: of all, or of the few that are allowed."""
        found: dict[int, Best] = {}
        for rows, items in self._groups(len(users), excluded):
            at = torch.from_numpy(rows).to(users.device)
            wanted = None if items is None else torch.from_numpy(items).to(users.device)
            last = None if recent is None else recent[torch.from_numpy(rows)]
            if items is not None and not len(items):
                best = [Best(items, np.zeros(0, np.float32))] * len(rows)
            elif items is not None:
                scores = self._scorer.score(users[at], wanted, last).cpu().numpy()
                best = [best_of_items(items, row, width) for row in scores]
            else:
                scores = self._scorer.score(users[at], recent=last).cpu().numpy()
                own = excluded if excluded is None or len(excluded) == 1 else excluded[rows]
                _exclude(scores, own, 0)
                best = [best_of(row, width) for row in scores]
            found |= zip(rows.tolist(), best, strict=True)
        return [found[row] for row in range(len(users))]

    def _groups(
        self, users: int, excluded: np.ndarray | None
    ) -> Iterator[tuple[Ints, Ints | None]]:
        """Users who are scored together, and the items, where few are allowed; None: all."""
        few, everybody = self.n_items // DIRECT_SHARE, np.arange(users)
        chosen = [
            all_allowed(row, self.n_items) if count_allowed(row, self.n_items) <= few else None
            for row in ([] if excluded is None else excluded)
        ]
        if len(chosen) < 2:
            yield everybody, chosen[0] if chosen else None
            return
        whole = np.array([items is None for items in chosen])
        if whole.any():
            yield everybody[whole], None
        for row in everybody[~whole].tolist():
            yield everybody[row : row + 1], chosen[row]


class InFull:
    """All items scored by matrix products, and those that may be among the best one by one.

    Parameters
    ----------
    vectors : ItemVectors
    """

    def __init__(self, vectors: ItemVectors) -> None:
        self.vectors, self._largest = vectors, vectors.largest()

    def search(self, users: np.ndarray, k: int, excluded: np.ndarray | None) -> list[Best]:
        """The k best items for each user; see `Scan.search`."""
        found: list[Best] = []
        block = max(1, AT_ONCE // len(self.vectors))
        for start in range(0, len(users), block):
            part = users[start : start + block]
            scores = self.near(part)
            _exclude(scores, excluded, start)
            for row, user, slack in zip(scores, part, self.slack(part), strict=True):
                least = threshold(row, k) - slack
                items = np.flatnonzero(row >= least if least > -np.inf else row > least)
                found.append(score_items(self.vectors, items, user, k))
        return found

    def near(self, users: np.ndarray) -> np.ndarray:
        """Scores of all items, new memory (n, n_items + 1), each within half a `slack`."""
        flat = users.reshape(-1, users.shape[2])
        if self.vectors.on_cpu:
            return best_vector(self.vectors.products_on_cpu(flat), len(users))
        rows = torch.from_numpy(flat).to(self.vectors.own.device)
        return best_vector(self.vectors.products(rows).cpu().numpy(), len(users))

    def slack(self, users: np.ndarray) -> np.ndarray:
        """How far apart two scores of a user may be found of which one is not below the other."""
        found: np.ndarray = 2 * SLACK * self._largest * np.linalg.norm(users, axis=2).max(1)
        return found


def _exclude(scores: np.ndarray, excluded: np.ndarray | None, start: int) -> None:
    """Put padding and excluded items of users `start`, ... behind all others in scores (n, N)."""
    scores[:, 0] = -np.inf
    if excluded is not None:
        rows = excluded if len(excluded) == 1 else excluded[start : start + len(scores)]
        np.copyto(scores, -np.inf, where=as_booleans(rows, scores.shape[1] - 1))


@torch.inference_mode()
def similar(vectors: Tensor, items: Ints, k: int, restriction: Restriction = ANY_ITEM) -> TopK:
    """The k items of the largest cosine with each of some items, itself left out.

    Parameters
    ----------
    vectors : Tensor
        (n_items + 1, D), row 0 is padding.
    items : ndarray
        (n,) item indices, 1 .. n_items.
    k : int
        Items wanted.
    restriction : Restriction
        What is left out besides, for all or for each of the n.

    Returns
    -------
    TopK
        On the CPU, (n, min(k, n_items)); the scores are cosines.
    """
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    sizes = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    unit = vectors / sizes.clamp_min(torch.finfo(vectors.dtype).tiny)
    whole, n_items = unit.cpu().numpy(), len(vectors) - 1
    index, width = InFull(ItemVectors(unit)), min(k, n_items)
    found: list[Best] = []
    at_once = max(1, ROW_BYTES // row_bytes(n_items))
    for start in range(0, len(items), at_once):
        part = np.arange(start, min(start + at_once, len(items)))
        own = np.stack([as_bits([item], n_items) for item in items[part].tolist()])
        barred = restriction.rows(part, own)
        found += index.search(whole[items[part]][:, None], width, barred)
    return as_top_k(found, width)
