"""The log is written beside the requests: nobody waits for who reads it."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest

from longrec.serving.http import access_log
from longrec.serving.http.access_log import Handler, LineWriter, write_request


class Reader:
    """A stream whose reader may have stopped reading."""

    def __init__(self) -> None:
        self.text, self.writes, self.reads = "", 0, threading.Event()
        self.reads.set()
        self.blocked = threading.Event()

    def write(self, text: str) -> None:
        if not self.reads.is_set():
            self.blocked.set()
        assert self.reads.wait(20)
        self.text += text
        self.writes += 1

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]


def test_lines_of_requests_are_gathered_and_others_written_at_once(monkeypatch):
    monkeypatch.setattr(access_log, "GATHERED", 30.0)
    reader = Reader()
    writer = LineWriter(reader)
    monkeypatch.setattr(access_log, "_writer", writer)
    for number in range(50):
        write_request(f"id-{number}", "POST", "/v1/users/{user}", 200, 0.0012345)
    assert reader.writes == 0
    record = logging.LogRecord("longrec.serve", logging.WARNING, "", 0, 'it "fails"', None, None)
    Handler(writer).emit(record)
    for _ in range(2000):
        if len(reader.lines) == 51:
            break
        time.sleep(0.005)
    *requests, last = reader.lines
    assert reader.writes <= 2
    assert [line["id"] for line in requests] == [f"id-{number}" for number in range(50)]
    wanted = {"level": "info", "event": "request", "method": "POST", "ms": 1.234}
    assert wanted.items() <= requests[0].items()
    assert (requests[0]["route"], requests[0]["status"]) == ("/v1/users/{user}", 200)
    assert (last["level"], last["event"]) == ("warning", 'it "fails"')
    assert requests[0].keys() - last.keys() == {"id", "method", "route", "status", "ms"}


def test_who_stops_reading_holds_nobody_up_and_is_told_what_was_left_out(monkeypatch):
    monkeypatch.setattr(access_log, "GATHERED", 0.0)
    monkeypatch.setattr(access_log, "MOST_LINES", 100)
    reader = Reader()
    writer = LineWriter(reader)
    reader.reads.clear()
    writer.put('{"event": "first"}', urgent=True)
    assert reader.blocked.wait(20)
    for number in range(250):  # returns, whoever reads
        writer.put(json.dumps({"event": number}), urgent=bool(number % 2))
    reader.reads.set()
    writer.flush()
    writer.flush()
    events = [line["event"] for line in reader.lines]
    assert events[:101] == ["first", *range(100)]
    assert events[101:] == ["lines of this log were left out"]
    assert reader.lines[-1]["left_out"] == 150


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed")])
def test_a_reader_that_is_gone_is_no_error(error):
    reader = Reader()
    writer = LineWriter(reader)

    def gone(text: str) -> None:
        raise error

    reader.write = gone
    writer.put("{}", urgent=True)
    writer.flush()
