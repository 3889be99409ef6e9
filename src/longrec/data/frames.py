"""Frames that callers give, as Polars has them."""

from __future__ import annotations

from typing import Any

import polars as pl

from longrec.core.arguments import described
from longrec.core.errors import UsageError, first_line


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
