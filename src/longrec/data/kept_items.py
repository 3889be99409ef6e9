"""The table of items that histories keep: what is known of items beside their events."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import as_ids
from longrec.data.events import Events
from longrec.data.histories import Histories
from longrec.data.item_table import ItemTable

ID = "item"
"""Of the kept table, the column of ids."""


def kept_table(histories: Histories) -> ItemTable | None:
    """The table of items that histories keep, None if none."""
    frame = histories.item_table
    return None if frame is None else ItemTable(f"the item table of {histories.path}", frame, ID)


def items_to_keep(given: ItemTable, events: Events, say: Callable[[str], None]) -> pl.DataFrame:
    """A table of items for a log: first "item", ids of the log's own type, then the rest.

    Parameters
    ----------
    given : ItemTable
        Its column of ids is the one that is called as in the log, if there is one.
    events : the log.
    say : is told what was found.

    Raises
    ------
    UsageError
        When a column holds what cannot be kept.
    DataError
        When an id stands there twice, or none of them is one of the log's.
    """
    table = ItemTable(given.name, given.frame, events.names["item"])
    further = table.frame.drop(table.item)
    for name, kind in further.schema.items():
        if kind == pl.Object:
            raise UsageError(
                f"{table.name}: the column {name!r} is of Python objects, which no file holds: "
                "leave it out, or give text or numbers"
            )
    if ID in further.columns:
        raise DataError(
            f"{table.name}: {table.item!r} has the items' ids, and another column is called "
            f"{ID!r}: give that another name"
        )
    known = events.engine.frame("SELECT DISTINCT item FROM events")["item"]
    ids = as_ids(table.frame[table.item], known.dtype, "item")
    kept = pl.DataFrame([ids.alias(ID), *further])
    kept = kept.filter(pl.col(ID).is_not_null())
    twice = kept[ID].filter(kept[ID].is_duplicated())
    if len(twice):
        raise DataError(
            f"{table.name}: the item {twice[0]!r} stands in {(twice == twice[0]).sum()} rows; give "
            "one row for each item"
        )
    found = int(kept[ID].is_in(known.implode()).sum())
    if not found:
        raise DataError(
            f"{table.name}: none of its {len(ids):,} items is one of the log's, such as "
            f"{known[0]!r}: is {table.item!r} the column of their ids?"
        )
    rows = f"{len(kept):,} rows"
    left = table.frame[table.item].filter(ids.is_null())
    if len(left):
        rows += f" ({len(left):,} left out, whose item is none, such as {left[0]!r})"
    say(
        f"  items {table.name} ({', '.join(further.columns)}): {rows}, for {found:,} of the log's "
        f"{len(known):,} items"
    )
    return kept
