"""From the ranks of a model's targets to the metrics that a table may quote.

A frame of ranks has one row per target: ``user`` (index), ``position``, ``length`` (events before
the target), ``rank_served`` (its place in the list that is recommended; MISS where it is in none),
``rank`` (seen items filtered, the target never), ``rank_unfiltered``, ``known`` (False where the
two ranks before are misses, because its item is not in training) and ``repeat`` (the item is in its
own input).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from longrec.core.arrays import Floats, Ints
from longrec.core.cuts import moment
from longrec.core.errors import DataError, UsageError
from longrec.evaluation.intervals import DRAWS, Difference, bootstrap_interval, paired_bootstrap
from longrec.evaluation.metrics import MISS, names, per_target

Interval = tuple[float, float]
Notes = dict[str, int | float | str]
Ranks = pl.DataFrame | Sequence[pl.DataFrame]
"""Of one training, or of several seeds over the same targets, averaged target by target."""

SERVED, UNFILTERED = "served/", "unfiltered/"
READINGS = (SERVED, "", UNFILTERED)
"""Prefixes of the three ways to read a rank: as served, seen items filtered, unfiltered."""
TITLES = {SERVED: "as served", "": "seen items filtered", UNFILTERED: "unfiltered"}
KEYS = tuple(reading + name for reading in READINGS for name in names())
"""Of all metrics, in the order of their columns."""
_TEST_TARGETS = {
    "leave-one-out": (
        "Leave-one-out: each user's last event is the target and the events before it, the "
        "validation event included, are the input."
    ),
    "global-time": (
        "Global time: the target is each user's first event from the test cut ({test_cut} UTC) on; "
        "training ends at the validation cut ({validation_cut} UTC); an item "
        "unseen in training counts as a miss."
    ),
    "prequential": (
        "Prequential: every event of the last part ({last_share}) of histories of at least "
        "{min_length} events is scored from what came before it; an item unseen in training "
        "counts as a miss; intervals draw whole users."
    ),
}
BUCKET_STARTS = (1, 20, 50, 100, 200, 500, 1000)
AS_SERVED = {
    True: "Headline: as served, without items that a user has seen, so that a repeat is a miss.",
    False: "Headline: as served, with items that a user has seen among the others.",
    None: "Headline: as served, each by its own policy on items that a user has seen.",
}
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

    Keys are "ndcg@10", "hr@10", "mrr@10", the same @20 and @50, and each again with the prefix
    "unfiltered/".

    Attributes
    ----------
    estimates : dict
        The means that the mapping shows.
    intervals : dict
        Bootstrap 95% interval of each, (low, high).
    buckets : tuple of Bucket
        The same by history length, empty buckets left out.
    protocol, split : str
        How the log was cut, and which of the targets these are: "test" or "validation".
    exclude_seen : bool or None
        As served: whether items that a user has seen are left out; None: not the same in all that
        is averaged.
    counts : dict
        Users, targets, targets that miss because training never saw their item, repeats.
    notes : dict
        What was noted when the log was cut.
    """

    estimates: dict[str, float]
    intervals: dict[str, Interval]
    buckets: tuple[Bucket, ...]
    protocol: str
    split: str = "test"
    exclude_seen: bool | None
    counts: dict[str, int]
    notes: Notes = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        return self.estimates[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def statement(self) -> str:
        """Say in sentences which events were targets, how they were ranked, what was left out."""
        counts, notes = self.counts, self.notes
        if self.split == "validation":
            what = f"Validation targets of the protocol {self.protocol}."
        else:
            words = {k: moment(int(v)) if k.endswith("_cut") else v for k, v in notes.items()}
            what = _TEST_TARGETS[self.protocol].format_map(defaultdict(lambda: "?", words))
        sentences = [
            what,
            f"{counts['targets']:,} targets of {counts['users']:,} users, each ranked against the "
            "whole catalog; ties count against the model.",
        ]
        if notes.get("users_without_input_at_test"):
            users = notes["users_without_input_at_test"]
            sentences.append(f"{users:,} users have no event before the cut and are left out.")
        if notes.get("users_too_short"):
            sentences.append(f"{notes['users_too_short']:,} users are too short to be evaluated.")
        sentences.append(AS_SERVED[self.exclude_seen])
        targets = max(counts["targets"], 1)
        unseen = notes.get(f"{self.split}_unseen_share", counts["unseen_misses"] / targets)
        sentences.append(
            f"Repeats: {counts['repeats'] / targets:.2%} of the targets; items unseen in training: "
            f"{float(unseen):.2%}."
        )
        sentences.append("Intervals: 95%, bootstrap over users.")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; the metrics are at the top, under their public keys."""
        values = _METRICS.dump_python(self, mode="json")
        values["buckets"] = [
            {"label": bucket.label} | _flat(own)
            for bucket, own in zip(self.buckets, values["buckets"], strict=True)
        ]
        return _flat(values) | {"statement": self.statement()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """Read what ``to_dict`` gave; DataError where it is something else."""
        try:
            buckets = [_nested(bucket) for bucket in data["buckets"]]
            return _METRICS.validate_python(_nested(data) | {"buckets": buckets})
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
    return {**values, "estimates": {k: v for k, v in values.items() if k in KEYS}}


def summarise_ranks(
    ranks: Ranks,
    protocol: str,
    notes: Notes | None = None,
    *,
    exclude_seen: bool | None = None,
    split: str = "test",
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
    user, length = first["user"].to_numpy(), first["length"].to_numpy()
    values = _values(frames)
    repeats = int(first["repeat"].sum())
    estimates, intervals = _estimate(values, user, draws)
    return Metrics(
        estimates=estimates,
        intervals=intervals,
        buckets=tuple(_buckets(values, user, length, draws)),
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
    )


def compare_ranks(a: Ranks, b: Ranks, metric: str = "ndcg@10", *, draws: int = DRAWS) -> Difference:
    """Paired bootstrap of model ``a`` minus model ``b`` on one metric, over the same targets.

    Raises
    ------
    UsageError
        When the two frames do not rank the same targets, or the metric is unknown.
    """
    if metric not in KEYS:
        raise UsageError(f"unknown metric {metric!r}; choose one of {', '.join(names())}")
    both = [_frames(ranks) for ranks in (a, b)]
    user = _frames([both[0][0], both[1][0]])[0]["user"].to_numpy()
    pair = [_values(frames)[:, KEYS.index(metric)] for frames in both]
    return paired_bootstrap(pair[0], pair[1], _clusters(user), draws=draws)


def _frames(ranks: Ranks) -> list[pl.DataFrame]:
    """Checked frames over the same targets, in the order of positions."""
    frames = [ranks] if isinstance(ranks, pl.DataFrame) else list(ranks)
    for frame in frames:
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise DataError(f"the ranks have no column {', '.join(missing)}; evaluate again")
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


def _values(frames: Sequence[pl.DataFrame]) -> Floats:
    """Give (n, metrics) in the order of ``KEYS``, the mean over the frames per target.

    Targets unseen in training are misses but as served, where their place in the list counts.
    """
    values = []
    for name in ("rank_served", "rank", "rank_unfiltered"):
        ranks = [frame[name].to_numpy() for frame in frames]
        if name != "rank_served":
            known = [frame["known"].to_numpy() for frame in frames]
            ranks = [np.where(*pair, MISS) for pair in zip(known, ranks, strict=True)]
        values.append(sum(map(per_target, ranks)) / len(frames))
    return np.concatenate(values, axis=1)


def _estimate(
    values: Floats, user: Ints, draws: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    low, high = bootstrap_interval(values, _clusters(user), draws=draws).tolist()
    estimates = dict(zip(KEYS, values.mean(axis=0).tolist(), strict=True))
    return estimates, dict(zip(KEYS, zip(low, high, strict=True), strict=True))


def _buckets(values: Floats, user: Ints, length: Ints, draws: int) -> Iterator[Bucket]:
    for low, after in zip_longest(BUCKET_STARTS, BUCKET_STARTS[1:]):
        here = (length >= low) & (length < (after or np.inf))
        if here.any():
            high = None if after is None else after - 1
            users = len(np.unique(user[here]))
            estimates, intervals = _estimate(values[here], user[here], draws)
            yield Bucket(low, high, users, int(here.sum()), estimates, intervals)


def _clusters(user: Ints) -> Ints | None:
    """Give the users where some has several targets; None saves work where nobody has."""
    return None if len(np.unique(user)) == len(user) else user
