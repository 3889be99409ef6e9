"""What a machine can do at most: rates of matrix products and of copying, measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

SHAPES = {"1024x1024x1024": (1024, 1024, 1024), "4096x64x256": (4096, 64, 256)}
COPIED = 1 << 26
"""Bytes, more than a cache holds."""
SECONDS = 0.15
"""For each rate."""


@torch.no_grad()
def measure_rates() -> dict[str, float]:
    """Gigaflops of products m x k x n per number type, and gigabytes that copying moves, both ways.

    The best of some tries each: a limit, not an average.
    """
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        for words, (m, k, n) in SHAPES.items():
            a, b = torch.randn(m, k).to(kind), torch.randn(k, n).to(kind)
            out = torch.empty(m, n, dtype=kind)
            best = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
            found[f"gigaflops {str(kind).removeprefix('torch.')} {words}"] = 2e-9 * m * k * n / best
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    found["gigabytes copied"] = 2e-9 * COPIED / _best(lambda: target.copy_(source))
    return found


def _best(function: Callable[[], object]) -> float:
    """Least seconds of a call."""
    function()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        began = perf_counter()
        function()
        times.append(perf_counter() - began)
    return min(times)
