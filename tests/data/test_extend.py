"""Extending histories: what both logs together must be, by a plain definition."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories, open_histories
from longrec.data.prepare import prepare

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=25
)


def frame_of(rows: list[tuple], **types: pl.DataType) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return frame.with_columns(pl.col(name).cast(dtype) for name, dtype in types.items())


def events_of(h: Histories) -> dict:
    """{user: [(item, time), …]} with the log's own ids; time None without times."""
    items = h.catalog.take(h.items).to_list()
    times = [None] * len(items) if h.times is None else h.times.tolist()
    bounds = h.offsets.tolist()
    return {
        user: list(zip(items[a:b], times[a:b], strict=True))
        for user, a, b in zip(h.user_ids, bounds[:-1], bounds[1:], strict=True)
    }


def by_definition(old: list[tuple], new: list[tuple]) -> dict:
    """Old rows, then those of the new rows that the old log holds fewer of, sorted by time."""
    held, extra = Counter(old), []
    for row in sorted(new, key=lambda row: row[2]):
        if held[row]:
            held[row] -= 1
        else:
            extra.append(row)
    found: dict = {}
    for user, item, time in sorted(old, key=lambda row: row[2]) + extra:
        found.setdefault(user, []).append((item, time))
    return {user: sorted(events, key=lambda event: event[1]) for user, events in found.items()}


@settings(deadline=None, max_examples=12)
@given(ROWS, ROWS)
def test_extending_is_its_definition(tmp_path_factory, first, second) -> None:
    folder = tmp_path_factory.mktemp("extend")
    old = prepare(frame_of(first), folder / "old")
    both = prepare(frame_of(second), folder / "both", extend=old)
    both.verify()
    assert events_of(both) == by_definition(first, second)
    assert both.user_ids[: old.n_users].equals(old.user_ids)
    assert both.catalog.ids[: old.n_items].equals(old.catalog.ids)
    assert both.user_ids.n_unique() == both.n_users
    assert both.catalog.ids.n_unique() == both.n_items
    counts = Counter(item for events in events_of(both).values() for item, _ in events)
    assert dict(zip(both.catalog.ids, both.catalog.counts, strict=True)) == counts
    assert both.meta.dropped["duplicate_events"] == len(first) + len(second) - both.n_events
    assert both.find_users(both.user_ids).tolist() == list(range(both.n_users))


def test_extending_by_the_same_log_changes_nothing(tmp_path: Path) -> None:
    frame = frame_of([(1, 5, 10), (1, 5, 10), (2, 6, 11), (1, 7, 12)])
    old = prepare(frame, tmp_path / "h")
    again = prepare(frame, tmp_path / "h", extend=old.path, overwrite=True)
    assert again.fingerprint == old.fingerprint
    assert again.meta.dropped == {"duplicate_events": 4}
    more = prepare(frame_of([(1, 5, 10)] * 3), tmp_path / "more", extend=again)
    assert more.n_events == 5, "the third of three equal events is new"
    assert more.meta.dropped == {"duplicate_events": 6}


def test_what_was_done_is_told(tmp_path: Path) -> None:
    old = prepare(frame_of([(1, 1, 100), (1, 2, 200), (2, 1, 300)]), tmp_path / "old")
    lines: list[str] = []
    new = frame_of([(1, 3, 150), (1, 2, 200), (1, 4, 201), (9, 4, 1)])
    both = prepare(new, tmp_path / "both", extend=old, report=lines.append)
    text = "\n".join(lines)
    assert "skipped 1 events" in text
    assert "1 events are older than their user's last event" in text
    assert "1 new users, 2 new items, 3 new events" in text
    assert events_of(both)[1] == [(1, 100), (3, 150), (2, 200), (4, 201)]
    assert both.meta.source == f"{old.meta.source} + {old.meta.source}"
    assert both.fingerprint != old.fingerprint


def test_a_log_in_an_order_of_its_own_keeps_it(tmp_path: Path) -> None:
    def log(*rows: tuple) -> pl.DataFrame:
        return frame_of(list(rows))

    old = prepare(log((1, 1, 50), (1, 2, 10), (1, 3, 60)), tmp_path / "old", row_order=True)
    new = log((1, 4, 55), (1, 5, 20), (1, 6, 70))
    both = prepare(new, tmp_path / "both", extend=old, row_order=True)
    # 2 stands behind 50, so it counts as 50; 5 behind 55 as 55.
    assert [item for item, _ in events_of(both)[1]] == [1, 2, 4, 5, 3, 6]


def test_without_times_new_events_follow_the_old(tmp_path: Path) -> None:
    old = prepare(frame_of([(1, 1, 0), (2, 2, 0)]).drop("time"), tmp_path / "o", row_order=True)
    new = frame_of([(2, 2, 0), (1, 3, 0), (1, 1, 0)]).drop("time")
    both = prepare(new, tmp_path / "both", extend=old, row_order=True)
    found = {u: [i for i, _ in events] for u, events in events_of(both).items()}
    assert found == {1: [1, 3, 1], 2: [2, 2]}, "a repeat and a duplicate look the same here"


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (pl.Int32, pl.Int64, pl.Int32),
        (pl.Int64, pl.UInt8, pl.Int64),
        (pl.String, pl.Int64, pl.String),
        (pl.Date, pl.Date, pl.Date),
        (pl.String, pl.Categorical, pl.String),
    ],
)
def test_ids_of_one_kind_are_the_same_ids(tmp_path: Path, old, new, kept) -> None:
    def cast(rows: list[tuple], dtype: pl.DataType) -> pl.DataFrame:
        frame = frame_of(rows)
        via = pl.String if dtype == pl.Categorical else dtype
        return frame.with_columns(pl.col("user", "item").cast(via).cast(dtype))

    first = prepare(cast([(1, 2, 3)], old), tmp_path / "old")
    both = prepare(cast([(1, 2, 4), (3, 3, 5)], new), tmp_path / "both", extend=first)
    assert both.user_ids.dtype == both.catalog.ids.dtype == kept
    assert (both.n_users, both.n_items) == (2, 2)
    assert both.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": pl.String}, "user ids are of type text.*are int64"),
        ({"item": pl.Date}, "item ids are of type dates"),
        ({"time": None}, "has times and .* has none"),
    ],
)
def test_logs_that_do_not_fit(tmp_path: Path, change, words) -> None:
    old = prepare(frame_of([(1, 2, 3)]), tmp_path / "old")
    new, options = frame_of([(1, 2, 4)]), {}
    for name, dtype in change.items():
        if dtype is None:
            new, options = new.drop(name), {"row_order": True}
        else:
            via = pl.Int32 if dtype == pl.Date else pl.Int64
            new = new.with_columns(pl.col(name).cast(via).cast(dtype))
    with pytest.raises(DataError, match=words):
        prepare(new, tmp_path / "both", extend=old, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_an_id_too_large_for_the_old_type(tmp_path: Path) -> None:
    old = prepare(frame_of([(1, 2, 3)], user=pl.Int8), tmp_path / "old")
    with pytest.raises(DataError, match="a user id does not fit the type int8"):
        prepare(frame_of([(300, 2, 4)]), tmp_path / "both", extend=old)


def test_filters_do_not_combine(tmp_path: Path) -> None:
    old = prepare(frame_of([(1, 2, 3)]), tmp_path / "old")
    for options in ({"k_core": 2}, {"dedup": True}, {"min_length": 2}):
        with pytest.raises(UsageError, match="do not combine with extend"):
            prepare(frame_of([(1, 2, 4)]), tmp_path / "both", extend=old, **options)
    with pytest.raises(DataError, match="no such folder"):
        prepare(frame_of([(1, 2, 4)]), tmp_path / "both", extend=tmp_path / "none")


def test_event_columns_follow_their_events(tmp_path: Path) -> None:
    def log(kinds: list, weights: list, start: int) -> pl.DataFrame:
        times = list(range(start, start + len(kinds)))
        return pl.DataFrame(
            {"user": 1, "item": times, "time": times, "kind": kinds, "weight": weights},
            schema_overrides={"user": pl.Int64},
        )

    names = ("kind", "weight")
    old = prepare(log(["view", "buy"], [1, 2], 0), tmp_path / "old", columns=names)
    new = log(["cart", None, "buy"], [3, 4, 5], 2)
    both = prepare(new, tmp_path / "both", extend=old, columns=names)
    words = [*both.meta.labels["kind"], None]
    assert [words[code] for code in both.extra["kind"]] == ["view", "buy", "cart", None, "buy"]
    assert both.meta.labels["kind"][:2] == old.meta.labels["kind"]
    assert both.extra["weight"].tolist() == [1, 2, 3, 4, 5]
    again = prepare(new, tmp_path / "again", extend=old)
    assert again.fingerprint == both.fingerprint, "the day before tells how the log is read"
    with pytest.raises(UsageError, match=r"columns kind, weight, and .* was read with kind"):
        prepare(new, tmp_path / "x", extend=old, columns="kind")
    with pytest.raises(DataError, match="text in the event columns kind"):
        prepare(new.with_columns(kind=pl.lit(1)), tmp_path / "x", extend=old, columns=names)
    with pytest.raises(DataError, match="column 'weight' is int64"):
        prepare(new.with_columns(weight=pl.lit(0.5)), tmp_path / "x", extend=old, columns=names)


def test_damaged_histories_are_not_extended(tmp_path: Path) -> None:
    prepare(frame_of([(1, 2, 3), (1, 3, 4)]), tmp_path / "old")
    file = tmp_path / "old" / "events.arrow"
    content = bytearray(file.read_bytes())
    place = content.find(np.array([1, 2], np.int32).tobytes())
    content[place : place + 4] = np.array([2], np.int32).tobytes()
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="edited or damaged"):
        prepare(frame_of([(1, 2, 5)]), tmp_path / "both", extend=open_histories(tmp_path / "old"))
