"""What bounds a pass: the operations that it does, and the rates that the machine has at most."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

SHAPES = {"1024x1024x1024": (1024, 1024, 1024), "4096x64x256": (4096, 64, 256)}
COPIED = 1 << 26
"""Bytes, more than a cache holds."""
SECONDS = 0.15
"""For the tries of each rate; one, where that takes longer."""

_aten = torch.ops.aten


# ---- operations


def count_operations(run: Callable[[], object]) -> int:
    """2 m n k of each matrix product; fused attention that is causal does half of its square.

    A Fourier transform of N real numbers does 5/2 N log2 N, of complex ones twice that.
    """
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        run()
    return int(counter.get_total_flops())


def _product(_sum: object, a: torch.Size, b: torch.Size, **_: object) -> int:
    return 2 * a.numel() * b[-1]


def _attention(
    q: torch.Size, k: torch.Size, _v: object, _dropout: float = 0, causal: bool = False, **_: object
) -> int:
    """Of two products between all queries q (B, H, T, D) and all keys k (B, H, T, D)."""
    operations = 2 * 2 * q.numel() * k[-2]
    return operations // 2 if causal else operations


def _attention_backward(
    _dy: object,
    q: torch.Size,
    k: torch.Size,
    _v: object,
    _y: object,
    _logsumexp: object,
    dropout: float,
    causal: bool,
    **_: object,
) -> int:
    """Of five products, where forward has two."""
    return _attention(q, k, _v, dropout, causal) * 5 // 2


def _real_transform(x: torch.Size, dims: list[int], *_: object, **__: object) -> int:
    """Of x, real, along one axis."""
    return int(2.5 * x.numel() * math.log2(x[dims[0]]))


def _to_real(x: torch.Size, dims: list[int], _norm: object, places: int, **_: object) -> int:
    """Of the first half of the frequencies x, back to so many real places."""
    return int(2.5 * x.numel() // x[dims[0]] * places * math.log2(places))


def _complex_transform(x: torch.Size, dims: list[int], *_: object, **__: object) -> int:
    return 2 * _real_transform(x, dims)


_UNCOUNTED: dict[Any, Any] = {
    _aten._fft_r2c: _real_transform,
    _aten._fft_c2r: _to_real,
    _aten._fft_c2c: _complex_transform,
    _aten.addmm_: _product,
    _aten.baddbmm_: _product,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's own counter leaves out: transforms, products in place, and attention on a CPU."""


# ---- rates


@torch.no_grad()
def measure_rates() -> dict[str, float]:
    """Gigaflops of products m x k x n per number type, and gigabytes that copying moves, both ways.

    The best of some tries each: a limit, not an average.
    """
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        for shape, (m, k, n) in SHAPES.items():
            a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
            out = torch.empty(m, n, dtype=dtype)
            seconds = _least_seconds(partial(torch.mm, a, b, out=out))
            name = f"gigaflops {str(dtype).removeprefix('torch.')} {shape}"
            rates[name] = 2e-9 * m * k * n / seconds
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    rates["gigabytes copied"] = 2e-9 * COPIED / _least_seconds(partial(target.copy_, source))
    return rates


def _least_seconds(function: Callable[[], object]) -> float:
    times: list[float] = []
    while sum(times) < SECONDS:
        began = perf_counter()
        function()
        times.append(perf_counter() - began)
    return min(times)
