"""The table of items that histories keep: what is known of items beside their events."""

from __future__ import annotations

from typing import Any

import polars as pl

from longrec.core.errors import DataError
from longrec.data.catalog import as_ids
from longrec.data.engine import Engine
from longrec.data.item_table import as_item_table


def items_to_keep(given: Any, engine: Engine) -> pl.DataFrame:
    """A table of items for the log in an engine: first "id", of the log's own type, one row each.

    Parameters
    ----------
    given : as `as_item_table` takes it.
    engine : with the view `events`.

    Raises
    ------
    DataError
        When an id stands there twice, or none of them is one of the log's.
    """
    table = as_item_table(given)
    events = engine.frame("SELECT DISTINCT item FROM events")["item"]
    ids = as_ids(table.frame[table.item], events.dtype, "item")
    kept = table.frame.drop(table.item).insert_column(0, ids.alias("id"))
    kept = kept.filter(pl.col("id").is_not_null())
    twice = kept["id"].filter(kept["id"].is_duplicated())
    if len(twice):
        raise DataError(
            f"{table.name}: the item {twice[0]!r} stands in {(twice == twice[0]).sum()} rows; give "
            "one row for each item"
        )
    known = kept["id"].is_in(events.implode()).sum()
    if not known:
        raise DataError(
            f"{table.name}: none of its {len(kept):,} items is one of the log's, such as "
            f"{events[0]!r}: is {table.item!r} the column of their ids?"
        )
    return kept
