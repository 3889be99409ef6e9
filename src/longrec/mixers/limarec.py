"""Several interests of a user, read from linear attention's sums: LimaRec (arXiv 2105.14060).

No text of the paper but its abstract was at hand: it names linear self-attention, several interests
and updates by event. The equations are ours. K learnt queries, the same for all users, read the
history so far:

    u_tk = sum_{u<=t} <phi(q_k), phi(k_u)> v_u / sum_{u<=t} <phi(q_k), phi(k_u)>
    phi(x) = elu(x) + 1

Since the queries are fixed, what they read of the sum of phi(k) v^T is itself a running sum, of one
vector per interest, and that is what is kept.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.normalised import LEAST, positive
from longrec.ops.sums import LASTING, running_sums, sum_type


class InterestState(NamedTuple):
    """What is kept of B histories.

    sums : (B, K, H, d) float64, of weights times values; weights : (B, K, H) float64.
    """

    sums: Tensor
    weights: Tensor


@register_mixer("limarec")
class InterestMixer(StreamingMixer):
    """Learnt interest queries over the history so far: (B, T, D) -> (B, T, K D), K interests.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    interests : int
        Queries K.
    """

    linear = True
    cost = "O(T K D²)"

    def __init__(self, dim: int, heads: int = 2, interests: int = 4) -> None:
        super().__init__()
        self.heads, self.interests = heads, interests
        self.queries = nn.Parameter(torch.randn(interests, dim))
        self.inputs = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> InterestState:
        dim = self.queries.shape[1]
        parts = self.interests, self.heads, dim // self.heads
        sums = self.queries.new_zeros(batch, *parts, dtype=LASTING)
        return InterestState(sums, sums.sum(-1))

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.queries.numel()), state
        past, mask = cast(InterestState, state), ctx.mask(x)
        weights, values = self._weighed(x)
        if mask is not None:
            weights = weights * mask[:, :, None, None]
        sums = running_sums(weights[..., None] * values)
        totals = weights.cumsum(1)
        new = InterestState(past.sums + sums[:, -1], past.weights + totals[:, -1])
        sums = sums + past.sums.to(sums.dtype)[:, None]
        return self._read(sums, totals + past.weights.to(sums.dtype)[:, None], x.dtype), new

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(InterestState, state)
        weights, values = self._weighed(x)
        new = InterestState(past.sums + weights[..., None] * values, past.weights + weights)
        kind = values.dtype
        return self._read(new.sums.to(kind), new.weights.to(kind), x.dtype), new

    def _weighed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., D) -> weights (..., K, H) and values (..., 1, H, d)."""
        kind = sum_type(x)
        k, v = self.inputs(x).to(kind).chunk(2, -1)
        k, v = (part.unflatten(-1, (1, self.heads, -1)) for part in (positive(k), v))
        queries = positive(self.queries.to(kind)).unflatten(-1, (self.heads, -1))
        return (k * queries).sum(-1), v

    def _read(self, sums: Tensor, weights: Tensor, kind: torch.dtype) -> Tensor:
        """Sums (..., K, H, d) and weights (..., K, H) -> (..., K D)."""
        read = (sums / weights.clamp_min(LEAST)[..., None]).flatten(-2)
        return cast(Tensor, self.output(read.to(kind))).flatten(-2)
