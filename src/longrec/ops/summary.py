"""Softmax attention within a segment, and to the summaries of earlier segments.

PerSRec (arXiv 2601.03479) puts N summary tokens behind every segment of S events. Events and tokens
stand at places 0, 1, 2, ..., of which every period of S + N has S events first and then N tokens.
The query at place t, in period p, reads the keys at places u <= t that are

    of its own period, or tokens of one of the K periods before it,

and no event of an earlier period: what is kept of it is its tokens, its summary.

    y_t = sum_u softmax_u(<q_t, k_u> / sqrt d) v_u

The paper has two segments, where K >= 1 changes nothing. With K no reader reaches further than it
knows, so that the keys and values of K N tokens and of one period are a state of fixed size.

Shape letters: B histories, H heads, T places, d width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from longrec.ops.heads import split_heads


class Layout(NamedTuple):
    """What stands where.

    segment : S, events of a segment; tokens : N, places behind each; summaries : K, earlier periods
    whose tokens are read.
    """

    segment: int
    tokens: int
    summaries: int

    @property
    def period(self) -> int:
        """Places from one segment to the next."""
        return self.segment + self.tokens

    @property
    def slots(self) -> int:
        """Keys that are kept: the tokens of K periods, oldest first, then one period."""
        return self.summaries * self.tokens + self.period


def naive_summary(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """The definition, for one history: q, k, v (T, H, d) -> y (T, H, d)."""
    rows, period = [], layout.period
    for t in range(len(q)):
        seen = [
            u
            for u in range(t + 1)
            if u // period == t // period
            or (u % period >= layout.segment and t // period - u // period <= layout.summaries)
        ]
        scores = torch.einsum("hd,uhd->uh", q[t], k[seen]) / q.shape[-1] ** 0.5
        rows.append(torch.einsum("uh,uhd->hd", scores.softmax(0), v[seen]))
    return torch.stack(rows)


def summary_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """All places of histories from their begin, period by period at once: O(T (S + K N) d).

    q, k, v (B, H, T, d) -> (B, H, T, d).
    """
    events, size = q.shape[2], layout.period
    if events <= size:  # there is no summary yet
        whole: Tensor = scaled_dot_product_attention(q, k, v, is_causal=True)
        return whole
    heads, periods = q.shape[1], -(-events // size)
    kept = min(layout.summaries, periods - 1)

    def by_period(x: Tensor) -> Tensor:
        """(B, H, T, d) -> (periods, B H, S + N, d): fused attention takes four axes."""
        parts: Tensor = pad(x, (0, 0, 0, periods * size - events)).unflatten(2, (periods, size))
        return parts.movedim(2, 0).flatten(1, 2)

    q, k, v = (by_period(x) for x in (q, k, v))
    k, v = (torch.cat([_earlier_tokens(x, kept, layout), x], 2) for x in (k, v))
    number = torch.arange(periods, device=q.device)[:, None]
    exists = number >= torch.arange(kept, 0, -1, device=q.device)
    exists = exists.repeat_interleave(layout.tokens, 1)[:, None].expand(-1, size, -1)
    own = torch.ones(size, size, dtype=torch.bool, device=q.device).tril().expand(periods, -1, -1)
    mask = torch.cat([exists, own], 2)[:, None]
    y: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    by_history: Tensor = y.unflatten(1, (-1, heads)).movedim(0, 2).flatten(2, 3)
    return by_history[:, :, :events]


def _earlier_tokens(x: Tensor, kept: int, layout: Layout) -> Tensor:
    """x (periods, B H, S + N, d) -> tokens of the `kept` periods before each, oldest first."""
    tokens = pad(x[:-1, :, layout.segment :], (0, 0, 0, 0, 0, 0, kept, 0))
    return tokens.unfold(0, kept, 1).movedim(-1, 2).flatten(2, 3)


def summary_attention_after(
    q: Tensor, new: Tensor, past: Tensor, count: Tensor, lengths: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """A few places of each history, after what is kept of it: O(T (T + S + K N) d).

    Parameters
    ----------
    q : Tensor
        (B, H, T, d).
    new, past : Tensor
        (B, T, 2 H d) and (B, `layout.slots`, 2 H d), keys and then values of all heads: of these
        places, and what is kept, 0 where there is none.
    count, lengths : Tensor
        (B,) int64, places before these, and how many of these are real.
    layout : Layout

    Returns
    -------
    (Tensor, Tensor)
        y (B, H, T, d), of padding nothing real, and what is kept after these.
    """
    segment, tokens, summaries = layout
    size, slots, heads = layout.period, layout.slots, q.shape[1]
    start, first = count[:, None], count[:, None] // size
    t = start + torch.arange(q.shape[2], device=q.device)
    before = _slots(first, layout)
    u = torch.cat([before, t], 1)
    exists = torch.cat([(before >= 0) & (before < start), t >= 0], 1)
    # What the query at place t may read of the key at place u.
    age = (t // size)[:, :, None] - (u // size)[:, None]
    is_summary = (u % size >= segment)[:, None] & (age <= summaries)
    seen = exists[:, None] & (u[:, None] <= t[:, :, None]) & ((age == 0) | is_summary)
    # The last row is what is kept where there is nothing to keep.
    rows = torch.cat([past.to(new.dtype), new, torch.zeros_like(new[:, :1])], 1)
    k, v = (split_heads(part, heads) for part in rows[:, :-1].chunk(2, -1))
    y: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])

    end = start + lengths[:, None]
    wanted = _slots(end // size, layout)
    token = (wanted // size - first + summaries) * tokens + wanted % size - segment
    own = slots - size + wanted - first * size
    source = torch.where(wanted < first * size, token, own)
    source = torch.where(wanted < start, source, slots + wanted - start)
    source = torch.where((wanted >= 0) & (wanted < end), source, rows.shape[1] - 1)
    source = source + rows.shape[1] * torch.arange(len(rows), device=q.device)[:, None]
    return y, embedding(source, rows.flatten(0, 1))


def _slots(period: Tensor, layout: Layout) -> Tensor:
    """period (B, 1), the present one -> (B, `layout.slots`) places of what is kept then.

    They are below 0 where there are no such places.
    """
    segment, tokens, summaries = layout
    here = period.device
    age = torch.arange(-summaries, 0, device=here).repeat_interleave(tokens)
    token = segment + torch.arange(tokens, device=here).repeat(summaries)
    size = layout.period
    return torch.cat(
        [(period + age) * size + token, period * size + torch.arange(size, device=here)], 1
    )
