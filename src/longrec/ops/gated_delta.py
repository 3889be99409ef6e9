"""The gated delta rule (arXiv 2412.06464): a memory that replaces what it had under a key.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T        y_t = S_t^T q_t

with S (F, d), |k_t| = 1, a_t in (0, 1] what is left of all that was kept, and b_t in (0, 1) how
much of the value under k_t is replaced by v_t. The paper writes the transpose of S.

Over a batch it goes by chunks of C events without a loop over events (the paper's WY form). Within
a chunk that begins with S, and with g_t the logarithm of all a since the chunk's beginning,

    S_t = exp(g_t) S + sum_{u<=t} exp(g_t - g_u) k_u u_u^T
    (I + M) U = diag(b) (V - diag(exp g) K S)        M_tu = b_t exp(g_t - g_u) <k_t, k_u>, u < t

so that one triangular solve gives U = P - W S, and what the chunk does to S is a matrix (F, F) and
a sum (F, d). The only loop is over chunks, with one small product each. O(T (C (F + d) + F d)).

Shape letters: B histories, H heads, T events, F features of keys, d of values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from longrec.ops.linear_attention import into_chunks

CHUNK = 32
"""Events computed at once."""


def naive_gated_delta(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, of one head and history: q, k (T, F), v (T, d) -> y (T, d), S_T (F, d).

    beta and log_decay (T,) are b and log a.
    """
    total, rows = q.new_zeros(q.shape[1], v.shape[1]), []
    one = torch.eye(q.shape[1], dtype=q.dtype)
    for t in range(len(q)):
        left = log_decay[t].exp() * (one - beta[t] * torch.outer(k[t], k[t]))
        total = left @ total + beta[t] * torch.outer(k[t], v[t])
        rows.append(q[t] @ total)
    return torch.stack(rows), total


def causal_gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    past: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Outputs at all events, and S after the last one.

    Parameters
    ----------
    q, k, v : Tensor
        (B, H, T, F) twice, and (B, H, T, d); k of unit norm (or 0), T 1 or more.
    beta, log_decay : Tensor
        (B, H, T), b and log a.
    past : Tensor or None
        (B, H, F, d), S before the first event; None for 0.
    mask : Tensor or None
        (B, T) bool, True at real events: others leave S as it is.
    chunk : int
        C.

    Returns
    -------
    (Tensor, Tensor)
        y (B, H, T, d), of padding nothing real, and S_T (B, H, F, d).
    """
    events, width, kind = q.shape[2], v.shape[3], q.dtype
    if mask is not None:
        beta, log_decay = beta * mask[:, None], log_decay * mask[:, None]
    size = min(chunk, events)
    fill = -events % size
    q, k, v = (into_chunks(x, size, fill) for x in (q, k, v))
    beta = pad(beta, (0, fill)).unflatten(2, (-1, size))[..., None]
    # Summed in float64: a single event may forget by far more than those after it.
    g = pad(log_decay.double(), (0, fill)).unflatten(2, (-1, size)).cumsum(-1)
    later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    gap = (g[..., :, None] - g[..., None, :]).masked_fill(later, -torch.inf)
    left = gap.to(kind).exp()
    age, rest = g.to(kind).exp()[..., None], (g[..., -1:] - g).to(kind).exp()[..., None]
    # The diagonal of M is taken for 1, as that of I + M is.
    right = torch.cat([v, k * age], -1) * beta
    solved = torch.linalg.solve_triangular(
        (beta * k) @ k.mT * left, right, upper=False, unitriangular=True
    )
    p, w = solved[..., :width], solved[..., width:]
    kept = (k * rest).mT  # (B, H, n, F, C)
    one = torch.eye(k.shape[-1], dtype=kind, device=q.device)
    change = age[..., -1:, :] * one - kept @ w
    before, last = _through_chunks(change, kept @ p, past)
    y = (q * age) @ before + (q @ k.mT * left) @ (p - w @ before)
    return y.flatten(2, 3)[:, :, :events], last


def gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """One event: q, k (B, H, F), v (B, H, d), b, log a (B, H), S (B, H, F, d) -> y (B, H, d), S."""
    left = past * log_decay.exp()[..., None, None]
    known = (k[..., None, :] @ left)[..., 0, :]
    new = left + k[..., :, None] * (beta[..., None] * (v - known))[..., None, :]
    return (q[..., None, :] @ new)[..., 0, :], new


def _through_chunks(change: Tensor, new: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """S before each chunk, (B, H, n, F, d), and after the last one: S <- change S + new."""
    state = torch.zeros_like(new[:, :, 0]) if past is None else past
    before = [state]
    # The last chunk apart: where nobody reads the last S it has no gradient.
    for matrix, added in zip(change[:, :, :-1].unbind(2), new[:, :, :-1].unbind(2), strict=True):
        state = matrix @ state + added
        before.append(state)
    return torch.stack(before, 2), change[:, :, -1] @ state + new[:, :, -1]
