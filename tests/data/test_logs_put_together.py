"""Logs of odd kinds and of several parts: what each comes out as, or is told of it."""

from __future__ import annotations

import bz2
import gzip

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.log_files import rows_of, write

from longrec.core.errors import DataError
from longrec.data.item_table import as_item_table
from longrec.data.prepare import prepare
from longrec.data.read import read_events

HEAD = "user,item,time\n"
DAY = 1_706_572_800  # 2024-01-30
FRAME = pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "time": [10, 20]})


def test_files_put_together_have_their_headers_and_marks_inside(tmp_path) -> None:
    text = f"{HEAD}1,2,3\n\ufeff4,5,6\n{HEAD}7,8,9\n1,2,soon\n"
    log = write(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=r"row 3: 'user' is a column's name again \(line 4\)"):
        read_events(log)
    events = read_events(log, skip_bad_rows=True)
    assert events.to_polars().rows() == [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    assert [row.line for row in events.bad_rows] == [4, 6]
    # A header that was named beside the one that stands there.
    events = read_events(log, header=("user", "item", "time"), skip_bad_rows=True)
    assert [row.line for row in events.bad_rows] == [1, 4, 6]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda b: pa.compress(b, "zstd")])
def test_packings_put_together(tmp_path, pack) -> None:
    packed = [bytes(memoryview(pack(part))) for part in (f"{HEAD}1,2,3\n".encode(), b"4,5,6\n")]
    assert rows_of(write(tmp_path / "log.csv", b"".join(packed))) == [(1, 2, 3), (4, 5, 6)]


def test_empty_parts_count_for_nothing(tmp_path) -> None:
    empty, head = write(tmp_path / "a.csv", ""), write(tmp_path / "b.csv", HEAD)
    nothing, log = tmp_path / "c.parquet", write(tmp_path / "d.csv", f"{HEAD}x,007,2024-01-30\n")
    FRAME.clear().cast(pl.Null).write_parquet(nothing)  # as pandas writes a part without rows
    events = read_events([empty, head, nothing, log])
    assert events.to_polars().rows() == [("x", "007", DAY * 10**6)]
    assert events.notes[0].endswith("a.csv is empty and left out")
    with pytest.raises(DataError, match=r"b\.csv is empty: it has no columns"):
        read_events([empty, write(tmp_path / "b.csv", "")])


def test_a_glob_takes_the_folders_that_it_matches(tmp_path) -> None:
    for day in (1, 2):
        write(tmp_path / f"day={day}" / "log.csv", f"{HEAD}u,i,{day}\n")
    both = [("u", "i", 1, 1), ("u", "i", 2, 2)]
    for pattern in ("day=*", "**", "**/*.csv"):
        assert rows_of(str(tmp_path / pattern), columns=("day",)) == both
    with pytest.raises(DataError, match="no file matches"):
        read_events(str(tmp_path / "night=*"))


def test_spaces_divide_fields_where_nothing_else_does(tmp_path) -> None:
    log = write(tmp_path / "ratings.txt", "1 10 4\n1 20 5\n")
    assert rows_of(log, header=("user", "item", "time")) == [(1, 10, 4), (1, 20, 5)]


@pytest.mark.parametrize("twin", ["a ", "a\u00a0", "a\u200b"])
def test_ids_that_look_alike_are_pointed_out(twin) -> None:
    events = read_events(pl.DataFrame({"user": ["a", twin, "b "], "item": 1, "time": 1}))
    assert events.to_polars()["user"].to_list() == ["a", twin, "b "]
    assert "1 ids of users differ from another one by spaces" in events.notes[0]
    assert ascii(twin) in events.notes[0]


def test_accents_in_two_codings_are_pointed_out(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}1,caf\u00e9,1\n1,cafe\u0301,2\n1,ma\u00dfe,2\n")
    assert [row[1] for row in rows_of(log)] == ["caf\u00e9", "cafe\u0301", "ma\u00dfe"]
    assert r"'cafe\u0301'" in read_events(log).notes[0]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.string_view()),
        pa.chunked_array([pa.RunEndEncodedArray.from_arrays([1, 2], pa.array(["a", "b"]))] * 1),
    ],
    ids=["dictionary", "view", "run ends"],
)
def test_arrow_columns_in_other_codings(column) -> None:
    table = FRAME.to_arrow()
    table = table.set_column(1, "item", column)
    assert rows_of(table) == rows_of(table.to_reader()) == FRAME.rows()


@pytest.mark.parametrize(
    "users",
    [
        pd.array([1, 2], "Int8"),
        pd.Categorical([1, 2]),
        pd.arrays.SparseArray([1, 2]),
        pd.array([1, 2], "int64[pyarrow]"),
    ],
    ids=["nullable", "categorical", "sparse", "arrow"],
)
def test_pandas_columns_in_other_codings(users) -> None:
    frame = FRAME.to_pandas().assign(user=users)
    assert rows_of(frame) == FRAME.rows()


def test_numbers_of_any_width_in_parquet(tmp_path) -> None:
    table = FRAME.to_arrow().set_column(0, "user", pa.array([2**64 - 1, 2], pa.uint64()))
    table = table.set_column(2, "time", pa.array([DAY * 10**9 + 1, DAY * 10**9]))
    berlin = table.column("time").cast(pa.timestamp("ns", "Europe/Berlin"))
    pq.write_table(table.set_column(2, "time", berlin), tmp_path / "log.parquet")
    events = read_events(tmp_path / "log.parquet")
    assert events.to_polars()["user"].to_list() == [2**64 - 1, 2]
    assert events.to_polars()["time"].to_list() == [DAY * 10**9 + 1, DAY * 10**9]


def test_nanoseconds_in_text_order_events(tmp_path) -> None:
    times = ["2024-01-30T00:00:00.123456789Z", "2024-01-30 00:00:00.123456788", "2024-01-30"]
    rows = "".join(f"1,{n},{time}\n" for n, time in enumerate(times))
    log = write(tmp_path / "log.csv", f"{HEAD}{rows}")
    nanoseconds = [DAY * 10**9 + 123_456_789, DAY * 10**9 + 123_456_788, DAY * 10**9]
    assert [row[2] for row in rows_of(log)] == nanoseconds
    h = prepare(log, tmp_path / "h")
    assert h.catalog.take(h.items).to_list() == [2, 1, 0]


@pytest.mark.parametrize("time", ["1e300", "9223372036854775807", "-9223372036854775808"])
def test_times_that_cannot_be_kept_are_told(tmp_path, time) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}1,1,-5\n1,2,{time}\n")
    with pytest.raises(DataError, match=r"row 2: '.*' is further from 1970 than can be kept"):
        read_events(log, time_unit="s")
    h = prepare(log, tmp_path / "h", time_unit="s", skip_bad_rows=True)
    assert h.times.tolist() == [-5]


def test_days_may_be_added_in_any_order(tmp_path) -> None:
    one = write(tmp_path / "1.csv", f"{HEAD}1,a,10\n2,b,20\n")
    two = write(tmp_path / "2.csv", f"{HEAD}1,c,5\n3,a,30\n1,a,10\n")
    whole = prepare([one, two], tmp_path / "whole", dedup="same-time").to_polars()
    for name, first, second in (("a", one, two), ("b", two, one)):
        old = prepare(first, tmp_path / name)
        both = prepare(second, tmp_path / f"{name}2", extend=old).to_polars()
        assert both.sort("user", maintain_order=True).equals(whole)


def test_a_table_of_items_may_be_utf_16(tmp_path) -> None:
    items = write(tmp_path / "items.csv", "item,title\na,Äpfel\n".encode("utf-16"))
    assert as_item_table(items).frame.rows() == [("a", "Äpfel")]
