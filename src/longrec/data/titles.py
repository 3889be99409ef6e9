"""Titles of items, for people who read a report: where a log has them in a column of events."""

from __future__ import annotations

from typing import Any

import numpy as np

from longrec.data.histories import Histories

TITLE_COLUMNS = ("title", "name", "item_title", "item_name", "product_title", "product_name")
"""Columns of events that are taken for titles of items, the first that there is."""


def item_titles(histories: Histories, items: np.ndarray) -> dict[Any, str]:
    """Titles of some items by their ids.

    Parameters
    ----------
    histories : Histories
    items : ndarray
        Item indices (n,) of the histories' catalog; 0 is none.

    Returns
    -------
    dict
        Of those that have one, that of their first event with a title; {} where the events have no
        such column.
    """
    columns = histories.columns
    name = next((n for n in TITLE_COLUMNS if n in columns and columns[n].is_text), None)
    wanted = np.unique(items[items > 0])
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
