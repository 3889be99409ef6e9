"""Exact top-k: every item is scored, and what is excluded is never returned."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from longrec.models import Model, SequenceModel
from longrec.retrieval.index import TopK, as_booleans, vectors_of
from longrec.retrieval.int8_scan import Scan, multiplies_exactly
from longrec.retrieval.top_k import Best, as_top_k, best_of, best_vector, search_or_score

AT_ONCE = 1 << 22
"""Scores held at once."""
LARGE = 20_000
"""Items from which a scan in 8 bits may be ahead of one in full: both are timed then."""
TRIALS = 5


class ExactIndex:
    """Exact search over a model's catalog; see `Index`.

    Scores are the model's own. Large catalogs are scanned in 8 bits first
    (`longrec.retrieval.int8_scan`: the result is the same), where that is faster on this machine.

    Parameters
    ----------
    model : Model
        In eval mode, on any device.
    """

    name, recall = "exact", 1.0

    @property
    def in_8_bits(self) -> bool:
        """Whether items are scanned in 8 bits first: in a large catalog, where that is faster."""
        return self._scan is not None

    def __init__(self, model: Model) -> None:
        self._model, self._device, self.n_items = model, model.device, model.n_items
        self._vectors = vectors = vectors_of(model)
        self._scan: Scan | None = None
        if vectors is not None and self.n_items >= LARGE and vectors.dtype == np.float32:
            self._scan = _scan_if_faster(vectors)

    @torch.inference_mode()
    def search(self, h: Tensor, k: int, excluded: np.ndarray | None = None) -> TopK:
        """The k best items of each user."""
        width = min(k, self.n_items)
        found: list[Best] = []
        if self._scan is not None:
            search, vectors = self._scan.search, self._scan.vectors
            found = search_or_score(search, vectors, self._users(h), width, excluded)
            return as_top_k(found, width)
        block = max(1, AT_ONCE // (self.n_items + 1))
        for start in range(0, len(h), block):
            scores = self._scores(h[start : start + block])
            scores[:, 0] = -np.inf
            if excluded is not None:
                rows = excluded if len(excluded) == 1 else excluded[start : start + block]
                np.copyto(scores, -np.inf, where=as_booleans(rows, self.n_items))
            found += [best_of(row, width) for row in scores]
        return as_top_k(found, width)

    def _scores(self, h: Tensor) -> np.ndarray:
        """(n, n_items + 1), new memory."""
        if self._vectors is None:
            return self._model.score(h.to(self._device)).cpu().numpy()
        users = self._users(h)
        return best_vector(users.reshape(-1, users.shape[-1]) @ self._vectors.T, len(users))

    def _users(self, h: Tensor) -> np.ndarray:
        """User vectors (n, R, D)."""
        assert isinstance(self._model, SequenceModel)
        return self._model.user_vectors(h).numpy()


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


def _scan_if_faster(vectors: np.ndarray) -> Scan | None:
    """A scan in 8 bits, unless this machine multiplies floats faster, or 8 bits wrongly."""
    if not multiplies_exactly(vectors.shape[1]):
        return None
    scan, user = Scan(vectors), vectors[-1:]
    in_8_bits = _seconds(lambda: scan.search(user[None], 10, None))
    return scan if in_8_bits < _seconds(lambda: vectors @ user[0]) else None


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of some trials."""
    taken = []
    for _ in range(TRIALS):
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
    return min(taken)
