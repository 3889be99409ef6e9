"""Frames as bytes in the formats that programs read, and files that appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from longrec.errors import UsageError


def serialise(frame: pl.DataFrame, form: str) -> bytes:
    """A frame as "csv", "parquet" or "json" (a list of objects, one per row)."""
    data = io.BytesIO()
    try:
        if form == "parquet":
            frame.write_parquet(data)
        elif form == "json":
            data.write(frame.write_json().encode() + b"\n")
        else:
            frame.write_csv(data)
    except PolarsError as error:  # ids of bytes, for one
        raise UsageError(f"--format {form}: {str(error).splitlines()[0]}; try parquet") from error
    return data.getvalue()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
