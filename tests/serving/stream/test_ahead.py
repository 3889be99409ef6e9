"""Events of a time that no clock shows yet are refused, before anything is logged."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from serving.small_streams import FIRST, recommender, small_stream

from longrec.core.errors import UsageError
from longrec.serving.stream.ahead import DAY, Clock, TimeAhead

NOW = int(time.time())


@pytest.fixture
def stream(tmp_path):
    with small_stream("elastic", tmp_path / "users") as stream:
        yield stream


@pytest.mark.parametrize(
    "moment",
    [NOW + 2 * DAY, NOW + 10**9, 10**11, datetime.now(UTC) + timedelta(days=400)],
    ids=["two days", "thirty years", "far", "a moment"],
)
def test_one_event(stream, moment) -> None:
    stream.observe("ann", FIRST, NOW)
    with pytest.raises(
        TimeAhead, match=r"time is \d+ \(.*\), and this machine's clock says 20"
    ) as error:
        stream.observe("ann", FIRST + 1, moment)
    assert "1 day, 0:00:00 ahead" in str(error.value)
    assert stream.stats()["events"] == 1
    assert not stream.observe("ann", FIRST + 2, NOW + 1).late
    assert not stream.observe("ann", FIRST + 2, NOW + 0.9 * DAY).late  # clocks differ, zones do


def test_a_frame_is_refused_whole_and_its_row_named(stream) -> None:
    times = [NOW, NOW + 10**8, NOW]
    frame = pl.DataFrame({"user": ["a", "b", "c"], "item": [FIRST] * 3, "time": times})
    with pytest.raises(UsageError, match="the time of row 2 is"):
        stream.observe_many(frame)
    assert stream.stats()["events"] == 0


def test_how_far_is_for_the_caller_to_say(tmp_path) -> None:
    far, rec = NOW + 10**9, recommender("elastic")
    with rec.open_stream(tmp_path / "any", max_ahead=None) as stream:
        assert stream.observe("ann", FIRST, far).new
    minute = rec.open_stream(tmp_path / "minute", max_ahead=60.0)
    with minute as stream, pytest.raises(TimeAhead, match="0:01:00 ahead"):
        stream.observe("ann", FIRST, NOW + 3600)
    for wrong in (0, -1, True, "1"):
        with pytest.raises(UsageError, match="max_ahead is"):
            rec.open_stream(tmp_path / "wrong", max_ahead=wrong)


def test_the_clock_is_read_at_each_event(monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("longrec.serving.stream.ahead.time.time", lambda: now[0])
    clock = Clock(10.0)
    clock.check(1010)
    with pytest.raises(TimeAhead):
        clock.check(1011)
    now[0] += 1
    clock.check(1011)
