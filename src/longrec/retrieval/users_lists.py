"""The best items for users of some data, as many users at a time as memory should hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.arrays import Ints, places
from longrec.data.aligned import align_events
from longrec.data.event_columns import check_columns
from longrec.data.histories import Histories
from longrec.inference.encode import Events
from longrec.retrieval.best_items import BestItems, best_items
from longrec.retrieval.index import Index
from longrec.retrieval.restriction import Restriction

EVENTS, USERS = 1 << 22, 1 << 16
"""Events, and users, that are read together at most; of a user who has more, all."""


class Asked(NamedTuple):
    """What each user gets: k items, with those of the history or without, as restricted."""

    k: int
    exclude_seen: bool
    limits: Restriction


class Scored(NamedTuple):
    """The best items of some users; and of their events, how many are of unknown items."""

    best: BestItems
    unknown: int


class UserWorkers(Protocol):
    """Processes that recommend to blocks of users; see `longrec.cluster.scoring`."""

    def score(
        self, artifact: Artifact, data: Histories, blocks: Sequence[Ints], asked: Asked
    ) -> Iterator[Scored]:
        """What `score` gives for each block of rows of the data, in order."""


def best_of_users(
    artifact: Artifact,
    index: Index,
    data: Histories,
    rows: Ints,
    asked: Asked,
    progress: Callable[[int, int], None] | None = None,
    workers: UserWorkers | None = None,
) -> Scored:
    """The k best items for users of some data, (n,) rows; -1 is a user without events.

    The blocks of users are the same with workers and without, and so is what is found.
    """
    lengths = _lengths(data, rows)
    ends = np.append(0, _ends(lengths))
    blocks = [rows[low:high] for low, high in pairwise(ends.tolist())]
    before, in_all = np.append(0, lengths.cumsum())[ends].tolist(), int(lengths.sum())
    if workers is not None:
        found = []
        for number, one in enumerate(workers.score(artifact, data, blocks, asked), 1):
            found.append(one)
            if progress is not None:
                progress(before[number], in_all)
        return _joined(found)

    def told(number: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, _: progress(min(before[number] + done, before[number + 1]), in_all)

    return _joined(
        [
            score(
                *(artifact, index, data, block),
                asked._replace(limits=asked.limits.behind(int(ends[number]))),
                told(number),
            )
            for number, block in enumerate(blocks)
        ]
    )


def score(
    artifact: Artifact,
    index: Index,
    data: Histories,
    rows: Ints,
    asked: Asked,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """The same for one block of them."""
    events, lengths = events_of(artifact, data, rows)
    best = best_items(
        *(artifact, index, events, lengths, asked.k, asked.exclude_seen, asked.limits, progress)
    )
    return Scored(best, int(np.count_nonzero(events.items == 0)))


def events_of(artifact: Artifact, data: Histories, rows: Ints) -> tuple[Events, Ints]:
    """The events of some users in the artifact's item indices, and how many are whose.

    Row -1 is a user without events; item 0 is an item that the catalog does not have. Text of
    columns that the model reads is in the codes that it was trained with.
    """
    columns = artifact.columns
    check_columns(artifact.name, columns, data.columns, data.path, columns)
    lengths = _lengths(data, rows)
    where = places(np.where(rows >= 0, data.offsets[:-1][rows], 0), lengths)
    items = align_events(data.items[where], data.catalog, artifact.catalog)
    times = None if data.times is None else data.times[where]
    return Events(items, times, data.read_columns(columns, where)), lengths


def _lengths(data: Histories, rows: Ints) -> Ints:
    lengths: Ints = np.where(rows >= 0, data.lengths[rows], 0)
    return lengths


def _ends(lengths: Ints) -> list[int]:
    """Where blocks end: one at least, though it be empty."""
    ends, begin, sums = list[int](), 0, lengths.cumsum()
    while begin < len(lengths):
        before = sums[begin] - lengths[begin]
        end = int(np.searchsorted(sums, before + EVENTS, side="right"))
        begin = min(max(end, begin + 1), begin + USERS)
        ends.append(begin)
    return ends or [0]


def _joined(parts: Sequence[Scored]) -> Scored:
    columns = zip(*(part.best for part in parts), strict=True)
    best = BestItems(*(np.concatenate(column) for column in columns))
    return Scored(best, sum(part.unknown for part in parts))
