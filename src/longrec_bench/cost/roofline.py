"""What a machine can do at most, what a pass needs at least, and how far measured passes are off.

A pass takes at least its operations over the rate of matrix products, and at least the bytes that
it must move over the rate of copying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from longrec_bench.cost.analysis import LONG, PEERS
from longrec_bench.cost.systems import DIM
from longrec_bench.measurement import Row

SHAPES = {"1024x1024x1024": (1024, 1024, 1024), "4096x64x256": (4096, 64, 256)}
COPIED = 1 << 26
"""Bytes, more than a cache holds."""
SECONDS = 0.15
"""For each rate."""
NUMBER = 4
"""Bytes of a number."""
MOVED = {"forward": 2, "forward+backward": 4}
"""Arrays (B, T, D) that a mixer must read or write at least: x and y, and their gradients."""

_aten = torch.ops.aten


# ---- operations


def count_operations(run: Callable[[], object]) -> int:
    """2 m n k of each matrix product; fused attention that is causal does half of its square."""
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


_UNCOUNTED: dict[Any, Any] = {
    _aten.addmm_: _product,
    _aten.baddbmm_: _product,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's own counter leaves out: products in place, and attention on a CPU."""


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
            best = _least_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
            rates[f"gigaflops {str(dtype).removeprefix('torch.')} {shape}"] = (
                2e-9 * m * k * n / best
            )
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    rates["gigabytes copied"] = 2e-9 * COPIED / _least_seconds(lambda: target.copy_(source))
    return rates


def _least_seconds(function: Callable[[], object]) -> float:
    function()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        began = perf_counter()
        function()
        times.append(perf_counter() - began)
    return min(times)


# ---- what was measured beside it


def limits(cells: Sequence[Row], rates: dict[str, float]) -> list[Row]:
    """Least seconds of long cells, by operations over the matrix rate and bytes over bandwidth.

    Returns
    -------
    list of dict
        The kind with the name, "length", "pass", "seconds" (median), "operations_seconds" (of
        float32 products at the best rate measured), "bytes_seconds" (of a mixer's inputs and
        outputs alone; None for models), "share" (of the rate that was reached), "gigaflops".
    """
    rate = 1e9 * max((rates[key] for key in rates if "float32" in key), default=0.0)
    rows = []
    for cell in cells:
        kind = next((key for key in PEERS if key in cell), None)
        if kind is None or cell["pass"] not in MOVED or cell["length"] < LONG:
            continue
        if not rate or not cell["operations"]:
            continue
        seconds, operations = cell["seconds_median"], cell["operations"]
        moved = MOVED[cell["pass"]] * NUMBER * DIM * cell["length"]
        rows.append(
            {
                **{key: cell[key] for key in (kind, "length", "pass")},
                "seconds": seconds,
                "operations_seconds": operations / rate,
                "bytes_seconds": (
                    moved / (1e9 * rates["gigabytes copied"]) if kind == "mixer" else None
                ),
                "share": operations / rate / seconds,
                "gigaflops": 1e-9 * operations / seconds,
            }
        )
    return rows
