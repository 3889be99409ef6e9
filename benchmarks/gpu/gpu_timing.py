"""How gpu.py measures: settings, cells, times by device events, CUDA graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True)
class Setting:
    """What is measured: where, at which lengths and sizes, and for how many seconds per cell."""

    device: str = "cuda"
    lengths: tuple[int, ...] = LENGTHS
    dim: int = 128
    layers: int = 4
    heads: int = 2
    items: int = 50_000
    seconds: float = 1.0
    small: bool = False
    ml1m: Path | None = None
    target: float = 0.19

    @property
    def events(self) -> int:
        """In a batch: one history of the greatest length, or as many shorter ones."""
        return max(self.lengths)


@dataclass(frozen=True)
class Cell:
    """One measurement; `value` is in `unit`, seconds for times, with the spread of its repeats."""

    part: str
    name: str
    length: int | None = None
    value: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = "s"
    peak_bytes: int | None = None
    failed: str | None = None


def measured(setting: Setting, part: str, name: str, length: int, work: Callable[[], Any]) -> Cell:
    """Median time of `work` over repeats after three that warm up, and its peak memory."""
    try:
        cuda = setting.device == "cuda"
        for _ in range(3):
            work()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        taken: list[float] = []
        began = time.perf_counter()
        while len(taken) < 5 or (len(taken) < 50 and time.perf_counter() - began < setting.seconds):
            taken.append(_once(work, cuda))
        peak = torch.cuda.max_memory_allocated() if cuda else None
        middle = statistics.median(taken)
        return Cell(part, name, length, middle, min(taken), max(taken), peak_bytes=peak)
    except Exception as error:
        return Cell(part, name, length, failed=told(error))


def _once(work: Callable[[], Any], cuda: bool) -> float:
    if not cuda:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def told(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def half(setting: Setting) -> AbstractContextManager[Any]:
    """Autocast to bfloat16; without its cache of weights, which a CUDA graph may not hold."""
    return torch.autocast(setting.device, torch.bfloat16, cache_enabled=False)


def measured_as_graph(
    setting: Setting, part: str, name: str, length: int, work: Callable[[], Any]
) -> Cell:
    """The same of `work` replayed as a CUDA graph."""
    try:
        replay = graphed(work, setting.device == "cuda")
    except Exception as error:
        return Cell(part, f"{name}, graph", length, failed=told(error))
    # A graph's memory is its own, taken while recording: no peak is seen here.
    cell = measured(setting, part, f"{name}, graph", length, replay)
    return replace(cell, peak_bytes=None)


def graphed(work: Callable[[], Any], cuda: bool) -> Callable[[], Any]:
    """`work` recorded as a CUDA graph; it must read and write the same memory every time.

    On a CPU it is done once, and again wherever the graph would be replayed.
    """
    if not cuda:
        work()
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
