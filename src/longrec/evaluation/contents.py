"""What a report shows: rows of the table, recommendations of some users, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl


@dataclass(frozen=True, eq=False)
class ReportRow:
    """One line of the table.

    Attributes
    ----------
    name, kind
        What it is called; "model", "baseline", "ceiling" (attainable) or "bound" (windowed).
    metrics
        ``Metrics``, or a plain mapping from their keys where there are no intervals.
    train_seconds, parameters
        Wall time of training, and trained numbers; None where they mean nothing.
    converged
        False for a model still improving when its budget ended: it is shown and ranks nothing.
    log
        Frame with columns step, seconds, loss, validation (nulls where not measured).
    """

    name: str
    kind: Literal["model", "baseline", "ceiling", "bound"]
    metrics: Mapping[str, float]
    train_seconds: float | None = None
    parameters: int | None = None
    converged: bool | None = None
    log: pl.DataFrame | None = None


class UserRecommendations(NamedTuple):
    """What each model recommends to one user: ids as the log has them, best first, with scores."""

    user: object
    history: Sequence[object]
    by_model: Mapping[str, Sequence[tuple[object, float]]]


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows; ``facts`` are the machine, versions, seeds and commands."""

    title: str
    rows: Sequence[ReportRow]
    recommendations: Sequence[UserRecommendations] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    protocol: str = ""
