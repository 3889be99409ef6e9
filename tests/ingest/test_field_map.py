"""Expressions that say which fields of a message are user, item and time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from longrec.core.errors import UsageError
from longrec.ingest.mapping import Expression, FieldMap
from longrec.ingest.source import Message

MESSAGE = Message(b"{}", b"ann", 17.5, "t[0]", "3", "t-0-3", None)
DOCUMENT = {
    "user": {"id": "u7", "name": None},
    "items": [{"sku": 5}, {"sku": 6}],
    "ts": 1_700_000_000_123,
    "text": "1700000000",
    "flag": True,
    "user-id": 9,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("user.id", "u7"),
        ("items[1].sku", 6),
        ("items[2].sku", None),
        ("user.id.more", None),
        ("user.name | user.id", "u7"),
        ("none|nothing", None),
        ("ts/1000", 1_700_000_000.123),
        ("ts / 1000 - 0.123", 1_700_000_000.0),
        ("text*1", 1_700_000_000),
        ("none/1000", None),
        ("'view'", "view"),
        ('"user-id"', 9),
        ("@key", "ann"),
        ("@time", 17.5),
        ("ts*2+1", 3_400_000_000_247),
    ],
)
def test_an_expression_reads_what_it_says(text, value):
    assert Expression(text).of(DOCUMENT, MESSAGE) == value


@pytest.mark.parametrize(
    "text",
    ["", "user.", "a b", "a/0", "a+b", "1", "__import__('os')", "a[b]", "a[-1]", "@offset", "a,b"],
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(UsageError):
        Expression(text)


@pytest.mark.parametrize("text", ["flag*2", "user/2", "user.id*2"])
def test_what_is_no_number_is_not_calculated_with(text):
    with pytest.raises(UsageError, match="no number"):
        Expression(text).of(DOCUMENT, MESSAGE)


def test_numbers_without_end_are_refused():
    with pytest.raises(UsageError, match="without end"):
        Expression("x/0.5").of({"x": 10**400}, MESSAGE)


def test_fields_that_are_not_named_are_those_of_their_names():
    document = {"user": 1, "item": 2, "time": "2026-01-31T12:00:00Z", "type": "buy", "more": 1}
    found = FieldMap(["weight=more*2"], ["type"]).of(document, MESSAGE)
    assert found == {
        "user": 1,
        "item": 2,
        "time": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "event_id": "t-0-3",
        "columns": {"type": "buy", "weight": 2},
    }


def test_a_message_with_an_id_of_its_own_keeps_it():
    document = {"user": 1, "item": 2, "time": 3, "event_id": "mine"}
    assert FieldMap().of(document, MESSAGE)["event_id"] == "mine"


@pytest.mark.parametrize("name", ["user", "item", "time"])
def test_a_field_that_is_missing_is_named(name):
    document = {"user": 1, "item": 2, "time": 3} | {name: None}
    with pytest.raises(UsageError, match=f"there is no {name}"):
        FieldMap().of(document, MESSAGE)


@pytest.mark.parametrize("assignments", [["user"], ["=a"], ["user="], ["user=a", "user=b"]])
def test_assignments_are_checked(assignments):
    with pytest.raises(UsageError, match="--map"):
        FieldMap(assignments)


def test_names_that_nobody_reads_are_known():
    assert FieldMap(["usr=user", "type='view'", "user=u"], ["type"]).unread == ["usr"]
