"""The dispatcher in parallel: chunks of C events, matrix products only, sums carried between.

Shape letters: H heads, B histories, K chunks of C events (K C = T), R experts, d width of a head;
N = H B K. With S and z the sums before a chunk and everything else restricted to it:

    F = cumsum(forget)     w = 2^(s + F)     z_t = z + cumsum(w)_t
    E = tril(Q K'^T)       L = (E w + Q S_k^T) / z / sqrt d
    A = softmax_R(L) / z   Y = A S_v + tril(A w^T) V
    S, z after it: 2^-F_C (S + w^T [k', v]), 2^-F_C (z + sum w)

Chunks depend on each other through S and z alone, so the rest is done for a few of them at a time,
while all of it stays in a core's cache. One chunk that nothing comes before, and whose end nobody
asks for, has no S: short histories are trained on so. Where nothing may be forgotten, S and z go
on in float64 from chunk to chunk (`LASTING`), and are rounded where a chunk reads them. Backward is
written by hand: it stores the inputs, w, and S and z before each chunk, and computes the rest
again. Powers are of 2, which processors compute faster than those of e; scores and rates are given
in that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from longrec.ops.dispatcher import MIN_WEIGHT
from longrec.ops.sums import LASTING

CHUNKS_AT_ONCE = 48
"""Chunks that a thread works on at a time."""
MIN_NORM = 1e-12
"""Of |k|, where something is divided by it."""
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
SMALL = 2.0**-64
"""Products of q, k' and w could overflow before z divides them; a power of 2 changes no digit."""


class ChunkInputs(NamedTuple):
    """What T = K C events bring to the experts, and what the experts held before them.

    q, k : (H, B, T, d); pairs : (H, B, T, 2 d), [k', v];
    queries : (H, R, d), unit expert queries times temperature times log2(e): s = <query, k> / |k|;
    forget : (H, B or 1, T or C, R) or None, what is forgotten at each event, times log2(e); with C
        rows every chunk forgets alike;
    is_real : (B, T) or None, 1 at real events, 0 at padding;
    sums, z : (H, B, R, 2 d) and (H, B, R), S = P z and z before the first event, and those after
        the last one are given, of their type; or None for nothing, and nothing is given.
    """

    q: Tensor
    k: Tensor
    pairs: Tensor
    queries: Tensor
    forget: Tensor | None
    is_real: Tensor | None
    sums: Tensor | None
    z: Tensor | None


def dispatcher_by_chunks(
    inputs: ChunkInputs, size: int, want_logits: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The dispatcher over T events in chunks of `size`, which divides T.

    Returns
    -------
    (Tensor, Tensor or None, Tensor or None, Tensor or None)
        y (H, B, T, d), its logits over experts (H, B, T, R) if wanted, and S and z after the last
        event if there were some before the first.
    """
    # Sums over a history are never kept in half precision.
    with torch.autocast(inputs.q.device.type, enabled=False):
        if torch.is_grad_enabled():
            return _DispatcherByChunks.apply(size, want_logits, *inputs)  # type: ignore[no-any-return, no-untyped-call]
        y, logits, last_sums, last_z, *_ = _forward(inputs, size, want_logits)
        return (y, logits, None, None) if inputs.sums is None else (y, logits, last_sums, last_z)


class _DispatcherByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: int, want_logits: bool, *inputs: Any) -> tuple[Tensor | None, ...]:
        given = ChunkInputs(*inputs)
        y, logits, *saved = _forward(given, size, want_logits)
        ctx.set_materialize_grads(False)
        ctx.size = size
        ctx.save_for_backward(*inputs, *saved)
        return (y, logits, None, None) if given.sums is None else (y, logits, saved[0], saved[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, last_sums, last_z, w, sums, z = ctx.saved_tensors
        saved = w, sums, z, last_sums, last_z
        return None, None, *_backward(ChunkInputs(*inputs), ctx.size, saved, grads)


def _forward(
    inputs: ChunkInputs, size: int, want_logits: bool
) -> tuple[
    Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None
]:
    """y, logits, S and z after the last event; w (NK, C, R); S and z before chunks, (N, K, ...).

    S and z are None of a chunk that is alone.
    """
    heads, batch, events, width = inputs.q.shape
    experts, chunks, rows = inputs.queries.shape[1], events // size, heads * batch
    scores, _ = _scores(inputs)
    w = scores.view(heads, batch, chunks, size, experts)
    if inputs.forget is not None:
        within: Tensor = inputs.forget.unflatten(2, (-1, size))
        w = w.add_(within.cumsum(3))
    w = w.exp2_()
    if inputs.is_real is not None:
        w = w.mul_(inputs.is_real.view(len(inputs.is_real), chunks, size, 1))
    w = w.view(rows * chunks, size, experts)
    q, pairs = (part.view(rows * chunks, size, -1) for part in (inputs.q, inputs.pairs))
    before, sums, z, last_sums, last_z = None, None, None, None, None
    if not _is_alone(inputs, size):
        added_sums = torch.bmm(w.transpose(1, 2), pairs).view(rows, chunks, experts, -1)
        added_z = w.sum(1).view(rows, chunks, experts)
        decay = _chunk_decay(inputs, size)
        if decay is not None:
            added_sums, added_z = added_sums.mul_(decay[..., None]), added_z.mul_(decay)
        sums, last_sums = _scan(added_sums, decay, inputs.sums)
        z, last_z = _scan(added_z, decay, inputs.z)
        last_sums = last_sums.unflatten(0, (heads, batch))
        last_z = last_z.unflatten(0, (heads, batch))
        before = _Before(sums.flatten(0, 1), z.flatten(0, 1))
    mask = w.new_ones(size, size).tril_()
    y = w.new_empty(rows * chunks, size, width)
    logits = torch.empty_like(w) if want_logits else None
    for block in _blocks(w):
        read = _read(q[block], pairs[block], w[block], _some(before, block), mask)
        torch.bmm(read.aw, read.pairs[..., width:], out=y[block])
        if read.sums is not None:
            y[block].baddbmm_(read.a, read.sums[..., width:])
        if logits is not None:
            logits[block] = read.logits
    return (
        y.view(heads, batch, events, width),
        None if logits is None else logits.view(heads, batch, events, experts),
        *(last_sums, last_z, w, sums, z),
    )


class _Before(NamedTuple):
    """S (M, R, 2 d) and z (M, R) before M chunks."""

    sums: Tensor
    z: Tensor


def _some(before: _Before | None, block: slice) -> _Before | None:
    return None if before is None else _Before(before.sums[block], before.z[block])


def _is_alone(inputs: ChunkInputs, size: int) -> bool:
    """Whether the events are one chunk, nothing before them and their end not asked for."""
    return inputs.sums is None and inputs.q.shape[2] == size


def _blocks(x: Tensor) -> list[slice]:
    """The chunks (NK, ...) a few at a time, and all at once on a GPU or in a graph of any B."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    step = CHUNKS_AT_ONCE * torch.get_num_threads()
    return [slice(begin, begin + step) for begin in range(0, len(x), step)]


def _scores(inputs: ChunkInputs) -> tuple[Tensor, Tensor]:
    """s (H, B T, R) and 1 / |k| (H, B T, 1)."""
    key = inputs.k.flatten(1, 2)
    norm: Tensor = torch.linalg.vector_norm(key, dim=-1, keepdim=True)
    inverse = norm.clamp_min_(MIN_NORM).reciprocal_()
    scores: Tensor = torch.bmm(key, inputs.queries.transpose(1, 2)).mul_(inverse)
    return scores, inverse


def _chunk_decay(inputs: ChunkInputs, size: int) -> Tensor | None:
    """2^-F_C, by which each chunk multiplies S: (N, K, R) or, alike for all, (N, 1, R)."""
    if inputs.forget is None:
        return None
    decay: Tensor = inputs.forget.unflatten(2, (-1, size)).sum(3).neg_().exp2_()
    return decay.expand(-1, inputs.q.shape[1], -1, -1).flatten(0, 1)


class _Read(NamedTuple):
    """What the events of M chunks read, and what it is made of; backward makes it again.

    q : (M, C, d), times SMALL / sqrt d; pairs : (M, C, 2 d), [k', v];
    sums : (M, R, 2 d), S before the chunk, or None; z, logits, share, a : (M, C, R), z_t, L,
    softmax_R(L) and A = share / z; qk, aw : (M, C, C), E = tril(Q K'^T) and tril(A w^T).
    """

    q: Tensor
    pairs: Tensor
    sums: Tensor | None
    z: Tensor
    qk: Tensor
    logits: Tensor
    share: Tensor
    a: Tensor
    aw: Tensor


def _read(q: Tensor, pairs: Tensor, w: Tensor, before: _Before | None, mask: Tensor) -> _Read:
    """q (M, C, d), [k', v] (M, C, 2 d), w (M, C, R)."""
    width = q.shape[-1]
    q = q * (SMALL * width**-0.5)
    qk = torch.bmm(q, pairs[..., :width].transpose(1, 2)).mul_(mask)
    z, logits, sums = w.cumsum(1), torch.bmm(qk, w), None
    if before is not None:
        sums = before.sums
        z = z.add_(before.z[:, None])
        logits = logits.baddbmm_(q, sums[..., :width].transpose(1, 2))
    z = z.clamp_min_(MIN_WEIGHT)
    logits = logits.div_(z).mul_(1 / SMALL)
    share = logits.softmax(-1)
    a = share / z
    aw = torch.bmm(a, w.transpose(1, 2)).mul_(mask)
    return _Read(q, pairs, sums, z, qk, logits, share, a, aw)


def _scan(added: Tensor, decay: Tensor | None, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_{c+1} = decay_c S_c + added_c over chunks (N, K, R, ...), from S_0 = first (H, B, R, ...).

    -> S before each chunk, and S after the last, (N, R, ...).
    """
    if first is None:
        state = torch.zeros_like(added[:, 0], dtype=LASTING if decay is None else added.dtype)
    else:
        state = first.flatten(0, 1)
    if decay is not None:
        decay = decay.to(state.dtype)
    before = []
    for added_c, decay_c in zip(added.unbind(1), _per_chunk(decay, added), strict=True):
        before.append(state.to(added.dtype))
        state = _add(state, decay_c, added_c.to(state.dtype))
    return torch.stack(before, 1), state


def _scan_back(
    d_before: Tensor, decay: Tensor | None, d_last: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of S after each chunk (N, K, R, ...) and of S_0, from those of S before each chunk.

    The former overwrite the latter; of long histories a row at a time, for memory's sake.
    """
    d_first, step = [], max(CHUNKS_AT_ONCE // d_before.shape[1], 1)
    for rows in (slice(at, at + step) for at in range(0, len(d_before), step)):
        d_rows, decay_rows = d_before[rows], None if decay is None else decay[rows]
        states = [torch.zeros_like(d_rows[:, 0]) if d_last is None else d_last[rows]]
        per_chunk = zip(d_rows.unbind(1), _per_chunk(decay_rows, d_rows), strict=True)
        for d_c, decay_c in reversed(list(per_chunk)):
            states.append(_add(states[-1], decay_c, d_c))
        torch.stack(states[-2::-1], 1, out=d_rows)
        d_first.append(states[-1])
    return d_before, torch.cat(d_first)


def _add(state: Tensor, decay: Tensor | None, added: Tensor) -> Tensor:
    return state + added if decay is None else torch.addcmul(added, decay, state)


def _per_chunk(decay: Tensor | None, added: Tensor) -> Sequence[Tensor | None]:
    """decay_c of each of the chunks, with as many axes as what is added."""
    if decay is None:
        return [None] * added.shape[1]
    parts = (decay[..., None] if added.ndim > decay.ndim else decay).unbind(1)
    return parts if len(parts) == added.shape[1] else parts * added.shape[1]


def _backward(
    inputs: ChunkInputs,
    size: int,
    saved: tuple[Any, ...],
    grads: tuple[Tensor | None, ...],
) -> ChunkInputs:
    """Gradients of the inputs, from those of y, logits, and S and z after the last event."""
    heads, batch, events, width = inputs.q.shape
    experts, chunks, rows = inputs.queries.shape[1], events // size, heads * batch
    (w, sums, z, *_), (grad_y, grad_logits, grad_sums, grad_z) = saved, grads
    q, pairs = (part.view(rows * chunks, size, -1) for part in (inputs.q, inputs.pairs))
    before = d_before = None
    if sums is not None and z is not None:
        before = _Before(sums.flatten(0, 1), z.flatten(0, 1))
        d_before = _Before(torch.empty_like(before.sums), torch.empty_like(before.z))
    d = _ChunkGrads(torch.empty_like(q), torch.empty_like(pairs), torch.empty_like(w), d_before)
    mask = w.new_ones(size, size).tril_()
    dy = None if grad_y is None else grad_y.reshape(rows * chunks, size, width)
    d_logits = None if grad_logits is None else grad_logits.reshape(w.shape)
    for block in _blocks(w):
        read = _read(q[block], pairs[block], w[block], _some(before, block), mask)
        _read_back(
            *(read, w[block], mask),
            torch.zeros_like(read.q) if dy is None else dy[block],
            None if d_logits is None else d_logits[block],
            _ChunkGrads(d.q[block], d.pairs[block], d.w[block], _some(d_before, block)),
        )
    d_forgotten, d_first = None, None
    if before is None:
        d.w.mul_(w)
    else:
        d_forgotten, d_first = _sums_back(inputs, size, saved, (grad_sums, grad_z), d)
    ds = d.w.mul_(LN2)
    dq, d_pairs = d.q.view(inputs.q.shape), d.pairs.view(inputs.pairs.shape)
    del d, d_before  # what follows needs their memory
    d_forget = None
    if inputs.forget is not None:
        d_within = ds.view(heads, batch, chunks, size, experts)
        d_forget = _forget_back(d_within, d_forgotten, inputs.forget, mask)
    # s = <query, k> / |k|
    scores, inverse = _scores(inputs)
    ds, key = ds.view(scores.shape), inputs.k.flatten(1, 2)
    along = scores.mul_(ds).sum(-1, keepdim=True).mul_(inverse).mul_(inverse)
    ds = ds.mul_(inverse)
    dk = torch.bmm(ds, inputs.queries).addcmul_(key, along, value=-1).view(inputs.k.shape)
    d_sums = d_z = None
    if d_first is not None and inputs.sums is not None and inputs.z is not None:
        d_sums = d_first.sums.view(inputs.sums.shape).to(inputs.sums)
        d_z = d_first.z.view(inputs.z.shape).to(inputs.z)
    return ChunkInputs(
        *(dq, dk, d_pairs),
        torch.bmm(ds.transpose(1, 2), key),
        *(d_forget, None, d_sums, d_z),
    )


def _sums_back(
    inputs: ChunkInputs,
    size: int,
    saved: tuple[Any, ...],
    grads: Sequence[Tensor | None],
    d: _ChunkGrads,
) -> tuple[Tensor | None, _Before]:
    """Add to the gradients of w and [k', v] what comes through S and z after each chunk.

    Parameters
    ----------
    saved : w, S and z before each chunk, and after the last event.
    grads : of S and z after the last event.

    Returns
    -------
    d_forgotten, d_first
        The gradients of F_C (N, K, R), None where nothing is forgotten, and of S and z before the
        first event.
    """
    w, sums, z, last_sums, last_z = saved
    last_sums, last_z = last_sums.to(w.dtype), last_z.to(w.dtype)
    chunks, experts, decay = sums.shape[1], w.shape[2], _chunk_decay(inputs, size)
    d_last_sums, d_last_z = (None if g is None else g.flatten(0, 1).to(w.dtype) for g in grads)
    assert d.before is not None
    d_sums, d_first_sums = _scan_back(d.before.sums.view(sums.shape), decay, d_last_sums)
    d_z, d_first_z = _scan_back(d.before.z.view(z.shape), decay, d_last_z)
    d_forgotten = None
    if decay is not None:
        # Of what is forgotten over a whole chunk: S_{c+1} itself is lost for each unit of it.
        z_after = torch.cat([z[:, 1:], last_z.view(d_first_z.shape)[:, None]], 1)
        d_forgotten = d_z * z_after
        for at in range(0, chunks - 1, CHUNKS_AT_ONCE):
            some = slice(at, min(at + CHUNKS_AT_ONCE, chunks - 1))
            sums_after = sums[:, some.start + 1 : some.stop + 1]
            d_forgotten[:, some] += (d_sums[:, some] * sums_after).sum(-1)
        d_forgotten[:, -1] += (d_sums[:, -1] * last_sums.view(d_first_sums.shape)).sum(-1)
        d_forgotten *= -LN2
        d_sums, d_z = d_sums.mul_(decay[..., None]), d_z.mul_(decay)
    d_sums, d_z = d_sums.view(d.before.sums.shape), d_z.view(len(w), 1, experts)
    pairs = inputs.pairs.view(len(w), size, -1)
    for block in _blocks(w):
        dw = d.w[block].add_(d_z[block])
        dw.baddbmm_(pairs[block], d_sums[block].transpose(1, 2)).mul_(w[block])
        d.pairs[block].baddbmm_(w[block], d_sums[block])
    return d_forgotten, _Before(d_first_sums, d_first_z)


class _ChunkGrads(NamedTuple):
    """Gradients of q, [k', v] and w of M chunks, and of what stands before them, if anything."""

    q: Tensor
    pairs: Tensor
    w: Tensor
    before: _Before | None


def _read_back(
    read: _Read, w: Tensor, mask: Tensor, dy: Tensor, grad_logits: Tensor | None, d: _ChunkGrads
) -> None:
    """Write to `d` the gradients from those of y (M, C, d) and of its logits (M, C, R)."""
    q, pairs, sums, z, qk, logits, share, a, aw = read
    width = q.shape[-1]
    key, value = pairs[..., :width], pairs[..., width:]
    # Y = A S_v + tril(A w^T) V
    d_aw = torch.bmm(dy, value.transpose(1, 2)).mul_(mask)
    da = torch.bmm(d_aw, w)
    if sums is not None and d.before is not None:
        da.baddbmm_(dy, sums[..., width:].transpose(1, 2))
        d.before.sums[..., width:] = torch.bmm(a.transpose(1, 2), dy)
    dw = torch.bmm(d_aw.transpose(1, 2), a)
    d.pairs[..., width:] = torch.bmm(aw.transpose(1, 2), dy)
    # A = softmax(L) / z: its gradient times itself is all that is needed of it.
    da = da.mul_(a)
    d_logits = torch.addcmul(da, share, da.sum(-1, keepdim=True), value=-1)
    if grad_logits is not None:
        d_logits += grad_logits
    dz = da.addcmul_(d_logits, logits).div_(z).neg_()
    # L = (E w + Q S_k^T) / z; du is the gradient of the bracket, times SMALL.
    du = d_logits.div_(z)
    d_qk = torch.bmm(du, w.transpose(1, 2)).mul_(mask)
    torch.bmm(d_qk, key, out=d.q)
    q = q.mul_(1 / SMALL)
    if sums is not None and d.before is not None:
        d.q.baddbmm_(du, sums[..., :width])
        d.before.sums[..., :width] = torch.bmm(du.transpose(1, 2), q)
        torch.sum(dz, 1, out=d.before.z)
    d.q.mul_(width**-0.5)
    d.pairs[..., :width] = torch.bmm(d_qk.transpose(1, 2), q)
    dw.baddbmm_(qk.transpose(1, 2), du, alpha=1 / SMALL)
    # z_t = z + sum_{u<=t} w_u: a sum from the chunk's end, and not a difference of two of them.
    torch.baddbmm(dw, mask.t().expand_as(qk), dz, out=d.w)


def _forget_back(
    d_within: Tensor, d_forgotten: Tensor | None, forget: Tensor, mask: Tensor
) -> Tensor:
    """Gradient of what is forgotten at each event, from those of F and of the chunks' decay.

    d_within : (H, B, K, C, R), of F at the event and after; d_forgotten : (N, K, R), of F_C; None:
    of a chunk that is alone.
    """
    heads, batch, chunks, size, experts = d_within.shape
    shape = forget.unflatten(2, (-1, size)).shape
    d_forget: Tensor = torch.matmul(mask.t(), d_within.sum_to_size(*shape))
    if d_forgotten is not None:
        parts = d_forgotten.view(heads, batch, chunks, 1, experts)
        d_forget += parts.sum_to_size(*shape[:3], 1, experts)
    return d_forget.flatten(2, 3)
