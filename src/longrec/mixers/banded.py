"""Rotary softmax attention over the last W events: softmax attention that can stream exactly.

    y_t = sum_{t-W<u<=t} softmax_u(<R_t q_t, R_u k_u> / sqrt d) v_u

R_t rotates pairs of features by angles that grow with the event count (RoFormer, arXiv 2104.09864),
so that scores depend on t - u alone and no table bounds the length. Each block of W queries reads
its own keys and the W before them, so the cost is O(T W D).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.attention import (
    banded_attention,
    banded_attention_step,
    rotate,
)
from longrec.ops.heads import split_heads


class BandedState(NamedTuple):
    """The last W events of B histories.

    keys, values : (B, H, W, d), newest last, keys already rotated; count : (B,) int64 events so
    far.
    """

    keys: Tensor
    values: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("banded")
class BandedMixer(StreamingMixer):
    """Causal rotary softmax attention over the last W events.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H; D / H must be even.
    band : int
        W, the number of latest events that a query reads, itself included.
    """

    linear = True
    cost = "O(T W D)"

    def __init__(self, dim: int, heads: int = 2, band: int = 200) -> None:
        super().__init__()
        self.heads, self.band = heads, band
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> BandedState:
        weight = self.output.weight
        empty = weight.new_zeros(batch, self.heads, self.band, weight.shape[0] // self.heads)
        count = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return BandedState(empty, empty, count)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past, events = cast(BandedState, state), x.shape[1]
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        position = (past.count[:, None] + torch.arange(events, device=x.device))[:, None]
        keys = torch.cat([past.keys.to(x.dtype), rotate(k, position)], dim=2)
        values = torch.cat([past.values.to(x.dtype), v], dim=2)
        y = self.output(banded_attention(rotate(q, position), keys, values, past.count, self.band))
        if ctx.lengths is None:
            last = (keys[:, :, events:], values[:, :, events:])
            return y, BandedState(*last, past.count + events)
        index = ctx.lengths[:, None] + torch.arange(self.band, device=x.device)
        index = index[:, None, :, None].expand(-1, self.heads, -1, keys.shape[-1])
        return y, BandedState(
            keys.gather(2, index), values.gather(2, index), past.count + ctx.lengths
        )

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(BandedState, state)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.inputs(x).chunk(3, -1))
        position = past.count[:, None]
        keys = torch.cat([past.keys[:, :, 1:], rotate(k, position)[:, :, None]], dim=2)
        values = torch.cat([past.values[:, :, 1:], v[:, :, None]], dim=2)
        new = BandedState(keys, values, past.count + 1)
        return self.output(banded_attention_step(rotate(q, position), *new)), new
