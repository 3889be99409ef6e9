"""What a person wants to know of histories, counted in one pass over a few users at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from longrec.data.histories import Histories
from longrec.data.titles import item_titles

EVENTS_AT_ONCE = 1 << 21
"""Events that are looked at together: 50 MB at work, more only for a user who has more."""
TIME_PARTS = 60
MOST = 10
"""Popular items, and words of a column, that are named."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_CUT = 16
"""Bits that are left out of a gap as a float32: what is left tells gaps 0.8% apart."""


def about_histories(
    histories: Histories, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Counts, lengths, repeats, times, gaps, popularity and further columns, as plain values.

    Parameters
    ----------
    histories : Histories
    progress : callable or None
        Called with (events read, events in all).

    Returns
    -------
    dict
        The keys are those of `longrec info HISTORIES --json` (docs/cli.md).
    """
    meta, pass_ = histories.meta, _Pass(histories)
    for users in _parts(histories.offsets):
        pass_.take(users)
        if progress is not None:
            progress(int(histories.offsets[users.stop]), histories.n_events)
    return {
        "kind": "histories",
        "path": str(histories.path),
        "source": meta.source,
        "created": meta.created,
        "fingerprint": meta.fingerprint,
        "bytes": sum(meta.files.values()),
        "users": histories.n_users,
        "items": histories.n_items,
        "events": histories.n_events,
        "dropped": dict(meta.dropped),
        "lengths": spread_of(pass_.lengths) | {"users": bins_of(pass_.lengths)},
        "repeats": {
            "events": pass_.repeats,
            "share": pass_.repeats / histories.n_events,
        },
        "time": pass_.about_time(),
        "gaps": pass_.about_gaps(),
        "popularity": _about_popularity(histories),
        "item_table": [] if histories.item_table is None else histories.item_table.columns,
        "columns": [pass_.about_column(name) for name in histories.extra],
    }


def _parts(offsets: np.ndarray) -> Iterator[slice]:
    """Users, as many at a time as have `EVENTS_AT_ONCE` events, and at least one."""
    users, start = len(offsets) - 1, 0
    while start < users:
        limit = offsets[start] + EVENTS_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
        yield slice(start, stop)
        start = stop


class _Pass:
    """What has been counted so far; all of it stays small, however many events there are."""

    def __init__(self, histories: Histories) -> None:
        self.histories = histories
        self.lengths = Counter[int]()
        self.repeats = self.back = 0
        self.gaps = np.zeros(1 << (32 - _CUT), np.int64)
        self.longest_gap = 0
        self.by_time = np.zeros(TIME_PARTS, np.int64)
        self.words = {
            name: np.zeros(len(column.words) + 1, np.int64)
            for name, column in histories.columns.items()
            if column.words is not None
        }
        self.numbers = {name: _Numbers() for name in histories.extra if name not in self.words}

    def take(self, users: slice) -> None:
        """Count the events of these users."""
        data = self.histories
        offsets = data.offsets[users.start : users.stop + 1]
        here = slice(int(offsets[0]), int(offsets[-1]))
        lengths = np.diff(offsets)
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            self.lengths[int(length)] += int(count)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        pairs = owner * (data.n_items + 1) + data.items[here]
        pairs.sort()  # a tenth of the time of numpy.unique, which hashes
        self.repeats += int((pairs[1:] == pairs[:-1]).sum())
        if data.times is not None:
            self._take_times(data.times[here], owner)
        for name, values in data.extra.items():
            if name in self.words:
                counts = np.bincount(values[here] + 1, minlength=len(self.words[name]))
                self.words[name] += counts
            else:
                self.numbers[name].take(values[here])

    def _take_times(self, times: np.ndarray, owner: np.ndarray) -> None:
        meta = self.histories.meta
        assert meta.first_time is not None
        assert meta.last_time is not None
        width = meta.last_time - meta.first_time + 1
        part = ((times - meta.first_time) / width * TIME_PARTS).astype(np.int64)
        self.by_time += np.bincount(part.clip(0, TIME_PARTS - 1), minlength=TIME_PARTS)
        gaps = np.diff(times)[owner[1:] == owner[:-1]]
        self.back += int((gaps < 0).sum())
        gaps = gaps.clip(0)
        self.longest_gap = max(self.longest_gap, int(gaps.max(initial=0)))
        bits = gaps.astype(np.float32).view(np.uint32) >> _CUT
        self.gaps += np.bincount(bits, minlength=len(self.gaps))

    def about_time(self) -> dict[str, Any] | None:
        """First and last event, and how many lie in each of `TIME_PARTS` equal parts between."""
        meta = self.histories.meta
        if meta.first_time is None or meta.last_time is None:
            return None
        return {
            "first": moment(meta.first_time),
            "last": moment(meta.last_time),
            "days": (meta.last_time - meta.first_time) / 86_400,
            "unit": meta.time_unit,
            "events": self.by_time.tolist(),
        }

    def about_gaps(self) -> dict[str, Any] | None:
        """Seconds from one event of a user to the next, within 0.4% of the truth above 256."""
        total = int(self.gaps.sum())
        if not total:
            return None
        bins = np.flatnonzero(self.gaps)
        low = (bins.astype(np.uint32) << _CUT).view(np.float32).astype(np.float64)
        high = ((bins + 1).astype(np.uint32) << _CUT).view(np.float32).astype(np.float64)
        values = np.where(low < 256, low, (low + high) / 2)
        found = _quantiles(values, self.gaps[bins])
        return {
            "same_second": int(self.gaps[0]) / total,
            "back_in_time": self.back / total,
            **{name: round(value) for name, value in found.items()},
            "max": self.longest_gap,
        }

    def about_column(self, name: str) -> dict[str, Any]:
        """What a further column of events holds."""
        total = self.histories.n_events
        if name not in self.words:
            kind = str(self.histories.extra[name].dtype)
            return {"column": name, "kind": kind} | self.numbers[name].about(total)
        counts, words = self.words[name], self.histories.columns[name].words or ()
        order = np.argsort(-counts[1:], kind="stable")[:MOST]
        return {
            "column": name,
            "kind": "text",
            "missing": int(counts[0]) / total,
            "words": len(words),
            "most": [
                {"word": words[n], "share": int(counts[n + 1]) / total} for n in order.tolist()
            ],
        }


class _Numbers:
    """Smallest, largest and mean of a column's numbers, and how many there are."""

    def __init__(self) -> None:
        self.count, self.sum, self.low, self.high = 0, 0.0, np.inf, -np.inf

    def take(self, values: np.ndarray) -> None:
        known = values[np.isfinite(values)].astype(np.float64)
        if len(known):
            self.count += len(known)
            self.sum += float(known.sum())
            self.low, self.high = min(self.low, known.min()), max(self.high, known.max())

    def about(self, total: int) -> dict[str, Any]:
        known = self.count > 0
        return {
            "missing": 1 - self.count / total,
            "min": float(self.low) if known else None,
            "mean": self.sum / self.count if known else None,
            "max": float(self.high) if known else None,
        }


def _about_popularity(histories: Histories) -> dict[str, Any]:
    """Shares of the most popular items, and which these are."""
    counts = np.sort(histories.catalog.counts)[::-1]
    total = int(counts.sum()) or 1
    first = histories.catalog.popular[:MOST]
    ids = histories.catalog.take(first).to_list()
    # What is popular has its title in the first events, too: no second pass for ten words.
    extra = {name: values[:EVENTS_AT_ONCE] for name, values in histories.extra.items()}
    begin = replace(histories, items=histories.items[:EVENTS_AT_ONCE], extra=extra)
    titles = item_titles(begin, first)
    events = histories.catalog.counts[first - 1].tolist()
    return {
        "top_1_percent": int(counts[: max(1, len(counts) // 100)].sum()) / total,
        "top_10_percent": int(counts[: max(1, len(counts) // 10)].sum()) / total,
        "items_for_half": int(np.searchsorted(counts.cumsum(), total / 2)) + 1,
        "items_with_under_5_events": int((counts < 5).sum()),
        "most": [
            {"item": one, "events": n, "share": n / total}
            | ({"title": titles.get(one)} if titles else {})
            for one, n in zip(ids, events, strict=True)
        ],
    }


def spread_of(counts: Mapping[int, int]) -> dict[str, Any]:
    """Mean, extremes and quantiles of numbers that are counted by their value."""
    values = np.array(sorted(counts), np.int64)
    weights = np.array([counts[value] for value in values.tolist()], np.int64)
    found = _quantiles(values, weights)
    return {
        "mean": float(values @ weights / weights.sum()),
        "min": int(values[0]),
        **{name: int(value) for name, value in found.items()},
        "max": int(values[-1]),
    }


def bins_of(counts: Mapping[int, int]) -> list[dict[str, int]]:
    """How many have 1, 2 to 4, 5 to 9, 10 to 19, …, from the first bin that has some on."""
    starts = [1]
    while starts[-1] <= max(counts):
        starts.append(starts[-1] * 5 // 2 if str(starts[-1])[0] == "2" else starts[-1] * 2)
    found = [
        {"from": low, "to": after - 1, "users": sum(counts[n] for n in counts if low <= n < after)}
        for low, after in pairwise(starts)
    ]
    filled = [number for number, one in enumerate(found) if one["users"]]
    return found[filled[0] : filled[-1] + 1]


def moment(seconds: int) -> str | int:
    """Seconds since 1970 as ISO text in UTC; as they are beyond the years that calendars have."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return seconds


def _quantiles(values: Sequence[float] | np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """The smallest value that so many are at or below, under "p10" and the like."""
    below = weights.cumsum()
    at = [int(np.searchsorted(below, q * below[-1])) for q in QUANTILES]
    return {f"p{100 * q:.0f}": float(values[n]) for q, n in zip(QUANTILES, at, strict=True)}
