"""Logs in which an engine loses or bends rows when it is believed: each comes out as written."""

from __future__ import annotations

import gzip
import json
import os
import signal
from concurrent.futures import wait
from threading import Timer
from uuid import UUID

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from data.log_files import rows_of, write

from longrec.core.errors import DataError, UsageError
from longrec.data.engine import Engine, unreadable
from longrec.data.prepare import BAD_ROWS, prepare
from longrec.data.read import read_events

HEAD = "user_id,item_id,timestamp\n"
ROWS = [("u", "i", 1), ("u", "j", 2)]
FRAME = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_path_is_no_pattern(tmp_path, form) -> None:
    for name, row in (("log[1]", 0), ("log1", 1), ("log*", 1), ("log?", 1)):
        one, path = FRAME[row : row + 1], tmp_path / f"[{form}]" / f"{name}.{form}"
        path.parent.mkdir(exist_ok=True)
        {"csv": one.write_csv, "jsonl": one.write_ndjson, "parquet": one.write_parquet}[form](path)
    assert rows_of(tmp_path / f"[{form}]" / f"log[1].{form}") == ROWS[:1]


def test_lines_may_end_in_more_than_one_way(tmp_path) -> None:
    mixed = write(tmp_path / "mixed.csv", f"{HEAD}u,i,1\r\nu,j,2\n")
    assert rows_of(mixed) == ROWS
    sheet = f'{HEAD}"two\nlines",i,1\nu,j,2\nu,k,soon\n'
    sheet = sheet.replace("\n", "\r\n").replace("two\r\n", "two\n")  # as spreadsheets write it
    events = read_events(write(tmp_path / "sheet.csv", sheet), skip_bad_rows=True)
    assert events.to_polars().rows() == [("two\nlines", "i", 1), ("u", "j", 2)]
    assert [row.line for row in events.bad_rows] == [5]
    lines = [json.dumps(dict(zip(FRAME.columns, row, strict=True))) for row in ROWS]
    assert rows_of(write(tmp_path / "log.jsonl", "\r\n".join(lines) + "\n")) == ROWS


def test_no_line_of_json_is_lost(tmp_path) -> None:
    good = b'{"user": "u", "item": "i", "time": 1}'
    lines = [b'{"no', good, b'{"user": "\xff", "item": "i", "time": 1}', b"", b'{"z": 1}']
    lines += [b'{"user": "a\x01b", "item": "i", "time": 1}', b"[1]", good.replace(b"1", b'"soon"')]
    lines += [good.replace(b'"u"', b'{"id": 7}'), good.replace(b'"i"', b"[3]"), b"   ", good]
    log = write(tmp_path / "log.jsonl", b"\n".join(lines))
    events = read_events(log, skip_bad_rows=True)
    assert events.to_polars().rows() == [("u", "i", 1)] * 2
    assert sorted(row.line for row in events.bad_rows) == [1, 3, 5, 6, 7, 8, 9, 10]
    with pytest.raises(DataError, match=r"line 1 is no JSON \(5 rows"):
        read_events(log)


def test_keys_of_json_may_hold_any_character(tmp_path) -> None:
    for key in ('a"b', "a\\b", "a\tb", "a.b", "*", "$x"):
        log = write(tmp_path / "log.jsonl", json.dumps({key: 1, "item": 2, "time": 3}))
        assert rows_of(log, user=key) == [(1, 2, 3)]


def test_a_quote_mark_that_nothing_closes_swallows_no_row(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f'{HEAD}1,2,3\n1,"x,4\n1,3\n1,4,6\n1,4,soon\n')
    events = read_events(log, skip_bad_rows=True)
    assert events.to_polars().rows() == [(1, "2", 3), (1, '"x', 4), (1, "4", 6)]
    assert [row.line for row in events.bad_rows] == [4, 6]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_lines_are_counted_as_an_editor_does(tmp_path, packing) -> None:
    def bad_lines(text: str) -> list[tuple[int, str]]:
        data = text.encode()
        log = write(tmp_path / f"log.csv{packing}", gzip.compress(data) if packing else data)
        rows = read_events(log, skip_bad_rows=True).bad_rows
        return sorted((row.line, row.text) for row in rows)

    many = f'{HEAD}1,"a\n\nb",3\n\n1,3,soon\n1,4\n,4,6\n1,4,6\n'
    assert bad_lines(many) == [(6, "1,3,soon"), (7, "1,4"), (8, ",4,6")]
    # Quote marks are characters here, so that every line is a row.
    plain = 'user,item,time,title\n1,2,3,"t\n1,3,soon,x\n1,4,5,"u"\n'
    assert bad_lines(plain) == [(3, "1,3,soon")]


def test_packed_files_are_held_against_their_checksum(tmp_path) -> None:
    rows = "".join(f"user-{n},item-{n * n},{n}\n" for n in range(100_000))
    packed = bytearray(gzip.compress(f"{HEAD}{rows}".encode()))
    packed[-6] ^= 1
    with pytest.raises(DataError, match=r"log\.csv\.gz cannot be read.*incorrect data check"):
        read_events(write(tmp_path / "log.csv.gz", bytes(packed)))


def test_a_folder_loses_no_file(tmp_path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    write(log / "day.2024-01.csv", f"{HEAD}u,1,1\n")
    write(log / "day.2024-02.csv", f"{HEAD}u,2,2\n")
    write(other / "part.0.csv.gz", gzip.compress(f"{HEAD}u,3,3\n".encode()))
    packed = gzip.compress(b'{"user_id": "u", "item_id": 4, "timestamp": 4}')
    write(other / "part-00001.gz", packed)
    write(log / "empty.csv.gz", gzip.compress(b""))
    write(log / "blank.jsonl", "\n")
    (log / "more").symlink_to(other)
    (other / "loop").symlink_to(log)
    (log / "gone.csv").symlink_to(tmp_path / "nowhere")
    events = read_events(log)
    assert events.to_polars()["item"].to_list() == [1, 2, 4, 3]
    told = " ".join(events.notes)
    for words in ("empty.csv.gz is empty", "blank.jsonl is empty", "not read: gone.csv"):
        assert words in told


def test_a_name_that_is_no_text_is_told(tmp_path) -> None:
    write(tmp_path / "log" / "\udcff.csv", f"{HEAD}u,1,1\n")
    with pytest.raises(DataError, match=r"/\\udcff\.csv' has a name which is no text.*rename"):
        read_events(tmp_path / "log")
    with pytest.raises(UsageError, match=r"out is '\\udcff', which is no text"):
        prepare(FRAME, "\udcff")


def test_a_column_may_stand_in_a_file_and_in_its_folders_name(tmp_path) -> None:
    frame = FRAME.insert_column(1, pl.Series("day", ["d1", "d2"]))
    frame.write_parquet(tmp_path / "parquet", partition_by="day")
    assert rows_of(tmp_path / "parquet", columns=("day",)) == [(*ROWS[0], "d1"), (*ROWS[1], "d2")]
    write(tmp_path / "text" / "day=1" / "log.csv", "user,day,item,time\nu,1,i,1\n")
    assert rows_of(tmp_path / "text") == ROWS[:1]


def test_columns_may_have_any_name(tmp_path) -> None:
    text = "User,user,item,time,Weight,weight,,,select,r0\nX,u,i,1,3,4,,,5,6\n"
    log = write(tmp_path / "log.csv", text)
    further = ("Weight", "weight", "User", "select", "r0")
    h = prepare(log, tmp_path / "h", user="user", columns=further)
    assert {name: h.extra[name].tolist() for name in further if name != "User"} == {
        "Weight": [3],
        "weight": [4],
        "select": [5],
        "r0": [6],
    }
    assert h.meta.labels == {"User": ["X"]}
    assert rows_of(FRAME.rename({"user": "*"}), user="*") == ROWS


def test_frames_of_types_that_the_engine_does_not_know(tmp_path) -> None:
    odd = {
        "huge": pl.Series([2**100, 1], dtype=pl.Int128),
        "half": pl.Series([1, 2], dtype=pl.Float16),
        "words": pl.Series([["a"], ["b"]], dtype=pl.List(pl.Categorical)),
        "span": pl.Series([1, 2]).cast(pl.Duration),
    }
    frame = FRAME.with_columns(**odd)
    assert rows_of(frame) == ROWS
    assert [row[0] for row in rows_of(frame, user="huge")] == [str(2**100), "1"]
    assert [row[0] for row in rows_of(frame, user="half")] == [1, 2]
    with pytest.raises(DataError, match=r"'span' is of type .* cannot be user ids"):
        read_events(frame, user="span")
    table = FRAME.to_arrow()
    day = pa.array([1_706_572_800] * 2).cast(pa.timestamp("s", "+05:30"))
    wide = pa.array([5, 6]).cast(pa.decimal256(50, 0))
    ids = pa.array([UUID(int=7).bytes] * 2, pa.uuid())
    for name, column in (("ts", day), ("wide", wide), ("uuid", ids)):
        table = table.append_column(name, column)
    found = rows_of(table, user="uuid", time="ts")
    assert found[0] == (str(UUID(int=7)), "i", 1_706_572_800 * 10**6)


def test_a_float_that_stands_for_several_ids_is_none(tmp_path) -> None:
    frame = FRAME.with_columns(user=pl.Series([2.0**24, 2.0**24 + 2], dtype=pl.Float32))
    with pytest.raises(DataError, match=r"row 2: 16777218\.0"):
        read_events(frame)
    parquet, text = tmp_path / "a.parquet", write(tmp_path / "b.csv", "user,item,time\nann,i,1\n")
    FRAME.with_columns(user=pl.Series([1.0, float("nan")])).write_parquet(parquet)
    with pytest.raises(DataError, match=r"a\.parquet, column 'user', row 2"):
        read_events([parquet, text])
    FRAME.with_columns(user=pl.Series([True, False])).write_parquet(parquet)
    with pytest.raises(DataError, match=r"is booleans in .* and text in"):
        read_events([parquet, text])


def test_what_is_no_text_is_told(tmp_path) -> None:
    log = write(tmp_path / "log.csv", (HEAD + "u,i,1\n").encode("utf-16-le"))
    with pytest.raises(DataError, match="--encoding utf-16-le"):
        read_events(log)
    assert rows_of(log, encoding="utf-16-le") == ROWS[:1]
    with pytest.raises(UsageError, match="encoding 'klingon' is not known"):
        read_events(log, encoding="klingon")


DAY, NEXT = 1_706_572_800, 1_706_659_200  # 2024-01-30 and 31


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (pl.Series([20240130.0, 20240131.0]), [DAY, NEXT]),
        (pl.Series([20240130000001.0, 20240131000000.0]), [DAY + 1, NEXT]),
        (pl.Series(["20240130.0", "20240131"]), [DAY, NEXT]),
        (pl.Series(["20240130T000001", "20240131T000000"]), [DAY + 1, NEXT]),
        (pl.Series(["Tue Jan 30 00:00:01 2024", "Wed Jan 31 00:00:00 2024"]), [DAY + 1, NEXT]),
        (pd.to_datetime(pd.Series(["2024-01-30T05:30:00+05:30"] * 2)), [DAY, DAY]),
        (pd.Series(pd.period_range("2024-01-30", periods=2, freq="D")), [DAY, NEXT]),
        (pd.Series(np.array([DAY, NEXT], ">i8")), [DAY, NEXT]),
    ],
)
def test_times_of_odd_kinds(times, seconds) -> None:
    columns = {"user": [1, 1], "item": [1, 2], "time": times}
    events = read_events((pd if isinstance(times, pd.Series) else pl).DataFrame(columns))
    ticks = events.to_polars()["time"]
    assert [tick / events.per_second for tick in ticks] == seconds


def test_one_value_does_not_say_what_all_times_are(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}1,1,20240130\n1,2,20240131\n1,3,20241399\n")
    with pytest.raises(DataError, match=r"row 3: '20241399' is not readable .*\(line 4\)"):
        read_events(log)
    log = write(tmp_path / "junk.csv", f"{HEAD}1,1,N/A\n1,2,2024-01-30\n1,3,2024-01-31\n")
    events = read_events(log, skip_bad_rows=True)
    assert events.to_polars()["time"].to_list() == [DAY * 10**6, NEXT * 10**6]
    with pytest.raises(UsageError, match="time_format '%Q' cannot be used"):
        read_events(log, time_format="%Q")


def test_what_nobody_reads_of_a_pandas_frame_may_be_anything() -> None:
    frame = pd.DataFrame({"user": [2**70, 1], "item": [1, 2], "time": [1, 2], "x": [1, "a"]})
    assert [row[0] for row in rows_of(frame)] == [str(2**70), "1"]
    with pytest.raises(DataError, match=r"'x', row 2: 'a' is of type str.*mixed types"):
        read_events(frame, user="x")


def test_types_are_one_however_they_are_written(tmp_path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time,kind\nu,i,1,3\nu,j,2,3.0\nu,k,3,007\n")
    assert [row[3] for row in rows_of(log, type="kind")] == ["3", "3", "007"]


def test_the_engine_stops_at_ctrl_c(tmp_path) -> None:
    engine = Engine(place=tmp_path / "h")
    watch = Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    watch.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.run("SELECT sum(range * 3 % 7) FROM range(20_000_000_000)")
    finally:
        engine.close()
    assert list(tmp_path.iterdir()) == []


def test_the_engine_stops_at_ctrl_c_while_it_is_handed_its_work(tmp_path, monkeypatch) -> None:
    """Where there is one core, the thread works before who handed it over goes on."""
    engine = Engine(place=tmp_path / "h")
    submit = engine._thread.submit

    def handed_over(work):
        monkeypatch.undo()
        submit(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._thread, "submit", handed_over)
    with pytest.raises(KeyboardInterrupt):
        engine.run("SELECT sum(range * 3 % 7) FROM range(20_000_000_000)")
    through = wait([engine._thread.submit(int)], timeout=5).done
    engine._base.interrupt()
    engine.close()
    assert through


def test_how_far_a_query_is_is_told(tmp_path) -> None:
    engine = Engine(place=tmp_path / "h")
    shares: list[float] = []

    def told(share: float) -> None:
        if share > 0:
            shares.append(share)
            engine._base.interrupt()

    with pytest.raises(duckdb.InterruptException):
        engine.run("SELECT sum(range * 3 % 7) FROM range(20_000_000_000)", progress=told)
    engine.close()
    assert 0 < shares[0] < 1


def test_rows_left_out_of_earlier_logs_stay_told(tmp_path) -> None:
    one = write(tmp_path / "one.csv", f"{HEAD}1,2,3\n1,3,soon\n5\n")
    two = write(tmp_path / "two.csv", f"{HEAD}1,5,6\n1,6,later\n")
    three = write(tmp_path / "three.csv", f"{HEAD}1,7,8\n")
    h = prepare(one, tmp_path / "h", skip_bad_rows=True)
    for log in (two, three):
        h = prepare(log, tmp_path / "h", extend=h, overwrite=True)
    assert h.meta.dropped["bad_rows"] == 3
    told = pl.read_csv(h.path / BAD_ROWS)
    assert told["text"].to_list() == ["5", "1,3,soon", "1,6,later"]


def test_a_full_disk_is_not_taken_for_a_damaged_file() -> None:
    for error in (
        OSError(28, "No space left on device"),
        duckdb.OutOfMemoryException("failed to offload data block"),
    ):
        assert "the disk beside the result is full" in str(unreadable("log.csv", error, "hint"))
