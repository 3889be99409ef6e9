"""A selective state space (Mamba, arXiv 2312.00752): sums that forget as their inputs say.

    h_t = exp(delta_t A) * h_{t-1} + (delta_t x_t) b_t^T        y_t = h_t c_t

with h (E, N), products by element: channel e and place n keep exp(delta_te A_en) of their past, A
below 0 and delta 0 or more. What an event leaves of h depends on e and n both, so that no product
of matrices does it, and divided by powers of it numbers would leave their range.

Over a batch T is cut into segments, and a segment into n chunks of C events. All chunks are read at
once, event j of each at step j, in C steps: first from h = 0, for what each adds; h goes from chunk
to chunk by what each adds and what it leaves; then from the h before each chunk, for y. Exponents
are never above 0. Backward goes through a segment again, from the last event to the first, and so
nothing of size (T, E, N) is ever stored: what is kept is h between chunks, T / C of them.

O(T E N), in numbers of about `AT_ONCE`, which stay in a core's cache: channels do not meet, so they
are read some at a time.

Shape letters: B histories, T events, E channels, N places, R = B n rows of chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from longrec.ops.dispatcher_cuda import scan

CHUNK = 32
"""Most events of a chunk: steps that follow one another."""
ROWS = 16
"""Chunks that are read at once, where histories are so few that it takes several of each."""
AT_ONCE = 1 << 17
"""Numbers of h that are worked on at once, about."""


def naive_selective(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, of one history: x, delta (T, E), a (E, N), b, c (T, N), past (E, N)."""
    h, rows = past, []
    for t in range(len(x)):
        h = (delta[t][:, None] * a).exp() * h + (delta[t] * x[t])[:, None] * b[t]
        rows.append(h @ c[t])
    return torch.stack(rows), h


def selective_scan(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """y of all events and h after the last one.

    Parameters
    ----------
    x, delta : Tensor
        (B, T, E), T 1 or more; delta is 0 at padding, which then changes nothing.
    a : Tensor
        (E, N), below 0.
    b, c : Tensor
        (B, T, N).
    past : Tensor
        (B, E, N), h before the first event.

    Returns
    -------
    (Tensor, Tensor)
        (B, T, E) and (B, E, N).
    """
    if torch.compiler.is_compiling():  # a graph of a few events: few calls, and h of them all
        return _in_few_calls(x * delta, (delta[..., None] * a).exp(), b, c, past)
    batch, added = len(x), x * delta
    width = max(ROWS // batch, 1) * CHUNK
    share = max(AT_ONCE // (max(batch, ROWS) * a.shape[1]), 1)
    outputs, states = [], []
    of_channels = zip(
        *(part.split(share, 2) for part in (added, delta)),
        *(a.split(share), past.split(share, 1)),
        strict=True,
    )
    for own_added, own_delta, own_a, h in of_channels:
        parts = []
        of_time = (part.split(width, 1) for part in (own_added, own_delta, b, c))
        for some_added, some_delta, some_b, some_c in zip(*of_time, strict=True):
            y, h = _segment(some_added, some_delta, own_a, some_b, some_c, h)
            parts.append(y)
        outputs.append(torch.cat(parts, 1))
        states.append(h)
    return torch.cat(outputs, 2), torch.cat(states, 1)


def selective_step(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """One event: x, delta (B, E), b, c (B, N), h (B, E, N) -> y (B, E) and the new h."""
    h = (delta[..., None] * a).exp() * past + (delta * x)[..., None] * b[:, None]
    return (h @ c[..., None])[..., 0], h


def _in_few_calls(
    added: Tensor, decay: Tensor, b: Tensor, c: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """The same by doubling, of delta x (B, T, E) and exp(delta A) (B, T, E, N)."""
    h = added[..., None] * b[:, :, None]
    first = h[:, :1] + decay[:, :1] * past[:, None]
    h = scan(decay, torch.cat([first, h[:, 1:]], 1))
    return (h @ c[..., None])[..., 0], h[:, -1]


def _segment(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """delta x (B, T, e), delta, a (e, N), b, c, h (B, e, N) -> y (B, T, e), and h after them."""
    if torch.is_grad_enabled():
        return _Segment.apply(*inputs)  # type: ignore[no-any-return, no-untyped-call]
    chunks = _Chunks.of(*inputs[:5])
    return chunks.outputs(chunks.starts(inputs[5]), inputs[0].shape[1])


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        chunks = _Chunks.of(*inputs[:5])
        starts = chunks.starts(inputs[5])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5], starts)
        return chunks.outputs(starts, inputs[0].shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        *inputs, starts = ctx.saved_tensors
        chunks, (batch, events) = _Chunks.of(*inputs), inputs[0].shape[:2]
        of_y = torch.zeros_like(inputs[0]) if grads[0] is None else grads[0]
        grad_y = _rows(of_y, chunks.number, chunks.size)
        last = grads[1]  # None where nobody reads it
        ends = chunks.ends_backward(
            grad_y, torch.zeros_like(starts[:batch]) if last is None else last
        )
        d_a, d_past, *parts = chunks.backward(starts, grad_y, ends)
        d_added, d_delta, d_b, d_c = (
            part.reshape(batch, -1, part.shape[-1])[:, :events] for part in parts
        )
        return d_added, d_delta, d_a, d_b, d_c, d_past


@dataclass
class _Chunks:
    """A segment as rows of chunks, all but a (R, C, ·); places after its end have delta 0."""

    added: Tensor
    delta: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    number: int
    size: int

    @classmethod
    def of(cls, added: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> _Chunks:
        number = -(-added.shape[1] // CHUNK)
        size = -(-added.shape[1] // number)
        added, delta, b, c = (_rows(part, number, size) for part in (added, delta, b, c))
        return cls(added, delta, a, b, c, number, size)

    def by_history(self, rows: Tensor) -> Tensor:
        """(R, ...) -> (B, n, ...)."""
        return cast(Tensor, rows.unflatten(0, (-1, self.number)))

    def decay(self, j: int) -> Tensor:
        """exp(delta A) at event j of each chunk, (R, e, N)."""
        return (self.delta[:, j, :, None] * self.a).exp_()

    def kept(self) -> tuple[Tensor, ...]:
        """What each chunk leaves of h before it, n times (B, e, N)."""
        return self.by_history((self.delta.sum(1)[..., None] * self.a).exp_()).unbind(1)

    def forward(self, h: Tensor) -> Iterator[Tensor]:
        """h after each event of the chunks, from h before them, (R, e, N): new tensors."""
        for j in range(self.size):
            h = self.decay(j).mul_(h).addcmul_(self.added[:, j, :, None], self.b[:, j, None])
            yield h

    def starts(self, past: Tensor) -> Tensor:
        """h before each chunk, (R, e, N)."""
        if self.number == 1:
            return past
        h = torch.zeros_like(self.a)
        for after in self.forward(h):
            h = after
        starts = []
        for left, more in zip(self.kept(), self.by_history(h).unbind(1), strict=True):
            starts.append(past)
            past = past * left + more
        return torch.stack(starts, 1).flatten(0, 1)

    def outputs(self, starts: Tensor, events: int) -> tuple[Tensor, Tensor]:
        """y of the first `events` places, (B, T, e), and h after them, (B, e, N)."""
        rows, h = [], starts
        for j, after in enumerate(self.forward(starts)):
            h = after
            rows.append((h @ self.c[:, j, :, None])[..., 0])
        y = torch.stack(rows, 1).reshape(-1, self.number * self.size, len(self.a))
        return y[:, :events], self.by_history(h)[:, -1]

    def ends_backward(self, grad_y: Tensor, grad_last: Tensor) -> Tensor:
        """Gradients of h after each chunk, by all that is behind it: (R, e, N)."""
        if self.number == 1:
            return grad_last
        grad = grad_y.new_zeros(len(grad_y), *self.a.shape)
        for j in reversed(range(self.size)):
            grad.addcmul_(grad_y[:, j, :, None], self.c[:, j, None]).mul_(self.decay(j))
        ends, after = [], grad_last
        for left, more in zip(
            reversed(self.kept()), reversed(self.by_history(grad).unbind(1)), strict=True
        ):
            ends.append(after)
            after = after * left + more
        return torch.stack(ends[::-1], 1).flatten(0, 1)

    def backward(self, starts: Tensor, grad_y: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
        """Gradients of a, of h before the segment, and of delta x, delta, b and c."""
        states = [starts, *self.forward(starts)]
        rows: tuple[list[Tensor], ...] = ([], [], [], [])
        d_a, grad = torch.zeros_like(self.a), ends.clone()
        for j in reversed(range(self.size)):
            own_y, h, before = grad_y[:, j], states[j + 1], states[j]
            grad.addcmul_(own_y[..., None], self.c[:, j, None])  # now that of h
            rows[0].append((grad @ self.b[:, j, :, None])[..., 0])
            rows[2].append((self.added[:, j, None] @ grad)[:, 0])
            rows[3].append((own_y[:, None] @ h)[:, 0])
            grad.mul_(self.decay(j))  # now that of h before
            of_exponent = torch.mul(grad, before, out=h)  # that of delta A, in h's memory
            rows[1].append(torch.einsum("ren,en->re", of_exponent, self.a))
            d_a += torch.einsum("ren,re->en", of_exponent, self.delta[:, j])
        parts = [torch.stack(part[::-1], 1) for part in rows]
        return d_a, self.by_history(grad)[:, 0], *parts


def _rows(x: Tensor, number: int, size: int) -> Tensor:
    """(B, T, e) -> (B n, C, e), filled up with zeros."""
    return pad(x, (0, 0, 0, number * size - x.shape[1])).reshape(-1, size, x.shape[2])
