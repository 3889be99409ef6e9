"""What is measured of serving: lengths of histories, transports, durabilities, clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from longrec.core.choices import Durability
from longrec_bench.plan import Plan

Transport = Literal["python", "http"]

PAIRS = 10
"""Pairs per sample."""
SLOW_PAIRS = 2
"""Pairs per sample of what reads a window again, which takes long."""
SPANS = 5
"""Samples into which the seconds of clients at once are divided."""


@dataclass(frozen=True, kw_only=True)
class ServingPlan(Plan):
    """What is measured, and for how long.

    Attributes
    ----------
    histories : events of users when the measurement begins, a length each.
    transports : "python", calls of a stream in this process; "http", `longrec serve` in another.
    durabilities : of stores, "power" or "process".
    clients : numbers of clients at once.
    rounds : in which everything is sampled; a sample of one client has 10 pairs.
    seconds : in all for each measurement of several clients.
    """

    histories: tuple[int, ...] = (100, 10_000, 1_000_000)
    transports: tuple[Transport, ...] = ("python",)
    durabilities: tuple[Durability, ...] = ("power", "process")
    clients: tuple[int, ...] = (1, 32)
    rounds: int = 100
    seconds: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("histories", "transports", "durabilities", "clients"):
            self.check_any(name)
        for name in ("histories", "clients"):
            self.check_least(name, 1)
        self.check_choices("transports", get_args(Transport))
        self.check_choices("durabilities", get_args(Durability))
        self.check_positive("seconds")
