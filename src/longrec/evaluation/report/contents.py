"""What a report shows: rows of the table, their costs, recommendations, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import polars as pl

from longrec.evaluation.baseline import Baseline, Interval
from longrec.evaluation.report.pairs import Pair
from longrec.evaluation.summary import Metrics

MEMORY = ("memory_share", "memory_entropy", "memory_kl")
"""Columns of a log that tell how evenly memory banks were used."""
ENDINGS = {
    "converged": "converged",
    "counted": "counted",
    "max_epochs": "stopped by max_epochs",
    "max_minutes": "stopped by the clock",
    "refit": "trained for the epochs found best",
}
"""Why a training stopped, for people."""


@dataclass(frozen=True)
class Cost:
    """What a row cost; None where it is not known or means nothing.

    Attributes
    ----------
    seconds, epochs
        Wall time of training, validation included, and passes over the training events.
    events_per_second
        Events that training read, over its wall time.
    peak_bytes
        Most memory that the training process held at once, Python and torch included.
    parameters
        Trained numbers.
    kept_bytes, keeps
        What serving keeps of one user, and that in words; None bytes where it has no limit.
    processor_share
        Processor seconds of training's process in each of its seconds: with one thread well below
        1 where something else wanted the core.
    """

    seconds: float | None = None
    epochs: float | None = None
    events_per_second: float | None = None
    peak_bytes: int | None = None
    parameters: int | None = None
    kept_bytes: int | None = None
    keeps: str = ""
    processor_share: float | None = None


@dataclass(frozen=True, eq=False)
class ReportRow:
    """One line of the table.

    Attributes
    ----------
    name, kind
        What it is called; "model", "baseline", "ceiling" (attainable) or "bound" (windowed).
    metrics
        ``Metrics``, the ``Baseline`` of another evaluation, or a plain mapping from their keys
        where there are no intervals.
    cost
        Of its training and serving.
    converged
        False for a model still improving when its budget ended: it is marked, and takes no part
        in tests of significance.
    ended
        Why its training stopped.
    log
        Frame with columns epoch, step, seconds, loss, validation and those of ``MEMORY`` (nulls
        where not measured).
    seeds, spread
        Trainings that the metrics are the mean of, and each metric's standard deviation over them.
    note
        A few words more on what it is.
    """

    name: str
    kind: Literal["model", "baseline", "ceiling", "bound"]
    metrics: Mapping[str, float]
    cost: Cost = Cost()
    converged: bool | None = None
    ended: str = ""
    log: pl.DataFrame | None = None
    seeds: int = 1
    spread: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def is_system(self) -> bool:
        """Whether it is a system, and not a bound."""
        return self.kind in ("model", "baseline")

    @property
    def is_tested(self) -> bool:
        """Whether it takes part in tests of significance: what was still improving does not."""
        return self.is_system and self.converged is not False

    @property
    def end(self) -> str:
        """Why its training stopped, for people; of several seeds each reason."""
        return ", ".join(ENDINGS.get(one, one) for one in self.ended.split(", "))

    @property
    def policy(self) -> str:
        """What it does as served with items that a user has seen; "" where that is not known."""
        hides = self.metrics.exclude_seen if isinstance(self.metrics, Metrics | Baseline) else None
        return "" if hides is None else "left out" if hides else "recommended"

    def interval(self, key: str) -> Interval | None:
        """The 95% interval of a metric, where there is one."""
        if isinstance(self.metrics, Metrics | Baseline):
            return self.metrics.intervals.get(key)
        return None

    def memory_log(self) -> pl.DataFrame | None:
        """epoch, those of ``MEMORY``, validation, where its memory bank was measured."""
        if self.log is None or not set(MEMORY) <= set(self.log.columns):
            return None
        log = self.log.drop_nulls(list(MEMORY)).select("epoch", *MEMORY, "validation")
        return log if len(log) else None

    def memory_use(self) -> dict[str, float]:
        """How evenly the memory bank was used by the weights that were kept; {} without one."""
        log = self.memory_log()
        return {} if log is None else {name: best_epoch(log)[name] for name in MEMORY}


def best_epoch(log: pl.DataFrame) -> dict[str, float]:
    """The line of a log with the best validation, whose weights were kept."""
    return log.sort("validation", descending=True, maintain_order=True).row(0, named=True)


class UserRecommendations(NamedTuple):
    """What each model recommends to one user: ids as the log has them, best first, with scores.

    ``target`` is the item that came next, which no model had read; None where that is not known.
    """

    user: object
    history: Sequence[object]
    by_model: Mapping[str, Sequence[tuple[object, float]]]
    target: object = None


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows.

    Attributes
    ----------
    title, data
        What it is about; which log, and how much of it, in words.
    rows, pairs
        Systems and bounds, and the systems' differences, of any order.
    recommendations, titles
        Examples, and titles of items by their ids, where there are some.
    facts
        The machine, versions, seeds and commands.
    statement
        How the numbers were made.
    failures
        What went wrong with models that have no row.
    """

    title: str
    rows: Sequence[ReportRow]
    recommendations: Sequence[UserRecommendations] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    statement: str = ""
    pairs: Sequence[Pair] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    data: str = ""
    titles: Mapping[Any, str] = field(default_factory=dict)


def by_value(rows: Sequence[ReportRow], key: str) -> list[ReportRow]:
    """Systems, the best first, converged or not; then bounds in their own order."""

    def place(row: ReportRow) -> tuple[int, float]:
        return (0, -row.metrics.get(key, -1.0)) if row.is_system else (1, 0.0)

    return sorted(rows, key=place)
