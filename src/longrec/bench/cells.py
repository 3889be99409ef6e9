"""Cells of a measurement: one thing that is done again and again, and how long it took."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True)
class Cell:
    """Figures of one thing under one condition.

    Attributes
    ----------
    system : what was measured.
    history : events of each user when the measurement began.
    durability : "power", "process", or "none" where nothing is stored.
    clients : threads that ask at once, each for one pair after the other.
    batch : users per call; 1 but for the step alone.
    p50_ms, p95_ms, p99_ms : percentiles of a pair as its client sees it; of a step, per event.
    pairs_per_second : pairs of all clients; of a step, events.
    """

    system: str
    history: int
    durability: str
    clients: int
    batch: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    pairs_per_second: float


class Measured:
    """Something that is measured in bursts, so that bursts of several things can alternate.

    Attributes
    ----------
    seconds : that each call took.
    wall : seconds that all calls took together; where several threads call, less than the sum.
    """

    def __init__(
        self, system: str, history: int, durability: str = "none", clients: int = 1, batch: int = 1
    ) -> None:
        self.system, self.history, self.durability = system, history, durability
        self.clients, self.batch = clients, batch
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
        return Cell(
            *(self.system, self.history, self.durability, self.clients, self.batch),
            *(float(p50), float(p95), float(p99)),
            len(self.seconds) * self.batch / self.wall,
        )


def median_ms(seconds: array[float]) -> float:
    """Median of times, in milliseconds."""
    return 1e3 * float(np.median(seconds))
