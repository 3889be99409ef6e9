"""Moments at which a log is cut, as text."""

from __future__ import annotations

import pytest

from longrec.core.cuts import cut_times, moment


def test_dates_and_times_of_day_are_utc_unless_they_say_otherwise():
    assert cut_times("1970-01-02") == (None, 86_400)
    assert cut_times("1970-01-01T00:00, 1970-01-02 01:00") == (0, 90_000)
    assert cut_times("1970-01-01T01:00+01:00") == (None, 0)
    assert [moment(86_400), moment(90_001)] == ["1970-01-02", "1970-01-02 01:00:01"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday", "must be a date such as 2018-06-01"),
        ("2018-13-01", "must be a date"),
        ("", "must be a date"),
        ("2018-01-01,2018-02-01,2018-03-01", "or two with a comma"),
        ("2018-02-01,2018-01-01", "must be before that of the test"),
    ],
)
def test_anything_else_is_told(text, words):
    with pytest.raises(ValueError, match=words):
        cut_times(text)
