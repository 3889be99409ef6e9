"""Frames that callers give, as Polars has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from longrec.core.arguments import described
from longrec.core.errors import DataError, UsageError, first_line


def is_parquet(given: Any) -> bool:
    """Whether something is the path of a Parquet file."""
    return isinstance(given, os.PathLike) and Path(given).suffix.lower() in (".parquet", ".pq")


def read_parquet(path: Any) -> pl.DataFrame:
    """A Parquet file as a frame; one that cannot be read is a DataError."""
    try:
        return pl.read_parquet(Path(path).expanduser())
    # A panic inside the engine is not an Exception of Python's; a damaged file can cause one.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path}: {first_line(error)}") from error


def as_frame(name: str, given: Any) -> pl.DataFrame:
    """A polars or pandas frame, or an Arrow table or stream, as a polars frame.

    Raises
    ------
    UsageError
        When it is none of these, under the name of an argument.
    """
    if isinstance(given, pl.LazyFrame):
        return given.collect()
    if isinstance(given, pl.DataFrame):
        return given
    try:
        if type(given).__module__.partition(".")[0] == "pandas":
            return pl.DataFrame(pl.from_pandas(given))
        if hasattr(given, "__arrow_c_stream__"):
            return pl.DataFrame(given)
    except Exception as error:  # Arrow and Polars raise many kinds for foreign objects
        raise UsageError(f"{name} is no frame that can be read: {first_line(error)}") from error
    raise UsageError(
        f"{name} is {described(given)}; give a polars or pandas frame, or an Arrow table"
    )
