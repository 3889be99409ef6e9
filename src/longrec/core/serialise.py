"""Frames as bytes, in the formats that programs read."""

from __future__ import annotations

import io

import polars as pl
from polars.exceptions import PolarsError

from longrec.core.errors import UsageError


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
