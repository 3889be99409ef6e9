"""The type of products in training: what was asked for, or what this device does fast."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

from longrec.config.training import Precision

Chosen = Literal["float32", "bfloat16"]

SHAPE = (512, 64, 2048)
"""Of the products that are timed: users, width, items."""
REPEATS = 20
ENOUGH = 0.25
"""Seconds of work after which no product is timed again. Where bfloat16 is not native, a single
one may take a tenth of a second."""
GAIN = 1.25
"""Where bfloat16 is native its products take half of the time or less, elsewhere a multiple."""


def choose_precision(wanted: Precision, device: torch.device) -> Chosen:
    """The type of products in training: as wanted, or with "auto" what is fast on this device.

    A GPU that has bfloat16 multiplies in it. On a CPU products are timed in both types, once per
    process, for a fraction of a second at most.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device.type == "cpu" and _half_pays() else "float32"


@cache
def _half_pays() -> bool:
    """Whether this processor multiplies bfloat16 natively, told by the time it takes."""
    users, width, items = SHAPE
    kinds = torch.bfloat16, torch.float32
    given = [
        (torch.ones(users, width, dtype=kind), torch.ones(width, items, dtype=kind))
        for kind in kinds
    ]
    best = [float("inf"), float("inf")]
    end = time.thread_time() + ENOUGH
    for _ in range(REPEATS):  # in turns, so that a busy moment falls on both
        for place, (left, right) in enumerate(given):
            began = time.perf_counter()
            left @ right
            best[place] = min(best[place], time.perf_counter() - began)
        if time.thread_time() > end:
            break
    half, single = best
    return single > GAIN * half
