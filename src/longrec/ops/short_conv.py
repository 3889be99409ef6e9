"""Short causal depthwise convolution, in all its forms: y_t = x_t + sum_{i<n} c_i * x_{t-i}.

Shape letters: B histories, T events, D width, n width of the kernel c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_NUMBERS = 1 << 16
"""Numbers worked on at once: a quarter of a MiB of float32, which stays in a core's cache."""


def naive_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """The definition, for one history: x (T, D), kernel (n, D) -> (T, D)."""
    rows = []
    for t in range(len(x)):
        y = x[t]
        for i in range(min(len(kernel), t + 1)):
            y = y + kernel[i] * x[t - i]
        rows.append(y)
    return torch.stack(rows)


def convolve(x: Tensor, past: Tensor | None, kernel: Tensor) -> Tensor:
    """The parallel form: x (B, T, D) that follows past (B, n - 1, D), kernel (n, D) -> (B, T, D).

    None is a past of zeros. A pass per weight over numbers as they lie: a general convolution would
    transpose them to and fro, and take several times as long, most of it backward.
    """
    y, weight = torch.empty_like(x), 1 + kernel[0]
    for begin, end in _spans(x):
        torch.mul(x[:, begin:end], weight, out=y[:, begin:end])
        for i in range(1, len(kernel)):
            first = min(max(begin, i), end)
            y[:, first:end].addcmul_(x[:, first - i : end - i], kernel[i])
    if past is not None:
        for i, (y_part, past_part) in enumerate(_reaching_into_past(y, past), 1):
            y_part.addcmul_(past_part, kernel[i])
    return y


def short_convolution(x: Tensor, past: Tensor | None, kernel: Tensor) -> Tensor:
    """`convolve` with a gradient, for what is no input of a projection (`into_heads` has its own).

    past and kernel may be of another type than x, which is that of the result.
    """
    past = None if past is None else past.to(x.dtype)
    kernel = kernel.to(x.dtype)
    if torch.is_grad_enabled():
        return cast(Tensor, _Convolve.apply(x, past, kernel))  # type: ignore[no-untyped-call]
    return convolve(x, past, kernel)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, past: Tensor | None, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, past, kernel)
        return convolve(x, past, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x, past, kernel = ctx.saved_tensors
        return convolve_back(grads[0].contiguous(), x, past, kernel)


def convolve_step(x: Tensor, past: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The form for one event: x (B, D) after past (B, n - 1, D) -> (B, D) and the new past."""
    longer = torch.cat([past, x[:, None]], dim=1)
    return x + (longer * kernel.flip(0)).sum(1), longer[:, 1:]


def last_inputs(x: Tensor, past: Tensor, lengths: Tensor | None) -> Tensor:
    """The past after x (B, T, D) that follows `past` (B, m, D), of each row after its length."""
    m = past.shape[1]
    if lengths is None:
        longer = torch.cat([past.to(x.dtype), x[:, max(x.shape[1] - m, 0) :]], dim=1)
        return longer[:, longer.shape[1] - m :]
    longer = torch.cat([past.to(x.dtype), x], dim=1)
    index = lengths[:, None] + torch.arange(m, device=x.device)
    return longer.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def convolve_back(
    grad: Tensor, x: Tensor, past: Tensor | None, kernel: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x, past and kernel from `grad`, that of the output of `convolve`."""
    dx, events, d_kernels = torch.empty_like(grad), x.shape[1], []
    weight = 1 + kernel[0]
    for begin, end in _spans(x):
        torch.mul(grad[:, begin:end], weight, out=dx[:, begin:end])
        d_weights = [(grad[:, begin:end] * x[:, begin:end]).sum((0, 1))]
        for i in range(1, len(kernel)):
            last = max(min(end, events - i), begin)
            later = grad[:, begin + i : last + i]
            dx[:, begin:last].addcmul_(later, kernel[i])
            d_weights.append((later * x[:, begin:last]).sum((0, 1)))
        d_kernels.append(torch.stack(d_weights))
    d_kernel = d_kernels[0] if len(d_kernels) == 1 else torch.stack(d_kernels).sum(0)
    if past is None:
        return dx, None, d_kernel
    d_past = torch.zeros_like(past, dtype=grad.dtype)
    pairs = zip(_reaching_into_past(grad, d_past), _reaching_into_past(grad, past), strict=True)
    for i, ((grad_part, d_part), (_, past_part)) in enumerate(pairs, 1):
        d_part.addcmul_(grad_part, kernel[i])
        d_kernel[i] += (grad_part * past_part).sum((0, 1))
    return dx, d_past, d_kernel


def _reaching_into_past(y: Tensor, past: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For i = 1, 2, …: the events of y whose x_{t-i} lies in the past, and those x_{t-i}."""
    m = past.shape[1]
    for i in range(1, m + 1):
        reach = min(i, y.shape[1])
        yield y[:, :reach], past[:, m - i : m - i + reach]


def _spans(x: Tensor) -> Iterator[tuple[int, int]]:
    """Bounds of spans of x (B, T, D) so short that several passes find them in a core's cache."""
    events = x.shape[1]
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        yield 0, events
        return
    step = max(CACHED_NUMBERS // (len(x) * x.shape[2]), 1)
    for begin in range(0, events, step):
        yield begin, min(begin + step, events)
