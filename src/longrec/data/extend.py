"""New events behind old histories: who and what was known keeps its index, the new is appended.

A history is what a model knows of a user, so that a log of today's events alone would make a
stranger of everybody. Old and new events of a user are merged by time, an old event before a new
one of the same second, and neither log's own order is ever changed. Events that both logs hold are
taken once, so that overlapping exports do no harm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.data.coding import Coded
from longrec.data.engine import Engine
from longrec.data.events import Events
from longrec.data.histories import Histories
from longrec.data.types import INTEGERS, shown

WHOLE = (*INTEGERS, "UBIGINT")


def fit_events(events: Events, old: Histories) -> Events:
    """The events with ids of the histories' types, in the view `events`.

    Integers of another width become theirs, and integers become text where theirs is text.

    Raises
    ------
    DataError
        When the ids are of another kind, or one log has times and the other has none.
    UsageError
        When the event columns are not those of the histories.
    """
    if set(events.columns) != set(old.extra):
        raise UsageError(
            f"{old.path} has the event columns {listed(sorted(old.extra))}, and "
            f"{events.source} was read with {listed(sorted(events.columns))}: name the same with "
            "columns= (--keep)."
        )
    if (old.times is None) != (events.time_unit is None):
        having, lacking = (
            (events.source, old.path) if old.times is None else (old.path, events.source)
        )
        raise DataError(
            f"{having} has times and {lacking} has none: give both logs times, or prepare both "
            "without (leave the time column out and use --row-order or --order)."
        )
    engine, casts, types = events.engine, [], dict(events.types)
    for role, ids in (("user", old.user_ids), ("item", old.catalog.ids)):
        with engine.seen(pa.table({"id": ids.head(0).to_arrow()})) as view:
            [(_, ours, *_)] = engine.run(f"DESCRIBE SELECT id FROM {view}")
        theirs = events.types[role]
        if theirs == ours:
            continue
        if not (theirs in WHOLE and (ours in WHOLE or ours == "VARCHAR")):
            raise DataError(
                f"{events.source}: the {role} ids are of type {shown(theirs)}, those of {old.path} "
                f"are {shown(ours)}: no {role} would be known again. Convert the column "
                f"{events.names[role]!r}."
            )
        odd = f"SELECT count(*) AS n FROM events WHERE TRY_CAST({role} AS {ours}) IS NULL"
        if engine.row(odd)["n"]:
            raise DataError(
                f"{events.source}: a {role} id does not fit the type {shown(ours)} of {old.path}. "
                f"Prepare the old log again with a wider type of {events.names[role]!r}."
            )
        types[role] = ours
        casts.append(f"TRY_CAST({role} AS {ours}) AS {role}")
    if casts:
        [(sql,)] = engine.run("SELECT sql FROM duckdb_views() WHERE view_name = 'events'")
        query = sql.partition(" AS ")[2].rstrip("; ")
        engine.run(
            f"CREATE OR REPLACE VIEW events AS SELECT * REPLACE ({', '.join(casts)}) FROM ({query})"
        )
    return replace(events, types=types)


def merge(engine: Engine, old: Histories, coded: Coded) -> tuple[int, int]:
    """Make the table `kept` of the events of both logs, `key` being their order within a user.

    -> how many duplicates were left out, and how many new events came late.

    Parameters
    ----------
    engine
        with the view `coded` of the new events, whose ids begin with the old ones.
    old
        the histories.
    """
    if set(coded.labels) != set(old.meta.labels):
        raise DataError(
            f"{old.path} has text in the event columns {listed(sorted(old.meta.labels))}, the new "
            f"log in {listed(sorted(coded.labels))}: convert them to one type."
        )
    _known(engine, old, coded)
    values = ", ".join(coded.values)
    engine.run(
        f"CREATE OR REPLACE TABLE fresh AS SELECT user, {values}, "
        "row_number() OVER (ORDER BY user, key, row) AS place FROM coded"
    )
    for i, name in enumerate(coded.columns):
        _same_kind(engine, old, name, f"x{i}")
    skipped = _drop_duplicates(engine) if coded.has_time else 0
    # A log may be in an order of its own (order=, row_order=), which is kept whatever its times:
    # an event then counts as happening no earlier than those before it.
    clock = "max(time) OVER (PARTITION BY user ORDER BY place ROWS UNBOUNDED PRECEDING)"
    clock = clock if coded.has_time else "0"
    both = " UNION ALL BY NAME ".join(
        f"SELECT user, {values}, {clock} AS clock, {source} AS source, place FROM {table}"
        for source, table in enumerate(("known", "fresh"))
    )
    # Ties: the old come first.
    engine.run(
        f"CREATE OR REPLACE TABLE kept AS SELECT user, {values}, clock, source, "
        "row_number() OVER (PARTITION BY user ORDER BY clock, source, place) AS key, 0 AS row "
        f"FROM ({both})"
    )
    late = engine.row(
        "SELECT count(*) AS n FROM kept f JOIN "
        "(SELECT user, max(clock) AS latest FROM kept WHERE source = 0 GROUP BY 1) k "
        "ON f.user = k.user WHERE f.source = 1 AND f.clock < k.latest"
    )["n"]
    return skipped, int(late)


def _known(engine: Engine, old: Histories, coded: Coded) -> None:
    """The table `known` of the old events, with the same columns as the new ones."""
    users = np.repeat(np.arange(old.n_users, dtype=np.int32), old.lengths)
    columns: dict[str, np.ndarray] = {"user": users, "item": old.items - np.int32(1)}
    if old.times is not None:
        columns["time"] = old.times
    columns |= {f"x{i}": old.extra[name] for i, name in enumerate(coded.columns)}
    columns["place"] = np.arange(old.n_events)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with engine.seen(table) as view:
        engine.run(f"CREATE OR REPLACE TABLE known AS SELECT * FROM {view}")


def _same_kind(engine: Engine, old: Histories, name: str, column: str) -> None:
    """Raise DataError where a further column holds another kind of numbers than it did."""
    found = engine.frame(f"SELECT {column} FROM fresh LIMIT 0")[column].to_numpy().dtype
    if old.extra[name].dtype.kind != found.kind:
        raise DataError(
            f"column {name!r} is {old.extra[name].dtype} in {old.path} and {found} in the new log: "
            "convert one."
        )


def _drop_duplicates(engine: Engine) -> int:
    """Delete the new events that the old log holds; -> how many.

    An event that occurs m times in the old log and n times in the new one is new n - m times.
    """
    [(count,)] = engine.run(
        "DELETE FROM fresh WHERE place IN (SELECT place FROM ("
        "  SELECT place, user, item, time, "
        "  row_number() OVER (PARTITION BY user, item, time ORDER BY place) AS number FROM fresh) f"
        " JOIN (SELECT user, item, time, count(*) AS held FROM known"
        "  WHERE time >= (SELECT min(time) FROM fresh) GROUP BY ALL) k"
        " USING (user, item, time) WHERE number <= held)"
    )
    return int(count)
