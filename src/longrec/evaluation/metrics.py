"""Ranking metrics when one item is relevant: functions of the target's rank alone.

The rank of a target is 1 when no other item scores as high; ties count against the model. With one
relevant item the ideal DCG is 1, so NDCG@k is 1/log2(rank + 1) and a hit at rank 1 scores 1. (Some
libraries divide by the sum of all k discounts, and then a perfect hit scores .22 at k = 10.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from longrec.core.arrays import Floats, Ints

CUTOFFS = (10, 20, 50)
MISS = np.iinfo(np.int64).max  # the rank of a target that cannot be recommended at all


def ndcg(ranks: ArrayLike, k: int) -> Floats:
    """Give 1/log2(rank + 1) up to rank k, else 0, per target, (n,)."""
    ranks = _checked(ranks)
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def hr(ranks: ArrayLike, k: int) -> Floats:
    """Give 1 up to rank k, else 0 (the hit rate, which is recall here), per target, (n,)."""
    return (_checked(ranks) <= k).astype(np.float64)


def mrr(ranks: ArrayLike, k: int) -> Floats:
    """Give 1/rank up to rank k, else 0, per target, (n,)."""
    ranks = _checked(ranks)
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


METRICS = {"ndcg": ndcg, "hr": hr, "mrr": mrr}


def names(ks: Sequence[int] = CUTOFFS) -> list[str]:
    """List the keys "ndcg@10", "hr@10", "mrr@10", "ndcg@20", … in the order of ``per_target``."""
    return [f"{name}@{k}" for k in ks for name in METRICS]


def per_target(ranks: ArrayLike, ks: Sequence[int] = CUTOFFS) -> Floats:
    """Give every metric of every target, (n, len(names(ks))), to be averaged or resampled."""
    return np.stack([metric(ranks, k) for k in ks for metric in METRICS.values()], axis=-1)


def summarise(ranks: ArrayLike, ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Average every metric over the targets: {"ndcg@10": …, "hr@10": …, …}; nan without targets."""
    values = per_target(ranks, ks)
    means = values.mean(axis=0) if len(values) else np.full(values.shape[-1], np.nan)
    return dict(zip(names(ks), means.tolist(), strict=True))


def _checked(ranks: ArrayLike) -> Ints:
    array = np.asarray(ranks)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"ranks are whole numbers from 1, not {array.dtype}")
    array = array.astype(np.int64)
    if array.size and array.min() < 1:
        raise ValueError(f"ranks start at 1; the smallest here is {array.min()}")
    return array
