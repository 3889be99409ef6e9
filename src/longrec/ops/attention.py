"""Softmax attention: its definition, rotary positions, and a band of the last W events.

    y_t = sum_u softmax_u(<q_t, k_u> / sqrt d) v_u

over u <= t (causal), over all events (bidirectional) or over t - W < u <= t (a band). torch has the
fused form of the first two. Shape letters: B histories, H heads, T events, W band, d width of a
head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def naive_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, band: int | None = None
) -> Tensor:
    """The definition, for one history: q, k, v (T, H, d) -> y (T, H, d).

    Without `causal` queries and keys may be of different numbers: every query reads all keys.
    """
    rows = []
    for t in range(len(q)):
        first = 0 if band is None else max(0, t - band + 1)
        seen = slice(first, t + 1 if causal else len(k))
        scores = torch.einsum("hd,uhd->uh", q[t], k[seen]) / q.shape[-1] ** 0.5
        rows.append(torch.einsum("uh,uhd->hd", scores.softmax(0), v[seen]))
    return torch.stack(rows)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotate feature pairs of x (..., d) by position (...) times 10,000^(-2i/d).

    RoFormer, arXiv 2104.09864. Angles are computed in float64: at event 1,000,000 float32 would be
    off by .06 radian.
    """
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = position[..., None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def banded_attention(q: Tensor, keys: Tensor, values: Tensor, count: Tensor, band: int) -> Tensor:
    """Each query reads the W events up to and including its own, in blocks of W queries.

    Parameters
    ----------
    q : Tensor
        (B, H, T, d).
    keys, values : Tensor
        (B, H, W + T, d): the W events before these, then their own.
    count : Tensor
        (B,) int64, events before these; where there were fewer than W, the first keys stand for
        none.
    band : int
        W.

    Returns
    -------
    Tensor
        (B, T, H d).
    """
    batch, _, events, _ = q.shape
    blocks = -(-events // band)
    missing = blocks * band - events
    queries = pad(q, (0, 0, 0, missing)).unflatten(2, (blocks, band))
    # Index r of a block's 2 W keys stands for event r - W of the block; query c reads (c, c + W].
    key = torch.arange(2 * band, device=q.device)
    query = torch.arange(band, device=q.device)[:, None]
    in_band = (key > query) & (key <= query + band)
    # Only the first block reads events before these, so that all others share one mask.
    exists = key >= (band - count.clamp_max(band))[:, None, None, None]
    key_blocks, value_blocks = (
        torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3)  # each block with the one before it
        for x in (pad(x, (0, 0, 0, missing)).unflatten(2, (-1, band)) for x in (keys, values))
    )

    def attend(some: slice, mask: Tensor) -> Tensor:
        """Some blocks of all rows -> (B, blocks, H, W, d)."""
        q, k, v = (
            part[:, :, some].transpose(1, 2).flatten(0, 1)  # fused attention takes four axes
            for part in (queries, key_blocks, value_blocks)
        )
        y: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.reshape(batch, -1, *y.shape[1:])

    y = attend(slice(0, 1), in_band & exists)
    if blocks > 1:
        y = torch.cat([y, attend(slice(1, None), in_band)], dim=1)
    return y.transpose(2, 3).flatten(3).flatten(1, 2)[:, :events]


def banded_attention_step(q: Tensor, keys: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """The same for one event: q (B, H, d), keys and values (B, H, W, d) with it, -> (B, H d).

    count (B,) is the number of events with this one.
    """
    band = keys.shape[2]
    exists = torch.arange(band, device=q.device) >= (band - count)[:, None]
    y: Tensor = scaled_dot_product_attention(
        q[:, :, None], keys, values, attn_mask=exists[:, None, None]
    )
    return y.flatten(1)
