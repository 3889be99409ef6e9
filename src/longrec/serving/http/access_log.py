"""A server's log: a line of JSON each, without ids of users or items, keys, addresses or bodies."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

NAME = "longrec.serve"
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


def start() -> None:
    """Write this log, those of all longrec, and warnings of the server beneath, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    ours, beneath = logging.getLogger("longrec"), logging.getLogger("uvicorn")
    ours.setLevel(logging.INFO)
    beneath.setLevel(logging.WARNING)
    for logger in (ours, beneath):
        logger.handlers[:] = [handler]
        logger.propagate = False
