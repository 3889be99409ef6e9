"""Rotary softmax attention over the last W events: softmax attention that can stream exactly.

    y_t = sum_{t-W<u<=t} softmax_u(<R_t q_t, R_u k_u> / sqrt d) v_u

R_t turns pairs of features by angles that grow with the event count (RoFormer, arXiv 2104.09864),
so that scores depend on t - u alone and no table bounds the length. Each block of W queries reads
its own keys and the W before them, so the cost is O(T W D).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from longrec.mixers.base import (
    EMPTY,
    Context,
    State,
    StreamingMixer,
    register_mixer,
    split_heads,
)


class BandedState(NamedTuple):
    """The last W events of B histories.

    keys, values : (B, H, W, d), newest last, keys already turned; count : (B,) int64 events so far.
    """

    keys: Tensor
    values: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("banded")
class BandedMixer(StreamingMixer):
    """Causal rotary softmax attention within a band.

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
        past, band = cast(BandedState, state), self.band
        batch, events = x.shape[:2]
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        place = past.count[:, None] + torch.arange(events, device=x.device)
        # Ring index r stands for event r - W of this call; query c of a block reads (c, c + W].
        keys = torch.cat([past.keys.to(x.dtype), _turn(k, place[:, None])], dim=2)
        values = torch.cat([past.values.to(x.dtype), v], dim=2)
        blocks = -(-events // band)
        short = blocks * band - events
        queries = pad(_turn(q, place[:, None]), (0, 0, 0, short)).unflatten(2, (blocks, band))
        near = torch.arange(2 * band, device=x.device)
        row = torch.arange(band, device=x.device)[:, None]
        allowed = (near > row) & (near <= row + band)
        # Ring places that no event has filled yet are masked, row by row; only the first block
        # reads the ring, so that all others share one mask.
        filled = near >= (band - past.count.clamp_max(band))[:, None, None, None]
        keys2, values2 = _pairs(keys, short, band), _pairs(values, short, band)

        def attend(which: slice, mask: Tensor) -> Tensor:
            """Blocks `which` of all rows -> (B, blocks, H, W, d)."""
            q, k, v = (_fold(part[:, :, which]) for part in (queries, keys2, values2))
            y: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return y.reshape(batch, -1, *y.shape[1:])

        y = attend(slice(0, 1), allowed & filled)
        if blocks > 1:
            y = torch.cat([y, attend(slice(1, None), allowed)], dim=1)
        y = self.output(y.transpose(2, 3).flatten(3).flatten(1, 2)[:, :events])
        if ctx.lengths is None:
            kept = (keys[:, :, events:], values[:, :, events:])
            return y, BandedState(*kept, past.count + events)
        last = ctx.lengths[:, None] + torch.arange(band, device=x.device)
        spread = last[:, None, :, None].expand(-1, self.heads, -1, keys.shape[-1])
        return y, BandedState(
            keys.gather(2, spread), values.gather(2, spread), past.count + ctx.lengths
        )

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(BandedState, state)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.inputs(x).chunk(3, -1))
        keys = torch.cat([past.keys[:, :, 1:], _turn(k, past.count[:, None])[:, :, None]], dim=2)
        values = torch.cat([past.values[:, :, 1:], v[:, :, None]], dim=2)
        count = past.count + 1
        filled = torch.arange(self.band, device=x.device) >= (self.band - count)[:, None]
        y = scaled_dot_product_attention(
            _turn(q, past.count[:, None])[:, :, None], keys, values, attn_mask=filled[:, None, None]
        )
        return self.output(y.flatten(1)), BandedState(keys, values, count)

    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        place = torch.arange(len(x), device=x.device)[:, None]
        q, k, v = ((x @ w.t()).unflatten(-1, (self.heads, -1)) for w in self.inputs.weight.chunk(3))
        q, k = _turn(q, place), _turn(k, place)
        rows = []
        for t in range(len(x)):
            seen = slice(max(0, t - self.band + 1), t + 1)
            scores = torch.einsum("hd,uhd->uh", q[t], k[seen]) / q.shape[-1] ** 0.5
            rows.append(torch.einsum("uh,uhd->hd", scores.softmax(0), v[seen]).flatten())
        ring = [
            torch.cat([p.new_zeros(self.band, *p.shape[1:]), p])[-self.band :].transpose(0, 1)[None]
            for p in (k, v)
        ]
        count = torch.tensor([len(x)], device=x.device)
        return torch.stack(rows) @ self.output.weight.t(), BandedState(ring[0], ring[1], count)

    @classmethod
    def examples(cls) -> dict[str, Callable[[int], BandedMixer]]:
        return {"band of 5": partial(cls, heads=2, band=5), "wide": partial(cls, heads=1, band=200)}


def _pairs(x: Tensor, short: int, band: int) -> Tensor:
    """(B, H, W + T, d) -> (B, H, blocks, 2 W, d): each block with the one before it."""
    blocks = pad(x, (0, 0, 0, short)).unflatten(2, (-1, band))
    return torch.cat([blocks[:, :, :-1], blocks[:, :, 1:]], dim=3)


def _fold(x: Tensor) -> Tensor:
    """(B, H, blocks, n, d) -> (B blocks, H, n, d): fused attention takes four axes."""
    return x.transpose(1, 2).flatten(0, 1)


def _turn(x: Tensor, place: Tensor) -> Tensor:
    """Turn feature pairs of x (..., d) by place (...) times 10,000^(-2i/d).

    Angles are computed in float64: at event 1,000,000 float32 would be off by .06 radian.
    """
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = place[..., None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
