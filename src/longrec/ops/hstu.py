"""HSTU's attention (arXiv 2402.17152): SiLU of each score instead of softmax over all of them.

    y_t = 1/N sum_{u<=t} silu(<q_t, k_u> + p[t - u] + w[bucket(time_t - time_u)]) v_u
    bucket(s) = floor(ln(max(s, 1)) / .301), at most 128

N is one number for all, so that neither a history's length nor its neighbours' change what is read.
Scores are of pairs: O(T^2) operations, but blocks of queries keep no more than some of them.

Shape letters: B histories, H heads, T events, d width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

BUCKETS = 128
"""Number of the last bucket of time; the first is 0."""
PER_BUCKET = 0.301
"""Natural logarithm of the time from one bucket to the next."""
QUERIES = 256
"""Queries at once: of longer histories the scores are computed again for the gradient."""


def naive_hstu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_distance: Tensor,
    by_time: Tensor | None,
    times: Tensor,
    divisor: float,
) -> Tensor:
    """The definition, for one history: q, k, v (T, H, d), times (T,) -> y (T, H, d)."""
    rows = []
    for t in range(len(q)):
        scores = torch.einsum("hd,uhd->uh", q[t], k[: t + 1])
        distance = [min(t - u, len(by_distance) - 1) for u in range(t + 1)]
        scores = scores + by_distance[distance][:, None]
        if by_time is not None:
            gaps = [max(int(times[t] - times[u]), 1) for u in range(t + 1)]
            bucket = [min(int(math.log(gap) / PER_BUCKET), BUCKETS) for gap in gaps]
            scores = scores + by_time[bucket][:, None]
        weights = scores / (1 + (-scores).exp()) / divisor
        rows.append(torch.einsum("uh,uhd->hd", weights, v[: t + 1]))
    return torch.stack(rows)


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_distance: Tensor,
    by_time: Tensor | None,
    times: Tensor | None,
    divisor: float,
) -> Tensor:
    """All events of histories.

    Parameters
    ----------
    q, k, v : Tensor
        (B, H, T, d).
    by_distance : Tensor
        (L,), p; events L - 1 before and more have its last number.
    by_time, times : Tensor or None
        (129,), w, and (B, T) int64 seconds; no w: time adds nothing.
    divisor : float
        N.

    Returns
    -------
    Tensor
        (B, H, T, d).
    """

    events, given = q.shape[2], (q, k, v, by_distance, by_time, times)
    if torch.compiler.is_exporting() or events <= QUERIES:
        return _of_queries(0, events, *given) / divisor
    ends = [*range(QUERIES, events, QUERIES), events]
    parts: list[Tensor] = [
        checkpoint(_of_queries, first, end, *given, use_reentrant=False)
        for first, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    return torch.cat(parts, 2) / divisor


def _of_queries(
    first: int,
    end: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_distance: Tensor,
    by_time: Tensor | None,
    times: Tensor | None,
) -> Tensor:
    """N y of the events from `first` to `end`, which read all keys before that end."""
    place = torch.arange(end, device=q.device)
    distance = place[first:, None] - place
    bias = by_distance[distance.clamp(0, len(by_distance) - 1)]
    if by_time is not None:
        assert times is not None
        gap = times[:, first:end, None] - times[:, None, :end]
        bias = bias + by_time[buckets(gap)][:, None]
    scores = silu(q[:, :, first:end] @ k[:, :, :end].mT + bias)
    return scores.masked_fill(distance < 0, 0.0) @ v[:, :, :end]


def buckets(gap: Tensor) -> Tensor:
    """Seconds -> number of the bucket; a late event counts as simultaneous."""
    logs = gap.clamp_min(1).double().log()
    return (logs / PER_BUCKET).long().clamp_max(BUCKETS)
