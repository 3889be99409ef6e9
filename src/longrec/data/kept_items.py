"""What is known of items beside their events, such as titles: a table that histories keep."""

from __future__ import annotations

from typing import Any

import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import as_ids
from longrec.data.columns import NAMES, plain_name
from longrec.data.engine import Engine, engine_errors, unreadable
from longrec.data.load import Loader
from longrec.data.read import Events
from longrec.data.sources import HINTS, open_source

FILE = "items.parquet"


def read_item_table(source: Any, events: Events) -> pl.DataFrame:
    """A table of items, whose first column "id" holds ids of the log's own type.

    Parameters
    ----------
    source : a file or frame, as `read_events` takes it.
    events : of the log, whose name of the item column is looked for first.

    Raises
    ------
    UsageError
        When no column has the items' ids.
    DataError
        When it cannot be read, or an id stands there twice.
    """
    engine = Engine()
    try:
        [part, *more] = open_source(source, engine, lambda line: None)
        if more:
            raise UsageError(f"items names {len(more) + 1} files; give one table of items")
        name = _id_column(list(part.types), events.names["item"])
        if name is None:
            raise UsageError(
                f"{part.name}: no column holds the ids of items. Call it "
                f"{events.names['item']!r}, as the log does; the columns are {', '.join(part.types)}."
            )
        wanted = {column: (column, kind) for column, kind in part.types.items()}
        loader = Loader(engine, wanted, None, False, frozenset())
        loader.load(0, part, None)
        table = engine.frame("SELECT * EXCLUDE (part) FROM raw ORDER BY rowid")
        table = table.rename(dict(zip(table.columns, part.types, strict=True)))
    except engine_errors() as error:
        raise unreadable(str(source), error, HINTS["text"]) from error
    finally:
        engine.close()
    [(kind,)] = events.engine.run("SELECT typeof(item) FROM events LIMIT 1")
    wanted_type = events.engine.frame("SELECT item FROM events LIMIT 0")["item"].dtype
    ids = as_ids(table[name], wanted_type, "item")
    table = table.drop(name).insert_column(0, ids.alias("id")).filter(pl.col("id").is_not_null())
    twice = table.filter(pl.col("id").is_duplicated())
    if len(twice):
        raise DataError(
            f"{part.name}: the item {twice['id'][0]!r} stands in it {len(twice.filter(pl.col('id') == twice['id'][0]))} times: "
            "leave one row for each item."
        )
    if table.is_empty():
        raise DataError(
            f"{part.name}: no id in the column {name!r} could be one of the log's, which are {kind}."
        )
    return table


def _id_column(columns: list[str], wanted: str) -> str | None:
    if wanted in columns:
        return wanted
    by_plain = {plain_name(name): name for name in columns}
    for word in (wanted, *NAMES["item"].split(), "id"):
        if plain_name(word) in by_plain:
            return by_plain[plain_name(word)]
    return None
