"""A server's log: a line of JSON each, without ids of users or items, keys, addresses or bodies."""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from datetime import UTC, datetime
from time import monotonic
from typing import Any

NAME = "longrec.serve"
MOST_WORDS = 100
"""Different lines that are remembered to be told once a second."""
log = logging.getLogger(NAME)


class JsonLines(logging.Formatter):
    """A record as a line of JSON: its own words and fields, and where it failed."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = where(record.exc_info[1])
        return json.dumps(line)


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


def write_rarely(warning: str) -> None:
    """Write a warning that clients may cause as often as they like: once a second at most."""
    _rarely.warning(warning)


def start() -> None:
    """Write this log, those of all longrec, and warnings of the server beneath, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    ours, beneath = logging.getLogger("longrec"), logging.getLogger("uvicorn.error")
    ours.setLevel(logging.INFO)
    beneath.setLevel(logging.WARNING)
    if not beneath.filters:
        beneath.addFilter(OncePerSecond())
    for logger in (ours, beneath):
        logger.handlers[:] = [handler]
        logger.propagate = False
