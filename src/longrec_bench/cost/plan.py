"""What is measured of cost: which tasks, on how many threads, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from longrec.core.errors import UsageError
from longrec.core.machine import usable_cores
from longrec_bench.cost.systems import Task, has_step, mixer_names, model_names
from longrec_bench.plan import Plan

Pass = Literal["forward", "forward+backward", "step"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward", "step")

LENGTHS = (128, 200, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
SLOTS = tuple(1 << bits for bits in range(10, 21, 2))
CATALOGS = (3_000, 30_000, 300_000, 3_000_000)
AT_ONCE = 4096
"""Events in a pass over short histories."""
TARGETS = 1000
"""At once in a loss."""
QUESTIONS = 32
"""At once to a bank that is read: about as many as a batch of 2,000 events asks."""
BATCH, EVENTS = 10, 200
"""Histories, and events of each, in a training step of a model with a memory bank."""


@dataclass(frozen=True, kw_only=True)
class CostPlan(Plan):
    """What is measured, and for how long; each sample is a process of its own.

    Attributes
    ----------
    mixers, models : names; None: all that there are.
    lengths : events of a history.
    slots : sizes M of the memory bank, square numbers.
    catalogs : items of the catalogs that losses are measured over.
    batch : histories per pass of mixers and models; None: as many as have 4,096 events, as a
        training's batch has some thousands, and at least one.
    threads : that compute.
    cap : seconds that a pass may take; what would take longer is skipped.
    """

    mixers: Sequence[str] | None = None
    models: Sequence[str] | None = None
    lengths: Sequence[int] = LENGTHS
    slots: Sequence[int] = SLOTS
    catalogs: Sequence[int] = CATALOGS
    batch: int | None = None
    threads: int = 1
    cap: float = 20.0
    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        # Chosen is what is measured, with None replaced.
        for name, known in (("mixers", mixer_names()), ("models", model_names())):
            if getattr(self, name) is None:
                object.__setattr__(self, name, tuple(known))
            self.check_choices(name, known)
            self.check_different(name)
        for name, least in (("lengths", 1), ("slots", 16), ("catalogs", 2)):
            self.check_different(name)
            self.check_least(name, least)
        for value in self.slots:
            if math.isqrt(value) ** 2 != value:
                raise UsageError(f"slots has {value}; each must be a square number")
        self.check_least("threads", 1)
        if self.batch is not None:
            self.check_least("batch", 1)
        cores = len(usable_cores())
        if cores and self.threads > cores:
            raise UsageError(f"threads is {self.threads}, but this process may use {cores} cores")
        self.check_positive("cap")
        if not any(self.groups()):
            raise UsageError("nothing is left to measure: name a mixer, model, slots or catalogs")

    def groups(self) -> Iterator[list[Task]]:
        """Tasks sampled in the same rounds; short histories and small tables come first."""
        readers = {"mixer": self.mixers or (), "model": self.models or ()}
        for length in sorted(self.lengths):
            for which in PASSES:
                yield [
                    _task(kind, name, length, which, self._histories(length, which))
                    for kind, names in readers.items()
                    for name in names
                    if which != "step" or has_step(kind, name)
                ]
        for name, which, length, batch in (
            ("read", "forward", 1, QUESTIONS),
            ("training", "forward+backward", EVENTS, BATCH),
            ("stream", "step", EVENTS, 1),
        ):
            sizes = sorted(self.slots)
            yield [_task("bank", name, length, which, batch, slots=size) for size in sizes]
        for size in sorted(self.catalogs):
            yield [
                _task("loss", name, 1, "forward+backward", TARGETS, catalog=size)
                for name in ("full", "sampled")
            ]

    def _histories(self, length: int, which: Pass) -> int:
        if self.batch is not None:
            return self.batch
        return 1 if which == "step" else max(AT_ONCE // length, 1)


def _task(kind: str, name: str, length: int, which: str, batch: int, **size: int) -> Task:
    return {"kind": kind, "name": name, **size, "length": length, "pass": which, "batch": batch}
