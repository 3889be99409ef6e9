"""From the ranks of a model's targets to the metrics that a table may quote.

A frame of ranks has one row per target: ``user`` (its number or id), ``position``, ``length``
(events before the target), ``rank_served`` (its place in the list that is recommended; MISS where
it is in none), ``rank`` (seen items filtered, the target never), ``rank_unfiltered``, ``known``
(False where the two ranks before are misses, because its item is not in training) and ``repeat``
(the item is in its own input).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from longrec.core.arrays import Floats, Ints
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.core.shown import html_table, html_text
from longrec.evaluation.baseline import Baseline, Interval
from longrec.evaluation.intervals import DRAWS, Difference, bootstrap_interval, paired_bootstrap
from longrec.evaluation.metrics import CUTOFFS, METRICS, MISS, names
from longrec.evaluation.statement import INFORMATION, TIES, statement

Notes = dict[str, int | float | str]
Ranks = pl.DataFrame | Sequence[pl.DataFrame]
"""Of one training, or of several seeds over the same targets, averaged target by target."""

SERVED, UNFILTERED = "served/", "unfiltered/"
READINGS = (SERVED, "", UNFILTERED)
"""Prefixes of the three ways to read a rank: as served, seen items filtered, unfiltered."""
_COLUMN_OF = {SERVED: "rank_served", "": "rank", UNFILTERED: "rank_unfiltered"}
LEADING = SERVED + "ndcg@10"
"""The metric by which models are ranked."""
TITLES = {SERVED: "as served", "": "seen items filtered", UNFILTERED: "unfiltered"}
METRIC = re.compile(rf"({SERVED}|{UNFILTERED})?({'|'.join(METRICS)})@([1-9]\d*)")
"""A metric of ranks as keys have it: the reading, the metric's name, k."""
BUCKET_STARTS = (1, 20, 50, 100, 200, 500, 1000)
BUCKET_TARGETS = 200
"""Fewest targets of a bucket: one with fewer has an interval that says nothing, and is merged."""
COLUMNS = (
    *("user", "position", "length", "rank_served", "rank", "rank_unfiltered", "known", "repeat"),
)


def as_served(ranks: pl.DataFrame, exclude_seen: bool) -> pl.DataFrame:
    """Ranks of `rank_targets` with `rank_served`, under a policy on items that a user has seen."""
    served = pl.col("rank_hiding" if exclude_seen else "rank_showing").alias("rank_served")
    return ranks.with_columns(served).select(COLUMNS)


@dataclass(frozen=True)
class Bucket:
    """Metrics of the targets with ``low`` to ``high`` events before them (high None: no limit)."""

    low: int
    high: int | None
    users: int
    targets: int
    estimates: dict[str, float]
    intervals: dict[str, Interval]

    @property
    def label(self) -> str:
        """The range as text: "20-49", "1000+"."""
        return f"{self.low}+" if self.high is None else f"{self.low}-{self.high}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Metrics(Mapping[str, float]):
    """The metrics of one model under one protocol; reads like a dict of numbers.

    Keys are "served/ndcg@10", "served/hr@10", "served/mrr@10", the same @20 and @50 (or at the ks
    chosen), each again without the prefix (seen items filtered) and with "unfiltered/"; and of the
    lists that are served "served/coverage@10", "served/novelty@10", "served/gini@10" and
    "served/popularity_bias@10" (`longrec.evaluation.beyond_accuracy`), where they were asked for.

    Attributes
    ----------
    estimates : dict
        The means that the mapping shows.
    intervals : dict
        Bootstrap 95% interval of each metric of ranks, (low, high).
    buckets : tuple of Bucket
        The same by history length; those of fewer than `BUCKET_TARGETS` targets are merged with
        the next longer ones, the last with the one before it.
    protocol, split : str
        How the log was cut, and which of the targets these are: "test" or "validation".
    exclude_seen : bool or None
        As served: whether items that a user has seen are left out; None: not the same in all that
        is averaged.
    counts : dict
        Users, targets, targets that miss because training never saw their item, repeats.
    notes : dict
        What was noted when the log was cut.
    ks : tuple of int
        Lengths of the lists that were measured.
    cut : str or None
        The dates at which global-time cut the log; None: at the quantiles, or another protocol.
    events : str
        Fingerprint of the histories, which the order of events of one time is part of.
    lists : int
        How many served lists were measured besides their targets' ranks; 0: none.
    baselines : dict
        What counting alone reaches, `Baseline` by name.
    """

    estimates: dict[str, float]
    intervals: dict[str, Interval]
    buckets: tuple[Bucket, ...]
    protocol: str
    split: str = "test"
    exclude_seen: bool | None
    counts: dict[str, int]
    notes: Notes = field(default_factory=dict)
    ks: tuple[int, ...] = CUTOFFS
    cut: str | None = None
    events: str = ""
    lists: int = 0
    baselines: dict[str, Baseline] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        return self.estimates[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    @property
    def leading(self) -> str:
        """The key of the metric that leads: NDCG@10 as served, or of the first k there is."""
        return leading(self.ks)

    def statement(self) -> str:
        """Say in sentences which events were targets, how they were ranked, what was left out."""
        return statement(
            *(self.protocol, self.split, self.counts, self.notes, self.exclude_seen, self.events)
        )

    def __repr__(self) -> str:
        low, high = self.intervals.get(self.leading, (np.nan, np.nan))
        targets = f"{self.counts.get('targets', 0):,} targets"
        return (
            f"Metrics({self.leading} {self[self.leading]:.4f} ({low:.4f} to {high:.4f}), "
            f"{self.split}, {self.protocol}, {targets})"
        )

    def _repr_html_(self) -> str:
        head = ["metric", TITLES[SERVED], "95% interval", TITLES[""], TITLES[UNFILTERED]]
        rows: list[list[object]] = []
        for name in names(self.ks):
            low, high = self.intervals[SERVED + name]
            between = f"{low:.4f} to {high:.4f}"
            rows.append([name, self[SERVED + name], between, self[name], self[UNFILTERED + name]])
        found = html_table(f"{self.split}, {self.protocol}", head, rows)
        if self.baselines:
            key = self.leading
            beside = [[name, one[key], one.verdict] for name, one in self.baselines.items()]
            found += html_table("baselines", ["", label(key), "beaten"], beside)
        return found + html_text(self.statement())

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; the metrics are at the top, under their public keys."""
        values = _METRICS.dump_python(self, mode="json")
        values["buckets"] = [
            {"label": bucket.label} | _flat(own)
            for bucket, own in zip(self.buckets, values["buckets"], strict=True)
        ]
        values["baselines"] = {name: _flat(own) for name, own in values["baselines"].items()}
        return _flat(values) | {
            "information": INFORMATION,
            "candidates": TITLES,
            "ties": TIES,
            "statement": self.statement(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """Read what ``to_dict`` gave; DataError where it is something else."""
        try:
            buckets = [_nested(bucket) for bucket in data["buckets"]]
            own = {name: _nested(one) for name, one in data["baselines"].items()}
            return _METRICS.validate_python(_nested(data) | {"buckets": buckets, "baselines": own})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"these are not metrics that longrec wrote: {error!r}") from error


_METRICS = TypeAdapter(Metrics)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the estimates as keys of their own, as files have them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= value if key == "estimates" else {key: value}
    return flat


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the estimates, which ``_flat`` made keys of their own, under one key again."""
    return {**values, "estimates": {k: v for k, v in values.items() if "@" in k}}


def summarise_ranks(
    ranks: Ranks,
    protocol: str,
    notes: Notes | None = None,
    *,
    exclude_seen: bool | None = None,
    split: str = "test",
    ks: Sequence[int] = CUTOFFS,
    draws: int = DRAWS,
) -> Metrics:
    """Average ranks into ``Metrics``.

    Parameters
    ----------
    ranks
        One row per target, with the columns named at the top of this module; or one such frame per
        seed, so that intervals are those of the mean over the seeds.
    protocol, notes
        How the log was cut, and what was noted then.
    exclude_seen
        The policy on seen items behind ``rank_served``.
    split
        Which targets these are: "test" or "validation".
    ks
        Lengths of the lists that are measured.
    draws
        Of the bootstrap. Users with several targets are drawn whole.

    Raises
    ------
    DataError
        When a column is missing, or there is nothing to average.
    UsageError
        When the frames of several seeds do not rank the same targets.
    """
    frames = _frames(ranks)
    first = frames[0]
    keys = keys_of(ks)
    user, length = first["user"].rle_id().to_numpy(), first["length"].to_numpy()
    values = _values(frames, keys)
    repeats = int(first["repeat"].sum())
    estimates, intervals = _estimate(keys, values, user, draws)
    return Metrics(
        estimates=estimates,
        intervals=intervals,
        buckets=tuple(_buckets(keys, values, user, length, draws)),
        protocol=protocol,
        exclude_seen=exclude_seen,
        counts={
            "users": first["user"].n_unique(),
            "targets": len(first),
            "unseen_misses": len(first) - int(first["known"].sum()),
            "repeats": repeats,
        },
        notes=dict(notes or {}),
        split=split,
        ks=tuple(ks),
    )


def keys_of(ks: Sequence[int]) -> list[str]:
    """Keys of all metrics of ranks, in the order of their columns."""
    return [reading + name for reading in READINGS for name in names(ks)]


def label(key: str) -> str:
    """Write a metric's key for people: "served/ndcg@10" is "NDCG@10, as served"."""
    reading = next(one for one in (SERVED, UNFILTERED, "") if key.startswith(one))
    return f"{key.removeprefix(reading).upper()}, {TITLES[reading]}"


def leading(ks: Sequence[int]) -> str:
    """The key that leads: NDCG@10 as served, or of the first k where 10 is none of them."""
    return f"{SERVED}ndcg@{10 if 10 in ks else ks[0]}"


def compare_ranks(a: Ranks, b: Ranks, metric: str = LEADING, *, draws: int = DRAWS) -> Difference:
    """Paired bootstrap of model ``a`` minus model ``b`` on one metric, over the same targets.

    Raises
    ------
    UsageError
        When the two frames do not rank the same targets, or the metric is unknown.
    """
    if METRIC.fullmatch(metric) is None:
        raise UsageError(f"unknown metric {metric!r}; choose one such as {', '.join(names())}")
    both = [_frames(ranks) for ranks in (a, b)]
    user = _frames([both[0][0], both[1][0]])[0]["user"].rle_id().to_numpy()
    pair = [_values(frames, [metric])[:, 0] for frames in both]
    return paired_bootstrap(pair[0], pair[1], _clusters(user), draws=draws)


def _frames(ranks: Ranks) -> list[pl.DataFrame]:
    """Checked frames over the same targets, in the order of positions."""
    frames = [ranks] if isinstance(ranks, pl.DataFrame) else list(ranks)
    for frame in frames:
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise DataError(f"the ranks have no column {listed(missing)}; evaluate again")
        if not len(frame):
            raise DataError(
                "there is no target to evaluate: under leave-one-out a user needs at least 3 events"
            )
    frames = [frame.sort("position") for frame in frames]
    first = frames[0]
    for other in frames[1:]:
        if not all(first[key].equals(other[key]) for key in ("position", "user")):
            raise UsageError(
                "the models were not ranked on the same targets, so their metrics cannot be "
                "compared: evaluate all on the same histories, protocol and split"
            )
    return frames


def _values(frames: Sequence[pl.DataFrame], keys: Sequence[str]) -> Floats:
    """Give (n, metrics) of some keys, the mean over the frames per target.

    Targets unseen in training are misses but as served, where their place in the list counts.
    """
    values = []
    for key in keys:
        found = METRIC.fullmatch(key)
        assert found is not None
        reading, name, k = found.groups()
        column = _COLUMN_OF[reading or ""]
        own = [METRICS[name](_ranks_of(frame, column), int(k)) for frame in frames]
        values.append(sum(own[1:], own[0]) / len(frames))
    return np.stack(values, axis=1)


def _ranks_of(frame: pl.DataFrame, column: str) -> Ints:
    ranks: Ints = frame[column].to_numpy()
    if column == _COLUMN_OF[SERVED]:
        return ranks
    return np.where(frame["known"].to_numpy(), ranks, MISS)


def _estimate(
    keys: Sequence[str], values: Floats, user: Ints, draws: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    low, high = bootstrap_interval(values, _clusters(user), draws=draws).tolist()
    estimates = dict(zip(keys, values.mean(axis=0).tolist(), strict=True))
    return estimates, dict(zip(keys, zip(low, high, strict=True), strict=True))


def _buckets(
    keys: Sequence[str], values: Floats, user: Ints, length: Ints, draws: int
) -> Iterator[Bucket]:
    for low, high in _ranges(length):
        here = (length >= low) & (length <= (np.inf if high is None else high))
        users = len(np.unique(user[here]))
        estimates, intervals = _estimate(keys, values[here], user[here], draws)
        yield Bucket(low, high, users, int(here.sum()), estimates, intervals)


def _ranges(length: Ints) -> list[tuple[int, int | None]]:
    """Ranges (low, high) of lengths from `BUCKET_STARTS`, merged until each has enough targets."""
    ranges: list[tuple[int, int | None]] = []
    low, high, held = None, None, 0
    for start, after in zip_longest(BUCKET_STARTS, BUCKET_STARTS[1:]):
        here = int(((length >= start) & (length < (after or np.inf))).sum())
        if not here:
            continue
        low = start if low is None else low
        high, held = None if after is None else after - 1, held + here
        if held >= BUCKET_TARGETS:
            ranges.append((low, high))
            low, held = None, 0
    if low is not None:  # too few are left: they join those before them
        ranges.append((ranges.pop()[0] if ranges else low, high))
    return ranges


def _clusters(user: Ints) -> Ints | None:
    """Give the users where some has several targets; None saves work where nobody has."""
    return None if len(np.unique(user)) == len(user) else user
