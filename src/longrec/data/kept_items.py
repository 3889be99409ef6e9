"""The table of items that histories keep: what is known of items beside their events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from longrec.core.errors import DataError
from longrec.data.catalog import as_ids
from longrec.data.item_table import as_item_table
from longrec.data.read import Events

ID = "item"
"""Of the kept table, the column of ids."""


def items_to_keep(given: Any, events: Events, say: Callable[[str], None]) -> pl.DataFrame:
    """A table of items for a log: first "item", ids of the log's own type, then the rest.

    Parameters
    ----------
    given : as `as_item_table` takes it; the column of ids may be called as in the log, and text
        that is not UTF-8 is read as the log's.
    events : the log.
    say : is told what was found.

    Raises
    ------
    DataError
        When an id stands there twice, or none of them is one of the log's.
    """
    table = as_item_table(given, events.names["item"], events.options["encoding"])
    further = table.frame.drop(table.item)
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
            f"{table.name}: none of its {len(kept):,} items is one of the log's, such as "
            f"{known[0]!r}: is {table.item!r} the column of their ids?"
        )
    say(
        f"  items {table.name} ({', '.join(further.columns)}): {len(kept):,} rows, for {found:,} of "
        f"the log's {len(known):,} items"
    )
    return kept
