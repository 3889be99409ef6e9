"""What is measured in rounds: a condition, the seconds of its calls, the row that they give."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, TypeVar

from longrec.artifact.provenance import command, commit
from longrec.core.machine import load_average, machine, versions

Row = dict[str, Any]
"""What was measured under which condition, then its figures; all plain values."""
Progress = Callable[[float, float, str], None]
"""Called with (done, of all, what is done now)."""

T = TypeVar("T")


class Measurement:
    """One thing that is measured by several samples, so that those of several things alternate.

    Parameters
    ----------
    condition : the first keys of its row: what it is, and under which condition.

    Attributes
    ----------
    seconds : that each call took.
    """

    def __init__(self, condition: Row) -> None:
        self.condition = condition
        self.clear()

    def sample(self) -> None:
        """Do it some times and note how long that took: one sample."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what was noted so far."""
        self.seconds = array("d")

    def row(self) -> Row:
        """The condition and the figures of all calls so far."""
        raise NotImplementedError

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note one call."""
        began = perf_counter()
        yield
        self.seconds.append(perf_counter() - began)


def interleaved(things: Sequence[T], rounds: int, rng: random.Random) -> Iterator[tuple[int, T]]:
    """All things once in each round, with the round's number, in an order drawn anew.

    What else the machine does meanwhile then slows all of them alike.
    """
    for number in range(rounds):
        for thing in rng.sample(things, len(things)):
            yield number, thing


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_start(*packages: str) -> Row:
    """How and on which machine a measurement begins; versions of these packages among it."""
    here = machine()
    facts = {
        **{"processor": here["processor"], "cores": here["cores"]},
        **{"load_before": load_average(), "versions": versions(*packages)},
    }
    return {"command": command(), "commit": commit(), "started": now(), "machine": facts}
