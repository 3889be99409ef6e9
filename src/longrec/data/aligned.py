"""Histories in another catalog's item indices: how a model reads data of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from longrec.core.arrays import Ints
from longrec.data.catalog import Catalog
from longrec.data.event_columns import Columns
from longrec.data.histories import Histories
from longrec.data.splits import Split, Targets


def align_items(source: Catalog, target: Catalog) -> Ints:
    """(source.n_items + 1,) item index in `target` of each index in `source`; 0 where unknown."""
    if source.digest == target.digest:
        return np.arange(source.n_items + 1)
    return np.concatenate([[0], target.find(source.ids)]).astype(np.int64)


def align_events(items: Ints, source: Catalog, target: Catalog) -> Ints:
    """Item indices (n,) of events in `source` as those in `target`; 0 where unknown.

    It looks up the items of these events alone, so that a few users cost the same in any catalog.
    """
    if source.digest == target.digest:
        return items
    found, place = np.unique(items, return_inverse=True)
    return target.find(source.take(found))[place]


def align(
    histories: Histories, split: Split, catalog: Catalog, columns: Columns | None = None
) -> tuple[Histories, Split]:
    """Histories and split as a recommender with `catalog` reads them.

    Of further columns there are those that it reads, `columns`, with text in their codes. Events
    with unknown items are left out of inputs; the split's note `unknown_events` counts them.
    A target with an unknown item, or with nothing known before it, stays a target and is a miss.
    """
    columns = columns or {}
    histories = histories.in_words_of(columns)
    index = align_items(histories.catalog, catalog)
    if np.array_equal(index, np.arange(catalog.n_items + 1)):
        return histories, split
    items = index[histories.items].astype(np.int32)
    known = items > 0
    before = np.concatenate([[0], known.cumsum()])  # known events before each place

    def aligned(part: Targets) -> Targets:
        # The input of a target whose item is unknown still ends where it did.
        positions = before[part.positions]
        has_input = positions > before[histories.offsets[part.users]]
        own = index[part.items]
        return Targets(part.users, positions, own, part.known & has_input & (own > 0))

    view = replace(
        histories,
        meta=replace(histories.meta, n_items=catalog.n_items, n_events=int(known.sum())),
        items=items[known],
        times=None if histories.times is None else histories.times[known],
        offsets=before[histories.offsets],
        catalog=catalog,
        extra={name: x[known] for name, x in histories.extra.items() if name in columns},
    )
    return view, replace(
        split,
        train_end=before[split.train_end],
        validation=aligned(split.validation),
        test=aligned(split.test),
        notes=split.notes | {"unknown_events": int((~known).sum())},
    )
