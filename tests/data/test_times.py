"""Times in any unit or spelling become seconds, after sorting and never before."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import DataError, UsageError
from longrec.data.read import read_events
from longrec.data.times import PER_SECOND, YEAR_2100, detect_unit, to_seconds

MOMENT = datetime(2024, 5, 1, 10, 30, 15, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())


def events_of(times: list, dtype: pl.DataType | None = None, **options):
    n = len(times)
    frame = pl.DataFrame(
        {"user": [1] * n, "item": list(range(n)), "time": pl.Series(times, dtype=dtype)}
    )
    return read_events(frame, **options)


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.String])
def test_numeric_units_are_detected(unit: str, dtype: pl.DataType) -> None:
    ticks = [SECONDS * PER_SECOND[unit], (SECONDS - 86_400) * PER_SECOND[unit]]
    times = [str(t) for t in ticks] if dtype == pl.String else ticks
    events = events_of(times, dtype)
    assert events.time_unit == unit
    assert events.last_time == pytest.approx(SECONDS, abs=1)
    assert "2024-04-30 to 2024-05-01" in events.describe()


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ([MOMENT], pl.Datetime("ns", "UTC")),
        ([MOMENT], pl.Datetime("ms", "UTC")),
        ([MOMENT.replace(tzinfo=None)], pl.Datetime("us")),
        ([MOMENT.astimezone(timezone(timedelta(hours=-5)))], pl.Datetime("us", "America/Bogota")),
        (["2024-05-01 10:30:15"], None),
        (["2024-05-01T10:30:15"], None),
        (["2024-05-01T10:30:15Z", "2024-05-01T10:30:15.999Z"], None),
        (["2024-05-01T12:30:15.25+02:00"], None),
        (["2024-05-01 12:30:15+0200"], None),
        (["2024-05-01 10:30:15 UTC"], None),
        ([" 2024/05/01 10:30:15 "], None),
        (["01.05.2024 10:30:15"], None),
    ],
)
def test_datetimes_of_any_spelling(times: list, dtype: pl.DataType | None) -> None:
    events = events_of(times, dtype)
    assert events.time_unit == "datetime"
    ticks = events.to_polars()["time"].to_numpy()
    assert set(to_seconds(ticks, events.per_second)) == {SECONDS}


@pytest.mark.parametrize(
    ("times", "dtype"),
    [([date(2024, 5, 1)], pl.Date), (["2024-05-01"], None), (["01.05.2024"], None)],
)
def test_days(times: list, dtype: pl.DataType | None) -> None:
    events = events_of(times, dtype)
    assert events.first_time == SECONDS // 86_400 * 86_400


def test_small_numbers_count_as_seconds() -> None:
    events = events_of([0, 1, 2, 3])
    assert (events.time_unit, events.last_time) == ("s", 3)
    assert events_of([0.25, 1.5]).time_unit == "s"


@pytest.mark.parametrize("last", [30_012_024, 12_312_024, 240_130, 5])
def test_numbers_that_may_be_dates_of_another_form_are_pointed_out(last: int) -> None:
    (note,) = events_of([last - 1, last]).notes
    assert "all times lie in 1970" in note
    assert "time_format=" in note
    assert not events_of([last - 1, last], time_unit="s").notes
    assert not events_of([last, SECONDS]).notes


def test_the_unit_can_be_stated() -> None:
    events = events_of([0, 1500], time_unit="ms")
    assert (events.time_unit, events.last_time) == ("ms", 1.5)
    assert events_of([-5, 10**12], time_unit="s").first_time == -5
    assert events_of(["0001-01-01"], time_unit="datetime").time_unit == "datetime"
    with pytest.raises(UsageError, match="'h' is not known"):
        events_of([1], time_unit="h")
    with pytest.raises(UsageError, match="holds integers, so time_unit='datetime' does not fit"):
        events_of([1], time_unit="datetime")
    with pytest.raises(UsageError, match="does not fit"):
        events_of([MOMENT], time_unit="s")


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([SECONDS, SECONDS, -1], r"row 3: -1 is no plausible time.*1969-12-31.*time_unit="),
        ([SECONDS, 9_999_999_999, SECONDS], r"row 2: 9999999999 .*seconds.*2286"),
        ([SECONDS * 1000, SECONDS, SECONDS * 1000], r"row 2: 1714559415 .*milliseconds"),
        ([MOMENT, datetime(9999, 12, 31, tzinfo=UTC)], r"row 2: .*9999"),
        (["2024-05-01", "1899-12-31"], r"row 2: '1899-12-31'"),
    ],
)
def test_implausible_times_name_the_row(times: list, says: str) -> None:
    with pytest.raises(DataError, match=says):
        events_of(times)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (["2024-05-01", "yesterday"], "row 2: 'yesterday' is not readable as time"),
        (["2024-05-01", "2024-13-01"], "row 2: '2024-13-01' is not readable"),
        (["soon"], "'soon' is not a time"),
        (["12", "1e3", "x"], "row 3: 'x' is not readable"),
        ([1.0, float("nan")], "row 2: nan is not readable"),
        ([1.0, float("inf")], "row 2: inf is not readable"),
        ([None, None], "row 1: is null"),
        ([timedelta(1)], "which is no time"),
        ([[1]], "which is no time"),
    ],
)
def test_unreadable_times_name_the_row(times: list, says: str) -> None:
    with pytest.raises(DataError, match=says):
        events_of(times)


def test_a_late_fraction_does_not_break_a_column_of_integers_as_text() -> None:
    events = events_of(["1"] * 1500 + ["2.5"])
    assert events.last_time == 2.5


@settings(max_examples=40)
@given(st.lists(st.integers(0, YEAR_2100), min_size=1), st.sampled_from(sorted(PER_SECOND)))
def test_seconds_round_down(seconds: list[int], unit: str) -> None:
    per = PER_SECOND[unit]
    exact = np.array(seconds, dtype=np.int64) * min(per, 10**9)
    assert to_seconds(exact, per).tolist() == seconds
    if per > 1:
        assert to_seconds(exact + per - 1, per).tolist() == seconds
        assert to_seconds(-exact - 1, per).tolist() == [-s - 1 for s in seconds]
    assert to_seconds(np.array([-0.5, 1.5]), 1).tolist() == [-1, 1]


def test_the_majority_decides_the_unit() -> None:
    assert detect_unit({"s": 1, "ms": 5, "us": 0, "ns": 0}) == "ms"
