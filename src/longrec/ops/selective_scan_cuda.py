"""The selective scan on CUDA, through the kernel of the maintained package mamba-ssm.

The kernel begins with h = 0, and sends no gradient back through the last h: it serves histories
that begin with the first event and whose state nobody reads, as `forward` does. What goes on from a
state is left to `selective_scan`, which runs on any device.

Shape letters: B histories, T events, E channels, N places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor


@cache
def _installed() -> bool:
    if not torch.cuda.is_available() or find_spec("mamba_ssm") is None:
        return False
    try:
        load_kernel()
    except (ImportError, RuntimeError):  # of another torch than it was made for
        return False
    return True


def available(x: Tensor) -> bool:
    """Whether the kernel can read x: on CUDA, and mamba-ssm is here."""
    return x.is_cuda and _installed()


def load_kernel() -> Callable[..., Any]:
    """mamba-ssm's selective_scan_fn; importing it takes seconds, so only where it runs."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return cast(Callable[..., Any], selective_scan_fn)


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
