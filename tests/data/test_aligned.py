"""Histories in another catalog against doing the same with Python lists of ids."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

from longrec.data.aligned import align, align_events, align_items
from longrec.data.catalog import Catalog
from longrec.data.splits import make_split


def catalog(ids):
    return Catalog(pl.Series(ids), np.ones(len(ids), dtype=np.int64))


def ids_of(histories):
    ids = histories.catalog.take(histories.items.astype(np.int64)).to_list()
    bounds = histories.offsets.tolist()
    return [ids[a:b] for a, b in itertools.pairwise(bounds)]


def test_align_items_looks_up_ids():
    found = align_items(catalog(["a", "b", "c"]), catalog(["c", "x", "a"]))
    assert found.tolist() == [0, 3, 0, 1]


def test_align_items_of_other_types_is_by_spelling():
    assert align_items(catalog(["7", "8"]), catalog([8, 9])).tolist() == [0, 0, 1]


def test_events_are_looked_up_by_their_own_items_alone(monkeypatch):
    """The cost of a recommendation is not that of the catalog."""
    here, there = catalog([f"i{n}" for n in range(99)]), catalog([f"i{n}" for n in range(50, 80)])
    items, asked = np.array([60, 3, 60, 71, 99]), []
    find = Catalog.find
    monkeypatch.setattr(
        Catalog, "find", lambda self, ids: (asked.append(len(ids)), find(self, ids))[1]
    )
    found = align_events(items, here, there)
    assert asked == [4]
    assert found.tolist() == align_items(here, there)[items].tolist() == [10, 0, 10, 21, 0]
    assert align_events(items, here, catalog(here.ids)).tolist() == items.tolist()
    assert align_events(items[:0], here, there).tolist() == []


def test_the_same_catalog_copies_nothing(make_histories):
    h = make_histories([[1, 2, 3], [2, 1, 3]])
    split = make_split("leave-one-out", h)
    view, aligned = align(h, split, h.catalog)
    assert view is h
    assert aligned is split


@pytest.mark.parametrize("seed", range(4))
def test_equals_filtering_lists(make_histories, seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(1, 9, random.integers(1, 9)).tolist() for _ in range(12)]
    times = [np.sort(random.integers(0, 99, len(row))).tolist() for row in rows]
    h = make_histories(rows, times, n_items=8)
    known = random.choice(np.arange(1000, 1008), 4, replace=False)
    target = catalog([*random.permutation(known).tolist(), 77])
    split = make_split("leave-one-out", h)
    view, aligned = align(h, split, target)

    wanted = [[i for i in row if i in known] for row in ids_of(h)]
    assert ids_of(view) == wanted
    assert aligned.notes["unknown_events"] == sum(map(len, rows)) - sum(map(len, wanted))
    assert view.n_events == len(view.items)
    assert view.n_items == 5
    assert view.lengths.tolist() == [len(row) for row in wanted]
    keep = np.isin(h.catalog.take(h.items.astype(np.int64)).to_numpy(), known)
    assert view.times.tolist() == h.times[keep].tolist()
    for name in ("validation", "test"):
        old, new = getattr(split, name), getattr(aligned, name)
        assert new.users.tolist() == old.users.tolist(), "no target goes missing"
        for user, position, before, is_known in zip(
            new.users, new.positions, old.positions, new.known, strict=True
        ):
            begin = h.offsets[user]
            inputs = [i for i in ids_of(h)[user][: before - begin] if i in known]
            item = h.catalog.ids[int(h.items[before]) - 1]
            own = view.offsets[user]
            assert ids_of(view)[user][: position - own] == inputs
            assert is_known == (item in known and bool(inputs))
            if is_known:
                assert view.catalog.ids[int(view.items[position]) - 1] == item


def test_a_longer_catalog_that_begins_alike_still_counts_its_own_items(make_histories):
    h = make_histories([[1, 2, 3]])
    view, _ = align(h, make_split("leave-one-out", h), catalog([1000, 1001, 1002, 1003]))
    assert view.items.tolist() == [1, 2, 3]
    assert view.n_items == 4


def test_no_known_item_leaves_empty_histories_and_misses(make_histories):
    h = make_histories([[1, 2, 3]])
    view, aligned = align(h, make_split("leave-one-out", h), catalog(["no", "such"]))
    assert len(view.items) == 0
    assert not aligned.test.known.any()
