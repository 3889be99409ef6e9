"""How much of the exact answer an index gives: recall@10, for users of a run's own data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.artifact.artifact import Artifact
from longrec.core.arrays import Ints, places
from longrec.core.errors import LongrecError
from longrec.data.aligned import align_events
from longrec.inference.encode import Events, encode_histories, last_items
from longrec.retrieval.index import Index, TopK, as_bits

K = 10
USERS, EVENTS = 512, 512
"""Users that recall is measured on, and last events that are read of each."""
MADE_UP = 30
"""Events of users that are made up where there are none."""


class Queries(NamedTuple):
    """Users to ask an index for: h (n, D), rows of bits of the items seen, the last items that an
    added score reads (n, reach), and who they are."""

    h: Tensor
    excluded: np.ndarray
    recent: Tensor
    words: str

    def some(self, rows: slice) -> Queries:
        """Those of some users."""
        return Queries(self.h[rows], self.excluded[rows], self.recent[rows], self.words)


def queries_of(artifact: Artifact, seed: int = 0) -> Queries:
    """Users drawn from the recommender's data; made up by its items' counts where that is gone."""
    rng, n_items = np.random.default_rng(seed), artifact.catalog.n_items
    times: Ints | None = None
    try:
        data = artifact.data()
        rows = rng.permutation(np.flatnonzero(data.lengths))[:USERS]
        lengths = np.minimum(data.lengths[rows], EVENTS)
        where = places(data.offsets[1:][rows] - lengths, lengths)
        items = align_events(data.items[where], data.catalog, artifact.catalog)
        times = None if data.times is None else data.times[where]
        columns = data.read_columns(artifact.columns, where)
        words = "users of the run's own data"
    except LongrecError:
        weights = artifact.catalog.counts + 1.0
        lengths = np.full(USERS, MADE_UP)
        items = rng.choice(n_items, USERS * MADE_UP, p=weights / weights.sum()) + 1
        times = np.zeros(len(items), np.int64)
        columns = {
            name: np.full(len(items), column.missing, column.dtype)
            for name, column in artifact.columns.items()
        }
        words = "made-up users, since the run's own data is not at hand"
    owner = np.repeat(np.arange(len(lengths)), lengths)
    known = items > 0
    events = Events(items.astype(np.int32), times, columns).where(known)
    owner, items = owner[known], items[known]
    lengths = np.bincount(owner)
    lengths = lengths[lengths > 0]
    h = torch.empty(len(lengths), 0)

    def use(numbers: Ints, found: Tensor) -> None:
        nonlocal h
        h = h if h.shape[1] else found.new_empty(len(lengths), found.shape[1], device="cpu")
        h[torch.from_numpy(numbers)] = found.cpu()

    encode_histories(artifact.model, events, lengths, artifact.limit, use)
    ends = lengths.cumsum()
    spans = np.split(items, ends[:-1])
    recent = last_items(items, ends - lengths, ends, artifact.scorer.reach)
    excluded = np.stack([as_bits(span, n_items) for span in spans])
    return Queries(h, excluded, recent, f"{len(h)} {words}")


def search_each(index: Index, queries: Queries, k: int = K) -> list[TopK]:
    """What an index answers, user by user as a service asks it."""
    each = [queries.some(slice(row, row + 1)) for row in range(len(queries.h))]
    return [index.search(one.h, k, one.excluded, one.recent) for one in each]


def recall(found: list[TopK], exact: list[TopK]) -> float:
    """The share of the exact answers' items that were found."""
    hits = wanted = 0
    for some, all_ in zip(found, exact, strict=True):
        items = set(all_.items[all_.items > 0].tolist())
        hits += len(items & set(some.items.flatten().tolist()))
        wanted += len(items)
    return hits / max(1, wanted)
