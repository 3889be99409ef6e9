"""Linear attention: a sum of outer products of keys and values, read by queries.

    S_t = g_t S_{t-1} + k_t v_t^T        y_t = q_t^T S_t

with S (F, d), and g_t in [0, 1] one number per head and event, 1 where nothing is forgotten. What
divides y, if anything, is a further column of v: ones there give sum_u <q_t, k_u>.

Over a batch it goes by chunks of C events, with products of matrices alone. With b_t the logarithm
of all g since the chunk's beginning and S the sum before the chunk,

    Y     = diag(exp(b)) Q S + (tril(Q K^T) * exp(b_t - b_u)) V
    S_new = exp(b_C) S + K^T diag(exp(b_C - b_u)) V

where no exponent is above 0. O(T (C (F + d) + F d)).

Shape letters: B histories, H heads, T events, F features of keys, d of values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 64
"""Events computed at once; more of them cost more products, fewer more steps."""


def naive_linear(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, of one head and history: q, k (T, F), v (T, d) -> y (T, d), S_T (F, d).

    log_decay (T,) is log g.
    """
    total, rows = q.new_zeros(q.shape[1], v.shape[1]), []
    for t in range(len(q)):
        if log_decay is not None:
            total = log_decay[t].exp() * total
        total = total + k[t][:, None] * v[t]
        rows.append(q[t] @ total)
    return torch.stack(rows), total


def causal_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: Tensor | None = None,
    log_decay: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Outputs at all events, and the sum after the last one.

    Parameters
    ----------
    q, k, v : Tensor
        (B, H, T, F) twice, and (B, H, T, d); T is 1 or more.
    past : Tensor or None
        (B, H, F, d), S before the first event, perhaps of a wider type; None for 0.
    log_decay : Tensor or None
        log g, at most 0, that broadcasts to (B, H, T); None for 0. Sums of it along a chunk are
        taken in its own type: float64 where single events may forget by very much.
    mask : Tensor or None
        (B, T) bool, True at real events: others leave S as it is.
    chunk : int
        C.

    Returns
    -------
    (Tensor, Tensor)
        y (B, H, T, d) in the type of v, of padding nothing real; and S_T (B, H, F, d), in the type
        of past where that is given.
    """
    events, shape = q.shape[2], q.shape[:3]
    if mask is not None:
        k = k * mask[:, None, :, None]
    size = min(chunk, events)
    fill = -events % size
    q, k, v = (into_chunks(x, size, fill) for x in (q, k, v))
    inner = (q @ k.mT).tril()
    sums = k.mT @ v  # (B, H, n, F, d), of each chunk alone
    if log_decay is None:
        total = sums.cumsum(2)
        before, last = pad(total[:, :, :-1], (0, 0, 0, 0, 1, 0)), total[:, :, -1]
        if past is not None:
            before = before + past[:, :, None].to(before.dtype)
            last = past + last
        y = q @ before + inner @ v
    else:
        decay = log_decay.expand(shape)
        if mask is not None:
            decay = decay * mask[:, None]
        b = pad(decay, (0, fill)).unflatten(2, (-1, size)).cumsum(-1)  # (B, H, n, C)
        gap = b[..., :, None] - b[..., None, :]
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        inner = inner * gap.masked_fill(later, -torch.inf).to(q.dtype).exp()
        whole = b[..., -1:]
        sums = (k * (whole - b).to(q.dtype).exp()[..., None]).mT @ v
        before, last = _decayed(sums, whole.to(q.dtype).exp()[..., None], past)
        y = (q * b.to(q.dtype).exp()[..., None]) @ before + inner @ v
    return y.flatten(2, 3)[:, :, :events], last


def linear_step(
    q: Tensor, k: Tensor, v: Tensor, past: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One event: q, k (B, H, F), v (B, H, d), S (B, H, F, d), log g (B, H) -> y (B, H, d), S."""
    if log_decay is not None:
        past = past * log_decay.exp()[..., None, None].to(past.dtype)
    new = past + k[..., :, None] * v[..., None, :]
    return (q[..., None, :] @ new.to(q.dtype))[..., 0, :], new


def into_chunks(x: Tensor, size: int, fill: int) -> Tensor:
    """(B, H, T, F) -> (B, H, n, C, F), filled up with zeros."""
    filled: Tensor = pad(x, (0, 0, 0, fill)).unflatten(2, (-1, size))
    return filled


def _decayed(sums: Tensor, decay: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """S before each chunk, (B, H, n, F, d), and after the last one.

    sums (B, H, n, F, d) is what each chunk adds; decay (B, H, n, 1, 1) what it leaves of S.
    """
    state = torch.zeros_like(sums[:, :, 0]) if past is None else past
    before = [state.to(sums.dtype)]
    # The last chunk apart: where nobody reads the last sum it has no gradient.
    for new, left in zip(sums[:, :, :-1].unbind(2), decay[:, :, :-1].unbind(2), strict=True):
        state = state * left.to(state.dtype) + new
        before.append(state.to(sums.dtype))
    return torch.stack(before, 2), state * decay[:, :, -1].to(state.dtype) + sums[:, :, -1]
