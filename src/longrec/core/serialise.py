"""Frames as bytes, in the formats that programs read."""

from __future__ import annotations

import io

import polars as pl
from polars import selectors as cs
from polars.exceptions import PolarsError

from longrec.core.errors import UsageError

FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
"""How a cell begins that a spreadsheet may take for a formula; the last four are full-width."""


def serialise(frame: pl.DataFrame, form: str, escape_formulas: bool = False) -> bytes:
    """A frame as "csv", "parquet" or "json" (a list of objects, one per row).

    escape_formulas : of CSV; see `without_formulas`.
    """
    data = io.BytesIO()
    if escape_formulas:
        frame = without_formulas(frame)
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


def without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame whose texts, the columns' names too, no spreadsheet runs: ' stands before such ones.

    Numbers stay as they are, and so does a text that begins otherwise.
    """
    text = cs.string() | cs.categorical() | cs.enum()
    escaped = frame.with_columns(text.cast(pl.String).str.replace(FORMULA, "'${0}"))
    names = pl.Series(frame.columns, dtype=pl.String).str.replace(FORMULA, "'${0}")
    return escaped.rename(dict(zip(frame.columns, names.to_list(), strict=True)))
