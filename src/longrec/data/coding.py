"""Ids and words to numbers: the events of a log as rows of small integers, in the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from longrec.core.errors import DataError
from longrec.data.engine import Engine
from longrec.data.events import Events

MOST = np.iinfo(np.int32).max - 1


@dataclass(frozen=True)
class Coded:
    """The view `coded` of the table `events`, and what its numbers stand for.

    Its columns are `user` and `item` (rows of the ids), `time` (seconds, if the log has times),
    `key` (what orders a user's events), `x0`, `x1`, … (further columns) and `row`.

    Attributes
    ----------
    user_ids, item_ids : (n,) ids.
    user_counts, item_counts : (n,) events of each.
    labels : words of text columns, by the column's name.
    columns : names of the further columns.
    has_time : whether the log has times.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    user_counts: np.ndarray
    item_counts: np.ndarray
    labels: dict[str, list[str]]
    columns: tuple[str, ...]
    has_time: bool

    @property
    def values(self) -> list[str]:
        """What histories keep of an event, as columns of the view."""
        further = [f"x{i}" for i in range(len(self.columns))]
        return ["item", *(["time"] if self.has_time else []), *further]


def code_events(
    events: Events,
    user_ids: pl.Series | None = None,
    item_ids: pl.Series | None = None,
    known: Mapping[str, list[str]] | None = None,
) -> Coded:
    """Make the view.

    Parameters
    ----------
    events : Events
    user_ids, item_ids : ids that keep their row, whatever the log holds; new ones follow.
    known : words of text columns that keep their code; new ones follow.
    """
    engine = events.engine
    users, user_counts = _ids(engine, "user", user_ids)
    items, item_counts = _ids(engine, "item", item_ids)
    further, labels = [], dict[str, list[str]]()
    for i, name in enumerate(events.columns):
        kind, value = events.types[name], f"e.x{i}"
        if kind == "VARCHAR":
            words = _words(engine, i, (known or {}).get(name, []))
            labels[name] = words.to_list()
            value = f"coalesce(w{i}.code, -1)"
        else:
            refuse_null(events, name)
            value = f"{value}::UTINYINT" if kind == "BOOLEAN" else value
        further.append(f"{value} AS x{i}")
    has_time = "time" in events.names
    times = (
        [f"{_seconds('e.time', events.types['time'], events.per_second)} AS time"]
        if has_time
        else []
    )
    key = "e.row" if events.row_order else 'e."order"' if "order" in events.names else "e.time"
    selected = ", ".join(
        ["u.code AS user", "i.code AS item", *times, f"{key} AS key", *further, "e.row AS row"]
    )
    joins = "JOIN user_ids u ON e.user = u.id JOIN item_ids i ON e.item = i.id"
    for i, name in enumerate(events.columns):
        if name in labels:
            joins += f" LEFT JOIN words_{i} w{i} ON e.x{i} = w{i}.id"
    engine.run(f"CREATE OR REPLACE VIEW coded AS SELECT {selected} FROM events e {joins}")
    return Coded(users, items, user_counts, item_counts, labels, tuple(events.columns), has_time)


def known_first(old: pl.Series, found: pl.Series) -> pl.Series:
    """Old ids in their order, then those of `found` that are new, in theirs."""
    return pl.concat([old, found.filter(~found.is_in(old.implode())).rename(old.name)])


def _ids(engine: Engine, role: str, known: pl.Series | None) -> tuple[pl.Series, np.ndarray]:
    """Distinct ids, sorted, so that the same events give the same indices in any order of rows.

    Ids that are known come first. Makes a table of them with their code, and counts their events.
    """
    found = engine.frame(f"SELECT {role} AS id, count(*) AS n FROM events GROUP BY 1 ORDER BY 1")
    ids, counts = found["id"], found["n"].to_numpy()
    if known is not None:
        new = known_first(known, ids)
        codes = pl.DataFrame({"id": new}).join(found, on="id", how="left", maintain_order="left")
        ids, counts = new, codes["n"].fill_null(0).to_numpy()
    _make_table(engine, f"{role}_ids", ids)
    return ids.rename(role), counts.astype(np.int64)


def _words(engine: Engine, number: int, known: list[str]) -> pl.Series:
    found = engine.frame(
        f"SELECT DISTINCT x{number} AS id FROM events WHERE x{number} IS NOT NULL ORDER BY 1"
    )["id"].cast(pl.String)
    words = known_first(pl.Series("id", known, dtype=pl.String), found)
    _make_table(engine, f"words_{number}", words)
    return words


def _make_table(engine: Engine, name: str, ids: pl.Series) -> None:
    if len(ids) > MOST:
        raise DataError(f"{len(ids):,} distinct values of {name}: more than int32 can count.")
    codes = pa.array(np.arange(len(ids), dtype=np.int32))
    with engine.seen(pa.table({"id": ids.to_arrow(), "code": codes})) as view:
        engine.run(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {view}")


def refuse_null(events: Events, name: str) -> None:
    """Integers and booleans have no value that says that there is none."""
    column, kind = f"x{events.columns.index(name)}", events.types[name]
    if kind in ("FLOAT", "DOUBLE", "VARCHAR"):
        return
    found = events.engine.row(
        f"SELECT count(*) AS n, min(row) AS first FROM events WHERE {column} IS NULL"
    )
    if found["n"]:
        [(row,)] = events.engine.run(f"SELECT count(*) FROM events WHERE row <= {found['first']}")
        raise DataError(
            f"{events.source}, column {name!r}, row {row} is null. Fill such rows, or leave the "
            "column out."
        )


def _seconds(ticks: str, kind: str, per_second: int) -> str:
    """Whole seconds, rounded down, also before 1970; in SQL."""
    if kind == "DOUBLE":
        return f"floor({ticks} / {per_second})::BIGINT"
    if per_second == 1:
        return ticks
    rest = f"(({ticks} % {per_second}) + {per_second}) % {per_second}"
    return f"(({ticks} - {rest}) // {per_second})"
