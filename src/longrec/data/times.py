"""Times of any kind to seconds: which unit a column is in, and the row that cannot be a time.

A numeric column's unit is the one in which most of its values lie between 1970 and 2100; the four
ranges do not overlap except in the first weeks of 1970. Text is a number or one of the formats
below. Everything stays in its own precision until events are sorted: truncating first would tie
events that are not tied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from longrec.core.errors import DataError, UsageError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNITS = (*PER_SECOND, "datetime")
YEAR_2100 = 4_102_444_800  # seconds
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M%z",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S%.f",
)


@dataclass(frozen=True, eq=False)
class TimeColumn:
    """How a raw column becomes a numeric time.

    Attributes
    ----------
    value
        expression over the raw column: Int64 or Float64 in units of `per_second`, null where the
        raw value cannot be read.
    kind
        what the column holds, for errors and `Events.describe`.
    fixed
        the unit when the type says it ("datetime"), None when it is to be found from the values.
    per_second
        ticks of `value` in a second, when `fixed`.
    exact
        for numbers as text, `value` as Int64, null where it has a fraction: used if it never is,
        since nanoseconds do not fit a float.
    """

    value: pl.Expr
    kind: str
    fixed: str | None = None
    per_second: int = 1
    exact: pl.Expr | None = None


def time_column(raw: pl.Expr, dtype: pl.DataType, sample: pl.Series, where: str) -> TimeColumn:
    """Plan for a raw column of this type; `sample` holds some of its values when it is text.

    Raises DataError naming `where` for a type or a text that is no time.
    """
    if isinstance(dtype, pl.Datetime):
        unit = dtype.time_unit
        return TimeColumn(raw.dt.timestamp(unit), "datetimes", "datetime", PER_SECOND[unit])
    if dtype == pl.Date:
        return TimeColumn(raw.cast(pl.Int32).cast(pl.Int64) * 86_400, "dates", "datetime", 1)
    if dtype.is_integer():
        return TimeColumn(raw.cast(pl.Int64, strict=False), "integers")
    if dtype.is_float() or isinstance(dtype, pl.Decimal):
        number = raw.cast(pl.Float64)
        return TimeColumn(pl.when(number.is_finite()).then(number), "decimals")
    if dtype == pl.Null:
        return TimeColumn(pl.lit(None, dtype=pl.Int64), "nothing")
    if dtype == pl.String:
        return _text_column(raw.str.strip_chars(), sample.str.strip_chars(), where)
    raise DataError(
        f"{where} is of type {dtype}, which is no time. Give numbers (s, ms, us or ns since 1970), "
        "datetimes, dates or ISO text."
    )


def _text_column(raw: pl.Expr, sample: pl.Series, where: str) -> TimeColumn:
    """Text that spells numbers or datetimes; the first value decides which."""
    if not len(sample):
        return TimeColumn(pl.lit(None, dtype=pl.Int64), "nothing")
    if sample[:1].cast(pl.Float64, strict=False)[0] is not None:
        number = raw.cast(pl.Float64, strict=False)
        return TimeColumn(
            pl.when(number.is_finite()).then(number),
            "numbers as text",
            exact=raw.cast(pl.Int64, strict=False),
        )

    def clean(text: pl.Expr) -> pl.Expr:
        # One spelling of ISO 8601: "2024-05-01T10:00:00Z" is "2024-05-01 10:00:00+00:00".
        spaced = text.str.replace(r"^(\d{4}-\d{2}-\d{2})[Tt]", "$1 ")
        return spaced.str.replace(r"\s*[Zz]$|\s+UTC$", "+00:00").str.replace(
            r"([+-]\d{2}):(\d{2})$", "$1$2"
        )

    for form in FORMATS:
        text = clean(pl.col("sample"))
        parsed = pl.DataFrame({"sample": sample[:1]}).select(_parse(text, form)).to_series()
        if parsed[0] is not None:
            return TimeColumn(_parse(clean(raw), form), f"text as {form}", "datetime", 10**6)
    raise DataError(
        f"{where}: {sample[0]!r} is not a time that can be read. Write times as numbers since 1970 "
        "(s, ms, us or ns) or as ISO text such as 2024-05-01 10:30:00."
    )


def _parse(text: pl.Expr, form: str) -> pl.Expr:
    """Microseconds since 1970; text without an offset is taken as UTC."""
    if "%H" not in form:
        return text.str.to_date(form, strict=False).cast(pl.Int32).cast(pl.Int64) * 86_400_000_000
    return text.str.to_datetime(form, time_unit="us", strict=False).dt.timestamp("us")


def band_counts(value: pl.Expr) -> dict[str, pl.Expr]:
    """Aggregates that tell the unit: how many values lie in each unit's own range."""
    size = value.cast(pl.Float64).abs()
    edges = [-1.0, *(YEAR_2100 * float(per) for per in PER_SECOND.values())]
    return {
        unit: ((size > low) & (size <= high)).sum()
        for unit, low, high in zip(PER_SECOND, edges[:-1], edges[1:], strict=True)
    }


def detect_unit(counts: dict[str, int]) -> str:
    """The unit whose range holds most values."""
    return max(counts, key=lambda unit: counts[unit])


def implausible(value: pl.Expr, per_second: int, *, known: bool) -> pl.Expr:
    """True where a time lies before 1970 or after 2100, or, unless the unit is `known` from the
    column's type, so soon after 1970 that it is rather a value in a coarser unit."""
    number = value.cast(pl.Float64)
    bad = (number < 0) | (number > YEAR_2100 * float(per_second))
    if not known and per_second > 1:
        bad = bad | (number <= YEAR_2100 * per_second / 1000.0)
    return bad


def check_unit(unit: str | None, column: TimeColumn, where: str) -> None:
    """Raise UsageError for a stated unit that does not exist or does not fit the column."""
    if unit is None:
        return
    if unit not in UNITS:
        raise UsageError(f"time_unit {unit!r} is not known. Use one of {', '.join(UNITS)}.")
    if (unit == "datetime") != (column.fixed == "datetime"):
        raise UsageError(
            f"{where} holds {column.kind}, so time_unit={unit!r} does not fit. "
            f"Leave time_unit out or use {'datetime' if column.fixed else 's, ms, us or ns'}."
        )


def to_seconds(ticks: np.ndarray, per_second: int) -> np.ndarray:
    """Whole seconds, (n,) int64, rounded down, also before 1970."""
    if ticks.dtype.kind == "f":
        return np.floor(ticks / per_second).astype(np.int64)
    return ticks if per_second == 1 else np.floor_divide(ticks, per_second)
