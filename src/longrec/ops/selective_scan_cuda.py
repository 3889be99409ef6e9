"""The selective scan on CUDA, and the convolution before it, through mamba-ssm and causal-conv1d.

The scan's kernel begins with h = 0, and sends no gradient back through the last h: it serves
histories that begin with their first event and whose state nobody reads, as `forward` does. What
goes on from a state is left to `selective_scan`, which runs on any device.

Shape letters: B histories, T events, E channels, N places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

WIDEST = 4
"""Most events of a convolution that the kernel knows."""


@cache
def _installed() -> bool:
    wanted = ("mamba_ssm", "causal_conv1d")
    if not torch.cuda.is_available() or any(find_spec(name) is None for name in wanted):
        return False
    try:
        load_kernel()
        load_convolution()
    except (ImportError, RuntimeError):  # of another torch than it was made for
        return False
    return True


def available(x: Tensor, width: int) -> bool:
    """Whether the kernels serve x, with a convolution of that width: on CUDA, and both are here."""
    return x.is_cuda and 2 <= width <= WIDEST and _installed()


def load_kernel() -> Callable[..., Any]:
    """mamba-ssm's selective_scan_fn; importing it takes seconds, so only where it runs."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return cast(Callable[..., Any], selective_scan_fn)


def load_convolution() -> Callable[..., Any]:
    """causal-conv1d's causal_conv1d_fn."""
    from causal_conv1d import causal_conv1d_fn

    return cast(Callable[..., Any], causal_conv1d_fn)


def convolve_by_kernel(u: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """silu(bias + sum_{i<n} w_i u_{t-i}), (B, T, E), of u (B, T, E) and w (n, E), from no past.

    The kernel's weights are the oldest event's first, and time is its last axis.
    """
    weight, bias = kernel.flip(0).t().contiguous().to(u.dtype), bias.to(u.dtype)
    y: Tensor = load_convolution()(u.mT.contiguous(), weight, bias, activation="silu")
    return y.mT


def scan_by_kernel(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """y (B, T, E) of x, delta (B, T, E), a (E, N), b, c (B, T, N), from h = 0.

    The kernel takes time as its last axis.
    """
    kind = delta.dtype
    with torch.autocast(x.device.type, enabled=False):
        parts = (x.to(kind), delta, a, b, c)
        x, delta, b, c = (part.mT.contiguous() for part in (*parts[:2], *parts[3:]))
        y: Tensor = load_kernel()(x, delta, a.contiguous(), b, c)
    return y.mT
