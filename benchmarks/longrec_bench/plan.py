"""What is measured, and for how long: the plans of `longrec bench cost`, `stream` and `serve`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from longrec.core.choices import Durability
from longrec.core.errors import UsageError
from longrec.core.threads import usable_cores
from longrec_bench.cost.systems import Task, has_step, mixer_names, model_names

Pass = Literal["forward", "forward+backward", "step"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward", "step")
Transport = Literal["python", "http", "http-one"]

LENGTHS = (128, 200, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
AT_ONCE = 4096
"""Events in a pass over short histories."""
TARGETS = 1000
"""At once in a loss."""
QUESTIONS = 32
"""At once to a bank that is read: about as many as a batch of 2,000 events asks."""
BATCH, EVENTS = 10, 200
"""Histories, and events of each, in a training step of a model with a memory bank."""
PAIRS, SLOW_PAIRS = 10, 2
"""Pairs per sample of one client, and of what reads a window again, which takes long."""
SPANS = 5
"""Samples into which the seconds of clients at once are divided."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often everything is measured.

    Attributes
    ----------
    rounds : in each of which everything has one sample, in an order drawn anew.
    seed : of what is drawn: the order of samples, weights, inputs, users and events.
    """

    rounds: int
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("rounds", least=1)

    def _check(self, name: str, least: int | None = None, choices: Sequence[Any] = ()) -> None:
        """Raise UsageError unless a number, or each of a sequence of different ones, is allowed."""
        value = getattr(self, name)
        if not isinstance(value, Sequence):
            if least is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
            return
        if len(set(value)) < len(value):
            raise UsageError(f"{name} needs different values; it has {', '.join(map(str, value))}")
        for one in value:
            if choices and one not in choices:
                raise UsageError(
                    f"{name} has {one!r}, which is unknown; choose {', '.join(choices)}"
                )
            if least is not None and one < least:
                raise UsageError(f"{name} has {one}; each must be at least {least}")

    def _check_positive(self, name: str) -> None:
        if not 0 < getattr(self, name) < math.inf:
            raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class CostPlan(Plan):
    """What `longrec bench cost` measures; each sample is a process of its own.

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
    slots: Sequence[int] = tuple(1 << bits for bits in range(10, 21, 2))
    catalogs: Sequence[int] = (3_000, 30_000, 300_000, 3_000_000)
    batch: int | None = None
    threads: int = 1
    cap: float = 20.0
    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("mixers", mixer_names()), ("models", model_names())):
            if getattr(self, name) is None:
                object.__setattr__(self, name, tuple(known))
            self._check(name, choices=known)
        for name, least in (("lengths", 1), ("slots", 16), ("catalogs", 2), ("threads", 1)):
            self._check(name, least)
        if self.batch is not None:
            self._check("batch", least=1)
        for value in self.slots:
            if math.isqrt(value) ** 2 != value:
                raise UsageError(f"slots has {value}; each must be a square number")
        cores = len(usable_cores())
        if cores and self.threads > cores:
            raise UsageError(f"threads is {self.threads}, but this process may use {cores} cores")
        self._check_positive("cap")
        if not any(self.groups()):
            raise UsageError("nothing is left to measure: name a mixer, model, slots or catalogs")

    def groups(self) -> Iterator[list[Task]]:
        """Tasks sampled in the same rounds; short histories and small tables come first."""
        systems = [("mixer", name) for name in self.mixers or ()]
        systems += [("model", name) for name in self.models or ()]
        for length in sorted(self.lengths):
            for which in PASSES:
                batch = self.batch or (1 if which == "step" else max(AT_ONCE // length, 1))
                yield [
                    _task(kind, name, length, which, batch)
                    for kind, name in systems
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


def _task(kind: str, name: str, length: int, which: str, batch: int, **size: int) -> Task:
    return {"kind": kind, "name": name, **size, "length": length, "pass": which, "batch": batch}


@dataclass(frozen=True, kw_only=True)
class ServingPlan(Plan):
    """What `longrec bench stream` and `longrec bench serve` measure.

    Attributes
    ----------
    histories : events of users when the measurement begins, a length each.
    transports : "python", calls of a stream in this process; "http", two requests to `longrec
        serve` in another; "http-one", both in one request.
    durabilities : of stores.
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
            if not getattr(self, name):
                raise UsageError(f"{name} needs different values, at least one; it has none")
        self._check("histories", least=1)
        self._check("clients", least=1)
        self._check("transports", choices=get_args(Transport))
        self._check("durabilities", choices=get_args(Durability))
        self._check_positive("seconds")

    @property
    def serves(self) -> bool:
        """Whether anything is measured over HTTP."""
        return any(transport != "python" for transport in self.transports)
