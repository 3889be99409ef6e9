"""Frames that callers give, as Polars has them: its own, pandas' and Arrow's, and Parquet files.

A column that Polars has no type for is one of Objects, so that nobody has to read it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from longrec.core.arguments import described
from longrec.core.errors import DataError, UsageError, first_line

# A panic inside polars is not an Exception of Python's.
FRAME_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException)


def is_parquet(given: Any) -> bool:
    """Whether something is the path of a Parquet file."""
    return isinstance(given, os.PathLike) and Path(given).suffix.lower() in (".parquet", ".pq")


def read_parquet(path: Any) -> pl.DataFrame:
    """A Parquet file as a frame; one that cannot be read is a DataError."""
    try:
        return pl.read_parquet(Path(path).expanduser())
    except (*FRAME_ERRORS, OSError) as error:
        raise DataError(f"{path}: {first_line(error)}") from error


def as_frame(name: str, given: Any) -> pl.DataFrame:
    """A frame, or an Arrow table or stream, in memory.

    Raises
    ------
    UsageError
        When it is none of these, under the name of an argument.
    DataError
        When it cannot be read.
    """
    found = open_frame(given)
    if found is None:
        raise UsageError(
            f"{name} is {described(given)}; give a polars or pandas frame, or an Arrow table"
        )
    try:
        return found[0].lazy().collect()
    except FRAME_ERRORS as error:  # of a lazy frame's own
        raise DataError(f"{name} cannot be read: {first_line(error)}") from error


def open_frame(source: Any) -> tuple[pl.DataFrame | pl.LazyFrame, str] | None:
    """A frame, or an Arrow table or stream, and what errors call it; None of anything else."""
    if isinstance(source, pl.LazyFrame | pl.DataFrame):
        return source, "the polars frame"
    if type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        return _of_pandas(source), "the pandas frame"
    if hasattr(source, "__arrow_c_stream__"):
        return _of_arrow(source), "the Arrow stream"
    return None


def _of_pandas(frame: Any) -> pl.DataFrame:
    names = [str(name) for name in frame.columns]
    refuse_twins("the pandas frame", names)
    columns = {}
    for name, column in zip(names, (frame.iloc[:, i] for i in range(len(names))), strict=True):
        try:
            columns[name] = pl.Series(name, pl.from_pandas(_plain(column)))
        except Exception:  # Arrow and Polars raise many kinds for foreign objects
            columns[name] = pl.Series(name, column.tolist(), dtype=pl.Object)
    return pl.DataFrame(columns)


def _plain(column: Any) -> Any:
    """A column of pandas as one that Polars takes for what it is."""
    kind = column.dtype
    if str(kind) == "object":
        if column[column.notna()].map(type).nunique() > 1:
            raise TypeError("mixed types")
        first = column.dropna().head(1).squeeze()
        if isinstance(first, UUID) or (isinstance(first, int) and not _fits(column)):
            return column.map(str, na_action="ignore")
    elif type(kind).__name__ == "PeriodDtype":
        return column.dt.to_timestamp()
    elif type(kind).__name__ == "SparseDtype":
        return column.sparse.to_dense()
    elif type(kind).__name__ == "DatetimeTZDtype":
        return column.dt.tz_convert("UTC")  # the same moments
    elif getattr(kind, "byteorder", "=") == ">":
        return column.astype(kind.newbyteorder("="))
    return column


def _fits(column: Any) -> bool:
    return bool(column.dropna().map(lambda value: -(2**63) <= value < 2**63).all())


def _of_arrow(source: Any) -> pl.DataFrame:
    try:
        table = pa.RecordBatchReader.from_stream(source).read_all()
    except (TypeError, ValueError, *FRAME_ERRORS) as error:
        raise DataError(f"The Arrow stream cannot be read ({first_line(error)}).") from error
    refuse_twins("the Arrow stream", table.column_names)
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))  # the same moments
        elif pa.types.is_run_end_encoded(kind):
            column = pa.chunked_array(map(pc.run_end_decode, column.chunks), kind.value_type)
        elif getattr(kind, "extension_name", "") == "arrow.uuid":
            column = pa.array([None if u is None else str(u) for u in column.to_pylist()])
        try:
            columns[name] = pl.Series(name, pl.from_arrow(column))
        except FRAME_ERRORS:  # a type that Polars does not know
            columns[name] = pl.Series(name, [None] * len(column), dtype=pl.Object)
    return pl.DataFrame(columns)


INSTEAD: Mapping[Any, Any] = {
    pl.Int128: pl.Decimal(38, 0),
    pl.UInt128: pl.Decimal(38, 0),
    pl.Float16: pl.Float32,
}
"""Types that the engine does not know, and what holds the same values."""


def arrow_of(frame: pl.DataFrame) -> pa.Table:
    """A frame as the engine reads it: words instead of codes."""
    instead: dict[str, Any] = {
        name: pl.String if dtype in (pl.Categorical, pl.Enum) else INSTEAD.get(dtype.base_type())
        for name, dtype in frame.schema.items()
    }
    return frame.cast({n: kind for n, kind in instead.items() if kind is not None}).to_arrow()


def refuse_twins(name: str, columns: Iterable[str]) -> None:
    """Raise DataError when two columns share a name."""
    twins = [column for column, count in Counter(columns).items() if count > 1]
    if twins:
        raise DataError(f"{name}: two columns are called {twins[0]!r}. Rename or drop one.")
