"""Exact search that reads a quarter of the bytes: all items in 8 bits, the best of them in full.

Item vectors v_i and user vectors u are rounded to 8 bits, with one scale each for all of them:

    v_i = s q_i + d_i,    u = t p + c,    <u, v_i> = s t <p, q_i> + <u, d_i> + <c, s q_i>

so that <u, v_i> differs from s t <p, q_i>, which costs an integer product, by at most

    b = ||u|| max_i ||d_i|| + ||c|| max_i ||s q_i||

At least k items reach the score that the k-th best of the rounded ones has less b, so an item whose
rounded score lies more than 2 b below that one is not among the k best. The others, some hundred of
a million, are scored in full: nothing is lost.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.core.processor import multiplies_int8
from longrec.core.shared import shared
from longrec.retrieval.index import allowed
from longrec.retrieval.top_k import Best, Peaks, best_vector, score_items
from longrec.retrieval.vectors import ROWS, ItemVectors

TOP = 127
AT_ONCE = 8
"""Users for whom the items are read once; more would need more memory than it saves time."""
TRIED = 256
"""Vectors on which this machine's integer product is tried."""
LOW = np.iinfo(np.int32).min
SLACK = 1e-5
"""Relative room for the rounding of float32 sums, in the bound and in the scores themselves."""


class Scan:
    """Vectors in 8 bits beside the full ones; held once by all processes where those are.

    Parameters
    ----------
    vectors : ItemVectors
        In float32, on the CPU. A bias is not rounded: it may be so much larger than the other
        coordinates that these would be lost.
    """

    def __init__(self, vectors: ItemVectors) -> None:
        self._width = vectors.own.shape[1]
        make = partial(_rounded, vectors.host)
        made = shared(f"int8-{vectors.digest(with_bias=False)}", make) if vectors.shared else make()
        self._scale, self._size, self._lost = made["scale_size_lost"].tolist()
        self._rounded = made["rounded"].t()
        self._set_bias(vectors)

    def with_bias(self, vectors: ItemVectors) -> Self:
        """The same for vectors that differ in the bias alone: what was rounded is shared."""
        made = copy.copy(self)
        made._set_bias(vectors)
        return made

    def _set_bias(self, vectors: ItemVectors) -> None:
        self.vectors, self._bias = vectors, vectors.host_bias
        largest = 0.0 if self._bias is None else float(np.abs(self._bias).max())
        self._bias_slack = 4 * SLACK * largest

    def search(self, users: np.ndarray, k: int, excluded: np.ndarray | None) -> list[Best]:
        """The k best items for each user.

        Parameters
        ----------
        users : ndarray
            (n, R, D) user vectors; an item's score is its best one with any of them.
        k : int
            Items wanted.
        excluded : ndarray or None
            Rows of bits, n of them or one, each of which allows k items; see `Index.search`.
        """
        found: list[Best] = []
        for start in range(0, len(users), AT_ONCE):
            whole_users = users[start : start + AT_ONCE]
            part = whole_users[:, :, : self._width]
            scales = np.abs(part).max((1, 2)) / TOP
            scales[scales == 0] = 1
            whole = np.rint(part / scales[:, None, None])
            rows = torch.from_numpy(whole.astype(np.int8).reshape(-1, part.shape[2]))
            products = torch._int_mm(rows, self._rounded).numpy()
            scores = best_vector(products, len(part))
            lengths = np.linalg.norm(part, axis=2)
            lost = np.linalg.norm(part - scales[:, None, None] * whole, axis=2)
            bounds = lengths * (self._lost + SLACK * self._size) + lost * self._size
            if self._bias is None:
                margins = 2 * bounds.max(1) / (scales * self._scale) + 1
                scores[:, 0] = LOW
            else:
                margins = 2 * bounds.max(1) + self._bias_slack
                factors = (scales * self._scale).astype(np.float32)
                scores = scores.astype(np.float32)  # in place, which takes two thirds of the time
                scores *= factors[:, None]
                scores += self._bias
                scores[:, 0] = -np.inf
            for row, user in enumerate(whole_users):
                bits = None
                if excluded is not None:
                    bits = excluded[start + row if len(excluded) > 1 else 0]
                items = _candidates(scores[row], float(margins[row]), k, bits)
                found.append(score_items(self.vectors, items, user, k))
        return found


def _rounded(own: np.ndarray) -> dict[str, Tensor]:
    """Vectors (N, D) in 8 bits; what they are multiplied by, the longest, and what is lost."""
    scale = max(float(own.max()), -float(own.min())) / TOP or 1.0
    rounded = np.empty(own.shape, np.int8)
    lost = size = 0.0
    for start in range(0, len(own), ROWS):
        part = own[start : start + ROWS]
        whole = np.rint(part / scale)
        rounded[start : start + ROWS] = whole
        whole *= scale
        size = max(size, float(np.linalg.norm(whole, axis=1).max()))
        lost = max(lost, float(np.linalg.norm(part - whole, axis=1).max()))
    numbers = torch.tensor([scale, size, lost], dtype=torch.float64)
    return {"rounded": torch.from_numpy(rounded), "scale_size_lost": numbers}


def pays(width: int) -> bool:
    """Whether 8 bits are read faster than floats here, of vectors (width,), and multiplied rightly.

    Decided by what the processor says of itself and never by a stopwatch, which a busy moment
    would sway.
    """
    return multiplies_int8() and multiplies_exactly(width)


def multiplies_exactly(width: int) -> bool:
    """Whether the product of 8-bit integers, of vectors (width,), is right here, at its largest.

    Without an instruction made for it (VNNI) oneDNN adds pairs in 16 bits, and cuts large ones off;
    vectors of one number come out wrong, too.
    """
    random = np.random.default_rng(0)
    items, users = (random.choice([-TOP, TOP], (n, width)).astype(np.int8) for n in (TRIED, 3))
    users[0] = items[0] = TOP
    try:
        found = [
            torch._int_mm(torch.from_numpy(some), torch.from_numpy(items).t())
            for some in (users[:1], users)
        ]
    except RuntimeError:  # this build of PyTorch has no such product
        return False
    right = users.astype(np.int32) @ items.T.astype(np.int32)
    return bool((found[0].numpy() == right[:1]).all() and (found[1].numpy() == right).all())


def _candidates(scores: np.ndarray, margin: float, k: int, excluded: np.ndarray | None) -> Ints:
    """Items among which the k best are: rounded scores (n_items + 1,) err by half a margin."""
    peaks = Peaks(scores)
    if excluded is None:
        return _at_least(peaks, float(peaks.threshold(k)) - margin)
    wanted = 2 * k
    while True:
        level = float(peaks.threshold(wanted))
        items = allowed(excluded, _at_least(peaks, level - margin))
        found = scores[items]
        if len(items) >= k:
            kth = np.partition(found, len(items) - k)[len(items) - k]
            if kth >= level:  # else some may be missing
                return items[found >= float(kth) - margin]
        wanted *= 4


def _at_least(peaks: Peaks, least: float) -> Ints:
    """Items of a score of at least so much, but for the padding."""
    items = peaks.at_least(least)
    return items[1:] if len(items) and items[0] == 0 else items
