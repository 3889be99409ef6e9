"""HSTU's gated attention (arXiv 2402.17152), without its last projection.

    U, V, Q, K = silu(x W)        y = U * norm(attention(Q, K, V))

Attention is that of longrec.ops.hstu: SiLU of scores with a bias by distance and, if wanted, by the
time between two events. The block (longrec.models.hstu) norms x, drops out of y and projects it.

In the released code the bias is by the time from an event to the NEXT one after the query, which
stands for the time of asking. Here both times are of events that have been: the strict form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.hstu import BUCKETS, hstu_attention

LARGEST = 1e4
"""Of numbers in V, Q and K, whose products of three no softmax bounds: what a norm gives W is far
below, and whatever else comes gives finite numbers."""


@register_mixer("hstu")
class HSTUMixer(Mixer):
    """SiLU attention with relative biases by distance and time, gated.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    max_length : int
        Distances with a bias of their own, and the N that attention divides by.
    time_bias : bool
        Whether the time between events has a bias.
    """

    causal = True
    linear = False
    cost = "O(T² D)"

    def __init__(
        self, dim: int, heads: int = 2, max_length: int = 200, time_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.divisor, self.reads_times = heads, max_length, time_bias
        self.inputs = nn.Linear(dim, 4 * dim, bias=False)
        self.by_distance = nn.Parameter(torch.randn(max_length) * 0.02)
        self.by_time = nn.Parameter(torch.randn(BUCKETS + 1) * 0.02) if time_bias else None

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        u, *parts = silu(self.inputs(x)).chunk(4, -1)
        v, q, k = (split_heads(part.clamp_max(LARGEST), self.heads) for part in parts)
        times = ctx.times if self.reads_times else None
        # Padding stands at the end: when causal, no real event ever looks at it.
        y = hstu_attention(q, k, v, self.by_distance, self.by_time, times, self.divisor)
        return u * layer_norm(join_heads(y), x.shape[-1:], eps=1e-6)
