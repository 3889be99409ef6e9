"""What workers do for a log: load some files, divide events by user, write a shard.

Each call reads files in the stage, a folder that all machines see, and writes its own there, which
take their names when they are whole: a call may be made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from longrec.cluster.portions import ENCODING, PART, Portion, marks_in
from longrec.core.errors import DataError, LongrecError
from longrec.core.files import disk_full
from longrec.core.memory import available_memory, resident_bytes
from longrec.data.bad_rows import BadRow
from longrec.data.coding import code_events
from longrec.data.engine import Engine, engine_errors, literal, path_literal, unreadable
from longrec.data.events import Events
from longrec.data.filters import Filters
from longrec.data.histories import Histories, open_histories
from longrec.data.kept_events import KeptEvents, extended, filtered
from longrec.data.load import Loader
from longrec.data.outliers import Repeats
from longrec.data.prepare import items_left, write_kept
from longrec.data.survey import take_headers_out

EMPTY = "no-events.parquet"
"""The file of the stage with the columns of events: in a shard of old histories none may be new."""
LEAST = 512 << 20
"""Bytes that a worker may hold at least, Python and libraries included."""


@dataclass(frozen=True)
class Room:
    """Where workers work: the stage, how many share a machine, and the memory that each may hold
    (None: its part of half of what is free)."""

    stage: Path
    beside: int
    memory: int | None

    @contextmanager
    def engine(self, name: str, source: str) -> Iterator[Engine]:
        """An engine of one thread for a call of that name; its errors are explained."""
        memory = self.memory
        if memory is None:
            held = resident_bytes() or 0
            memory = max((available_memory() + held) // (2 * self.beside), held + LEAST)
        if not self.stage.is_dir():
            raise LongrecError(f"{self.stage} is gone: the command has ended, or this is no folder")
        engine = Engine(memory, self.stage / name, threads=1)
        try:
            yield engine
        except engine_errors() as error:
            full = disk_full(error)
            if full is not None:
                place = self.stage.parent
                raise LongrecError(f"{place}: {full}; free space on it, or use another") from error
            raise unreadable(source, error, "run the command again") from error
        finally:
            engine.close()


@dataclass(frozen=True)
class Loading:
    """How parts are loaded; see `Loader`."""

    room: Room
    wanted: Mapping[str, tuple[str, str]]
    encoding: str | None
    keep_bad: bool
    hex: frozenset[str]


@dataclass(frozen=True)
class Loaded:
    """A portion that was loaded into a file.

    Attributes
    ----------
    file : with columns rowid, part and the wanted ones.
    rows : in the file.
    read : of the portion, and some perhaps taken out.
    bad : part, line, cause and text of rows that are none; lines of a piece are counted there.
    again, goes_on : see `Loader`.
    marks : how many line ends and quote marks a piece of text has.
    """

    file: Path
    rows: int
    read: int
    bad: list[tuple[int, int, str, str]]
    again: list[BadRow]
    goes_on: dict[int, bool]
    marks: tuple[int, int] = (0, 0)


def load(how: Loading, number: int, portion: Portion) -> Loaded | None:
    """Load a portion of a log into a Parquet file; None: it is no piece that can stand alone."""
    name = f"raw-{number:06}"
    place = how.room.stage / f"{name}.parquet"
    parts, piece = portion.parts, portion.is_piece
    with how.room.engine(name, parts[0].name) as engine:
        encoding, keep_bad = (ENCODING, True) if piece else (how.encoding, how.keep_bad)
        loader = Loader(engine, parts, how.wanted, encoding, keep_bad, how.hex)
        try:
            for part in range(len(parts)):
                loader.load(part, None)
        except DataError:
            portion.check()
            if piece and parts[0].untyped:  # the whole file tells what is wrong with it
                return None
            raise
        portion.check()
        firsts = "SELECT part AS of, min(rowid) AS first FROM raw GROUP BY 1"
        engine.run(f"CREATE TABLE firsts AS {firsts}")
        read = engine.row("SELECT count(*) AS n FROM raw")["n"]
        if how.keep_bad:  # else all are told at once
            take_headers_out(loader)
        own = f"(part + {portion.first})::BIGINT"
        row = f"{own} * {PART} + {portion.begin} + raw.rowid - first"
        values = ", ".join([f"{row} AS rowid", f"{own} AS part", *loader.raw.values()])
        copy(engine, f"SELECT {values} FROM raw JOIN firsts ON part = of", place)
        return Loaded(
            place,
            rows=engine.row("SELECT count(*) AS n FROM raw")["n"],
            read=read,
            bad=engine.run(f"SELECT {own}, line, cause, text FROM bad ORDER BY part, line"),
            again=loader.again,
            goes_on={number + portion.first: so for number, so in loader.goes_on.items()},
            marks=marks_in(loader.file(0).path) if piece and parts[0].untyped else (0, 0),
        )


@dataclass(frozen=True)
class Old:
    """Histories that a log is put behind.

    Attributes
    ----------
    path, fingerprint : of their folder, which all machines see.
    bounds : the row of the first user of each shard, and their number; further shards have none.
    """

    path: Path
    fingerprint: str
    bounds: list[int]

    def of_shard(self, shard: int) -> Histories:
        """Those of the users of a shard."""
        histories = _opened(self.path, self.fingerprint)
        first, end = (self.bounds[min(shard + n, len(self.bounds) - 1)] for n in (0, 1))
        return histories.of_users(first, end)


@lru_cache(maxsize=1)
def _opened(path: Path, fingerprint: str) -> Histories:
    """Histories, opened once for all calls of a command."""
    found = open_histories(path)
    if found.fingerprint != fingerprint:
        raise DataError(f"{path} was replaced while it was in use: run the command again.")
    return found


@dataclass(frozen=True)
class Log:
    """A log that was surveyed, as workers read it.

    Attributes
    ----------
    room : Room
    view : SQL that makes `events` of `raw`, as the survey did.
    facts : the attributes of `Events` but for the engine and the number of rows.
    shard : SQL that tells the shard of an event whose user has none in `known`.
    known : Parquet file with `id` and `shard` of users that histories have already; or None.
    old : those histories, which are extended; or None.
    labels : words of text columns, by the column's name; none before they are known.
    """

    room: Room
    view: str
    facts: Mapping[str, Any]
    shard: str
    known: Path | None = None
    old: Old | None = None
    labels: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The log's name."""
        return str(self.facts["source"])


def divide(log: Log, number: int, raw: Path) -> int:
    """Divide loaded rows by shard, and say which items and words they have; -> their number.

    In the folder `split-N`: `shard=S/….parquet`, `items.parquet` (id, n) and `words-I.parquet`.
    """
    with log.room.engine(f"split-{number:06}", log.source) as engine:
        engine.run(f"CREATE VIEW raw AS SELECT * FROM {in_parquet([raw])}")
        engine.run(log.view)
        with _whole(log.room.stage / f"split-{number:06}") as folder:
            to = f"{literal(str(folder))} (FORMAT parquet, PARTITION_BY (shard))"
            shard, of = log.shard, "events"
            if log.known is not None:
                shard = f"coalesce(known.shard, {shard})"
                of += f" LEFT JOIN {in_parquet([log.known])} AS known ON events.user = known.id"
            engine.run(f"COPY (SELECT events.*, {shard} AS shard FROM {of}) TO {to}")
            counts = "SELECT item AS id, count(*) AS n FROM events GROUP BY 1"
            copy(engine, counts, folder / "items.parquet")
            for i, name in enumerate(log.facts["columns"]):
                if log.facts["types"][name] == "VARCHAR":
                    words = f"SELECT DISTINCT x{i} AS id FROM events WHERE x{i} IS NOT NULL"
                    copy(engine, words, folder / f"words-{i}.parquet")
        return int(engine.row("SELECT count(*) AS n FROM events")["n"])


@dataclass(frozen=True)
class Sifted:
    """What is left of a shard.

    Attributes
    ----------
    counts : events of each item (n_items,).
    dropped : what was left out, by reason.
    users : of it, before filters.
    late : see `KeptEvents`.
    """

    counts: np.ndarray
    dropped: dict[str, int]
    users: int
    late: int


def sift(log: Log, shard: int, items: Path, filters: Filters) -> Sifted:
    """Count what filters leave of a shard, or old histories and it have; `items` as of `write`."""
    with _kept(log, shard, pl.read_parquet(items), filters) as (_, kept):
        return Sifted(kept.counts, kept.dropped, len(kept.coded.user_ids), kept.late)


@dataclass(frozen=True)
class Written:
    """A shard that was written: its folder's name, None where no event is left, and counts."""

    name: str | None
    events: int
    repeats: int
    dropped: dict[str, int]


def write(log: Log, shard: int, items: Path, filters: Filters, folder: Path) -> Written:
    """Write the histories of a shard into a folder.

    Parameters
    ----------
    items : Parquet file with the id of every item of the log, `n` events that the filters leave of
        it in all shards, and whether it is `gone` from the k-core.
    """
    frame, repeats, name = pl.read_parquet(items), Repeats(), f"shard-{shard:05}"
    with _kept(log, shard, frame, filters) as (events, kept):
        left = int(kept.lengths.sum())
        if not left:
            return Written(None, 0, 0, kept.dropped)
        catalog, rows = items_left(kept.coded, frame["n"].to_numpy(), kept.keep_all)
        write_kept(
            *(folder / name, kept, catalog, rows, repeats, events, events.source),
            beside=None,
            overwrite=True,  # an earlier call may have ended just behind its rename
            progress=None,
        )
    return Written(name, left, repeats.count, kept.dropped)


@contextmanager
def _kept(
    log: Log, shard: int, items: pl.DataFrame, filters: Filters
) -> Iterator[tuple[Events, KeptEvents]]:
    """The events of a shard, and what filters leave of them."""
    stage = log.room.stage
    files = [stage / EMPTY, *sorted(stage.glob(f"split-*/shard={shard}/*.parquet"))]
    with log.room.engine(f"shard-{shard:05}", log.source) as engine:
        engine.run(f"CREATE VIEW events AS SELECT * FROM {in_parquet(files)}")
        count = engine.row("SELECT count(*) AS n FROM events")["n"]
        events = Events(engine=engine, n_events=count, **log.facts)
        ids = items["id"].alias("item")
        if log.old is not None:
            old = log.old.of_shard(shard)
            coded = code_events(events, old.user_ids, ids, log.labels)
            yield events, extended(events, old, coded)
            return
        coded = code_events(events, None, ids, log.labels)
        gone = np.flatnonzero(items["gone"].to_numpy())
        yield events, filtered(events, coded, filters, gone)


def in_parquet(files: Iterable[Path]) -> str:
    """Parquet files behind FROM, whatever their folders are called."""
    paths = ", ".join(map(path_literal, files))
    return f"read_parquet([{paths}], hive_partitioning = false)"


def copy(engine: Engine, query: str, place: Path) -> None:
    """A query's rows to a Parquet file, which appears whole."""
    part = place.with_name(f".{place.name}.part")
    engine.run(f"COPY ({query}) TO {literal(str(part))} (FORMAT parquet)")
    part.replace(place)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A new folder that takes a name when it is whole, whatever an earlier call left there."""
    part = path.with_name(f".{path.name}.part")
    for old in (part, path):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir()
    yield part
    os.replace(part, path)
