"""Logs as people have them, as public bug reports bring them, each with the right rows."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from uuid import UUID

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.log_files import rows_of, write

from longrec.core.errors import DataError, UsageError
from longrec.data.prepare import BAD_ROWS, prepare
from longrec.data.read import read_events

HEAD = "user_id,item_id,timestamp"
JANUARY, FEBRUARY = 1_706_572_800, 1_706_745_600  # 2024-01-30 and 2024-02-01


def seconds_of(source, **options) -> list[float]:
    events = read_events(source, **options)
    return [ticks / events.per_second for ticks in events.to_polars()["time"]]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize(
    "title", ['12" vinyl', '"Weird" Al', '"never closed', '"closed"', '""', "it's", 'a "b" c']
)
def test_a_column_that_nobody_reads_costs_no_row(tmp_path, separator, title) -> None:
    lines = [f"{HEAD},title", "u1,i1,1,plain", f"u1,i2,2,{title}", "u2,i3,3,more", "u2,i4,4,"]
    log = write(tmp_path / "log.csv", "\n".join(lines).replace(",", separator))
    assert rows_of(log) == [("u1", "i1", 1), ("u1", "i2", 2), ("u2", "i3", 3), ("u2", "i4", 4)]


def test_fields_may_hold_separators_quotes_and_lines(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f'{HEAD}\n"a,b","say ""hi""",1\n"two\nlines",x,2\n')
    assert rows_of(log) == [("a,b", 'say "hi"', 1), ("two\nlines", "x", 2)]


def test_rows_that_are_none_are_named_by_their_line_or_left_out(tmp_path) -> None:
    text = f"{HEAD}\n1,2,3\n\n1,3,4,5\n1,4\n,5,6\n1,6,soon\n1,7,8\n"
    log = write(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=r"log\.csv: line 4 has 4 fields.*2 rows.*--skip-bad-rows"):
        read_events(log)
    events = read_events(log, skip_bad_rows=True)
    assert events.to_polars().rows() == [(1, 2, 3), (1, 7, 8)]
    told = {(row.line, row.cause.split(" (")[0]) for row in events.bad_rows}
    assert told == {
        (4, "has 4 fields, the header names 3"),
        (5, "has 2 fields, the header names 3"),
        (6, "user_id is null or empty"),
        (7, "timestamp is not readable as time"),
    }
    histories = prepare(log, tmp_path / "h", skip_bad_rows=True)
    assert histories.meta.dropped == {"bad_rows": 4}
    kept = pl.read_csv(histories.path / BAD_ROWS)
    assert kept.columns == ["file", "line", "cause", "text"]
    assert sorted(kept["line"]) == [4, 5, 6, 7]


@pytest.mark.parametrize("form", ["jsonl", "ndjson"])
def test_json_lines(tmp_path, form) -> None:
    rows = [{"user": "ann", "x": [1], "item": 3, "ts": 5}, {"ts": 6.5, "item": "4", "user": "Zoë"}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    log = write(tmp_path / f"log.{form}", text + "\n\n")
    assert rows_of(log) == [("ann", 3, 5.0), ("Zoë", 4, 6.5)]
    log = write(tmp_path / f"bad.{form}", text + '\n{"user": "bob"\n{"z": 1}\n')
    with pytest.raises(DataError, match=r"line 3 is no JSON \(2 rows"):
        read_events(log)
    events = read_events(log, skip_bad_rows=True)
    assert [row.line for row in events.bad_rows] == [3, 4]
    assert events.n_events == 2


@pytest.mark.parametrize(
    "name", ["log.csv.gz", "log.csv.bz2", "log.csv.zst", "log.csv", "log.tsv.gz"]
)
def test_packed_files_whatever_their_name_says_of_the_packing(tmp_path, name) -> None:
    text = f"{HEAD}\nu,i,1\nu,j,2\n".replace(",", "\t" if "tsv" in name else ",").encode()
    for number, packed in enumerate(
        (gzip.compress(text), bz2.compress(text), pa.compress(text, "zstd", asbytes=True))
    ):
        log = write(tmp_path / str(number) / name, packed)
        assert rows_of(log) == [("u", "i", 1), ("u", "j", 2)]
        rows = "".join(f"user-{n},item-{n * n},{n}\n" for n in range(20_000))
        whole = f"{HEAD}\n{rows}".encode()
        packer = (gzip.compress, bz2.compress, lambda b: pa.compress(b, "zstd", asbytes=True))[
            number
        ]
        cut = packer(whole)
        log = write(tmp_path / f"cut-{number}" / "log.csv", cut[: len(cut) // 2])
        with pytest.raises(DataError, match=r"log\.csv cannot be read.*truncated"):
            read_events(log)
    with pytest.raises(DataError, match="not packed as its name says"):
        read_events(write(tmp_path / "plain.csv.gz", text))


def test_encodings(tmp_path) -> None:
    text = f"{HEAD}\nZoë,Käse,1\n"
    latin = write(tmp_path / "latin.csv", text.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 text.*--encoding latin-1"):
        read_events(latin)
    assert rows_of(latin, encoding="latin-1") == [("Zoë", "Käse", 1)]
    for encoding in ("utf-16", "utf-8-sig"):
        assert rows_of(write(tmp_path / "log.csv", text.encode(encoding))) == [("Zoë", "Käse", 1)]


def test_files_without_a_header(tmp_path) -> None:
    log = write(tmp_path / "ratings.dat", "1::10::5::978300760\n1::20::3::978300761\n")
    with pytest.raises(DataError, match=r"looks like data.*--columns user,item,time"):
        read_events(log)
    names = ("user", "item", "rating", "time")
    assert rows_of(log, header=names) == [(1, 10, 978300760), (1, 20, 978300761)]
    with pytest.raises(UsageError, match="4 fields in its first line, and 3 columns"):
        read_events(log, header=names[:3])


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["20240130", "20240201"], [JANUARY, FEBRUARY]),
        (["20240130235900", "20240201000100"], [JANUARY + 86_340, FEBRUARY + 60]),
        (["202401300001", "202402010000"], [JANUARY + 60, FEBRUARY]),
        (["2024013003", "2024020100"], [JANUARY + 10_800, FEBRUARY]),
        (["202402", "202402"], [FEBRUARY, FEBRUARY]),
        (
            ["2024-01-30 10:00:00+00", "2024-01-30 11:00:00.25+00"],
            [JANUARY + 36_000, JANUARY + 39_600.25],
        ),
        (
            ["2024-01-30 10:00:00+05:30", "2024-01-30 11:00:00-03"],
            [JANUARY + 16_200, JANUARY + 50_400],
        ),
        (["30 Jan 2024", "01 Feb 2024"], [JANUARY, FEBRUARY]),
        (["30.01.2024 00:00:01", "01.02.2024 00:00:00.5"], [JANUARY + 1, FEBRUARY + 0.5]),
        (["30/Jan/2024:01:00:00 +0100", "01/Feb/2024:00:00:00 +0000"], [JANUARY, FEBRUARY]),
    ],
)
def test_times_as_they_are_written(tmp_path, times, seconds) -> None:
    text = HEAD + "".join(f"\n1,{n},{time}" for n, time in enumerate(times))
    assert seconds_of(write(tmp_path / "log.csv", text)) == seconds
    if times[0].isdigit():
        frame = pl.DataFrame({"user": 1, "item": 1, "time": list(map(int, times))})
        assert seconds_of(frame) == seconds
        assert seconds_of(frame, time_unit="s") == list(map(int, times))


def test_a_format_of_times_can_be_stated(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}\n1,1,30/01/2024 00:00\n1,2,01/02/2024 00:00\n")
    with pytest.raises(DataError, match=r"'30/01/2024 00:00'.*--time-format.*%d/%m/%Y"):
        read_events(log)
    assert seconds_of(log, time_format="%d/%m/%Y %H:%M") == [JANUARY, FEBRUARY]


def test_the_machines_own_time_zone_changes_nothing(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}\n1,1,2024-01-30 00:00:00\n1,2,2024-02-01\n")
    code = (
        "import sys; from longrec.data.read import read_events;"
        "print(read_events(sys.argv[1]).to_polars()['time'].to_list())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(log)],
            env=os.environ | {"TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for zone in ("UTC", "Asia/Tokyo")
    }
    assert found == {f"[{JANUARY * 10**6}, {FEBRUARY * 10**6}]\n"}


def test_numbers_of_any_type_are_ids(tmp_path) -> None:
    def decimals(*values: int) -> pa.Array:
        return pa.array([Decimal(value) for value in values], pa.decimal128(38, 0))

    table = pa.table({"user": decimals(101, 101), "item": decimals(7, 2**70), "ts": [1, 2]})
    pq.write_table(table, tmp_path / "log.parquet")
    assert rows_of(tmp_path / "log.parquet") == [(101, "7", 1), (101, str(2**70), 2)]


def test_uuids_and_bytes_come_out_as_text(tmp_path) -> None:
    one, two = UUID(int=2**100), UUID(int=5)
    frame = pd.DataFrame({"user": [one, two], "item": [b"caf\xc3\xa9", b"b"], "ts": [1, 2]})
    assert rows_of(frame) == [(str(one), "café", 1), (str(two), "b", 2)]
    table = pa.table(
        {
            "user": pa.array([one.bytes, two.bytes], pa.uuid()),
            "item": [b"\xff\x00", b"b"],
            "ts": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    assert rows_of(tmp_path / "log.parquet") == [(str(one), "ff00", 1), (str(two), "62", 2)]


def test_an_id_is_one_id_however_files_write_it(tmp_path) -> None:
    a = write(tmp_path / "a.csv", f"{HEAD}\n12,x,1\n")
    b = write(tmp_path / "b.csv", f"{HEAD}\n12.0,x,2\n")
    assert rows_of([a, b]) == [(12, "x", 1), (12, "x", 2)]
    pl.DataFrame({"user_id": [12.0], "item_id": ["x"], "timestamp": [3]}).write_parquet(
        tmp_path / "c.parquet"
    )
    assert [row[0] for row in rows_of([a, b, tmp_path / "c.parquet"])] == [12, 12, 12]
    write(tmp_path / "b.csv", f"{HEAD}\n12.0,x,2\nann,x,2\n")
    with pytest.raises(DataError, match=r"'12\.0' also occurs as '12'"):
        read_events([a, b])


def test_spaces_around_fields_are_no_part_of_them(tmp_path) -> None:
    log = write(
        tmp_path / "log.csv", 'user_id, item_id, timestamp\nu1, i1, 1\nu1 ,"i1",2\nu1, "i 1", 3\n'
    )
    assert rows_of(log) == [("u1", "i1", 1), ("u1", "i1", 2), ("u1", "i 1", 3)]


def test_whatever_stands_in_row_30000_ids_stay_as_written(tmp_path) -> None:
    rows = "".join(f"{n},{n},{n}\n" for n in range(1, 30_001))
    log = write(tmp_path / "log.csv", f"{HEAD}\n{rows}007,B-1,40000\n")
    found = rows_of(log)
    assert found[0] == ("1", "1", 1)
    assert found[-1] == ("007", "B-1", 40_000)


def test_words_for_missing_values_are_pointed_out(tmp_path) -> None:
    rows = "".join(
        f"{word},{n},{n}\n" for n, word in enumerate(["ann", "NULL", r"\N", "nan", "None"])
    )
    notes = read_events(write(tmp_path / "log.csv", f"{HEAD}\n{rows}")).notes
    assert "4 rows have a user that spells a missing value" in notes[0]
    assert "'NULL' 1 times" in notes[0]


def test_every_spelling_of_a_missing_value_is_pointed_out(tmp_path) -> None:
    words = ["nil", "Nil", "#N/A", "n/a", "(null)", "<null>", "Unknown", "-", "NaN", "ann"]
    rows = "".join(f"{n},{word},{n}\n" for n, word in enumerate(words))
    notes = read_events(write(tmp_path / "log.csv", f"{HEAD}\n{rows}")).notes
    assert "9 rows have an item that spells a missing value" in notes[0]


def test_a_folder_says_what_it_takes(tmp_path) -> None:
    folder = tmp_path / "data"
    write(folder / "day=1" / "part-00000", "user_id,item_id,timestamp\n1,a,10\n")
    write(folder / "day=2" / "part-00001.csv", "item_id,user_id,timestamp,more\nb,1,20,x\n")
    write(folder / "day=10" / "log.jsonl", '{"user_id": 1, "item_id": "c", "timestamp": 20}\n')
    write(folder / "empty.csv", "")
    write(folder / "items.csv", "item_id,title\na,Apple\n")
    write(folder / "README", "hello")
    write(folder / "_SUCCESS", "")
    events = read_events(folder, columns=("day",))
    assert events.to_polars().rows() == [(1, "a", 10, 1), (1, "b", 20, 2), (1, "c", 20, 10)]
    told = " ".join(events.notes)
    assert "empty.csv is empty" in told
    assert "items.csv is another table (it has no column of user ids)" in told
    assert "not read: README" in told
    assert "SUCCESS" not in told


def test_a_partition_may_be_the_time(tmp_path) -> None:
    for day in ("2024-01-30", "2024-02-01"):
        folder = tmp_path / f"date={day}"
        folder.mkdir()
        pl.DataFrame({"user": [1], "item": [7]}).write_parquet(folder / "part-0.parquet")
    assert seconds_of(tmp_path) == [JANUARY, FEBRUARY]


def test_files_may_differ_in_the_unit_of_time_and_in_the_order_they_are_named(tmp_path) -> None:
    a = write(tmp_path / "a.csv", f"{HEAD}\n1,x,{JANUARY}\n")
    b = write(tmp_path / "b.csv", f"{HEAD}\n1,y,{JANUARY}000\n1,z,{FEBRUARY}000\n")
    c = write(tmp_path / "c.csv", f"{HEAD}\n1,v,2024-01-30\n")
    prints = set()
    for number, files in enumerate(([a, b, c], [c, a, b], [b, c, a, a])):
        h = prepare(files, tmp_path / f"h{number}")
        assert h.times.tolist() == [JANUARY] * 3 + [FEBRUARY]
        assert h.catalog.take(h.items).to_list() == ["x", "y", "v", "z"]
        prints.add(h.fingerprint)
    assert len(prints) == 1


def test_all_that_is_missing_is_told_at_once(tmp_path) -> None:
    log = write(tmp_path / "log.csv", "a,b\n1,2\n")
    with pytest.raises(UsageError) as caught:
        read_events(log, columns=("weight",), type="kind")
    for words in (
        "user ids",
        "item ids",
        "time of events",
        "'weight'",
        "'kind'",
        "columns are a, b",
    ):
        assert words in str(caught.value)


def test_what_is_given_twice_is_counted_and_left_out_if_asked(tmp_path) -> None:
    rows = [(1, "a", 5), (1, "b", 5), (1, "a", 5), (1, "a", 6), (2, "a", 5), (1, "a", 5)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    lines: list[str] = []
    h = prepare(frame, tmp_path / "h", report=lines.append)
    assert h.n_events == 6
    assert "2 events repeat another one of the same user, item and time" in lines[-1]
    once = prepare(frame, tmp_path / "once", dedup="same-time")
    assert once.catalog.take(once.items).to_list() == ["a", "b", "a", "a"]
    assert once.meta.dropped == {"repeated_events": 2}


def test_one_user_far_above_all_others_is_pointed_out(tmp_path) -> None:
    users = [0] * 1000 + [n for n in range(1, 20) for _ in range(3)]
    frame = pl.DataFrame({"user": users, "item": 1, "time": range(len(users))})
    lines: list[str] = []
    prepare(frame, tmp_path / "h", report=lines.append)
    assert "user 0 has 1,000 events, 95% of all" in lines[-1]


def test_further_columns_keep_their_types(tmp_path) -> None:
    text = "user,item,time,n,w,k,gap\n1,1,1,5,0.5,a,1\n1,2,2,6,2,b,\n"
    h = prepare(write(tmp_path / "log.csv", text), tmp_path / "h", columns=("n", "w", "k", "gap"))
    assert h.extra["n"].tolist() == [5, 6]
    assert h.extra["n"].dtype.kind == "i"
    assert h.extra["w"].tolist() == [0.5, 2.0]
    assert h.meta.labels == {"k": ["a", "b"]}
    assert h.extra["gap"].dtype.kind == "f"


def test_a_table_of_items_is_kept_and_extended(tmp_path) -> None:
    log = write(tmp_path / "log.csv", f"{HEAD}\n1,a,1\n1,b,2\n")
    items = write(tmp_path / "items.csv", "item_id,title,price\na,Apple,3\nz,Zebra,5\n")
    h = prepare(log, tmp_path / "h", items=items)
    assert h.item_table.rows() == [("a", "Apple", 3), ("z", "Zebra", 5)]
    more = prepare(write(tmp_path / "more.csv", f"{HEAD}\n1,c,3\n"), tmp_path / "h2", extend=h)
    assert more.item_table.equals(h.item_table)
    with pytest.raises(DataError, match="none of its 1 items is one of the log's"):
        prepare(log, tmp_path / "x", items=write(tmp_path / "other.csv", "item_id,title\nq,x\n"))
    twice = write(tmp_path / "twice.csv", "item_id,title\na,x\na,y\n")
    with pytest.raises(DataError, match="'a' stands in 2 rows"):
        prepare(log, tmp_path / "x", items=twice)


def test_a_table_of_items_is_written_as_the_log_is(tmp_path) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes("Kunde;Artikel;ts\nJörg;007;1\nJörg;08;2\n".encode("latin-1"))
    items = tmp_path / "items.csv"
    items.write_bytes("Artikel;title;id;price\n007;Käse;4;5\n08;Öl;5;60\n".encode("latin-1"))
    told = {"user": "Kunde", "item": "Artikel", "encoding": "latin-1", "items": items}
    h = prepare(log, tmp_path / "h", **told)
    assert h.item_table.columns == ["item", "title", "id", "price"]
    assert h.item_table.rows() == [("007", "Käse", 4, 5), ("08", "Öl", 5, 60)]
    items.write_text("Artikel;title\n007;Käse\n", encoding="utf-8")
    assert prepare(log, tmp_path / "h2", **told).item_table.rows() == [("007", "Käse")]
    items.write_text("Artikel;item\n007;Apple\n")
    with pytest.raises(DataError, match="and another column is called 'item'"):
        prepare(log, tmp_path / "h3", **told)


def test_the_next_days_log_is_read_as_the_first(tmp_path) -> None:
    first = write(tmp_path / "one.csv", "1;x;30/01/2024\n1;y;01/02/2024\n")
    told = {"header": ("user", "item", "time"), "time_format": "%d/%m/%Y"}
    old = prepare(first, tmp_path / "h", **told)
    second = write(tmp_path / "two.csv", "1;z;02/02/2024\n")
    both = prepare(second, tmp_path / "h2", extend=old)
    assert both.catalog.take(both.items).to_list() == ["x", "y", "z"]
