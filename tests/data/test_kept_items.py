"""A table of items that histories keep: how it is read, and who takes it for rules and titles."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import longrec
from longrec.core.errors import DataError, UsageError
from longrec.data.titles import item_titles

LOG = pl.DataFrame({"user": ["u", "u", "v", "v"], "item": [7, 8, 7, 9], "time": [1, 2, 3, 4]})
KINDS = pl.DataFrame({"item": [7, 8, 9], "kind": ["shoe", "hat", "shoe"], "sku": [9, 7, 8]})


def prepared(place, items, log=LOG, **more):
    lines: list[str] = []
    return longrec.prepare(log, place, items=items, report=lines.append, **more), lines


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    histories, _ = prepared(tmp_path_factory.mktemp("kept") / "h", KINDS)
    return longrec.train(histories, model="popularity", progress=False)


def items_of(frame) -> list[int]:
    return frame["item"].to_list()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rules_read_the_table_of_the_data_that_is_asked_for(rec, tmp_path) -> None:
    asked = {"users": ["u"], "k": 3, "exclude_seen": False, "where": "kind = 'shoe'"}
    assert items_of(rec.recommend(**asked)) == [7, 9]
    other, _ = prepared(tmp_path / "h", KINDS.with_columns(kind=pl.lit("shoe")))
    assert items_of(rec.recommend(data=other, **asked)) == [7, 8, 9]
    plain = longrec.prepare(LOG, tmp_path / "plain")
    assert items_of(rec.recommend(data=plain, **asked)) == [7, 9]
    assert items_of(rec.recommend(items=other.item_table, **asked)) == [7, 8, 9]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_stream_reads_it_where_none_is_given(rec, tmp_path) -> None:
    with rec.open_stream(str(tmp_path / "users"), "process") as stream:
        assert items_of(stream.recommend("ann", k=3, where="kind = 'hat'")) == [8]
    none = KINDS.with_columns(kind=pl.lit("none"))
    with rec.open_stream(str(tmp_path / "users"), "process", items=none) as stream:
        assert items_of(stream.recommend("ann", k=3, where="kind = 'hat'")) == []


def test_histories_that_are_gone_are_no_reason_not_to_say_how(tmp_path) -> None:
    histories, _ = prepared(tmp_path / "h", KINDS)
    rec = longrec.train(histories, model="popularity", progress=False)
    histories.path.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"where is a rule by an item table: give it as items="):
        rec.recommend(histories=[[7]], where="kind = 'hat'")


def test_ids_stand_in_the_log_s_own_column(tmp_path) -> None:
    log = LOG.rename({"item": "ware"})
    table = pl.DataFrame({"sku": [1, 2, 3], "ware": [7, 8, 9], "title": ["a", "b", "c"]})
    histories, _ = prepared(tmp_path / "frame", table, log, item="ware")
    assert histories.item_table.rows() == [(7, 1, "a"), (8, 2, "b"), (9, 3, "c")]
    assert item_titles(histories, np.array([2])) == {8: "b"}  # by "item", and not by "sku"
    table.select("ware", "title").write_csv(tmp_path / "items.csv")
    histories, _ = prepared(tmp_path / "file", tmp_path / "items.csv", log, item="ware")
    assert histories.item_table.rows() == [(7, "a"), (8, "b"), (9, "c")]


def test_rows_that_are_of_no_item_are_told(tmp_path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("item_id,title\n7,a\nseven,b\n5,c\n")
    histories, lines = prepared(tmp_path / "h", table)
    assert histories.item_table.rows() == [(7, "a"), (5, "c")]
    told = "2 rows (1 left out, whose item is none, such as 'seven'), for 1 of the log's 3 items"
    assert lines[1].endswith(told)
    table.write_text("item_id,title\nseven,b\n")
    with pytest.raises(DataError, match="none of its 1 items is one of the log's"):
        prepared(tmp_path / "x", table)


def test_a_wrong_table_is_refused_before_the_log_is_read(tmp_path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: No such file"):
        longrec.prepare(
            tmp_path / "also-nowhere.csv", tmp_path / "h", items=tmp_path / "nowhere.csv"
        )
    odd = pl.DataFrame({"item": [7], "what": pl.Series([{1}], dtype=pl.Object)})
    with pytest.raises(UsageError, match="the column 'what' is of Python objects"):
        prepared(tmp_path / "h", odd)
