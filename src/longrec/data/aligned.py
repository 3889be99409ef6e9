"""Histories in another catalog's item indices: how a model reads data of others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from longrec.core.arrays import Ints
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.splits import Split, Targets


def align_items(source: Catalog, target: Catalog) -> Ints:
    """(source.n_items + 1,) item index in `target` of each index in `source`; 0 where unknown."""
    if source.digest() == target.digest():
        return np.arange(source.n_items + 1)
    return np.concatenate([[0], target.find(source.ids)]).astype(np.int64)


@dataclass(frozen=True)
class Aligned:
    """Histories and a split, both in the catalog of a recommender.

    unknown_events : events left out because their item is not in the catalog.
    """

    histories: Histories
    split: Split
    unknown_events: int


def align(histories: Histories, split: Split, catalog: Catalog) -> Aligned:
    """Histories and split as a recommender with `catalog` reads them.

    Events with unknown items are left out of inputs. A target with an unknown item, or with
    nothing known before it, stays a target and counts as a miss.
    """
    index = align_items(histories.catalog, catalog)
    if len(index) == catalog.n_items + 1 and (index == np.arange(len(index))).all():
        return Aligned(histories, split, 0)
    items = index[histories.items].astype(np.int32)
    keep = items > 0
    before = np.concatenate([[0], keep.cumsum()])

    def moved(part: Targets) -> Targets:
        # The input of a target whose item is unknown still ends where it did.
        has_input = before[part.positions] > before[histories.offsets[part.users]]
        return Targets(
            part.users, before[part.positions], part.known & has_input & keep[part.positions]
        )

    unknown = int((~keep).sum())
    view = replace(
        histories,
        meta=replace(histories.meta, n_items=catalog.n_items, n_events=int(keep.sum())),
        items=items[keep],
        times=None if histories.times is None else histories.times[keep],
        offsets=before[histories.offsets],
        catalog=catalog,
        extra={},
    )
    aligned = Split(
        split.name,
        before[split.train_end],
        moved(split.validation),
        moved(split.test),
        split.notes | {"unknown_events": unknown},
    )
    return Aligned(view, aligned, unknown)
