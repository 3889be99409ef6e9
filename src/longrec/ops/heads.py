"""Vectors split into heads, and projections into heads and out of them.

`into_heads` and `out_of_heads` keep each head's vectors in a block of memory of their own. A view
of one head in (B, T, H d) has rows of d numbers far apart, and every pass over such rows costs a
multiple of one over numbers that lie together. A product per head needs no copy either way.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from longrec.ops.short_conv import CACHED_NUMBERS, convolve, convolve_back


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)."""
    return cast(Tensor, x.unflatten(-1, (heads, -1))).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, T, d) -> (B, T, H d)."""
    return x.transpose(1, 2).flatten(2)


def into_heads(
    x: Tensor,
    weight: Tensor,
    widths: tuple[int, ...],
    kernel: Tensor | None = None,
    past: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """x (B, T, D), first through a short convolution if wanted, times weight (H, W, D).

    The convolved x is not stored for backward but computed again, unless it is short. In autocast
    the products are in its type, as those of a linear layer are.

    Parameters
    ----------
    x, weight : Tensor
    widths : tuple of int
        Which add to W.
    kernel, past : Tensor or None
        (n, D) and (B, n - 1, D), as `convolve` takes them; no kernel is no convolution.

    Returns
    -------
    tuple of Tensor
        An (H, B, T, w) for each w of widths.
    """
    past = None if past is None or kernel is None else past.to(x.dtype)
    kernel = None if kernel is None else kernel.to(x.dtype)
    weight = weight.to(_product_type(x))
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled():
            return _IntoHeads.apply(x, past, kernel, weight, widths)  # type: ignore[no-any-return, no-untyped-call]
        return _products(_convolved(x, past, kernel), weight, widths)


def out_of_heads(y: Tensor, weight: Tensor) -> Tensor:
    """y (H, B, T, d) times weight (D, H d), of a linear layer over joined heads -> (B, T, D)."""
    kind = _product_type(y)
    return cast(Tensor, _OutOfHeads.apply(y.to(kind), weight.to(kind)))  # type: ignore[no-untyped-call]


def _product_type(x: Tensor) -> torch.dtype:
    """The type of x's products: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _convolved(x: Tensor, past: Tensor | None, kernel: Tensor | None) -> Tensor:
    return x if kernel is None else convolve(x, past, kernel)


def _products(h: Tensor, weight: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
    rows = h.to(weight.dtype).reshape(-1, h.shape[-1]).expand(len(weight), -1, -1)
    return tuple(
        torch.bmm(rows, part.transpose(1, 2)).unflatten(1, h.shape[:2])
        for part in weight.split(widths, dim=1)
    )


class _IntoHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        past: Tensor | None,
        kernel: Tensor | None,
        weight: Tensor,
        widths: tuple[int, ...],
    ) -> tuple[Tensor, ...]:
        h = _convolved(x, past, kernel)
        ctx.widths = widths
        # Of short histories it is the number of calls that counts, and not memory.
        ctx.save_for_backward(x, past, kernel, weight, h if h.numel() <= CACHED_NUMBERS else None)
        return _products(h, weight, widths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, past, kernel, weight, h = ctx.saved_tensors
        h = _convolved(x, past, kernel) if h is None else h
        rows = h.to(weight.dtype).reshape(-1, x.shape[-1])
        d_rows, d_parts = torch.zeros_like(rows), []
        for part, grad in zip(weight.split(ctx.widths, dim=1), grads, strict=True):
            grad = grad.reshape(len(weight), len(rows), -1)
            for head_weight, head_grad in zip(part, grad, strict=True):
                d_rows.addmm_(head_grad, head_weight)
            d_parts.append(torch.bmm(grad.transpose(1, 2), rows.expand(len(weight), -1, -1)))
        dh, d_weight = d_rows.view(x.shape).to(x.dtype), torch.cat(d_parts, dim=1)
        if kernel is None:
            return dh, None, None, d_weight, None
        return *convolve_back(dh, x, past, kernel), d_weight, None


class _OutOfHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(y, weight)
        heads, batch, events, width = y.shape
        flat = y.reshape(heads, batch * events, width)
        parts = weight.split(width, dim=1)
        x = flat[0] @ parts[0].t()
        for head, part in zip(flat[1:], parts[1:], strict=True):
            x.addmm_(head, part.t())
        return cast(Tensor, x.view(batch, events, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        y, weight = ctx.saved_tensors
        heads, batch, events, width = y.shape
        grad = grads[0].reshape(batch * events, -1).expand(heads, -1, -1)
        dy = torch.bmm(grad, weight.unflatten(1, (heads, width)).transpose(0, 1))
        d_weight = torch.bmm(grad.transpose(1, 2), y.reshape(heads, -1, width))
        return dy.view(y.shape), d_weight.transpose(0, 1).flatten(1)
