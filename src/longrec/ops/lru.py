"""A linear recurrent unit (arXiv 2303.06349): complex numbers that each turn and fade on their own.

    h_t = lambda * h_{t-1} + u_t,   lambda = exp(-nu + i theta)       feature by feature

A complex number is a pair of real ones here, the real part first. Over a batch the recurrence goes
by chunks of C events: within a chunk

    h_t = lambda^(t+1) h + sum_{s<=t} lambda^(t-s) u_s                t, s = 0 .. C - 1

is a product with a C x C matrix of powers per feature, and the states h between chunks follow the
same recurrence with lambda^C, which goes by chunks in turn. O(T C) a feature, in O(log T) calls.
No power is divided by, so that none is above 1; powers are made in float64, since the angle of
lambda^C is as exact as C theta is.

Shape letters: B histories, T events, H features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 32
"""Events whose powers stand in one matrix; more of them cost more products, fewer more levels."""
Pair = tuple[Tensor, Tensor]
"""Complex numbers: their real and their imaginary parts."""


def naive_lru(u: Tensor, log_lambda: Tensor, past: Tensor) -> Tensor:
    """The definition, of one history: u (T, H), log lambda and h (H,), all complex -> (T, H)."""
    rows, h = [], past
    for event in u:
        h = log_lambda.exp() * h + event
        rows.append(h)
    return torch.stack(rows)


def lru(u: Pair, nu: Tensor, theta: Tensor, past: Pair | None) -> Pair:
    """h of all events.

    Parameters
    ----------
    u : pair of Tensor
        (H, B, T) twice, features first; T is 1 or more.
    nu, theta : Tensor
        (H,), float64: nu above 0.
    past : pair of Tensor or None
        (H, B) twice, h before the first event; None for 0.

    Returns
    -------
    pair of Tensor
        (H, B, T) twice.
    """
    batch, events = u[0].shape[1:]
    count = -(-events // CHUNK)
    size = -(-events // count)
    real, imaginary = (
        pad(part, (0, count * size - events)).reshape(len(nu), -1, size) for part in u
    )
    powers = _powers(nu, theta, size, real.dtype)
    a, b = (_toeplitz(part[:, :-1]) for part in powers)
    h = (
        torch.baddbmm(real @ a, imaginary, b, alpha=-1),
        torch.baddbmm(real @ b, imaginary, a),
    )
    before = past
    if count > 1:
        # A copy, since what the states before them give is added to h in place.
        ends = [part[..., -1].clone().unflatten(1, (batch, count)) for part in h]
        x, y = lru((ends[0], ends[1]), nu * size, theta * size, past)
        c, d = (torch.zeros_like(x[..., 0]), torch.zeros_like(y[..., 0])) if past is None else past
        before = _before(c, x), _before(d, y)
    if before is not None:
        x, y = (part.reshape(len(nu), -1, 1) for part in before)
        c, d = (part[:, None, 1:] for part in powers)
        h[0].baddbmm_(x, c).baddbmm_(y, d, alpha=-1)
        h[1].baddbmm_(x, d).baddbmm_(y, c)
    real, imaginary = (part.unflatten(1, (batch, count)).flatten(2)[..., :events] for part in h)
    return real, imaginary


def lru_step(u: Pair, nu: Tensor, theta: Tensor, past: Pair) -> Pair:
    """One event: u and h (B, H) twice -> the new h."""
    a, b = (part[:, 1] for part in _powers(nu, theta, 1, u[0].dtype))
    x, y = past
    return a * x - b * y + u[0], a * y + b * x + u[1]


def _before(first: Tensor, after: Tensor) -> Tensor:
    """(H, B) and (H, B, n) -> (H, B, n): each stands where the next one stood."""
    return torch.cat([first[..., None], after[..., :-1]], -1)


def _powers(nu: Tensor, theta: Tensor, last: int, kind: torch.dtype) -> Pair:
    """lambda^0 .. lambda^last of each feature, (H, last + 1) twice."""
    steps = torch.arange(last + 1, device=nu.device, dtype=nu.dtype)
    size, angle = (-nu[:, None] * steps).exp(), theta[:, None] * steps
    return (size * angle.cos()).to(kind), (size * angle.sin()).to(kind)


def _toeplitz(powers: Tensor) -> Tensor:
    """(H, C) -> (H, C, C): at row s and column t the power t - s, and 0 where t < s."""
    size = powers.shape[1]
    return pad(powers, (size - 1, 0)).unfold(1, size, 1).flip(1)
