"""The type of products in training: what was asked for, or what this device does fast."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

from longrec.config.training import Precision

Chosen = Literal["float32", "bfloat16"]

USERS, WIDTH, ITEMS, REPEATS = 512, 64, 2048, 20
"""Shapes of the products that are timed, and how often."""
MOST_SECONDS = 0.25
"""Of work; then no product is timed again. Where bfloat16 is not native, one may take a tenth."""
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
    return "bfloat16" if device.type == "cpu" and _bfloat16_is_native() else "float32"


@cache
def _bfloat16_is_native() -> bool:
    """Whether this processor multiplies bfloat16 natively, by the time that products take."""
    seconds = {torch.bfloat16: float("inf"), torch.float32: float("inf")}
    end = time.thread_time() + MOST_SECONDS
    for _ in range(REPEATS):
        for kind in seconds:  # alternately, so that a busy moment falls on both
            left, right = torch.ones(USERS, WIDTH, dtype=kind), torch.ones(WIDTH, ITEMS, dtype=kind)
            start = time.perf_counter()
            left @ right
            seconds[kind] = min(seconds[kind], time.perf_counter() - start)
        if time.thread_time() > end:
            break
    return seconds[torch.float32] > GAIN * seconds[torch.bfloat16]
