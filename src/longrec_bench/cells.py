"""Cells of a measurement: one thing that is done again and again, and how long it took."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

Cell = dict[str, Any]
"""What was measured under which condition ("system", "history", …), then its figures.

Figures are p50_ms, p95_ms, p99_ms, percentiles of a pair as its client sees it, and
pairs_per_second, pairs of all clients; of a model's step both are of an event.
"""


class Measured:
    """Something that is measured in bursts, so that bursts of several things can alternate.

    Parameters
    ----------
    of : the first keys of its cell: what it is, and under which condition.
    batch : pairs or events per call.

    Attributes
    ----------
    seconds : that each call took.
    wall : seconds that all calls took together; where several threads call, less than the sum.
    """

    def __init__(self, of: Cell, batch: int = 1) -> None:
        self.of, self.batch = of, batch
        self.seconds, self.wall = array("d"), 0.0

    def burst(self) -> None:
        """Do it some times and note how long that took."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what was noted so far."""
        self.seconds, self.wall = array("d"), 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note one call."""
        began = perf_counter()
        yield
        taken = perf_counter() - began
        self.seconds.append(taken)
        self.wall += taken

    def cell(self) -> Cell:
        """The figures of all calls so far, at least one."""
        p50, p95, p99 = 1e3 * np.percentile(self.seconds, (50, 95, 99)) / self.batch
        return self.of | {
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "pairs_per_second": len(self.seconds) * self.batch / self.wall,
        }


def median_ms(seconds: array[float]) -> float:
    """Median of times, in milliseconds."""
    return 1e3 * float(np.median(seconds))
