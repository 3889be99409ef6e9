"""Gated rotary linear attention, of RecGRELA (arXiv 2506.13315), made causal.

    n = norm(x)        v = n W_v + b_v        q, k = elu(v W + b) + 1
    y_t = R_t q_t^T mean_{u<=t}(R_u k_u v_u^T) / (<q_t, mean_{u<=t} k_u> + eps) + conv(v)_t
    out = (y * silu(n W_g + b_g)) W_o + b_o

with heads, and one set of angles over the whole width: R_t turns each pair of features by t times
10,000^(-2i / D), so that the first heads tell near events apart and the last ones far ones. conv is
a causal depthwise convolution, the local part. The two means are sums over the same events, so that
the division by their number cancels but for eps.

As published, both means are over all events of a prefix, padding too, and a bidirectional layer is
trained on the last position alone. Here they run along the history: each event reads what was
before it, all events are targets, and a state of fixed size goes on from event to event.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, silu

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.mixers.short_conv import ShortConvolution
from longrec.ops.attention import rotate
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.linear_attention import causal_linear, linear_step
from longrec.ops.sums import LASTING, sum_type

EPS = 1e-6
"""Added to the product of q and the mean of k."""


class GatedLinearState(NamedTuple):
    """What gated linear attention keeps of B histories.

    sum : (B, H, d, d) float64, sum of turned k times v; keys : (B, D) float64, sum of k;
    count : (B,) int64 events so far; convolution : (B, width - 1, D), last v.
    """

    sum: Tensor
    keys: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count
    convolution: Tensor


@register_mixer("gated-linear")
class GatedLinearMixer(StreamingMixer):
    """RecGRELA's linear attention, causal: rotary, mean-normalised, with a gate.

    It normalises its input itself, since gate and values read the same.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H; D / H must be even.
    convolution : int
        Width of the convolution of v; 0 leaves v as it is.
    """

    linear = True
    cost = "O(T D²)"

    def __init__(self, dim: int, heads: int = 2, convolution: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.inputs = nn.Linear(dim, 2 * dim)
        self.features = nn.Linear(dim, 2 * dim)
        self.convolution = ShortConvolution(dim, convolution)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.output = nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> GatedLinearState:
        weight = self.output.weight
        dim, d, device = len(weight), len(weight) // self.heads, weight.device
        return GatedLinearState(
            torch.zeros(batch, self.heads, d, d, dtype=LASTING, device=device),
            torch.zeros(batch, dim, dtype=LASTING, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
            self.convolution.initial_state(batch),
        )

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return self._mix(x, None, None)[0] if x.shape[1] else x

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past, mask = cast(GatedLinearState, state), ctx.mask(x)
        y, total, keys, v = self._mix(x, past, mask)
        new = torch.full_like(past.count, x.shape[1]) if ctx.lengths is None else ctx.lengths
        last = self.convolution.state_after(v, past.convolution, ctx.lengths)
        return y, GatedLinearState(total, past.keys + keys, past.count + new, last)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(GatedLinearState, state)
        gate, v, q, k = self._project(x)
        keys = past.keys + k
        turned_q, turned_k = (self._heads(rotate(part, past.count)) for part in (q, k))
        values = v.to(q.dtype).unflatten(-1, (self.heads, -1))
        read, total = linear_step(turned_q, turned_k, values, past.sum)
        count = past.count + 1
        y = read / self._divisor(q, keys.to(q.dtype), count)[..., None]
        local, last = self.convolution.step(v, past.convolution)
        return self._gated(y.flatten(1), local, gate), GatedLinearState(total, keys, count, last)

    def _mix(
        self, x: Tensor, past: GatedLinearState | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs (B, T, D), the sum after the last event, that of these k, and v (B, T, D)."""
        gate, v, q, k = self._project(x)
        if mask is not None:
            k = k * mask[..., None]
        position = torch.arange(x.shape[1], device=x.device)
        if past is not None:
            position = past.count[:, None] + position
        turned_q, turned_k = (
            self._heads(rotate(part, position)).transpose(1, 2) for part in (q, k)
        )
        values, before = split_heads(v.to(q.dtype), self.heads), None if past is None else past.sum
        read, total = causal_linear(turned_q, turned_k, values, before)
        keys = k.cumsum(1)
        known = keys if past is None else keys + past.keys[:, None].to(k.dtype)
        divisor = self._divisor(q, known, position + 1)
        y = join_heads(read / divisor.transpose(1, 2)[..., None])
        local = self.convolution(v, None if past is None else past.convolution)
        return self._gated(y, local, gate), total, keys[:, -1], v

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Events x (..., D) -> the gate and v in their type, q and k in that of sums."""
        gate, v = self.inputs(self.norm(x)).chunk(2, -1)
        q, k = (elu(self.features(v).to(sum_type(x))) + 1).chunk(2, -1)
        return gate, v, q, k

    def _heads(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., H, d), so that the pairs that `rotate` turns stay together."""
        parts = cast(Tensor, x.unflatten(-1, (2, self.heads, -1)))
        return parts.transpose(-2, -3).flatten(-2)

    def _divisor(self, q: Tensor, keys: Tensor, count: Tensor) -> Tensor:
        """<q, sum of k> + eps times the number of events, (..., H), of each head."""
        products = self._heads(q * keys).sum(-1)
        return products + EPS * count[..., None].to(q.dtype)

    def _gated(self, y: Tensor, local: Tensor, gate: Tensor) -> Tensor:
        """What linear attention and convolution give, through the gate, (..., D) each."""
        return cast(Tensor, self.output((y.to(gate.dtype) + local + self.bias) * silu(gate)))
