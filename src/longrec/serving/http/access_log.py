"""A server's log: a line of JSON each, without ids of users or items, keys, addresses or bodies.

A thread of its own writes it, lines of requests some at a time: no request waits for a line of the
log, nor for a reader of the log that has stopped reading.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import sys
import threading
import traceback
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

NAME = "longrec.serve"
MOST_WORDS = 100
"""Different lines that are remembered to be told once a second."""
GATHERED = 0.2
"""Seconds for which lines of requests are gathered; all others are written at once."""
MOST_LINES = 10_000
"""Lines that may wait to be written; what is beyond is left out, and counted."""
log = logging.getLogger(NAME)


class LineWriter:
    """Writes lines from a thread of its own; for any number of threads.

    Parameters
    ----------
    stream : that is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lines, self._left_out = stream, deque[str](), 0
        self._writing, self._some = threading.Lock(), threading.Event()
        self._urgent = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str, urgent: bool) -> None:
        """Let a line be written, at once or soon."""
        if len(self._lines) >= MOST_LINES:
            self._left_out += 1
            return
        self._lines.append(line)
        if urgent:
            self._urgent.set()
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Write all that waits, and return when it is written."""
        with self._writing:
            parts = [f"{self._lines.popleft()}\n" for _ in range(len(self._lines))]
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                told = {"event": "lines of this log were left out", "left_out": left_out}
                parts.append(f"{_as_line('warning', told)}\n")
            with suppress(OSError, ValueError):  # nobody can read it any more
                self._stream.write("".join(parts))
                self._stream.flush()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._urgent.wait(GATHERED)
            self._some.clear()
            self._urgent.clear()
            self.flush()


class Handler(logging.Handler):
    """Lets a writer write what is logged."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.writer.put(self.format(record), urgent=True)


class JsonLines(logging.Formatter):
    """A record as a line of JSON: its own words and fields, and where it failed."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"event": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = where(record.exc_info[1])
        return _as_line(record.levelname.lower(), line, record.created)


def _as_line(level: str, fields: dict[str, Any], seconds: float | None = None) -> str:
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return json.dumps({"time": when.isoformat(timespec="milliseconds"), "level": level} | fields)


def where(error: BaseException) -> dict[str, Any]:
    """An exception as its type and the lines it came through: its message may hold ids."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def write(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"fields": fields})


def write_request(request_id: str, method: str, route: str, status: int, seconds: float) -> None:
    """Write a line about a request that was answered, in a fifth of the time of any other line."""
    if _writer is None:
        return
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    _writer.put(  # none of these values has a character that JSON would have otherwise
        f'{{"time": "{when}", "level": "info", "event": "request", "id": "{request_id}", '
        f'"method": "{method}", "route": "{route}", "status": {status}, '
        f'"ms": {1e3 * seconds:.3f}}}',
        urgent=False,
    )


class OncePerSecond(logging.Filter):
    """Lets a line with the same words through once a second; the next tells how many were not."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        words, now = str(record.msg), monotonic()
        since, left_out = self._told.get(words, (-math.inf, 0))
        if now - since < 1:
            self._told[words] = since, left_out + 1
            return False
        if len(self._told) > MOST_WORDS:
            self._told.clear()
        self._told[words] = now, 0
        if left_out:
            record.fields = getattr(record, "fields", {}) | {"left_out": left_out}
        return True


_rarely = logging.getLogger(f"{NAME}.rarely")
_rarely.addFilter(OncePerSecond())
_writer: LineWriter | None = None


def write_rarely(warning: str) -> None:
    """Write a warning that clients may cause as often as they like: once a second at most."""
    _rarely.warning(warning)


def start() -> None:
    """Write this log, those of all longrec, and warnings of the server beneath, to stderr."""
    global _writer
    _writer = LineWriter(sys.stderr)
    handler = Handler(_writer)
    ours, beneath = logging.getLogger("longrec"), logging.getLogger("uvicorn.error")
    ours.setLevel(logging.INFO)
    beneath.setLevel(logging.WARNING)
    if not beneath.filters:
        beneath.addFilter(OncePerSecond())
    for logger in (ours, beneath):
        logger.handlers[:] = [handler]
        logger.propagate = False
    atexit.register(flush)


def flush() -> None:
    """Write what waits to be written, if anything does."""
    if _writer is not None:
        _writer.flush()
