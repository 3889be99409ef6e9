"""The dispatcher in parallel: chunks of C events, matrix products only, sums carried between."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

TINY = 1e-30
SMALL = 2.0**-64


def mix_chunks(
    q: Tensor,
    pairs: Tensor,
    scores: Tensor,
    forget: Tensor,
    sums: Tensor,
    weight: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The dispatcher over T events in chunks, continuing from `sums` and `weight`.

    Parameters
    ----------
    q : Tensor
        (B, H, T, d) queries.
    pairs : Tensor
        (B, H, T, 2 d), [k', v].
    scores : Tensor
        (B, H, T, R), s; -inf at padding.
    forget : Tensor
        (B, H, T, R), in [0, 1]; 0 at padding.
    sums, weight : Tensor
        (B, H, R, 2 d) and (B, H, R): S = P z and z before the first event.
    chunk : int
        Most events per chunk.

    Returns
    -------
    (Tensor, Tensor, Tensor, Tensor)
        y (B, H, T, d), its logits over experts (B, H, T, R), and S and z after the last event.
    """
    batch, heads, events, width = q.shape
    count = -(-events // chunk)
    size = -(-events // count)  # chunks of equal size waste least
    short = count * size - events

    def cut(x: Tensor, value: float = 0.0) -> Tensor:
        """(B, H, T, n) -> (B H, chunks, C, n)."""
        x = pad(x, (0, 0, 0, short), value=value) if short else x
        return x.reshape(batch * heads, count, size, x.shape[-1])

    q, pairs = cut(q), cut(pairs)
    forgotten = cut(forget).cumsum(2)
    w = (cut(scores, -math.inf) + forgotten).exp()
    key, value = pairs.chunk(2, dim=-1)
    gathered = torch.cat([w.transpose(2, 3) @ pairs, w.sum(2)[..., None]], dim=-1)
    start = torch.cat([sums, weight[..., None]], dim=-1).flatten(0, 1)
    keep = (-forgotten[:, :, -1]).exp()
    before, after = _ChunkScan.apply(gathered, keep, start)  # type: ignore[no-untyped-call]
    past_key, past_value, past_weight = before.split([width, width, 1], dim=-1)

    z = (past_weight.transpose(2, 3) + w.cumsum(2)).clamp_min(TINY)
    # Products of q, k' and w could overflow before z divides them; a power of 2 changes no digit.
    q = q * SMALL
    near = (q @ key.transpose(2, 3)).tril()
    logits = (near @ w + q @ past_key.transpose(2, 3)) / z * (width**-0.5 / SMALL)
    a = logits.softmax(-1) / z
    y = a @ past_value + (a @ w.transpose(2, 3)).tril() @ value
    after = after.unflatten(0, (batch, heads))

    def join(x: Tensor) -> Tensor:
        return x.reshape(batch, heads, count * size, x.shape[-1])[:, :, :events]

    return join(y), join(logits), after[..., :-1], after[..., -1]


class _ChunkScan(torch.autograd.Function):
    """S_{c+1} = keep_c (S_c + G_c) over chunks c, in place forward and backward.

    Autograd over the same loop would keep a graph node per chunk.
    """

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, keep: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """gathered (N, K, R, F), keep (N, K, R), start (N, R, F) -> before (N, K, R, F), after."""
        count = gathered.shape[1]
        states = gathered.new_empty(count + 1, *start.shape)
        states[0] = start
        for c in range(count):
            torch.add(states[c], gathered[:, c], out=states[c + 1])
            states[c + 1].mul_(keep[:, c, :, None])
        ctx.save_for_backward(keep, states)
        return states[:-1].transpose(0, 1).contiguous(), states[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from_before, running = grads[0], grads[1].clone()
        keep, states = ctx.saved_tensors
        to_gathered, to_keep = torch.empty_like(from_before), torch.empty_like(keep)
        for c in range(keep.shape[1] - 1, -1, -1):
            # d S_{c+1} / d keep_c = S_{c+1} / keep_c, and keep_c >= exp(-48) is never 0.
            to_keep[:, c] = (running * states[c + 1]).sum(-1) / keep[:, c]
            running.mul_(keep[:, c, :, None])
            to_gathered[:, c] = running
            running.add_(from_before[:, c])
        return to_gathered, to_keep, running
