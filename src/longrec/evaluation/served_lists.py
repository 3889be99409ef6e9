"""The lists that are served for targets: what `recommend` gives for the input of each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.inference.encode import last_items
from longrec.models.common.scorer import Scorer
from longrec.retrieval.index import ROW_BYTES, Index, as_bits, row_bytes


class ServedLists:
    """The k best items for the input of some targets, filled while the inputs are encoded.

    Parameters
    ----------
    scorer : Scorer
        Whose `reach` last items are read.
    index : Index
        How items are found.
    histories, targets : Histories, Targets
        In the item indices of the model; the inputs are what stands before the targets.
    k : int
        Items per target.
    exclude_seen : bool
        Whether items of the input are left out.
    popular : ndarray
        (n_items,) item indices, best first, for targets without known events before them.
    counts : ndarray or None
        (n_items,) what those are scored by; None: their scores do not matter.
    chosen : ndarray or None
        Numbers of the targets that are wanted, ascending; None: all of them.

    Attributes
    ----------
    items, scores : ndarray
        (m, min(k, n_items)) of the chosen targets, best first; 0 and -inf where items ran out.
    cold : ndarray
        (m,) bool, which targets had nothing known before them.
    """

    def __init__(
        self,
        scorer: Scorer,
        index: Index,
        histories: Histories,
        targets: Targets,
        k: int,
        exclude_seen: bool,
        popular: Ints,
        counts: Ints | None = None,
        chosen: Ints | None = None,
    ) -> None:
        self._scorer, self._index, self._histories = scorer, index, histories
        self._exclude_seen, self.k = exclude_seen, k
        numbers = np.arange(len(targets)) if chosen is None else chosen
        self._place = np.full(len(targets), -1)
        self._place[numbers] = np.arange(len(numbers))
        self._begin = histories.offsets[targets.users]
        self._end = targets.positions
        width = min(k, index.n_items)
        self.items = np.zeros((len(numbers), width), np.int64)
        self.scores = np.full((len(numbers), width), -np.inf, np.float32)
        self.cold = (self._end == self._begin)[numbers]
        self.items[self.cold] = popular[:width]
        if counts is not None:
            self.scores[self.cold] = counts[popular[:width] - 1]

    def use(self, numbers: Ints, h: Tensor) -> None:
        """Find the lists of targets by their numbers and h (n, D), as `encode_targets` has them."""
        wanted = np.flatnonzero(self._place[numbers] >= 0)
        at_once = max(1, ROW_BYTES // row_bytes(self._index.n_items))
        for start in range(0, len(wanted), at_once):
            part = wanted[start : start + at_once]
            own = numbers[part]
            begin, end = self._begin[own], self._end[own]
            seen = self._seen(begin, end) if self._exclude_seen else None
            recent = last_items(self._histories.items, begin, end, self._scorer.reach)
            found = self._index.search(h[torch.from_numpy(part).to(h.device)], self.k, seen, recent)
            place = self._place[own]
            self.items[place] = found.items.numpy()
            self.scores[place] = found.scores.float().numpy()

    def _seen(self, begin: Ints, end: Ints) -> np.ndarray:
        items, n_items = self._histories.items, self._index.n_items
        inputs = [items[low:high] for low, high in zip(begin, end, strict=True)]
        return np.stack([as_bits(items, n_items) for items in inputs])


def mean_popularity(histories: Histories, targets: Targets, counts: Ints) -> np.ndarray:
    """The mean of counts (n_items,) over the input of each target, (n,); nan without input."""
    begin = histories.offsets[targets.users]
    lengths = targets.positions - begin
    before = np.concatenate([[0.0], counts[histories.items - 1].cumsum(dtype=np.float64)])
    sums = before[targets.positions] - before[begin]
    return np.where(lengths > 0, sums / np.maximum(lengths, 1), np.nan)
