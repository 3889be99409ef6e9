"""Columns of events as bytes: they come back as they were given, in any event, and are bounded."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.encoding import pack_event, unpack_event
from longrec.serving.stores.packed_columns import (
    MAX_COLUMNS,
    MAX_INTEGER,
    MAX_NAME,
    MAX_TEXT,
    pack_columns,
    unpack_columns,
)
from longrec.serving.stores.protocol import Event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_TEXT // 4)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_NAME // 4)
VALUES = (
    TEXT
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
)
COLUMNS = st.dictionaries(NAMES, VALUES, max_size=MAX_COLUMNS)
EVENTS = st.builds(
    Event,
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=400),
    st.none() | st.binary(max_size=200),
    COLUMNS.map(pack_columns),
)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal values of equal types: 1, 1.0 and True are three."""
    return found == wanted and all(type(found[key]) is type(wanted[key]) for key in wanted)


@settings(max_examples=60, deadline=None)
@given(COLUMNS)
def test_columns_come_back(columns):
    assert same(unpack_columns(pack_columns(columns)), columns)
    with_none = dict(reversed(columns.items())) | {"none": None}
    if len(with_none) <= MAX_COLUMNS and "none" not in columns:
        assert pack_columns(with_none) == pack_columns(columns)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_events_come_back(event):
    assert unpack_event(pack_event(event)) == event


def test_events_without_columns_are_the_bytes_that_they_were():
    assert pack_event(Event(5, b"milk", b"e1")) == struct.pack("<qH", 5, 2) + b"e1milk"
    assert pack_event(Event(5, b"milk", None)) == struct.pack("<qH", 5, 65535) + b"milk"


def test_the_largest_columns_there_may_be():
    columns = {"\0" * (MAX_NAME - 2) + f"{n:02}": "\1" * MAX_TEXT for n in range(MAX_COLUMNS)}
    event = Event(1, b"item", b"i" * 200, pack_columns(columns))
    assert len(event.columns) < 2**16
    assert unpack_event(pack_event(event)) == event


def test_scalars_of_numpy_are_plain_values():
    columns = {"a": np.int32(3), "b": np.float32(0.5), "c": np.bool_(True), "d": np.str_("x")}
    assert same(unpack_columns(pack_columns(columns)), {"a": 3, "b": 0.5, "c": True, "d": "x"})
    assert pack_columns(None) == pack_columns({}) == pack_columns({"a": None}) == b""


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"type": "x" * 257}, "columns.type has 257 bytes and may have 256"),
        ({"a": math.nan}, "columns.a is nan"),
        ({"a": math.inf}, "columns.a is inf"),
        ({"a": 2**63}, "columns.a is 9223372036854775808"),
        ({"a": [1]}, "columns.a is of type list"),
        ({"a": "\ud800"}, "columns.a has text that is not UTF-8"),
        ({"": 1}, "give text of 1 to 64 bytes"),
        ({"x" * 65: 1}, "give text of 1 to 64 bytes"),
        ({3: 1}, "the name 3"),
        ({"\ud800": 1}, "not UTF-8"),
        ({str(n): 1 for n in range(33)}, "33 columns and may have 32"),
        ([("type", "buy")], "columns is of type list"),
    ],
)
def test_what_is_no_column(columns, words):
    with pytest.raises(UsageError) as refused:
        pack_columns(columns)
    assert words in str(refused.value)


@pytest.mark.parametrize("kind", [65001, 65532])
def test_events_of_a_newer_longrec_are_refused(kind):
    with pytest.raises(DataError, match="upgrade longrec"):
        unpack_event(struct.pack("<qH", 5, kind) + b"whatever")


@pytest.mark.parametrize("packed", [b"[1]", b"{", json.dumps("x").encode(), b"\xff"])
def test_damaged_columns_are_told(packed):
    with pytest.raises(DataError, match="damaged"):
        unpack_columns(packed)
