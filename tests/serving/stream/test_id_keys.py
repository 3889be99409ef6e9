"""Ids become keys in one way, however they are given, and keys find their items."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.moments import seconds
from longrec.serving.stream.id_keys import (
    ItemIndex,
    event_key,
    id_of,
    item_key,
    keys_of,
    user_key,
)


@pytest.mark.parametrize(
    ("ids", "key"),
    [
        ((42, "42", b"42", 42.0, np.int8(42), np.float32(42), np.str_("42"), np.uint64(42)), b"42"),
        ((-3, "-3", -3.0), b"-3"),
        ((2**70, str(2**70)), str(2**70).encode()),
        (("é", "é".encode()), b"\xc3\xa9"),
        (("042",), b"042"),
    ],
)  # fmt: skip
def test_one_id_has_one_key(ids, key) -> None:
    assert {user_key(one) for one in ids} == {key}
    assert item_key(ids[0]) == event_key(ids[0]) == key


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "None"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1.5, "1.5"),
        (2.0**60, "e"),
        (True, "True"),
        (np.True_, "True"),
        (np.float32("nan"), "nan"),
        (np.datetime64("2024-05-01"), "2024"),
        (date(2024, 5, 1), "date"),
        (datetime(2024, 5, 1), "datetime"),
        (uuid.UUID(int=5), "UUID"),
        (pd.NaT, "NaTType"),
        (pd.NA, "NAType"),
        ([1], "list"),
        (bytearray(b"u"), "bytearray"),
        (object(), "object"),
        ("", "empty"),
        (b"", "empty"),
        ("é" * 201, "402 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_what_is_no_id_is_refused(wrong, says) -> None:
    for key, field in ((user_key, "user"), (item_key, "item"), (event_key, "event_id")):
        with pytest.raises(UsageError, match=rf"^{field} (is|has)") as caught:
            key(wrong)
    assert says in str(caught.value)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^user is"):
        user_key(10**5000)


def test_the_longest_ids() -> None:
    assert len(user_key("u" * 400)) == len(item_key("i" * 400)) == 400
    assert len(event_key("e" * 200)) == 200
    with pytest.raises(
        UsageError, match=r"event_id has 201 bytes and may have 200; give a shorter"
    ):
        event_key("e" * 201)


columns = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1)).map(lambda x: pl.Series("c", x, pl.Int64)),
    st.lists(st.integers(0, 255)).map(lambda x: pl.Series("c", x, pl.UInt8)),
    st.lists(st.text(min_size=1, max_size=9)).map(lambda x: pl.Series("c", x, pl.String)),
    st.lists(st.sampled_from("abc")).map(lambda x: pl.Series("c", x, pl.Categorical)),
    st.lists(st.binary(min_size=1, max_size=9)).map(lambda x: pl.Series("c", x, pl.Binary)),
    st.lists(st.integers(-9, 9).map(float)).map(lambda x: pl.Series("c", x, pl.Float64)),
)


@settings(max_examples=40)
@given(columns)
def test_a_column_has_the_keys_of_its_values(column: pl.Series) -> None:
    assert keys_of(column, "user").to_list() == [user_key(value) for value in column.to_list()]


@pytest.mark.parametrize(
    "values", [["a", None], ["a", ""], ["a", "x" * 500], [1, None], [1.0, 1.5], [b"a", b""]]
)
def test_a_column_names_the_row_that_is_no_id(values) -> None:
    with pytest.raises(DataError, match=r"column 'c', row 2: item (is|has) .*; give"):
        keys_of(pl.Series("c", [*values, values[0]]), "item")


def test_keys_are_shown() -> None:
    assert id_of(user_key("é")) == "é"
    assert id_of(b"\xff1") == "\\xff1"


numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


@settings(max_examples=40)
@given(
    ids=st.lists(numbers, min_size=1, unique=True) | st.lists(st.text(), min_size=1, unique=True),
    others=st.lists(numbers | st.text() | st.binary()),
    repeat=st.sampled_from([1, 40]),
)
def test_keys_find_their_items(ids, others, repeat) -> None:
    index = ItemIndex(Catalog(pl.Series(ids), np.zeros(len(ids), np.int64)))
    wanted = {str(one).encode(): i for i, one in enumerate(ids, 1)}
    keys = [*wanted, *(o if isinstance(o, bytes) else str(o).encode() for o in others)]
    keys *= repeat  # few and many are found in two ways
    assert index.find(keys) == [wanted.get(key, 0) for key in keys]
    assert [index.one(key) for key in keys] == index.find(keys)


def test_other_spellings_of_a_number_are_other_ids() -> None:
    index = ItemIndex(Catalog(pl.Series([7, 10]), np.zeros(2, np.int64)))
    odd = [b"07", b"+7", b" 7", b"7 ", b"1_0", b"7.0", b"", b"\xff", b"9" * 400, b"\xd9\xa7"]
    assert index.find(odd * 9) == [0] * 90
    assert [index.one(key) for key in odd] == [0] * 10
    odd.remove(b"\xff")  # the one that is no text
    assert index.find(odd * 9) == [0] * 81


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt64, pl.Int64, pl.UInt16])
def test_integer_catalogs_of_any_width(kind) -> None:
    ids = [5, 3, 100] if kind != pl.UInt64 else [5, 3, 2**64 - 1]
    index = ItemIndex(Catalog(pl.Series(ids, dtype=kind), np.zeros(3, np.int64)))
    assert [index.one(item_key(i)) for i in [*ids, 4]] == [1, 2, 3, 0]


def test_a_catalog_of_no_ids_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be streamed: .*True"):
        ItemIndex(Catalog(pl.Series([True]), np.zeros(1, np.int64)))


@pytest.mark.parametrize(
    ("time", "whole"),
    [
        (5, 5),
        (-5, -5),
        (5.9, 5),
        (-0.5, -1),
        (np.int32(7), 7),
        (np.float64(7.5), 7),
        (10**11, 10**11),
        (datetime(1970, 1, 2), 86400),
        (datetime(1970, 1, 2, tzinfo=UTC), 86400),
        (datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=1))), 82800),
        (datetime(1969, 12, 31, 23, 59, 59, 500_000), -1),
        (pd.Timestamp("1970-01-02"), 86400),
    ],
)
def test_times_are_seconds(time, whole) -> None:
    assert seconds(time) == whole
    assert type(seconds(time)) is int


@pytest.mark.parametrize(
    "wrong",
    [
        *(None, True, np.True_, "5", b"5", float("nan"), float("inf")),
        *(np.datetime64(0, "s"), date(1970, 1, 2), pd.NaT),
    ],
)
def test_what_is_no_time_is_refused(wrong) -> None:
    with pytest.raises(UsageError, match=r"time is .*; give seconds"):
        seconds(wrong)


@pytest.mark.parametrize("wrong", [1_700_000_000_000, -(10**12), 1.7e12])
def test_milliseconds_are_refused(wrong) -> None:
    with pytest.raises(UsageError, match="milliseconds: give seconds"):
        seconds(wrong)
