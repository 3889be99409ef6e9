"""What a report shows: rows of the table, comparisons of pairs, costs, and how it was made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import polars as pl

from longrec.evaluation.baseline import Interval
from longrec.evaluation.intervals import DRAWS, Difference, holm
from longrec.evaluation.summary import Metrics, Ranks, compare_ranks

MEMORY = ("memory_share", "memory_entropy", "memory_kl")
"""Columns of a log that tell how evenly memory banks were used."""
_DRAWS_PER_PAIR = 100  # a p-value has a floor of 2 / draws, and Holm multiplies it by the pairs


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
        ``Metrics``, or a plain mapping from their keys where there are no intervals.
    cost
        Of its training and serving.
    converged
        False for a model still improving when its budget ended: it is shown and has no rank.
    ended
        Why its training stopped.
    log
        Frame with columns epoch, step, seconds, loss, validation and those of ``MEMORY`` (nulls
        where not measured).
    seeds, spread
        Trainings that the metrics are the mean of, and each metric's standard deviation over them.
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

    @property
    def is_system(self) -> bool:
        """Whether it is a system, and not a bound."""
        return self.kind in ("model", "baseline")

    @property
    def is_ranked(self) -> bool:
        """Whether it takes a place: what was still improving takes none."""
        return self.is_system and self.converged is not False

    @property
    def policy(self) -> str:
        """What it does as served with items that a user has seen; "" where that is not known."""
        if not isinstance(self.metrics, Metrics) or self.metrics.exclude_seen is None:
            return ""
        return "left out" if self.metrics.exclude_seen else "recommended"

    def interval(self, key: str) -> Interval | None:
        """The 95% interval of a metric, where there is one."""
        return self.metrics.intervals.get(key) if isinstance(self.metrics, Metrics) else None

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


class Pair(NamedTuple):
    """Two rows compared target by target: a minus b in the leading metric.

    ``p_value`` is corrected for the number of pairs; None where one of the two has no rank.
    """

    a: str
    b: str
    difference: Difference
    p_value: float | None

    def reversed(self) -> Pair:
        """The same pair the other way round: b minus a."""
        return Pair(self.b, self.a, self.difference.reversed(), self.p_value)


class UserRecommendations(NamedTuple):
    """What each model recommends to one user: ids as the log has them, best first, with scores."""

    user: object
    history: Sequence[object]
    by_model: Mapping[str, Sequence[tuple[object, float]]]


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows.

    ``facts`` are the machine, versions, seeds and commands; ``failures`` say what went wrong with
    models that have no row.
    """

    title: str
    rows: Sequence[ReportRow]
    recommendations: Sequence[UserRecommendations] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    statement: str = ""
    pairs: Sequence[Pair] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


def by_rank(rows: Sequence[ReportRow], key: str) -> list[ReportRow]:
    """Rows that rank, best first; then the unconverged ones; then bounds in their own order."""

    def place(row: ReportRow) -> tuple[int, float]:
        if not row.is_system:
            return 2, 0.0
        return 0 if row.is_ranked else 1, -row.metrics.get(key, -1.0)

    return sorted(rows, key=place)


def compare_pairs(
    ranks: Mapping[str, Ranks],
    metric: str,
    ranking: Collection[str],
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Pair]:
    """Compare pairs of rows by a paired bootstrap over users.

    Parameters
    ----------
    ranks
        Ranks of each row over the same targets; in a pair the earlier name is ``a``.
    metric
        The metric whose difference is tested.
    ranking
        Names of the rows that rank: p-values are given between these alone, and are corrected
        (Holm) for the number of their pairs.
    pairs
        Those that are compared; None: every one.
    """
    asked = list(combinations(ranks, 2)) if pairs is None else pairs
    both = [(a, b) for a, b in asked if a in ranking and b in ranking]
    draws = max(DRAWS, _DRAWS_PER_PAIR * len(both))
    found = [(a, b, compare_ranks(ranks[a], ranks[b], metric, draws=draws)) for a, b in asked]
    p_values = [difference.p_value for a, b, difference in found if (a, b) in both]
    corrected = dict(zip(both, holm(p_values).tolist(), strict=True))
    return [Pair(a, b, difference, corrected.get((a, b))) for a, b, difference in found]
