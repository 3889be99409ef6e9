"""Histories as frames: a user's events with ids, moments and words, and all of them."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small_histories import tiny_histories

import longrec
from longrec.core.errors import UsageError

LOG = pl.DataFrame(
    {
        "user": ["bob", "ann", "bob", "ann", "bob"],
        "item": ["<b>x</b>", "y", "y", "z", "<b>x</b>"],
        "time": [30, 10, 20, 40, 50],
        "type": ["view", None, "buy", "view", None],
        "price": [1.5, 2.5, None, 4.5, 5.5],
        "count": [3, 1, 2, 4, 5],
    }
)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    return longrec.prepare(
        LOG.with_columns(pl.col("price").fill_null(float("nan"))),
        tmp_path_factory.mktemp("frames") / "h",
        **{"type": "type", "columns": ["price", "count"]},
    )


def test_a_users_events_have_ids_moments_and_words(histories):
    assert len(histories) == 2
    assert histories.users.to_list() == ["ann", "bob"]
    found = histories.history("bob")
    assert found.columns[:2] == ["item", "time"]
    assert set(found.columns[2:]) == {"type", "price", "count"}
    assert found["item"].to_list() == ["y", "<b>x</b>", "<b>x</b>"]
    assert found["time"].to_list() == [datetime.fromtimestamp(s, UTC) for s in (20, 30, 50)]
    assert found["type"].to_list() == ["buy", "view", None]
    assert found["price"].fill_nan(None).to_list() == [None, 1.5, 5.5]
    assert found["count"].to_list() == [2, 3, 5]


def test_all_events_make_the_same_histories_again(histories, tmp_path):
    frame = histories.to_polars()
    assert frame["user"].to_list() == ["ann"] * 2 + ["bob"] * 3
    for user in histories.users:
        assert_frame_equal(frame.filter(user=user).drop("user"), histories.history(user))
    again = longrec.prepare(frame, tmp_path / "again", type="type", columns=["price", "count"])
    assert again.fingerprint == histories.fingerprint


def test_without_times_there_is_no_such_column(tmp_path):
    plain = tiny_histories(tmp_path / "plain", [[1, 2], [2]])
    assert plain.history("user00000").to_dict(as_series=False) == {"item": [1000, 1001]}
    assert repr(plain).endswith("2 users, 2 items, 3 events, no times)")
    assert plain.to_polars().columns == ["user", "item"]
    assert "1000" in plain._repr_html_()


def test_a_user_that_is_not_there_is_told_with_the_likely_cause(histories):
    with pytest.raises(UsageError, match=r"user 'bob ' is not in .*histories\.users.*likely cause"):
        histories.history("bob ")
    with pytest.raises(UsageError, match="user"):
        histories.history(["bob"])


def test_times_beyond_the_calendar_are_shown_all_the_same(tmp_path):
    far = tiny_histories(tmp_path / "far", [[1, 2]], times=[[-(10**11), 10**12]])
    assert "1,000,000,000,000 s" in repr(far)
    assert far.history("user00000")["time"].dt.epoch("s").to_list() == [-(10**11), 10**12]
    assert "<table>" in far._repr_html_()
