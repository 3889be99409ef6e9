"""The best items for histories: each is encoded, and the index searched for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from longrec.artifact.artifact import Artifact
from longrec.core.arrays import Ints
from longrec.inference.encode import Events, check_times, encode_histories, last_items
from longrec.retrieval.index import COLD, PERSONAL, ROW_BYTES, Index, allowed, as_bits, row_bytes
from longrec.retrieval.restriction import Restriction


class BestItems(NamedTuple):
    """The best items of n histories.

    items, scores : (n, width), best first; 0 and -inf where the items ran out.
    cold : (n,) which histories had no known event, so that popular items were taken.
    """

    items: Ints
    scores: np.ndarray
    cold: np.ndarray

    @property
    def policy(self) -> np.ndarray:
        """(n,) how each was found, in a word."""
        return np.where(self.cold, COLD, PERSONAL)


def best_items(
    artifact: Artifact,
    index: Index,
    events: Events,
    lengths: Ints,
    k: int,
    exclude_seen: bool,
    restriction: Restriction,
    progress: Callable[[int, int], None] | None = None,
) -> BestItems:
    """The k best items for histories, one after the other.

    Parameters
    ----------
    artifact : Artifact
    index : Index
        Of its items.
    events : Events
        Of all histories, oldest first; item 0 is one that the model does not know.
    lengths : ndarray
        (n,) events of each history.
    k : int
    exclude_seen : bool
        Whether items of the history are left out.
    restriction : Restriction
        What is left out besides, of all or of each.
    progress : callable or None
        Called with (events read, events in all).

    Raises
    ------
    UsageError
        When the model reads times and there are none.
    """
    check_times(artifact.model, events.times)
    n_users, catalog = len(lengths), artifact.catalog
    known = events.items > 0
    owner = np.repeat(np.arange(n_users), lengths)[known]
    events = events.where(known)
    items = events.items
    lengths = np.bincount(owner, minlength=n_users)
    ends = lengths.cumsum()
    begins = ends - lengths
    width = min(k, catalog.n_items)
    found = BestItems(
        np.zeros((n_users, width), np.int64),
        np.full((n_users, width), -np.inf, np.float32),
        lengths == 0,
    )
    at_once = max(1, ROW_BYTES // row_bytes(catalog.n_items))
    reach = artifact.scorer.reach

    def search(rows: Ints, h: torch.Tensor) -> None:
        h = h[torch.from_numpy(np.argsort(rows)).to(h.device)]
        rows = np.sort(rows)
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            seen = None
            if exclude_seen:
                histories = [items[begins[row] : ends[row]] for row in part]
                seen = np.stack([as_bits(history, catalog.n_items) for history in histories])
            barred = restriction.rows(part, seen)
            recent = last_items(items, begins[part], ends[part], reach)
            best = index.search(h[start : start + at_once], k, barred, recent)
            found.items[part] = best.items.numpy()
            found.scores[part] = best.scores.float().numpy()

    events = events._replace(items=items.astype(np.int32))
    encode_histories(artifact.model, events, lengths, artifact.limit, search, progress)
    for rows in _alike(np.flatnonzero(found.cold), restriction):
        barred, popular = restriction.row(int(rows[0])), catalog.popular
        popular = (popular if barred is None else allowed(barred, popular))[:width]
        found.items[rows, : len(popular)] = popular
        found.scores[rows, : len(popular)] = catalog.counts[popular - 1]
    return found


def _alike(rows: Ints, restriction: Restriction) -> list[Ints]:
    """Rows in groups for which the same is left out."""
    if restriction.own is None:
        return [rows] if len(rows) else []
    return list(rows[:, None])
