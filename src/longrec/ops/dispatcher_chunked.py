"""The dispatcher in parallel: chunks of C events, matrix products only, sums carried between.

Shape letters: H heads, B histories, K chunks of C events (K C = T), R experts, d width of a head;
N = H B K. With S and z the sums before a chunk and everything else restricted to it:

    F = cumsum(forget)     w = 2^(s + F)     z_t = z + cumsum(w)_t
    E = tril(Q K'^T)       L = (E w + Q S_k^T) / z / sqrt d
    A = softmax_R(L) / z   Y = A S_v + tril(A w^T) V
    S, z after it: 2^-F_C (S + w^T [k', v]), 2^-F_C (z + sum w)

Chunks know each other through S and z alone, so the rest is done for a few of them at a time, while
all of it stays in a core's cache. Backward is written by hand: it keeps what was given, w and the
sums before each chunk, and computes the rest again rather than store it. Powers are of 2, which
processors compute faster than those of e; scores and rates are given in that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 48
"""Chunks that a thread does at a time."""
TINY, LEAST = 1e-30, 1e-12
"""Of z and of |k|."""
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
SMALL = 2.0**-64
"""Products of q, k' and w could overflow before z divides them; a power of 2 changes no digit."""


class Chunks(NamedTuple):
    """What T = K C events bring to the experts, and what the experts held before them.

    q, k : (H, B, T, d); pairs : (H, B, T, 2 d), [k', v];
    aim : (H, R, d), unit expert queries times temperature times log2(e): s = <aim, k> / |k|;
    forget : (H, B or 1, T or C, R) or None, what is forgotten at each event, times log2(e); with C
        rows every chunk forgets alike;
    real : (B, T) or None, 1 at real events, 0 at padding;
    sums, weight : (H, B, R, 2 d) and (H, B, R), S = P z and z before the first event; or None for
    nothing.
    """

    q: Tensor
    k: Tensor
    pairs: Tensor
    aim: Tensor
    forget: Tensor | None
    real: Tensor | None
    sums: Tensor | None
    weight: Tensor | None


def mix_chunks(
    given: Chunks, size: int, want_logits: bool = False
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The dispatcher over T events in chunks of `size`, which divides T.

    Returns
    -------
    (Tensor, Tensor or None, Tensor, Tensor)
        y (H, B, T, d), its logits over experts (H, B, T, R) if wanted, and S and z after the last
        event.
    """
    # Sums over a history are never kept in half precision.
    with torch.autocast(given.q.device.type, enabled=False):
        if torch.is_grad_enabled():
            return _MixChunks.apply(size, want_logits, *given)  # type: ignore[no-any-return, no-untyped-call]
        return _forward(given, size, want_logits)[:4]


class _MixChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: int, want_logits: bool, *given: Any) -> tuple[Tensor | None, ...]:
        y, logits, after, end, *kept = _forward(Chunks(*given), size, want_logits)
        ctx.set_materialize_grads(False)
        ctx.size = size
        ctx.save_for_backward(*given, after, end, *kept)
        return y, logits, after, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, after, end, w, sums, weight = ctx.saved_tensors
        found = _backward(Chunks(*given), ctx.size, w, (sums, weight, after, end), grads)
        return None, None, *found


def _forward(
    given: Chunks, size: int, want_logits: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, logits, S and z after the last event; w (NK, C, R); S and z before chunks, (N, K, ...)."""
    heads, batch, events, width = given.q.shape
    experts, count, rows = given.aim.shape[1], events // size, heads * batch
    scores, _ = _scores(given)
    w = scores.view(heads, batch, count, size, experts)
    if given.forget is not None:
        w = w.add_(_forgotten(given.forget, size))
    w = w.exp2_()
    if given.real is not None:
        w = w.mul_(given.real.view(len(given.real), count, size, 1))
    w = w.view(rows * count, size, experts)
    q, pairs = (part.view(rows * count, size, -1) for part in (given.q, given.pairs))
    gathered = torch.bmm(w.transpose(1, 2), pairs).view(rows, count, experts, -1)
    added = w.sum(1).view(rows, count, experts)
    keep = _keep(given, size)
    if keep is not None:
        gathered, added = gathered.mul_(keep[..., None]), added.mul_(keep)
    sums, after = _scan(gathered, keep, given.sums)
    weight, end = _scan(added, keep, given.weight)

    past, before = sums.flatten(0, 1), weight.flatten(0, 1)
    mask = w.new_ones(size, size).tril_()
    y = w.new_empty(rows * count, size, width)
    logits = torch.empty_like(w) if want_logits else None
    for block in _blocks(w):
        read = _read(q[block], pairs[block], w[block], past[block], before[block], mask)
        torch.bmm(read.a, read.past[..., width:], out=y[block])
        y[block].baddbmm_(read.mass, read.pairs[..., width:])
        if logits is not None:
            logits[block] = read.logits
    return (
        y.view(heads, batch, events, width),
        None if logits is None else logits.view(heads, batch, events, experts),
        after.unflatten(0, (heads, batch)),
        end.unflatten(0, (heads, batch)),
        *(w, sums, weight),
    )


def _blocks(x: Tensor) -> list[slice]:
    """The chunks (NK, ...) a few at a time, and all at once on a GPU or in a graph of any B."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    step = AT_ONCE * torch.get_num_threads()
    return [slice(begin, begin + step) for begin in range(0, len(x), step)]


def _scores(given: Chunks) -> tuple[Tensor, Tensor]:
    """s (H, B T, R) and 1 / |k| (H, B T, 1)."""
    key = given.k.flatten(1, 2)
    norm: Tensor = torch.linalg.vector_norm(key, dim=-1, keepdim=True)
    inverse = norm.clamp_min_(LEAST).reciprocal_()
    scores: Tensor = torch.bmm(key, given.aim.transpose(1, 2)).mul_(inverse)
    return scores, inverse


def _forgotten(forget: Tensor, size: int) -> Tensor:
    """F: (H, B or 1, T or C, R) -> (H, B or 1, K or 1, C, R)."""
    within: Tensor = forget.unflatten(2, (-1, size))
    return within.cumsum(3)


def _keep(given: Chunks, size: int) -> Tensor | None:
    """What is kept of the sums over each chunk, (N, K, R) or, alike for all, (N, 1, R)."""
    if given.forget is None:
        return None
    last: Tensor = given.forget.unflatten(2, (-1, size)).sum(3).neg_().exp2_()
    return last.expand(-1, given.q.shape[1], -1, -1).flatten(0, 1)


class _Read(NamedTuple):
    """What M chunks' events read, and what it is made of; made in forward, again in backward.

    q : (M, C, d), times SMALL / sqrt d; pairs : (M, C, 2 d), [k', v];
    past : (M, R, 2 d), S before; z, logits, share, a : (M, C, R), with a = A = share / z;
    near, mass : (M, C, C), E and tril(A w^T).
    """

    q: Tensor
    pairs: Tensor
    past: Tensor
    z: Tensor
    near: Tensor
    logits: Tensor
    share: Tensor
    a: Tensor
    mass: Tensor


def _read(q: Tensor, pairs: Tensor, w: Tensor, past: Tensor, weight: Tensor, mask: Tensor) -> _Read:
    """q (M, C, d), [k', v] (M, C, 2 d), w (M, C, R); S and z before, (M, R, 2 d) and (M, R)."""
    width = q.shape[-1]
    q = q * (SMALL * width**-0.5)
    near = torch.bmm(q, pairs[..., :width].transpose(1, 2)).mul_(mask)
    z = w.cumsum(1).add_(weight[:, None]).clamp_min_(TINY)
    logits = torch.bmm(near, w).baddbmm_(q, past[..., :width].transpose(1, 2))
    logits = logits.div_(z).mul_(1 / SMALL)
    share = logits.softmax(-1)
    a = share / z
    mass = torch.bmm(a, w.transpose(1, 2)).mul_(mask)
    return _Read(q, pairs, past, z, near, logits, share, a, mass)


def _scan(added: Tensor, keep: Tensor | None, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_{c+1} = keep_c S_c + added_c over chunks (N, K, R, ...) from start (H, B, R, ...) on.

    -> S before each, and the last, (N, R, ...).
    """
    states = [torch.zeros_like(added[:, 0]) if start is None else start.flatten(0, 1)]
    for more, kept in zip(added.unbind(1), _unbound(keep, added), strict=True):
        states.append(_follow(states[-1], kept, more))
    return torch.stack(states[:-1], 1), states[-1]


def _scan_back(added: Tensor, keep: Tensor | None, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of S after each chunk (N, K, R, ...) and of the start, from those of S before.

    The former take the place of the latter; of long histories a row at a time, for memory's sake.
    """
    starts, step = [], max(AT_ONCE // added.shape[1], 1)
    for rows in (slice(at, at + step) for at in range(0, len(added), step)):
        own, of = added[rows], None if keep is None else keep[rows]
        states = [torch.zeros_like(own[:, 0]) if last is None else last[rows]]
        for more, kept in zip(reversed(own.unbind(1)), reversed(_unbound(of, own)), strict=True):
            states.append(_follow(states[-1], kept, more))
        torch.stack(states[-2::-1], 1, out=own)
        starts.append(states[-1])
    return added, torch.cat(starts)


def _follow(state: Tensor, kept: Tensor | None, more: Tensor) -> Tensor:
    return state + more if kept is None else torch.addcmul(more, kept, state)


def _unbound(keep: Tensor | None, added: Tensor) -> Sequence[Tensor | None]:
    """What is kept over each of the chunks, with as many axes as what is added."""
    if keep is None:
        return [None] * added.shape[1]
    kept = (keep[..., None] if added.ndim > keep.ndim else keep).unbind(1)
    return kept if len(kept) == added.shape[1] else kept * added.shape[1]


def _backward(
    given: Chunks,
    size: int,
    w: Tensor,
    kept: tuple[Tensor, Tensor, Tensor, Tensor],
    grads: tuple[Tensor | None, ...],
) -> Chunks:
    """Gradients of what was given, from those of y, logits, and S and z after the last event."""
    heads, batch, events, width = given.q.shape
    experts, count, rows = given.aim.shape[1], events // size, heads * batch
    (sums, weight, after, end), (to_y, to_logits, to_after, to_end) = kept, grads
    q, pairs = (part.view(rows * count, size, -1) for part in (given.q, given.pairs))
    past, before = sums.flatten(0, 1), weight.flatten(0, 1)
    to = _To(*(torch.empty_like(x) for x in (q, pairs, w, past, before)))
    mask = w.new_ones(size, size).tril_()
    dy = None if to_y is None else to_y.reshape(rows * count, size, width)
    dl = None if to_logits is None else to_logits.reshape(w.shape)
    for block in _blocks(w):
        read = _read(q[block], pairs[block], w[block], past[block], before[block], mask)
        _read_back(
            *(read, w[block], mask),
            torch.zeros_like(read.q) if dy is None else dy[block],
            None if dl is None else dl[block],
            _To(*(part[block] for part in to)),
        )
    keep = _keep(given, size)
    last, ending = (None if to is None else to.flatten(0, 1) for to in (to_after, to_end))
    to_sums, start = _scan_back(to.past.view(sums.shape), keep, last)
    to_weight, begin = _scan_back(to.weight.view(weight.shape), keep, ending)
    d_last = None
    if keep is not None:
        # Of what is forgotten over a whole chunk: S_{c+1} itself is lost for each unit of it.
        ended = torch.cat([weight[:, 1:], end.view(begin.shape)[:, None]], 1)
        d_last = to_weight * ended
        for at in range(0, count - 1, AT_ONCE):
            chunks = slice(at, min(at + AT_ONCE, count - 1))
            later = sums[:, chunks.start + 1 : chunks.stop + 1]
            d_last[:, chunks] += (to_sums[:, chunks] * later).sum(-1)
        d_last[:, -1] += (to_sums[:, -1] * after.view(start.shape)).sum(-1)
        d_last *= -LN2
        to_sums, to_weight = to_sums.mul_(keep[..., None]), to_weight.mul_(keep)
    to_sums, to_weight = to_sums.view(past.shape), to_weight.view(rows * count, 1, experts)
    for block in _blocks(w):
        more, of = to.w[block].add_(to_weight[block]), to_sums[block]
        more.baddbmm_(pairs[block], of.transpose(1, 2)).mul_(w[block])
        to.pairs[block].baddbmm_(w[block], of)
    ds = to.w.mul_(LN2)
    to_q, to_pairs = to.q.view(given.q.shape), to.pairs.view(given.pairs.shape)
    del to, to_sums  # what follows needs room of its own
    d_forget = None
    if d_last is not None and given.forget is not None:
        own = ds.view(heads, batch, count, size, experts)
        d_forget = _to_forget(own, d_last, given.forget, mask)
    # s = <aim, k> / |k|
    scores, inverse = _scores(given)
    ds, key = ds.view(scores.shape), given.k.flatten(1, 2)
    along = scores.mul_(ds).sum(-1, keepdim=True).mul_(inverse).mul_(inverse)
    ds = ds.mul_(inverse)
    to_k = torch.bmm(ds, given.aim).addcmul_(key, along, value=-1).view(given.k.shape)
    return Chunks(
        *(to_q, to_k, to_pairs),
        torch.bmm(ds.transpose(1, 2), key),
        *(d_forget, None),
        None if given.sums is None else start.view(given.sums.shape),
        None if given.weight is None else begin.view(given.weight.shape),
    )


class _To(NamedTuple):
    """Where the gradients of M chunks go: of q, [k', v], w, and of S and z before."""

    q: Tensor
    pairs: Tensor
    w: Tensor
    past: Tensor
    weight: Tensor


def _read_back(
    read: _Read, w: Tensor, mask: Tensor, dy: Tensor, dl: Tensor | None, to: _To
) -> None:
    """Gradients of what M chunks' events read, from those of y (M, C, d) and of its logits."""
    q, pairs, past, z, near, logits, share, a, mass = read
    width = q.shape[-1]
    key, value = pairs[..., :width], pairs[..., width:]
    # Y = A S_v + tril(A w^T) V
    far = torch.bmm(dy, value.transpose(1, 2)).mul_(mask)
    da = torch.bmm(dy, past[..., width:].transpose(1, 2)).baddbmm_(far, w)
    dw = torch.bmm(far.transpose(1, 2), a)
    to.past[..., width:] = torch.bmm(a.transpose(1, 2), dy)
    to.pairs[..., width:] = torch.bmm(mass.transpose(1, 2), dy)
    # A = softmax(L) / z: its gradient times itself is all that is needed of it.
    da = da.mul_(a)
    d_logits = torch.addcmul(da, share, da.sum(-1, keepdim=True), value=-1)
    if dl is not None:
        d_logits += dl
    dz = da.addcmul_(d_logits, logits).div_(z).neg_()
    # L = (E w + Q S_k^T) / z; du is the gradient of the bracket, times SMALL.
    du = d_logits.div_(z)
    d_near = torch.bmm(du, w.transpose(1, 2)).mul_(mask)
    torch.bmm(d_near, key, out=to.q)
    to.q.baddbmm_(du, past[..., :width]).mul_(width**-0.5)
    q = q.mul_(1 / SMALL)
    to.past[..., :width] = torch.bmm(du.transpose(1, 2), q)
    to.pairs[..., :width] = torch.bmm(d_near.transpose(1, 2), q)
    dw.baddbmm_(near.transpose(1, 2), du, alpha=1 / SMALL)
    # z_t = z + sum_{u<=t} w_u: a sum from the chunk's end, and not a difference of two of them.
    torch.baddbmm(dw, mask.t().expand_as(near), dz, out=to.w)
    torch.sum(dz, 1, out=to.weight)


def _to_forget(own: Tensor, last: Tensor, forget: Tensor, mask: Tensor) -> Tensor:
    """Gradient of what is forgotten at each event: of F at it and after, and of its chunk's keep.

    own : (H, B, K, C, R), of F; last : (N, K, R), of its last row besides.
    """
    heads, batch, count, _, experts = own.shape
    shape = forget.unflatten(2, (-1, own.shape[3])).shape
    last = last.view(heads, batch, count, 1, experts).sum_to_size(*shape[:3], 1, experts)
    return (torch.matmul(mask.t(), own.sum_to_size(*shape)) + last).flatten(2, 3)
