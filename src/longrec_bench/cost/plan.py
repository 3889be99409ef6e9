"""What is measured of cost: which cells, on how many threads, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from longrec.core.errors import UsageError
from longrec_bench.cost.subjects import Task, mixer_names, model_names, streams
from longrec_bench.machine import usable_cores

Pass = Literal["forward", "forward+backward", "step"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward", "step")
KINDS = ("mixer", "model", "bank", "loss")

LENGTHS = (128, 200, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
SLOTS = tuple(1 << bits for bits in range(10, 21, 2))
CATALOGS = (3_000, 30_000, 300_000, 3_000_000)
AT_ONCE = 4096
"""Events in a pass over short histories."""
TARGETS = 1000
"""At once in a cell of a loss."""
QUESTIONS = 32
"""At once in a cell of a bank that is read: about as many as a batch of 2,000 events asks."""
BATCH, EVENTS = 10, 200
"""Histories, and events of each, in a training step of a model with a memory bank."""


@dataclass(frozen=True)
class CostPlan:
    """What is measured, and for how long.

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
    rounds : in which every cell has its turn, a process each.
    seed : of weights, inputs and the order of turns.
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
    seed: int = 0

    def __post_init__(self) -> None:
        _check_names("mixer", self.mixers, mixer_names())
        _check_names("model", self.models, model_names())
        for name in ("lengths", "slots", "catalogs"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UsageError(f"{name} has a value twice: {', '.join(map(str, values))}")
        for value in self.lengths:
            if value < 1:
                raise UsageError(f"lengths has {value}; each must be at least 1")
        for value in self.slots:
            if value < 16 or math.isqrt(value) ** 2 != value:
                raise UsageError(f"slots has {value}; each must be a square number, at least 16")
        for value in self.catalogs:
            if value < 2:
                raise UsageError(f"catalogs has {value}; each must be at least 2")
        for name in ("batch", "threads", "rounds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        cores = len(usable_cores())
        if cores and self.threads > cores:
            raise UsageError(f"threads is {self.threads}, but this process may use {cores} cores")
        if not 0 < self.cap < math.inf:
            raise UsageError(f"cap is {self.cap}; it must be above 0")
        if next(self.groups(), None) is None:
            raise UsageError("nothing is left to measure: name a mixer, model, slots or catalogs")

    def groups(self) -> Iterator[list[Task]]:
        """Cells that take turns with each other; short histories and small tables come first."""
        for length in sorted(self.lengths):
            for which in PASSES:
                group = [*self._readers(length, which)]
                if group:
                    yield group
        if self.slots:
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

    def _readers(self, length: int, which: Pass) -> Iterator[Task]:
        """Mixers and models over histories of one length."""
        chosen = {
            "mixer": mixer_names() if self.mixers is None else self.mixers,
            "model": model_names() if self.models is None else self.models,
        }
        for kind, names in chosen.items():
            for name in names:
                if which != "step" or streams(kind, name):
                    yield _task(kind, name, length, which, self._histories(length, which))

    def _histories(self, length: int, which: Pass) -> int:
        if self.batch is not None:
            return self.batch
        return 1 if which == "step" else max(AT_ONCE // length, 1)


def _task(kind: str, name: str, length: int, which: str, batch: int, **size: int) -> Task:
    return {"kind": kind, "name": name, **size, "length": length, "pass": which, "batch": batch}


def _check_names(what: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    if names is not None and len(set(names)) < len(names):
        raise UsageError(f"{what}s has a name twice: {', '.join(names)}")
    for name in names or ():
        if name not in known:
            raise UsageError(f"there is no {what} {name!r} to measure; choose {', '.join(known)}")
