"""Linear attention that is divided by what it has summed, in two ways.

With S_t = sum_{u<=t} k_u v_u^T, of keys k (features F) and values v (d numbers):

    by weights   z_t = sum_{u<=t} k_u              y_t = q_t^T S_t / <q_t, z_t>
    by columns   z_t = sum_{u<=t} k_u^p            y_t = (q_t / z_t^(1/p))^T S_t

By weights y is a weighted mean of the values, as softmax attention gives one; q and k are not
negative. By columns each feature of the keys has L^p norm 1 over the events so far: a column of the
matrix of keys (T, F). p is 1 (of positive keys) or 2. Both read events up to t alone, so z belongs
to one history, never to a batch or its longest row.

Shape letters: H heads, B histories, T events.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, pad, relu

from longrec.ops.linear_attention import causal_linear, linear_step

Sums = tuple[Tensor, Tensor]
"""S (H, B, F, d) and z (H, B, F), of a wider type than what is added to them."""
LEAST = 1e-30
"""By weights, what divides is at least this: of no events nothing is read."""
LEAST_COLUMN = 1e-24
"""By columns, it is added to z: columns of no events, or of zeros, are not divided by 0."""
LARGEST = 1e6
"""Larger features count as this, and so no product of two leaves float32."""
EXPONENT = 30.0
"""Exponentials are taken of -30 to 30: a sum of a million is in float32, and none is 0."""


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1, without the 1 that eats what elu leaves of x < 0, and within bounds."""
    x = within(x, -EXPONENT, LARGEST)
    above = relu(x)
    return (x - above).exp() + above


def within(x: Tensor, least: float, largest: float) -> Tensor:
    """x clamped: hardtanh is clamp with a backward of one pass."""
    return hardtanh(x, least, largest)


def by_weights(
    q: Tensor, k: Tensor, v: Tensor, past: Sums, least: float = LEAST
) -> tuple[Tensor, Sums]:
    """q, k (H, B, T, F), v (H, B, T, d), after sums of what was before -> y (H, B, T, d), sums.

    Padding has k = 0.
    """
    before = torch.cat([past[0], past[1][..., None]], -1)
    # A column of ones sums the weights.
    read, last = causal_linear(q, k, pad(v, (0, 1), value=1.0), before)
    y = read[..., :-1] / read[..., -1:].clamp_min(least)
    return y, (last[..., :-1], last[..., -1])


def by_columns(q: Tensor, k: Tensor, v: Tensor, past: Sums, power: int) -> tuple[Tensor, Sums]:
    """The same, by columns of L^p norm 1, p being `power`."""
    weights = k if power == 1 else k.square()
    total = weights.cumsum(2)
    norms = (past[1].to(k.dtype) + LEAST_COLUMN)[:, :, None] + total
    y, last = causal_linear(q / (norms if power == 1 else norms.sqrt()), k, v, past[0])
    return y, (last, past[1] + total[:, :, -1])


def weights_step(
    q: Tensor, k: Tensor, v: Tensor, past: Sums, least: float = LEAST
) -> tuple[Tensor, Sums]:
    """One event by weights: q, k (B, H, F), v (B, H, d), sums (B, H, ...) -> y (B, H, d), sums."""
    weights = past[1] + k
    read, sums = linear_step(q, k, v, past[0])
    total = (q * weights.to(q.dtype)).sum(-1, keepdim=True)
    return read / total.clamp_min(least), (sums, weights)


def columns_step(q: Tensor, k: Tensor, v: Tensor, past: Sums, power: int) -> tuple[Tensor, Sums]:
    """One event by columns, of the same shapes."""
    weights = past[1] + (k if power == 1 else k * k)
    norms = weights.to(q.dtype) + LEAST_COLUMN
    y, sums = linear_step(q / (norms if power == 1 else norms.sqrt()), k, v, past[0])
    return y, (sums, weights)


def naive_by_weights(q: Tensor, k: Tensor, v: Tensor, least: float = LEAST) -> Tensor:
    """The definition, of one head and history: q, k (T, F), v (T, d) -> y (T, d)."""
    rows = []
    for t in range(len(q)):
        weights = k[: t + 1] @ q[t]
        rows.append(weights @ v[: t + 1] / weights.sum().clamp_min(least))
    return torch.stack(rows)


def naive_by_columns(
    q: Tensor, k: Tensor, v: Tensor, normalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """The same, where `normalise` is what the paper does to the columns of a whole history's keys.

    At t the history ends at t: the paper's form, over both directions, of every prefix.
    """
    rows = [q[t] @ (normalise(k[: t + 1]).t() @ v[: t + 1]) for t in range(len(q))]
    return torch.stack(rows)
