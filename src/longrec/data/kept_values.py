"""Ids, types and numbers as they are kept, of columns of any kind, and what may not stand there."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from longrec.core.errors import DataError
from longrec.data.columns import ROLES
from longrec.data.event_columns import TYPE
from longrec.data.sources import Part

INTEGER = r"^(?:0|-?[1-9][0-9]{0,17})$"  # the one spelling that an integer has: "007" is text


@dataclass(frozen=True, eq=False)
class Check:
    """Rows that may not occur: an expression over raw columns, and what to say of the first."""

    role: str
    bad: pl.Expr
    says: str


def id_column(role: str, name: str, dtype: pl.DataType, part: Part, checks: list[Check]) -> pl.Expr:
    """The ids as they will be kept; adds what no id may be to `checks`."""
    raw = pl.col(name)
    if isinstance(dtype, pl.Categorical | pl.Enum):
        raw, dtype = raw.cast(pl.String), pl.String()
    if dtype == pl.String:
        checks.append(Check(role, raw == "", "is an empty id"))
        return raw
    if dtype.is_float():
        # pandas turns integers into floats where one is missing; they come out as integers.
        whole = raw.is_finite() & (raw == raw.round(0)) & (raw.abs() <= 2.0**53)
        checks.append(Check(role, ~whole, "is a float that is no whole number, so no id"))
        return pl.when(whole).then(raw).cast(pl.Int64)
    if dtype.is_nested() or dtype in (pl.Object, pl.Null):
        raise DataError(
            f"{part.name}, column {name!r} is of type {dtype}, which cannot be {ROLES[role]}. "
            "Convert it to integers or text."
        )
    return raw


def as_number(name: str) -> pl.Expr:
    """A column of text as numbers, null where it spells none."""
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def type_column(name: str, dtype: pl.DataType, part: Part, checks: list[Check]) -> pl.Expr:
    """Types as text, null where there is none; adds what no type may be to `checks`."""
    raw = pl.col(name)
    if dtype.is_float():
        whole = raw.is_finite() & (raw == raw.round(0)) & (raw.abs() <= 2.0**53)
        checks.append(Check(TYPE, ~whole, "is a float that is no whole number, so no type"))
        raw, dtype = pl.when(whole).then(raw).cast(pl.Int64), pl.Int64()
    if dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return raw.cast(pl.String)
    raise DataError(
        f"{part.name}, column {name!r} is of type {dtype}, which cannot be the types of events. "
        "Convert it to text or whole numbers."
    )
