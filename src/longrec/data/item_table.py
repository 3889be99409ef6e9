"""A table of items with further columns, and rules by them: `category = 'shoes' AND price < 50`.

A rule is what stands behind WHERE in SQL, and reads this table alone. An item that has several rows
fits where one of them does; an item that the table does not have fits no rule.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from longrec.core.errors import DataError, UsageError, first_line
from longrec.core.format import listed
from longrec.data.frames import as_frame, is_parquet, read_parquet
from longrec.data.given_rows import NotUtf8, Problems, find_name, is_file, opened, read_rows

LONGEST = 2000
"""Characters of a rule."""
RULES_KEPT = 64
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`""")
"""Text and names in quotes, in a rule without backslash and dollar sign."""
QUERY = re.compile(r"\(\s*(?:select|from|with|values|table)\b|--|/\*|;", re.IGNORECASE)
"""How a query inside an expression begins, which could name files, and what could hide it."""
PADDED = r"^[+-]?0[0-9]"
"""How text begins that spells a number and is none, such as 007."""
EXAMPLE = "category = 'shoes' AND price < 50"


class ItemTable:
    """Items with columns.

    Parameters
    ----------
    name : str
        What errors call it.
    frame : polars.DataFrame
        A column of it looks like the item ids.
    item : str or None
        The column of item ids, where it may have a name that is not recognised.

    Attributes
    ----------
    frame : as it was given.
    item : the name of the column of item ids.

    Raises
    ------
    UsageError
        When no column looks like the item ids.
    """

    def __init__(self, name: str, frame: pl.DataFrame, item: str | None = None) -> None:
        self.name, self.frame = name, frame
        found = _id_column(frame.columns, item)
        if found is None:
            raise UsageError(
                f"{name}: no column looks like the item ids; the columns are "
                f"{listed(frame.columns)}. Call one item"
            )
        self.item = found
        self.items_where = lru_cache(RULES_KEPT)(self._items_where)

    def _items_where(self, rule: str) -> pl.Series:
        """Ids of the items for which a rule is true, each once.

        Raises
        ------
        UsageError
            When it is no rule, names a column that is not there, or compares what cannot be.
        """
        try:
            expression = _parsed(rule)
            unknown = [n for n in expression.meta.root_names() if n not in self.frame.columns]
            if unknown:
                raise UsageError(self._unknown_columns(unknown))
            found = self.frame.select(pl.col(self.item), expression.alias("it fits"))
        # A panic inside the engine is not an Exception of Python's.
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise UsageError(
                f"where is {rule!r}, which cannot be read as a rule: {first_line(error)}. Give "
                f"what stands behind WHERE in SQL, such as {EXAMPLE}, and what is a Date as DATE "
                f"'2026-01-31'; the columns of {self.name} are {self._columns()}"
            ) from error
        kind = found.schema["it fits"]
        if kind not in (pl.Boolean, pl.Null):
            raise UsageError(
                f"where is {rule!r}, which gives {kind} and not true or false: give a rule such as "
                f"{EXAMPLE}"
            )
        ids = found.filter(pl.col("it fits").cast(pl.Boolean))[self.item]
        return ids.drop_nulls().unique(maintain_order=True)

    def _unknown_columns(self, unknown: list[str]) -> str:
        near = difflib.get_close_matches(unknown[0], self.frame.columns, n=1, cutoff=0.5)
        near += [c for c in self.frame.columns if c.lower() == unknown[0].lower()]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"where names {listed(map(repr, unknown))}, and {self.name} has no such column."
            f"{hint} Its columns are {self._columns()}; text stands in single quotes: {EXAMPLE}"
        )

    def _columns(self) -> str:
        return listed(f"{name} ({kind})" for name, kind in self.frame.schema.items())


def as_item_table(given: Any, item: str | None = None, encoding: str | None = None) -> ItemTable:
    """An item table as such, as a polars or pandas frame, or from a file: CSV, JSON lines, Parquet.

    Columns of a CSV are numbers where every value spells one, true and false likewise, and text
    otherwise, dates too: `since >= '2026-01-31'` compares dates as ISO 8601 spells them. The
    column of ids stays text.

    Parameters
    ----------
    given : ItemTable, frame, path or open file
    item : str or None
        What its column of item ids may be called beside the names that are recognised.
    encoding : str or None
        Of a path's text that is not UTF-8.

    Raises
    ------
    UsageError
        When it is none of these, or no column looks like the item ids.
    DataError
        When a file cannot be read.
    """
    if isinstance(given, ItemTable):
        return given
    if not isinstance(given, str) and not is_file(given):
        return ItemTable("the item table", as_frame("items", given), item)
    if isinstance(given, str | os.PathLike):
        given = Path(given)
        if is_parquet(given):
            return ItemTable(str(given), read_parquet(given), item)
    try:
        name, rows = _rows(given, item)
    except NotUtf8:
        if encoding is None:
            raise
        name, rows = _rows(given, item, encoding)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name}: there are no rows with columns; give a CSV or JSON objects")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ids = _id_column(columns, item)
    frame = pl.DataFrame(
        {c: _typed(c, [row.get(c) for row in rows], as_text=c == ids) for c in columns}
    )
    return ItemTable(name, frame, item)


def _rows(given: Any, item: str | None, encoding: str = "utf-8-sig") -> tuple[str, list[Any]]:
    with opened(given, encoding) as (name, file):
        problems = Problems(name)
        rows = [row.value for row in read_rows(file, "item", problems, stated=item)]
        problems.raise_if_any()
    return name, rows


def _id_column(names: list[str], item: str | None) -> str | None:
    return find_name(names, "item", item) or find_name(names, "id")


def _typed(name: str, values: list[Any], as_text: bool) -> pl.Series:
    """A column of a file: text that spells numbers, or true and false, everywhere is these."""
    try:
        column = pl.Series(name, values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        column = pl.Series(name, [None if one is None else str(one) for one in values])
    if column.dtype != pl.String or as_text:
        return column
    text = column.set(column == "", None)
    there = text.is_not_null()
    if not there.any():
        return text
    for kind in (pl.Int64, pl.Float64):
        number = text.cast(kind, strict=False)
        if number.is_not_null().eq(there).all() and not text.str.contains(PADDED).any():
            return number
    return text == "true" if text.filter(there).is_in(["true", "false"]).all() else text


def _parsed(rule: str) -> pl.Expr:
    """A rule as an expression of columns, in which no query stands.

    Raises
    ------
    UsageError
        When it is none; polars raises what it finds itself.
    """
    if not isinstance(rule, str) or not rule.strip():
        raise UsageError(f"where is {rule!r}; give a rule such as {EXAMPLE}")
    if len(rule) > LONGEST:
        raise UsageError(f"where has {len(rule):,} characters and may have {LONGEST:,}")
    plain = rule if "\\" in rule or "$" in rule else QUOTED.sub("''", rule)
    if QUERY.search(plain):
        raise UsageError(
            f"where is {rule!r}; a rule has no query, comment or semicolon in it: give what stands "
            f"behind WHERE, such as {EXAMPLE}"
        )
    expression = pl.sql_expr(rule)
    if '"SubPlan":' in expression.meta.serialize(format="json"):
        raise UsageError(f"where is {rule!r}; a rule has no query in it")
    return expression
