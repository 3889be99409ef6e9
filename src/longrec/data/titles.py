"""Titles of items, for people who read a report: from an item table, or a column of events."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.data.histories import Histories
from longrec.data.item_table import ItemTable
from longrec.data.kept_items import kept_table

TITLE_COLUMNS = ("title", "name", "item_title", "item_name", "product_title", "product_name")
"""Columns that are taken for titles of items, the first that there is."""


def item_titles(
    histories: Histories, items: np.ndarray, table: ItemTable | None = None
) -> dict[Any, str]:
    """Titles of some items by their ids.

    Parameters
    ----------
    histories : Histories
    items : ndarray
        Item indices (n,) of the histories' catalog; 0 is none.
    table : ItemTable or None
        Where titles stand; None: in the table that the histories keep, or else in a column of the
        events, if there is one.

    Returns
    -------
    dict
        Of those items that have one: the first of the table, or that of their first event with a
        title.

    Raises
    ------
    UsageError
        When the table has no column of titles.
    """
    wanted = np.unique(items[items > 0])
    kept = kept_table(histories) if table is None else None
    if kept is not None and title_column(kept.frame) is not None:
        table = kept
    if table is not None:
        return _of_table(table, histories.catalog.take(wanted).to_list())
    columns = histories.columns
    name = next((n for n in TITLE_COLUMNS if n in columns and columns[n].is_text), None)
    if name is None or not len(wanted):
        return {}
    words = columns[name].words
    assert words is not None
    codes = histories.extra[name]
    places = np.flatnonzero(np.isin(histories.items, wanted))
    places = places[codes[places] >= 0]
    found, first = np.unique(histories.items[places], return_index=True)
    titles = [words[code] for code in codes[places[first]]]
    return dict(zip(histories.catalog.take(found).to_list(), titles, strict=True))


def title_column(frame: pl.DataFrame) -> str | None:
    """The column of titles, None where no name says that it is one."""
    return next((name for name in frame.columns if name.lower() in TITLE_COLUMNS), None)


def _of_table(table: ItemTable, ids: list[Any]) -> dict[Any, str]:
    frame = table.frame
    title = title_column(frame)
    if title is None:
        raise UsageError(
            f"{table.name} has no column of titles; its columns are {listed(frame.columns)}. "
            "Call one title"
        )
    by_text = {str(id): id for id in ids}
    id_of = pl.col(table.item).cast(pl.String, strict=False)
    found = frame.select(id_of.alias("id"), pl.col(title).cast(pl.String, strict=False).alias("t"))
    found = found.drop_nulls().filter(pl.col("id").is_in(list(by_text)))
    found = found.unique("id", keep="first", maintain_order=True)
    return {by_text[id]: text for id, text in found.rows()}
