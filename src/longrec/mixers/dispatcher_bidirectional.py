"""ELASTIC's linear dispatcher attention as published (arXiv 2408.09380): bidirectional.

R experts read the whole history, and every event reads the experts; per head of width d:

    P' = softmax_T(P Wq1 (X Wk1)^T / sqrt d) X Wv1     padding left out
    Y  = softmax_R(X Wq2 (P' Wk2)^T / sqrt d) P' Wv2

O(T R D), six projections. P is handed from layer to layer by the model (`dispatch`); a layer that
stands alone has experts of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.heads import join_heads, split_heads


@register_mixer("dispatcher-bidirectional")
class BidirectionalDispatcherMixer(Mixer):
    """ELASTIC's dispatcher attention as published, bidirectional.

    Parameters
    ----------
    dim, heads : int
        Width D, heads H (a divisor of D).
    experts : int
        R experts of its own; 0 where the model hands them over.
    """

    causal = False
    linear = True
    cost = "O(T R D)"

    def __init__(self, dim: int, heads: int = 2, experts: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.aim = nn.Linear(dim, dim, bias=False)  # q1 of the experts
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)  # k1, v1, q2 of the events
        self.gathered = nn.Linear(dim, 2 * dim, bias=False)  # k2, v2 of what experts gathered
        self.experts = nn.Parameter(torch.randn(experts, dim)) if experts else None

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if self.experts is None:
            raise ValueError("this layer has no experts of its own: call dispatch with them")
        return self.dispatch(x, self.experts.expand(len(x), -1, -1), ctx.key_mask(x))[0]

    def dispatch(self, x: Tensor, experts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, D), P (B, R, D), key mask (B, 1, 1, T) -> Y (B, T, D), P' (B, R, D)."""
        k, v, q = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        aim = split_heads(self.aim(experts), self.heads)
        new = join_heads(scaled_dot_product_attention(aim, k, v, mask))
        key, value = (split_heads(part, self.heads) for part in self.gathered(new).chunk(2, dim=-1))
        return join_heads(scaled_dot_product_attention(q, key, value)), new
