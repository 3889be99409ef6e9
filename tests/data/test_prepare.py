"""Logs to histories: order, ids, filters and their counts, against a plain definition."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories, open_histories
from longrec.data.prepare import prepare
from longrec.data.read import read_events

REAL = Path(os.environ.get("LONGREC_DATA", Path(__file__).parents[3] / "shared" / "data"))


def histories_of(h: Histories) -> dict:
    """{user: [item, ...]} with the log's own ids."""
    items = h.catalog.take(h.items).to_list()
    bounds = h.offsets.tolist()
    users = h.user_ids.to_list()
    return {u: items[a:b] for u, a, b in zip(users, bounds[:-1], bounds[1:], strict=True)}


def by_definition(rows: list[tuple], dedup: bool = False, k: int = 0, shortest: int = 1) -> dict:
    """What `prepare` promises, as plain Python: rows are (user, item, time)."""
    rows = sorted(rows, key=lambda row: row[2])  # stable
    if dedup:
        rows = [row for n, row in enumerate(rows) if row[:2] not in {r[:2] for r in rows[:n]}]
    while k:
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= k and items[r[1]] >= k]
        if len(kept) == len(rows):
            break
        rows = kept
    found = defaultdict(list)
    for user, item, _ in rows:
        found[user].append(item)
    return {user: items for user, items in sorted(found.items()) if len(items) >= shortest}


USERS = st.sampled_from([st.integers(-3, 3), st.sampled_from(["ann", "Bob", "ü", "💡", "10", "9"])])
LOGS = USERS.flatmap(
    lambda users: st.lists(
        st.tuples(users, st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=40
    )
)


def frame_of(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


@settings(deadline=None, max_examples=40)
@given(LOGS, st.booleans(), st.sampled_from([0, 2, 3]), st.sampled_from([1, 2, 3]))
def test_prepare_is_its_definition(tmp_path_factory, rows, dedup, k, shortest) -> None:
    out = tmp_path_factory.mktemp("prepare") / "h"
    wanted = by_definition(rows, dedup, k, shortest)
    options = {"dedup": dedup, "k_core": k, "min_length": shortest}
    if not wanted:
        with pytest.raises(DataError, match="leave no event"):
            prepare(frame_of(rows), out, **options)
        assert not out.exists()
        return
    h = prepare(frame_of(rows), out, **options)
    h.verify()
    assert histories_of(h) == wanted
    assert h.user_ids.to_list() == sorted(wanted)
    assert h.catalog.ids.is_sorted()
    occurring = Counter(item for items in wanted.values() for item in items)
    assert dict(zip(h.catalog.ids, h.catalog.counts, strict=True)) == occurring
    lost = sum(n for name, n in h.meta.dropped.items() if name.endswith("_events"))
    assert lost == len(rows) - h.n_events
    lost_users = sum(n for name, n in h.meta.dropped.items() if name.endswith("_users"))
    assert lost_users == len({row[0] for row in rows}) - h.n_users


@settings(deadline=None, max_examples=12)
@given(LOGS, st.randoms())
def test_an_order_column_makes_the_order_of_rows_irrelevant(tmp_path_factory, rows, random) -> None:
    folder = tmp_path_factory.mktemp("order")
    frame = frame_of(rows).with_row_index("place")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=random.randrange(2**32))
    first = prepare(frame, folder / "a", order="place")
    again = prepare(shuffled, folder / "b", order="place")
    assert first.fingerprint == again.fingerprint
    assert histories_of(first) == by_definition([(u, i, 0) for u, i, _ in rows])


def test_ties_keep_the_order_of_rows_across_files_and_batches(tmp_path: Path) -> None:
    n = 200_000
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"user": random.integers(0, 50, n), "item": np.arange(n), "time": random.integers(0, 3, n)}
    )
    for part in range(4):
        frame[part * n // 4 : (part + 1) * n // 4].write_csv(tmp_path / f"{part}.csv")
    h = prepare(str(tmp_path / "*.csv"), tmp_path / "h")
    order = np.lexsort((frame["time"].to_numpy(), frame["user"].to_numpy()))
    assert h.catalog.take(h.items).to_list() == frame["item"].gather(order).to_list()


def test_sorting_comes_before_truncating_to_seconds(tmp_path: Path) -> None:
    ms = 1_700_000_000_000
    frame = pl.DataFrame(
        {"user": [1, 1, 1], "item": ["c", "a", "b"], "time": [ms + 900, ms, ms + 1]}
    )
    h = prepare(frame, tmp_path / "h")
    assert histories_of(h) == {1: ["a", "b", "c"]}
    assert h.times is not None
    assert h.times.tolist() == [ms // 1000] * 3
    assert h.meta.time_unit == "ms"


def test_row_order_and_no_time(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [2, 1, 2], "item": ["x", "y", "w"]})
    h = prepare(frame, tmp_path / "h", row_order=True)
    assert histories_of(h) == {1: ["y"], 2: ["x", "w"]}
    assert h.times is None
    timed = frame.with_columns(time=pl.Series([9, 5, 1]))
    h = prepare(timed, tmp_path / "timed", row_order=True)
    assert histories_of(h) == {1: ["y"], 2: ["x", "w"]}
    assert h.times is not None
    assert h.times.tolist() == [5, 9, 1]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Int64, pl.String, pl.Date, pl.Binary])
def test_ids_keep_their_type(tmp_path: Path, dtype: pl.DataType) -> None:
    ids = pl.Series([3, 1, 2]).cast(pl.String if dtype == pl.Binary else pl.Int32).cast(dtype)
    h = prepare(pl.DataFrame({"user": ids, "item": ids, "time": [1, 2, 3]}), tmp_path / "h")
    kept = pl.String if dtype == pl.Binary else dtype  # bytes come out as text
    assert h.user_ids.dtype == h.catalog.ids.dtype == kept
    assert h.user_ids.to_list() == sorted(ids.cast(kept).to_list())
    assert h.find_users(ids.cast(kept)).tolist() == [2, 0, 1]


def test_event_columns_follow_their_events(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": [1, 1, 1],
            "item": [5, 6, 7],
            "time": [3, 2, 1],
            "weight": [0.5, None, 2.5],
            "type": ["view", None, "cart"],
            "bought": [True, False, False],
            "n": [1, 2, 3],
        }
    )
    h = prepare(frame, tmp_path / "h", columns=("weight", "type", "bought", "n"))
    assert h.extra["n"].tolist() == [3, 2, 1]
    assert h.extra["bought"].tolist() == [0, 0, 1]
    assert h.meta.labels == {"type": ["cart", "view"]}
    assert h.extra["type"].tolist() == [0, -1, 1]
    assert np.isnan(h.extra["weight"][1])
    assert open_histories(h.path).extra["weight"][2] == 0.5
    with pytest.raises(DataError, match="column 'n', row 2 is null"):
        prepare(frame.with_columns(n=pl.Series([1, None, 3])), tmp_path / "x", columns=("n",))
    dated = frame.with_columns(when=pl.date(2024, 1, 1))
    with pytest.raises(DataError, match="'when' is of type DATE"):
        prepare(dated, tmp_path / "x", columns=("when",))
    assert os.listdir(tmp_path) == ["h"]


def test_what_was_done_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = [(1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 2, 1)]
    h = prepare(frame_of(rows), tmp_path / "h", dedup=True, min_length=2, report=lines.append)
    assert h.meta.dropped == {
        "repeated_events": 1,
        "short_events": 1,
        "short_users": 1,
        "short_items": 0,
    }
    text = "\n".join(lines)
    assert "user (recognised)" in text
    assert "dropped 1 repeated events" in text
    assert "dropped 1 short users" in text


def test_calls_that_cannot_work(tmp_path: Path) -> None:
    frame = frame_of([(1, 1, 1)])
    for options in ({"k_core": -1}, {"min_length": 2.5}, {"k_core": True}):
        with pytest.raises(UsageError, match=f"{next(iter(options))} is .*; it must be"):
            prepare(frame, tmp_path / "h", **options)
    with pytest.raises(DataError, match=r"leave no event.*1 short events"):
        prepare(frame, tmp_path / "h", min_length=2)
    with pytest.raises(DataError, match="is null"):
        prepare(frame.with_columns(user=pl.lit(None, dtype=pl.Int64)), tmp_path / "h")
    assert not list(tmp_path.iterdir())
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="not a histories folder"):
        prepare("absent.csv", tmp_path / "h", overwrite=True)


def real(name: str) -> Path:
    path = REAL / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here (LONGREC_DATA names its folder)")
    return path


@pytest.mark.parametrize(
    ("name", "options", "users", "items", "events", "longest"),
    [
        ("ml1m", {"order": "position"}, 6040, 3416, 999_611, 2277),
        ("s3rec_beauty", {"order": "position"}, 22_363, 12_101, 198_502, 204),
        ("foodcom_ts", {"order": "position"}, 17_813, 41_240, 555_618, 2860),
    ],
)
def test_real_logs(tmp_path: Path, name, options, users, items, events, longest) -> None:
    h = prepare(real(name), tmp_path / "h", **options)
    assert (h.n_users, h.n_items, h.n_events) == (users, items, events)
    assert h.lengths.max() == longest
    frame = pl.read_parquet(real(name)).sort("user_id", "position")
    assert h.catalog.take(h.items).equals(frame["item_id"], check_names=False)
    if h.times is not None:
        assert (np.diff(h.times)[np.diff(frame["user_id"].to_numpy()) == 0] >= 0).all()
    core = prepare(real(name), tmp_path / "core", k_core=8, **options)
    assert core.lengths.min() >= 8
    assert core.catalog.counts.min() >= 8


MEASURE = """
import sys
from longrec.data.prepare import prepare
h = prepare(sys.argv[1], sys.argv[2])
# Of this program alone: the kernel's ru_maxrss starts from its parent's memory.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(h.n_events, peak)
"""


@pytest.mark.slow
def test_three_million_events_take_bounded_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(real("globo_news")), str(tmp_path / "h")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    events, peak = done.stdout.split()
    assert int(events) == 2_988_181
    assert int(peak) * 1024 < 700 * 2**20


def test_events_are_read_once_and_prepared_often(tmp_path: Path) -> None:
    events = read_events(frame_of([(1, 2, 3), (1, 3, 4)]))
    a, b = prepare(events, tmp_path / "a"), prepare(events, tmp_path / "b")
    assert a.fingerprint == b.fingerprint
