"""Causal Hydra attention over a batch, forward and backward written by hand.

With phi(x) = x / ||x||_2 over features, products by element, and S the sums before the first event:

    S_t = S + cumsum(phi(k) * v)_t      u_t = phi(q_t) * S_t      y_t = u_t c_t

c_t is 1 ("none"), one over the number of events ("count") or 1 / sqrt(mean(u_t^2) + eps) ("rms").
Every operation goes once over all numbers, so what counts is how often: autograd would go over them
some forty times, and this goes twenty.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Normalise = Literal["none", "count", "rms"]
EPS = 1e-6
"""Added to the mean square of u."""
LEAST = 1e-12
"""Of a norm."""


def mix_sums(
    q: Tensor, k: Tensor, v: Tensor, past: Tensor | None, count: Tensor, normalise: Normalise
) -> tuple[Tensor, Tensor]:
    """y (B, T, D) and S_T (B, D), of q, k, v (B, T, D) and S (B, D), None for 0; padding has v = 0.

    count (B or 1, T) is the number of events that S_t sums, for "count"; nothing else reads it.
    """
    if torch.is_grad_enabled():
        return _MixSums.apply(q, k, v, past, count, normalise)  # type: ignore[no-any-return, no-untyped-call]
    y, sums, *_ = _forward(q, k, v, past, count, normalise)
    return y, sums[:, -1]


class _MixSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        q, k, v, past, count, ctx.normalise = given
        y, sums, inverse_q, inverse, scale = _forward(q, k, v, past, count, ctx.normalise)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, sums, inverse_q, inverse, scale, y)
        return y, sums[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, sums, inverse_q, inverse, scale, y = ctx.saved_tensors
        to_y, to_last = grads
        width = q.shape[-1]
        if to_y is None:
            to_y = torch.zeros_like(q)
        # y = u c: with "rms" c falls as u grows, dc/du_i = -c^3 u_i / D.
        to_u = to_y * scale
        if ctx.normalise == "rms":
            along = _along(to_y, y).mul_(scale).div_(-width)
            to_u = to_u.addcmul_(y, along)
        # u = phi(q) S
        to_sums = torch.mul(to_u, q).mul_(inverse_q)
        to_q = to_u.mul_(sums).mul_(inverse_q)
        to_q = _through_norm(to_q, q, inverse_q)
        # Sums from the end: what an event added is in all later ones.
        if to_last is not None:
            to_sums[:, -1] += to_last
        to_added = to_sums.flip(1).cumsum_(1).flip(1)
        del to_sums
        to_past = to_added[:, 0].clone() if ctx.needs_input_grad[3] else None
        to_v = torch.mul(to_added, k).mul_(inverse)
        to_k = _through_norm(to_added.mul_(v).mul_(inverse), k, inverse)
        return to_q, to_k, to_v, to_past, None, None


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / ||x|| over features: (B, T, D) -> (B, T, 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.clamp_min_(LEAST).reciprocal_()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, past: Tensor | None, count: Tensor, normalise: Normalise
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, S_t, 1 / ||q||, 1 / ||k|| and c."""
    inverse_q, inverse = _inverse_norm(q), _inverse_norm(k)
    sums = torch.mul(k, v).mul_(inverse)
    if past is not None:
        sums[:, 0] += past
    sums = sums.cumsum_(1)
    u = torch.mul(q, sums).mul_(inverse_q)
    scale = _scale(u, count, normalise)
    return u.mul_(scale), sums, inverse_q, inverse, scale


def _scale(u: Tensor, count: Tensor, normalise: Normalise) -> Tensor:
    """c_t, (B, T, 1)."""
    if normalise == "rms":
        return (u * u).mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return count.reciprocal()[..., None] if normalise == "count" else torch.ones_like(u[..., :1])


def _along(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over features: (B, T, 1)."""
    return (a * b).sum(-1, keepdim=True)


def _through_norm(to_x: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of x from to_x, that of phi(x) times 1 / ||x||: less its share along x."""
    along = _along(to_x, x).mul_(inverse).mul_(inverse)
    return to_x.addcmul_(x, along, value=-1)
