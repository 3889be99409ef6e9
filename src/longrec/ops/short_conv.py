"""Short causal depthwise convolution: the sense of local order that linear mixers lack."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

NEAR = 1 << 16
"""Numbers that are worked on at once: a quarter of a MiB of float32."""


class ShortConvolution(nn.Module):
    """y_t = x_t + sum_{i<width} c_i * x_{t-i}, feature by feature.

    Its state is the last width - 1 inputs, (B, width - 1, D). Width 0 is the identity.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(dim, width))
        if width:
            nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    @property
    def kept(self) -> int:
        """Events kept as state."""
        return max(self.width - 1, 0)

    def initial_state(self, batch: int) -> Tensor:
        """(batch, width - 1, D) of zeros."""
        return self.weight.new_zeros(batch, self.kept, self.weight.shape[0])

    def after(self, x: Tensor, past: Tensor, lengths: Tensor | None) -> Tensor:
        """The state after x (B, T, D) that follows `past`, of each row after its length."""
        if not self.width:
            return past
        if lengths is None:
            longer = torch.cat([past.to(x.dtype), x[:, max(x.shape[1] - self.kept, 0) :]], dim=1)
            return longer[:, longer.shape[1] - self.kept :]
        longer = torch.cat([past.to(x.dtype), x], dim=1)
        ends = lengths[:, None] + torch.arange(self.kept, device=x.device)
        return longer.gather(1, ends[:, :, None].expand(-1, -1, x.shape[2]))

    def packed(self, x: Tensor, starts: Tensor) -> Tensor:
        """Histories packed into a row x (1, N, D); `starts` (N,) is True where one begins."""
        if not self.width:
            return x
        place = torch.arange(len(starts), device=x.device)
        place = place - torch.where(starts, place, 0).cummax(0).values
        y = x + x * self.weight[:, 0].to(x.dtype)
        for i in range(1, self.width):
            past = pad(x[:, : max(len(starts) - i, 0)], (0, 0, min(i, len(starts)), 0))
            y = y + torch.where((place >= i)[:, None], past, 0) * self.weight[:, i].to(x.dtype)
        return y

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) after `past` -> (B, D) and the new state."""
        if not self.width:
            return x, past
        longer = torch.cat([past, x[:, None]], dim=1)
        return x + (longer * self.weight.flip(1).t()).sum(1), longer[:, 1:]

    def define(self, x: Tensor) -> Tensor:
        """x (T, D) -> (T, D), event by event."""
        rows = []
        for t in range(len(x)):
            y = x[t]
            for i in range(min(self.width, t + 1)):
                y = y + self.weight[:, i] * x[t - i]
            rows.append(y)
        return torch.stack(rows)

    def define_state(self, x: Tensor) -> Tensor:
        """The state after x (T, D), with a batch axis: (1, width - 1, D)."""
        return torch.cat([x.new_zeros(self.kept, x.shape[1]), x])[len(x) :][None]


def convolve(x: Tensor, past: Tensor | None, kernel: Tensor) -> Tensor:
    """x_t + sum_i c_i * x_{t-i} of x (B, T, D), which follows past (B, n - 1, D), by kernel (n, D).

    None is a past of zeros. A pass per weight over numbers as they lie: a general convolution would
    transpose them to and fro, and take several times as long, most of it backward.
    """
    y, own = torch.empty_like(x), 1 + kernel[0]
    for begin, end in _spans(x):
        torch.mul(x[:, begin:end], own, out=y[:, begin:end])
        for i in range(1, len(kernel)):
            first = min(max(begin, i), end)
            y[:, first:end].addcmul_(x[:, first - i : end - i], kernel[i])
    if past is not None:
        for i, (y_part, past_part) in enumerate(_reach(y, past), 1):
            y_part.addcmul_(past_part, kernel[i])
    return y


def convolve_back(
    grad: Tensor, x: Tensor, past: Tensor | None, kernel: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x, past and kernel from that of what `convolve` gave."""
    to_x, events, spans = torch.empty_like(grad), x.shape[1], []
    own = 1 + kernel[0]
    for begin, end in _spans(x):
        torch.mul(grad[:, begin:end], own, out=to_x[:, begin:end])
        along = [(grad[:, begin:end] * x[:, begin:end]).sum((0, 1))]
        for i in range(1, len(kernel)):
            last = max(min(end, events - i), begin)
            later = grad[:, begin + i : last + i]
            to_x[:, begin:last].addcmul_(later, kernel[i])
            along.append((later * x[:, begin:last]).sum((0, 1)))
        spans.append(torch.stack(along))
    to_kernel = spans[0] if len(spans) == 1 else torch.stack(spans).sum(0)
    if past is None:
        return to_x, None, to_kernel
    to_past = torch.zeros_like(past, dtype=grad.dtype)
    pairs = zip(_reach(grad, to_past), _reach(grad, past), strict=True)
    for i, ((grad_part, to_part), (_, past_part)) in enumerate(pairs, 1):
        to_part.addcmul_(grad_part, kernel[i])
        to_kernel[i] += (grad_part * past_part).sum((0, 1))
    return to_x, to_past, to_kernel


def _reach(y: Tensor, past: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For i = 1, 2, …: the events of y whose x_{t-i} lies in the past, and these."""
    kept = past.shape[1]
    for i in range(1, kept + 1):
        reach = min(i, y.shape[1])
        yield y[:, :reach], past[:, kept - i : kept - i + reach]


def _spans(x: Tensor) -> Iterator[tuple[int, int]]:
    """Events of x (B, T, D) a few at a time, so that several passes find them near a CPU's core."""
    events = x.shape[1]
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        yield 0, events
        return
    step = max(NEAR // (len(x) * x.shape[2]), 1)
    for begin in range(0, events, step):
        yield begin, min(begin + step, events)
