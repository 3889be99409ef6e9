"""Factorization-heads attention (DFAR, arXiv 2302.03965): every query head reads every key head.

    A_ti,uj = softmax over (u, j), u <= t, of <q_ti, k_uj> / sqrt d
    y_tij   = sum_u m(t, u, i, j) A_ti,uj v_uj            i, j heads; all h^2 pieces are kept

m is 1 where the pair of heads (i, j) stands for the pair of feedback that the events t and u have,
and 0 elsewhere: the first half of the heads stand for negative feedback, the second for positive.
So each of the four relations between two kinds of feedback has heads of its own.

The paper's code divides by the root of the number of keys instead, which would make an output
depend on how far a batch is padded, and puts the mask of later events on rows and columns that are
flattened in different orders, so that some heads read the future. Neither is so here.

Shape letters: B histories, H heads, T events, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def naive_factorization_heads(
    q: Tensor, k: Tensor, v: Tensor, positive: Tensor | None = None, read: Tensor | None = None
) -> Tensor:
    """The definition, for one history: q, k, v (T, H, d) -> y (T, H H d); see below."""
    heads, width = q.shape[1:]
    half = torch.arange(heads) * 2 // heads
    rows = []
    for t in range(len(q)):
        seen = [u for u in range(t + 1) if u == t or read is None or read[u]]
        pieces = []
        for i in range(heads):
            scores = k[seen] @ q[t, i] / width**0.5  # (events, H)
            share = scores.flatten().softmax(0).view_as(scores)
            if positive is not None:
                share = share * ((half[i] == positive[t]) & (half == positive[seen, None]))
            pieces += [share[:, j] @ v[seen, j] for j in range(heads)]
        rows.append(torch.cat(pieces))
    return torch.stack(rows)


def factorization_heads(
    q: Tensor, k: Tensor, v: Tensor, positive: Tensor | None = None, read: Tensor | None = None
) -> Tensor:
    """Every query head reads every key head of the events up to its own.

    Parameters
    ----------
    q, k, v : Tensor
        (B, H, T, d), H even where feedback is told apart.
    positive : Tensor or None
        (B, T) bool, which events are positive feedback; None: all pairs of heads stand for all.
    read : Tensor or None
        (B, T) bool, which events are read, besides each by itself; None: all.

    Returns
    -------
    Tensor
        (B, T, H H d), query head by query head.
    """
    heads, events, width = q.shape[1:]
    scores = torch.einsum("bitd,bjud->bituj", q, k) / width**0.5
    place = torch.arange(events, device=q.device)
    seen = place <= place[:, None]
    if read is not None:  # an event that reads nothing reads itself, rather than give NaN
        seen = seen & (read[:, None] | (place == place[:, None]))
    scores = scores.masked_fill(~seen.expand(len(q), -1, -1)[:, None, :, :, None], -torch.inf)
    share = scores.flatten(-2).softmax(-1).view_as(scores)
    if positive is not None:
        half = torch.arange(heads, device=q.device) * 2 // heads
        own = positive[..., None] == half  # (B, T, H): whether a head is of the event's kind
        share = share * own.mT[..., None, None] * own[:, None, None]
    y = torch.einsum("bituj,bjud->btijd", share, v)
    return y.flatten(2)
