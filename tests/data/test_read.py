"""Every way to write a log is read the same, and each thing that can be wrong has its own error."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from longrec.core.errors import DataError, UsageError
from longrec.data.read import read_events

ROWS = {"user_id": [7, 7, 8], "item_id": ["b", "a", "b"], "timestamp": [20, 10, 30]}
CSV = "user_id,item_id,timestamp\n7,b,20\n7,a,10\n8,b,30\n"


def rows_of(source, **options) -> list[tuple]:
    events = read_events(source, **options)
    frame = events.to_polars()
    assert frame.height == events.n_events
    return frame.rows()


def file_of(tmp_path: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


WANTED = [(7, "b", 20), (7, "a", 10), (8, "b", 30)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", CSV),
        ("LOG.CSV", CSV),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("bom.csv", "\ufeff" + CSV),
        ("open_end.csv", CSV.rstrip("\n")),
        ("quoted.csv", '"user_id","item_id","timestamp"\n"7","b","20"\n7,"a",10\n8,b,30\n'),
        ("spaces.csv", CSV.replace("user_id,item_id", "user_id , item_id")),
        ("semicolons.csv", CSV.replace(",", ";")),
        ("log.tsv", CSV.replace(",", "\t")),
        ("ml.inter", "user_id:token\titem_id:token\ttimestamp:float\n7\tb\t20\n7\ta\t10\n8\tb\t30"),
        (
            "iso.csv",
            "u,i,t\n7,b,1970-01-01 00:00:20\n7,a,1970-01-01 00:00:10\n8,b,1970-01-01T00:00:30",
        ),
        ("log.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
    ],
)
def test_text_files(tmp_path: Path, name: str, text: str | bytes) -> None:
    options = {"user": "u", "item": "i", "time": "t"} if name == "iso.csv" else {}
    events = read_events(file_of(tmp_path, text, name), **options)
    rows = events.to_polars().rows()
    assert [(u, i, t / events.per_second) for u, i, t in rows] == WANTED


def test_frames_and_streams(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "log.parquet")
    sources = [
        frame,
        frame.lazy(),
        frame.to_pandas(),
        frame.with_columns(pl.col("item_id").cast(pl.Categorical)),
        pd.DataFrame(ROWS).astype({"item_id": "category"}),
        pd.DataFrame(ROWS).astype({"item_id": object}),
        frame.to_arrow(),
        pa.RecordBatchReader.from_batches(frame.to_arrow().schema, frame.to_arrow().to_batches()),
        tmp_path / "log.parquet",
        str(tmp_path / "log.parquet"),
    ]
    for source in sources:
        assert rows_of(source) == WANTED


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    parts = tmp_path / "day=1 [x]"
    parts.mkdir()
    frame[:2].write_parquet(parts / "part-0.parquet")
    frame[2:].with_columns(extra=1).write_parquet(parts / "part-1.parquet")
    (parts / "_SUCCESS").touch()
    (parts / ".part-0.parquet.crc").write_bytes(b"x")
    (parts / "README.md").write_text("hello")
    assert rows_of(tmp_path) == WANTED
    assert rows_of(parts) == WANTED
    assert rows_of([parts / "part-0.parquet", parts / "part-1.parquet"]) == WANTED
    assert rows_of(str(tmp_path / "*" / "part-?.parquet")) == WANTED
    assert rows_of(parts / "part-0.parquet") == WANTED[:2]


def test_integer_widths_of_files_are_joined(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    frame[:2].with_columns(pl.col("user_id").cast(pl.Int32)).write_parquet(tmp_path / "0.parquet")
    frame[2:].write_parquet(tmp_path / "1.parquet")
    assert rows_of(tmp_path) == WANTED


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("userId", "movieId", "timestamp"),
        ("uid", "iid", "ts"),
        ("reviewerID", "asin", "unixReviewTime"),
        ("User ID", "Product-Id", "Time"),
        ("user_id", "click_article_id", "click_timestamp"),
        ("customer_id", "sku", "created_at"),
    ],
)
def test_names_are_recognised(user: str, item: str, time: str) -> None:
    events = read_events(pl.DataFrame({"rating": [5.0], time: [10], item: ["x"], user: [1]}))
    assert events.names == {"user": user, "item": item, "time": time}
    assert events.recognised == {"user", "item", "time"}
    described = events.describe()
    assert f"{user} (recognised), int64" in described
    assert "by time, ties in the order of rows" in described


def test_stated_names_come_first() -> None:
    frame = pl.DataFrame({"user_id": [1], "who": [2], "item_id": [3], "time": [4], "n": [5]})
    events = read_events(frame, user="who", order="n")
    assert events.names == {"user": "who", "item": "item_id", "time": "time", "order": "n"}
    assert events.recognised == {"item", "time"}
    assert "by n" in events.describe()
    assert read_events(frame, row_order=True).row_order
    assert read_events(events) is events
    with pytest.raises(UsageError, match="read already"):
        read_events(events, user="who")


def test_ids_of_text_files_are_integers_only_if_all_are(tmp_path: Path) -> None:
    text = "user,item,time\n007,12,1\n8,{},2\n"
    events = read_events(file_of(tmp_path, text.format(13)))
    assert events.to_polars().rows() == [("007", 12, 1), ("8", 13, 2)]
    assert "1 of 2 values of user are not integers: all are kept as text" in events.describe()
    assert rows_of(file_of(tmp_path, text.format("1.0")))[1][1] == 1
    for odd in ("1.5", "+5", "0x1", "B00", "9" * 30, "-0"):
        rows = rows_of(file_of(tmp_path, text.format(odd)))
        assert [row[1] for row in rows] == ["12", odd]
    assert [row[1] for row in rows_of(file_of(tmp_path, text.format(-5)))] == [12, -5]


def test_unicode_and_quotes_survive(tmp_path: Path) -> None:
    text = 'user,item,time\n"Zoë, ""Z""",日本 💡,1\n'
    assert rows_of(file_of(tmp_path, text)) == [('Zoë, "Z"', "日本 💡", 1)]


def test_whole_floats_come_out_as_integers() -> None:
    assert rows_of(pl.DataFrame({"user": [1.0], "item": [2.0], "time": [3]})) == [(1, 2, 3)]


def test_event_columns() -> None:
    frame = pl.DataFrame(ROWS | {"weight": [0.5, 1, 2], "type": ["v", "c", "v"]})
    events = read_events(frame, columns=("weight", "type"))
    assert events.to_polars().columns == ["user", "item", "time", "weight", "type"]
    assert "also  weight\n" in events.describe() + "\n"
    assert "type  type (as named)" in events.describe()
    assert read_events(frame, columns="type").columns == ("type",)
    with pytest.raises(UsageError, match=r"no column 'wieght'.*Did you mean 'weight'"):
        read_events(frame, columns=("wieght",))
    with pytest.raises(UsageError, match="rename it"):
        read_events(frame.rename({"type": "time"}), columns=("time",))


def frame_error(rows: dict, says: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=says):
        read_events(pl.DataFrame(rows), **options)


def test_column_errors() -> None:
    frame_error(
        ROWS,
        "no column 'usr_id' .given as user.. Did you mean 'user_id'",
        UsageError,
        user="usr_id",
    )
    frame_error(ROWS, "no column 'USER_ID'.*Did you mean 'user_id'", UsageError, user="USER_ID")
    frame_error(
        {"a": [1], "b": [2]}, r"the user ids\. Name it with user=.*columns are a, b", UsageError
    )
    frame_error(ROWS, "both the user and the item", UsageError, user="item_id", item="item_id")
    twins = {"userId": [1], "user_id": [1], "item": [1], "time": [1]}
    frame_error(twins, "'userId', 'user_id' could each be the user", UsageError)
    no_time = {"user": [1], "item": [1], "position": [1]}
    frame_error(no_time, "order='position'.*row_order=True", UsageError)
    frame_error(ROWS, "not both", UsageError, order="timestamp", row_order=True)
    frame_error(no_time, "no time column", UsageError, order="position", time_unit="s")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"user_id": [7, None, 8]}, "polars frame, column 'user_id', row 2: is null"),
        ({"item_id": ["b", "a", None]}, "column 'item_id', row 3: is null"),
        ({"item_id": ["b", "a", ""]}, "column 'item_id', row 3: is an empty id"),
        ({"timestamp": [1, 2, None]}, "column 'timestamp', row 3: is null"),
        ({"user_id": [1.0, 2.0, 2.5]}, "row 3: 2.5 is a float that is no whole number"),
        ({"user_id": [1.0, float("nan"), 2.0]}, "row 2: nan is a float that is no whole number"),
        ({"user_id": [1.0, 1e17, 2.0]}, "row 2: 1e.17 is a float"),
        ({"user_id": [[1], [2], [3]]}, "which cannot be user ids"),
        ({"user_id": [None, None, None]}, "which cannot be user ids"),
        ({"user_id": pl.Series([object()] * 3, dtype=pl.Object)}, "cannot be user ids"),
    ],
)
def test_rows_that_cannot_be_used(change: dict, says: str) -> None:
    frame_error(ROWS | change, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("user,item,time\n", "has columns but no events"),
        ("\n1,2,3\n", "first line is blank"),
        ("1,2,3\n4,5,6\n", "looks like data"),
        ("user,item,user,time\n1,2,3,4\n", "two columns are called 'user'"),
        ("user,item,time\n1,2,3\n,2,3\n", "column 'user', row 2: is null"),
        ("user,item,time\n1,2,3\n4,5\n", "line 3 has 2 fields, the header names 3"),
        ("user,item,time\n1,2,3\n4,5,\n", "column 'time', row 2: is null.*line 3"),
        ('user,item,time\n1,"",3\n', "column 'item', row 1: is an empty id"),
        ("user,item,time\n1,2,3\n1,2,3\n4,5,6,7\n", "line 4 has 4 fields, the header names 3"),
        ("user,item,time\n1,2,3\n1,2,tomorrow\n", "column 'time', row 2: 'tomorrow'"),
        (b"user,item,time\n1,caf\xe9,3\n", "UTF-8"),
    ],
)
def test_text_file_errors(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_events(file_of(tmp_path, text, "log.csv"))
    assert "log.csv" in str(caught.value)


def test_the_file_of_a_bad_row_is_named(tmp_path: Path) -> None:
    file_of(tmp_path, CSV, "parts/a.csv")
    file_of(tmp_path, CSV + "9,x,\n", "parts/b.csv")
    with pytest.raises(DataError, match=r"b\.csv, column 'timestamp', row 4: is null"):
        read_events(tmp_path / "parts")
    file_of(tmp_path, CSV + "9,x,1,2\n", "parts/b.csv")
    with pytest.raises(DataError, match=r"b\.csv: line 5 has 4 fields"):
        read_events(tmp_path / "parts")


def test_path_errors(tmp_path: Path) -> None:
    for source, says in [
        (tmp_path / "absent.csv", "absent.csv: no such file"),
        (tmp_path / "*.csv", "no file matches"),
        (tmp_path, "no file in this folder"),
        (file_of(tmp_path, CSV, "log.xlsx"), r"extension \.xlsx is not known.*\.parquet"),
        (file_of(tmp_path, CSV, "log"), r"extension \(none\) is not known"),
    ]:
        with pytest.raises(DataError, match=says):
            read_events(source)
    for wrong, says in [(42, "cannot be read from int"), ([], "empty list"), (None, "NoneType")]:
        with pytest.raises(UsageError, match=says):
            read_events(wrong)


def test_files_that_are_not_one_log(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "0.parquet")
    frame.drop("timestamp").write_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has no column 'timestamp'.*0\.parquet has"):
        read_events(tmp_path)
    frame.with_columns(pl.col("user_id").cast(pl.String)).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"'user_id' is int64 in .*0\.parquet and text in .*1\.par"):
        read_events(tmp_path)
    (tmp_path / "1.parquet").unlink()
    file_of(tmp_path, CSV, "2.csv")
    assert rows_of(tmp_path) == WANTED * 2
    file_of(tmp_path, CSV, "0.csv")
    with pytest.raises(DataError, match=r"0\.csv and .*0\.parquet have one name"):
        read_events(tmp_path)


def test_damaged_parquet(tmp_path: Path) -> None:
    rows = 20_000
    frame = pl.DataFrame({"user": range(rows), "item": range(rows), "time": range(rows)})
    frame.write_parquet(tmp_path / "log.parquet", compression="zstd", row_group_size=1000)
    whole = (tmp_path / "log.parquet").read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"PAR1", b"hello"):
        file_of(tmp_path, damaged, "log.parquet")
        with pytest.raises(DataError, match=r"log\.parquet cannot be read.*truncated, damaged"):
            read_events(tmp_path / "log.parquet")
    for place in range(100, len(whole) // 2, len(whole) // 7):
        broken = whole[:place] + b"\xff" * 3000 + whole[place + 3000 :]
        file_of(tmp_path, broken, "log.parquet")
        with pytest.raises(DataError, match=r"log\.parquet"):
            read_events(tmp_path / "log.parquet")


def test_pandas_and_arrow_errors() -> None:
    mixed = pd.DataFrame({"user": pd.Series([1, "x", 2], dtype=object), "item": 1, "time": 1})
    with pytest.raises(
        DataError, match=r"'user', row 2: 'x' is of type str.*int: mixed types.*astype"
    ):
        read_events(mixed)
    twins = pd.DataFrame([[1, 2, 3]], columns=["user", "user", "time"])
    with pytest.raises(DataError, match="two columns are called 'user'"):
        read_events(twins)
    with pytest.raises(DataError, match="two columns are called 'user'"):
        read_events(pa.table([[1], [2]], names=["user", "user"]))
    strange = pd.DataFrame({"user": [object()], "item": [1], "time": [1]})
    with pytest.raises(DataError, match="'user' is of type object"):
        read_events(strange)
    with_gap = pd.DataFrame({"user": [1, None], "item": ["a", "b"], "time": [1, 2]})
    with pytest.raises(DataError, match="'user', row 2"):
        read_events(with_gap)
