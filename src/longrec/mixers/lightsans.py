"""LightSANs (SIGIR 2021): events read k interests, and positions attend apart from items.

    K~ = softmax_u(K Theta_k)^T K        V~ = softmax_u(V Theta_v)^T V        u: the real events
    y_t = softmax_k(<q_t, K~> / sqrt d) V~  +  softmax_u(<pq_t, pk_u> / sqrt d) v_u    per head

Theta (D x k) pools the projected events into k interests before heads are split. pq and pk are
projections of the normalised position vectors, so that the second term knows places alone, counted
from the end. O(T k D) for the first term; the second is O(T^2 D), although its weights are the same
for all histories of a length.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.windows import at_end, from_end


@register_mixer("lightsans")
class LightSANsMixer(Mixer):
    """LightSANs' attention to pooled interests and to places, bidirectional.

    Parameters
    ----------
    dim, heads : int
        Width D, heads H (a divisor of D).
    interests : int
        k.
    max_length : int
        N, places with a vector of its own; 0 where the model hands them over.
    """

    causal = False
    linear = False
    cost = "O(T² D)"

    def __init__(
        self, dim: int, heads: int = 2, interests: int = 20, max_length: int = 200
    ) -> None:
        super().__init__()
        self.heads, self.max_length = heads, max_length or None
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.pool_keys = nn.Parameter(torch.randn(dim, interests))  # Theta_k
        self.pool_values = nn.Parameter(torch.randn(dim, interests))  # Theta_v
        self.position_norm = nn.LayerNorm(dim)
        self.position_inputs = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02) if max_length else None

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if self.positions is None:
            raise ValueError("this layer has no positions of its own: call attend with them")
        return self.attend(x, self.positions, ctx)

    def attend(self, x: Tensor, positions: Tensor, ctx: Context) -> Tensor:
        """x (B, T, D) with the vectors of N >= T places (N, D), the last event's last."""
        events, places = x.shape[1], len(positions)
        if not events:
            return x
        size = min(events, places)
        window = at_end(x, ctx.lengths, size)
        # Padding stands in front now: a row without events reads it rather than nothing.
        mask = None
        if ctx.lengths is not None:
            place = torch.arange(size, device=x.device)
            real = place >= size - ctx.lengths[:, None]
            mask = real | ~real.any(1, keepdim=True)
        q, k, v = self.inputs(window).chunk(3, dim=-1)
        pooled_k, pooled_v = pooled(k, self.pool_keys, mask), pooled(v, self.pool_values, mask)
        parts = (split_heads(part, self.heads) for part in (q, pooled_k, pooled_v, v))
        read, interests, gathered, values = parts
        y = scaled_dot_product_attention(read, interests, gathered)
        where = self.position_inputs(self.position_norm(positions[places - size :]))[None]
        pq, pk = (split_heads(p.expand(len(x), -1, -1), self.heads) for p in where.chunk(2, -1))
        keys = None if mask is None else mask[:, None, None]
        y = y + scaled_dot_product_attention(pq, pk, values, keys)
        return from_end(cast(Tensor, self.output(join_heads(y))), ctx.lengths, events)


def pooled(x: Tensor, theta: Tensor, mask: Tensor | None) -> Tensor:
    """softmax_u(x Theta)^T x over the events u that mask (B, T) leaves: (B, T, D) -> (B, k, D)."""
    scores = x @ theta
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
    return scores.softmax(1).mT @ x
