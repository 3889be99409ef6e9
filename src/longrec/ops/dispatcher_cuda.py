"""The dispatcher in half precision on CUDA, through flash-linear-attention's gated slot attention.

That kernel (chunk_gsa, arXiv 2409.07146) runs P_t = exp(g_t) P_{t-1} + s'_t [k'_t, v_t] per expert,
and reads softmax(q_t P_t.k' / sqrt d) P_t.v. The dispatcher's means are that recurrence with

    z_t = exp(-a_t) z_{t-1} + exp(s_t),  g_t = log(exp(-a_t) z_{t-1} / z_t),  s'_t = exp(s_t) / z_t

a being what is forgotten. z is computed here, in float32: scores lie within 12 of 0, so exp(s) and
its discounted sums are safe. In float32 the kernel's products are rounded to 10 bits, so whole
precision stays with `dispatcher_chunked`, and so does whoever needs the logits over experts, which
the kernel does not give.

The kernel goes through a row chunk by chunk. Rows are therefore cut into segments, whose first
states are known beforehand: what a segment adds to P is one matrix product, and P goes from segment
to segment by a scan. So a single long history keeps the whole device busy.

Shape letters: B rows, T events, H heads, d width of a head, R experts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from longrec.ops.dispatcher import MIN_WEIGHT

SEGMENT = 1024
"""Most events that the kernel goes through one after the other."""
BLOCK = 64
"""Events that are scanned by doubling before the blocks' ends are."""
HALVES = (torch.bfloat16, torch.float16)


@cache
def available() -> bool:
    """Whether CUDA, Triton and flash-linear-attention are here (the extra longrec[cuda])."""
    if not torch.cuda.is_available() or find_spec("triton") is None or find_spec("fla") is None:
        return False
    try:
        load_kernel()
    except (ImportError, RuntimeError):  # of another torch or Triton than it was made for
        return False
    return True


def load_kernel() -> Callable[..., Any]:
    """flash-linear-attention's chunk_gsa; importing it takes seconds, so only where it runs."""
    from fla.ops.gsa import chunk_gsa

    return cast(Callable[..., Any], chunk_gsa)


def kernel_dtype(x: Tensor) -> torch.dtype | None:
    """The half precision in which the kernel mixes x, or None where it does not serve x.

    It serves tensors on CUDA that are in half precision, or will be under autocast.
    """
    if not x.is_cuda:
        return None
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return kind if kind in HALVES and available() else None


def dispatcher_by_kernel(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Tensor,
    forget: Tensor,
    mean: Tensor,
    log_weight: Tensor,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The dispatcher over T events, continuing from P and log z.

    Parameters
    ----------
    q, key, value : Tensor
        (B, H, T, d), q, k' and v.
    scores : Tensor
        (B, H, T, R), s; -inf at padding, which stands at the end.
    forget : Tensor
        (B, H, T, R), in [0, 1]; 0 at padding.
    mean, log_weight : Tensor
        (B, H, R, 2 d) and (B, H, R): P and log z before the first event, log z -inf where there
        was none.
    kind : torch.dtype
        What the kernel computes in.

    Returns
    -------
    (Tensor, Tensor, Tensor)
        y (B, H, T, d) in `kind`, and P and log z after the last event.
    """
    with torch.autocast(q.device.type, enabled=False):
        # The kernel wants time before heads.
        q, key, value = (x.to(kind).transpose(1, 2) for x in (q, key, value))
        scores, forget = (x.to(mean.dtype).transpose(1, 2) for x in (scores, forget))
        empty = log_weight == -torch.inf
        gates, share, log_weight = _gates(scores, forget, log_weight)
        # The kernel's first gate is 1 where there is no weight yet: then there is no P either.
        mean = mean.masked_fill(empty[..., None], 0.0)
        batch, events = q.shape[:2]
        count = -(-events // SEGMENT)
        size = -(-events // count)  # segments of equal size waste least

        def cut(x: Tensor) -> Tensor:
            """(B, T, H, n) -> (B, segments, L, H, n)."""
            return cast(Tensor, _padded(x, count * size).unflatten(1, (count, size)))

        q, key, value, gates, share = (cut(x) for x in (q, key, value, gates, share))
        before, mean = _between(gates, share, torch.cat([key, value], dim=-1), mean)
        past_key, past_value = before.flatten(0, 1).chunk(2, dim=-1)
        y = load_kernel()(
            *(x.flatten(0, 1) for x in (q, key, value, share.to(kind), gates)),
            initial_state=(past_key.transpose(-1, -2), past_value),
            checkpoint_level=0,  # the states between chunks are small beside a model's activations
        )[0]
        joined: Tensor = y.unflatten(0, (batch, count)).flatten(1, 2)[:, :events].transpose(1, 2)
        return joined, mean, log_weight


def _gates(scores: Tensor, forget: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g and s' (B, T, H, R) of the kernel, and log z after the last event (B, H, R)."""
    decay, weight = (-forget).exp(), scores.exp()
    past = log_weight.exp()[:, None]
    first = weight[:, :1] + decay[:, :1] * past
    z = scan(decay, torch.cat([first, weight[:, 1:]], dim=1))
    previous = torch.cat([past, z[:, :-1]], dim=1)
    decayed = decay * previous
    # Without anything to forget g means nothing, and must not send a gradient back.
    gates = torch.where(decayed > 0, decayed / z.clamp_min(MIN_WEIGHT), 1.0).log()
    last = z[:, -1]
    empty = last == 0
    after = last.masked_fill(empty, 1.0).log().masked_fill(empty, -torch.inf)
    return gates, weight / z.clamp_min(MIN_WEIGHT), after


def _between(gates: Tensor, share: Tensor, pairs: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """P before each segment, (B, segments, H, R, 2 d), and after the last, (B, H, R, 2 d).

    gates, share (B, segments, L, H, R) and pairs (B, segments, L, H, 2 d) as the kernel takes them;
    mean (B, H, R, 2 d), P before the first segment.
    """
    later = gates.flip(2).cumsum(2).flip(2)  # down to and including an event's own gate
    to_end = (later - gates).exp() * share
    added = to_end.permute(0, 1, 3, 4, 2) @ pairs.to(share.dtype).transpose(2, 3)
    decay = later[:, :, 0].exp()[..., None]
    first = added[:, :1] + decay[:, :1] * mean[:, None]
    after = scan(decay, torch.cat([first, added[:, 1:]], dim=1))
    return torch.cat([mean[:, None], after[:, :-1]], dim=1), after[:, -1]


def scan(decay: Tensor, added: Tensor) -> Tensor:
    """x_t = decay_t x_{t-1} + added_t along dimension 1, from x = 0, in O(log T) calls.

    Parameters
    ----------
    decay : Tensor
        (B, T, ...), in [0, 1]; it broadcasts to `added`.
    added : Tensor
        (B, T, ...).
    """
    return cast(Tensor, _Scan.apply(decay, added))  # type: ignore[no-untyped-call]


class _Scan(torch.autograd.Function):
    """Its gradient is the same scan from the end; autograd would store every doubling."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, added: Tensor) -> Tensor:
        x = _recur(decay, added)
        ctx.save_for_backward(decay, x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        decay, x = ctx.saved_tensors
        later = torch.cat([torch.zeros_like(decay[:, :1]), decay[:, 1:].flip(1)], dim=1)
        d_added = _recur(later, grads[0].flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return (d_added * before).sum_to_size(decay.shape), d_added


def _recur(decay: Tensor, x: Tensor) -> Tensor:
    """The scan: by doubling within blocks, over their ends in the same way, and put together."""
    events = x.shape[1]
    blocks = -(-events // BLOCK)
    size = -(-events // blocks)
    decay, x = (_padded(part, blocks * size).unflatten(1, (blocks, size)) for part in (decay, x))
    step = 1
    while step < size:
        # x_t and decay_t cover the last `step` events; the first ones of a block are done.
        x = torch.cat([x[:, :, :step], x[:, :, step:] + decay[:, :, step:] * x[:, :, :-step]], 2)
        decay = torch.cat([decay[:, :, :step], decay[:, :, step:] * decay[:, :, :-step]], 2)
        step *= 2
    if blocks > 1:
        ends = _recur(decay[:, :-1, -1], x[:, :-1, -1])
        x = torch.cat([x[:, :1], x[:, 1:] + decay[:, 1:] * ends[:, :, None]], dim=1)
    return x.flatten(1, 2)[:, :events]


def _padded(x: Tensor, events: int) -> Tensor:
    """x (B, T, ...) with zeros after it up to T = `events`: no weight, and nothing forgotten."""
    short = events - x.shape[1]
    return pad(x, (0, 0) * (x.ndim - 2) + (0, short)) if short else x
