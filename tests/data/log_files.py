"""Logs that tests write and read."""

from __future__ import annotations

from pathlib import Path

from longrec.data.read import read_events


def write(path: Path, text: str | bytes) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows_of(source, **options) -> list[tuple]:
    """The events of a log, in its order."""
    return read_events(source, **options).to_polars().rows()
