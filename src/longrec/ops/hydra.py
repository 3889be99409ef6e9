"""Hydra attention (arXiv 2209.07484): its definition, over a batch at once, and for one event.

With phi(x) = x / ||x||_2 over features, products by element, and S the sums before the first event:

    S_t = S + cumsum(phi(k) * v)_t      u_t = phi(q_t) * S_t      y_t = u_t c_t

c_t is 1 ("none"), one over the number of events ("count") or 1 / sqrt(mean(u_t^2) + eps) ("rms").
The bidirectional form has the sum over all events in place of S_t.

S goes on from batch to batch in a wider type (`LASTING`) than what is added to it.

The causal form over a batch has forward and backward written by hand: every operation goes once
over all numbers, so what counts is how often. Autograd would go over them some forty times, and
this goes twenty.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from longrec.ops.sums import running_sums

Normalise = Literal["none", "count", "rms"]
EPS = 1e-6
"""Added to the mean square of u."""
MIN_NORM = 1e-12
"""Shorter vectors are divided by this instead of their norm."""


def naive_hydra(
    q: Tensor, k: Tensor, v: Tensor, normalise: Normalise, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """The definition, for one history: q, k, v (T, D) -> y (T, D), and the last sum (D,)."""
    total, sums = torch.zeros_like(q[0]), []
    for t in range(len(q)):
        total = total + k[t] / k[t].norm().clamp_min(MIN_NORM) * v[t]
        sums.append(total)
    rows = []
    for t in range(len(q)):
        u = q[t] / q[t].norm().clamp_min(MIN_NORM) * (sums[t] if causal else total)
        if normalise == "count":
            u = u / (t + 1 if causal else len(q))
        elif normalise == "rms":
            u = u / (u.square().mean() + EPS).sqrt()
        rows.append(u)
    return torch.stack(rows), total


def phi(x: Tensor) -> Tensor:
    """x / ||x||_2 over features."""
    return normalize(x, dim=-1)


def read_sums(q: Tensor, sums: Tensor, count: Tensor, normalise: Normalise) -> Tensor:
    """y of q and S (..., D), in the type of q; count (...) is the number of events summed."""
    u = phi(q) * sums.to(q.dtype)
    if normalise == "count":
        u = u / count[..., None].to(q.dtype)
    elif normalise == "rms":
        u = u * (u.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return u


def causal_hydra(
    q: Tensor, k: Tensor, v: Tensor, past: Tensor | None, count: Tensor, normalise: Normalise
) -> tuple[Tensor, Tensor]:
    """y (B, T, D) and S_T (B, D), of q, k, v (B, T, D) and S (B, D), None for 0; padding has v = 0.

    S_T is of the type of S.

    count (B or 1, T) is the number of events that S_t sums, for "count"; nothing else reads it.
    """
    if torch.is_grad_enabled():
        return _CausalHydra.apply(q, k, v, past, count, normalise)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(q, k, v, past, count, normalise)[:2]


class _CausalHydra(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        q, k, v, past, count, ctx.normalise = inputs
        y, last, sums, inverse_q, inverse, scale = _forward(q, k, v, past, count, ctx.normalise)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, sums, inverse_q, inverse, scale, y)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, sums, inverse_q, inverse, scale, y = ctx.saved_tensors
        grad_y, grad_last = grads
        width = q.shape[-1]
        if grad_y is None:
            grad_y = torch.zeros_like(q)
        # y = u c: with "rms" c falls as u grows, dc/du_i = -c^3 u_i / D.
        grad_u = grad_y * scale
        if ctx.normalise == "rms":
            along = _along(grad_y, y).mul_(scale).div_(-width)
            grad_u = grad_u.addcmul_(y, along)
        # u = phi(q) S
        grad_sums = torch.mul(grad_u, q).mul_(inverse_q)
        grad_q = grad_u.mul_(sums).mul_(inverse_q)
        grad_q = _through_norm(grad_q, q, inverse_q)
        # Sums from the end: what an event added is in all later ones.
        if grad_last is not None:
            grad_sums[:, -1] += grad_last
        grad_added = grad_sums.flip(1).cumsum_(1).flip(1)
        del grad_sums
        grad_past = None
        if ctx.needs_input_grad[3]:  # the last sum has the type of the first
            kind = q.dtype if grad_last is None else grad_last.dtype
            grad_past = grad_added[:, 0].to(kind, copy=True)  # its memory is written over below
        grad_v = torch.mul(grad_added, k).mul_(inverse)
        grad_k = _through_norm(grad_added.mul_(v).mul_(inverse), k, inverse)
        return grad_q, grad_k, grad_v, grad_past, None, None


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / ||x|| over features: (B, T, D) -> (B, T, 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.clamp_min_(MIN_NORM).reciprocal_()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, past: Tensor | None, count: Tensor, normalise: Normalise
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, S_T, S_t, 1 / ||q||, 1 / ||k|| and c."""
    inverse_q, inverse = _inverse_norm(q), _inverse_norm(k)
    sums = running_sums(torch.mul(k, v).mul_(inverse))
    last = sums[:, -1].clone()
    if past is not None:  # added once, in its own type, however long it goes on
        last = past + last
        sums += past[:, None].to(sums.dtype)
    u = torch.mul(q, sums).mul_(inverse_q)
    scale = _scale(u, count, normalise)
    return u.mul_(scale), last, sums, inverse_q, inverse, scale


def _scale(u: Tensor, count: Tensor, normalise: Normalise) -> Tensor:
    """c_t, (B, T, 1)."""
    if normalise == "rms":
        return (u * u).mean(-1, keepdim=True).add_(EPS).rsqrt_()
    if normalise == "count":
        return count.reciprocal()[..., None].to(u.dtype)
    return torch.ones_like(u[..., :1])


def _along(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over features: (B, T, 1)."""
    return (a * b).sum(-1, keepdim=True)


def _through_norm(grad_x: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of x from grad_x, that of phi(x) times 1 / ||x||: less its share along x."""
    along = _along(grad_x, x).mul_(inverse).mul_(inverse)
    return grad_x.addcmul_(x, along, value=-1)
