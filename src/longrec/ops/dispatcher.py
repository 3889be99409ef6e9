"""The causal dispatcher: its definition, and for one event.

R experts per head hold running means P of what the history brings, and every event reads them:

    z_tj = sum_{u<=t} w_uj            w = exp(s), discounted by what was forgotten since u
    P_tj = sum_{u<=t} w_uj [k'_u, v_u] / z_tj
    y_t  = sum_j softmax_j(<q_t, P_tj.k'> / sqrt d) P_tj.v

`dispatcher_chunked` has the parallel form, `dispatcher_cuda` that of half precision on a GPU. Shape
letters: B histories, H heads, T events, R experts, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_WEIGHT = 1e-30
"""Of z, where something is divided by it."""


def naive_experts(
    pairs: Tensor, scores: Tensor, forget: Tensor, mean: Tensor, log_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The experts after each event, by their recurrence.

    Parameters
    ----------
    pairs : Tensor
        (B, H, T, 2 d), [k', v].
    scores, forget : Tensor
        (B, H, T, R): s (-inf at padding), and what is forgotten at each event.
    mean, log_weight : Tensor
        (B, H, R, 2 d) and (B, H, R): P and log z before the first event.

    Returns
    -------
    (Tensor, Tensor)
        P after each event (B, H, T, R, 2 d), and log z after the last (B, H, R).
    """
    z, means = log_weight.exp(), []
    sums = mean * z[..., None]
    for t in range(pairs.shape[2]):
        decay, w = (-forget[:, :, t]).exp(), scores[:, :, t].exp()
        z = z * decay + w
        sums = sums * decay[..., None] + w[..., None] * pairs[:, :, t, None]
        means.append(sums / z.clamp_min(MIN_WEIGHT)[..., None])
    return torch.stack(means, dim=2), z.log()


def naive_read(q: Tensor, experts: Tensor) -> Tensor:
    """y (..., d), what queries q (..., d) read from experts or slots [k', v] (..., R, 2 d)."""
    key, value = experts.chunk(2, dim=-1)
    logits = (q[..., None, :] * key).sum(-1) / q.shape[-1] ** 0.5
    y: Tensor = (logits.softmax(-1)[..., None] * value).sum(-2)
    return y


def dispatcher_step(
    q: Tensor, pair: Tensor, score: Tensor, forget: Tensor, mean: Tensor, log_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One event: q (B, H, d), [k', v] (B, H, 2 d), s and what is forgotten (B, H, R).

    Returns
    -------
    (Tensor, Tensor, Tensor, Tensor)
        y (B, H, d), its logits over experts (B, H, R), and P and log z after the event.
    """
    log_weight = torch.logaddexp(log_weight - forget, score)
    # The event's share of all weight; what was there before has the rest.
    share = (score - log_weight).exp()[..., None]
    mean = mean.lerp(pair[:, :, None], share)
    y, logits = read_pairs(q, mean)
    return y, logits, mean, log_weight


def read_pairs(q: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """What q (B, H, d) reads from n pairs [k', v] (B, H, n, 2 d): y (B, H, d), logits (B, H, n)."""
    key, value = pairs.chunk(2, dim=-1)
    logits = (q[:, :, None] @ key.transpose(-1, -2))[:, :, 0] / q.shape[-1] ** 0.5
    return (logits.softmax(-1)[:, :, None] @ value)[:, :, 0], logits
