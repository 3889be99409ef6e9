"""A log prepared by a Ray cluster: the histories that one machine would make, in shards.

Files are loaded by workers, one or more at a time, into Parquet files that all machines see. This
process looks at the columns of all of them, as it would on one machine: what is an integer, what a
time, which row cannot be used. Workers then divide the events into ranges of user ids, so that no
history is in two, and write each range as histories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from longrec.cluster import log_tasks
from longrec.cluster.log_tasks import EMPTY, Loading, Log, Old, Room, copy, in_parquet
from longrec.cluster.ray_cluster import Cluster
from longrec.cluster.reading import Reading, told
from longrec.core.errors import UsageError, our_fault
from longrec.data.coding import known_first, refuse_null
from longrec.data.engine import Engine, StageProgress, literal
from longrec.data.events import Events
from longrec.data.extend import fit_events
from longrec.data.filters import Filters
from longrec.data.histories import Histories
from longrec.data.kept_events import nothing_left, tell_extended, with_earlier
from longrec.data.load import Loader
from longrec.data.outliers import Repeats
from longrec.data.write import write_shards

SHARD = 1 << 25
"""Events of a shard, where there are more than workers could share out among them."""
SAMPLE = 100_000
"""Events by whose users the shards are made even."""


class LogWorkers:
    """Workers of a cluster, as `longrec.prepare` takes them.

    Parameters
    ----------
    cluster : Cluster
    memory : bytes that each worker may hold; None: its part of half of what is free there.
    """

    def __init__(self, cluster: Cluster, memory: int | None = None) -> None:
        self.cluster, self.memory = cluster, memory
        self._raw: list[Path] = []

    def load(self, loader: Loader, progress: StageProgress | None) -> None:
        """See `longrec.data.prepare.Workers`."""
        engine, parts = loader.engine, loader.parts
        for part in parts:
            if part.file is None:
                raise UsageError(
                    f"{part.name} lies in this process, and workers read files: write it to one, "
                    "or leave the engine out"
                )
        how = Loading(
            Room(engine.work.path.resolve(), self.cluster.beside, self.memory),
            *(loader.wanted, loader.encoding, loader.keep_bad, loader.queries.hex),
        )
        reading = Reading(self.cluster, how, loader, progress)
        self._raw = reading.read()
        engine.run("DROP TABLE raw")
        engine.run(f"CREATE VIEW raw AS SELECT * FROM {in_parquet(self._raw)}")
        there = engine.row("SELECT count(*) AS n FROM raw")["n"]
        if there != reading.rows:
            raise our_fault(
                f"{parts[0].name}: of {reading.rows:,} rows {there:,} came from the workers"
            )

    def write(
        self,
        events: Events,
        old: Histories | None,
        filters: Filters,
        out: Path,
        repeats: Repeats,
        beside: Callable[[Path], None],
        overwrite: bool,
        say: Callable[[str], None],
        progress: StageProgress | None,
    ) -> Histories:
        """See `longrec.data.prepare.Workers`."""
        engine = events.engine
        for name in events.columns:
            refuse_null(events, name)
        stage = engine.work.path.resolve()
        copy(engine, "SELECT * FROM events LIMIT 0", stage / EMPTY)
        room = Room(stage, self.cluster.beside, self.memory)
        log, shards = self._in_shards(room, events, old)
        calls = ((log, number, raw) for number, raw in enumerate(self._raw))
        done = told(progress, "dividing events by user", len(self._raw))
        divided = sum(self.cluster.run(log_tasks.divide, calls, done))
        if divided != events.n_events:
            raise our_fault(
                f"{events.source}: of {events.n_events:,} events {divided:,} came through"
            )
        splits = sorted(log.room.stage.glob("split-*/"))
        items = in_parquet(split / "items.parquet" for split in splits)
        counts = engine.frame(f"SELECT id, sum(n)::BIGINT AS n FROM {items} GROUP BY 1 ORDER BY 1")
        if old is not None:
            counts = pl.DataFrame({"id": known_first(old.catalog.ids, counts["id"]), "n": 0})
        labels = _labels(engine, events, splits, {} if old is None else old.meta.labels)
        work = _Filtering(self.cluster, replace(log, labels=labels), shards, counts, progress)
        dropped = {"bad_rows": len(events.bad_rows)} if events.bad_rows else {}
        if events.bad_rows:
            say(f"  left out {len(events.bad_rows):,} rows that cannot be used")
        losses = work.apply(filters)
        dropped |= losses
        if old is None:
            for name, count in losses.items():
                say(f"  dropped {count:,} {name.replace('_', ' ')}")
            if not work.counts.sum():
                raise nothing_left(events, losses)
        else:
            sizes = work.users, len(counts), int(work.counts.sum())
            tell_extended(old, *sizes, losses["duplicate_events"], work.late, say)
            dropped = with_earlier(dropped, old)

        def write(folder: Path) -> Sequence[str]:
            found = work.write(filters, folder.resolve())
            left = sum(one.events for one in found)
            if left != work.counts.sum():
                raise our_fault(
                    f"{events.source}: of {work.counts.sum():,} events {left:,} came out"
                )
            repeats.count += sum(one.repeats for one in found)
            beside(folder)
            return [one.name for one in found if one.name is not None]

        return write_shards(
            *(out, write),
            source=events.source if old is None else f"{old.meta.source} + {events.source}",
            dropped=dropped,
            options=events.options,
            overwrite=overwrite,
        )

    def _in_shards(self, room: Room, events: Events, old: Histories | None) -> tuple[Log, int]:
        """The log as workers read it, and how many shards its users are divided into.

        Users of old histories come first and in their order, as on one machine.
        """
        engine, known, before, ours = events.engine, None, 0, None
        if old is not None:
            events = fit_events(events, old)
            wanted = self._shards(old.n_events)
            places = np.arange(wanted) * old.n_events // wanted
            rows = np.unique(np.searchsorted(old.offsets, places, "right") - 1)
            rows[0] = 0
            ours = Old(old.path.resolve(), old.fingerprint, [*rows.tolist(), old.n_users])
            known, before = room.stage / "known.parquet", len(rows)
            shard = np.searchsorted(rows, np.arange(old.n_users), "right") - 1
            pl.DataFrame({"id": old.user_ids, "shard": shard}).write_parquet(known)
        bounds = _bounds(engine, events, self._shards(events.n_events), known)
        log = Log(
            room,
            engine.row("SELECT sql FROM duckdb_views() WHERE view_name = 'events'")["sql"],
            _facts(events),
            _shard_of("user", bounds, events.types["user"], before),
            known,
            ours,
        )
        return log, before + len(bounds) + 1

    def _shards(self, events: int) -> int:
        return max(self.cluster.slots, -(-events // SHARD))


class _Filtering:
    """What is left of all shards: what a filter leaves out may depend on what is in the others.

    Attributes
    ----------
    counts : (n_items,) events of each item that are left.
    users, late : of all shards; see `Sifted`.
    """

    def __init__(
        self,
        cluster: Cluster,
        log: Log,
        shards: int,
        items: pl.DataFrame,
        progress: StageProgress | None,
    ) -> None:
        self.cluster, self.log, self.shards, self.progress = cluster, log, shards, progress
        self.ids, self.counts = items["id"], items["n"].to_numpy()
        self.gone = np.zeros(len(items), bool)
        self.users = self.late = self._written = 0

    def apply(self, filters: Filters) -> dict[str, int]:
        """Count what all filters leave; -> what they leave out, by reason, as on one machine."""
        if self.log.old is not None:
            return self._sift(filters)
        if not filters.any:
            return {}
        losses, present = dict[str, int](), int((self.counts > 0).sum())
        if filters.k_core > 1:
            core = replace(filters, min_length=1)
            while True:
                losses = self._sift(core)
                gone = self.counts < filters.k_core
                if np.array_equal(gone, self.gone):
                    break
                self.gone = gone
            losses["k_core_items"] = present - int((self.counts > 0).sum())
            present -= losses["k_core_items"]
        if filters.min_length > 1 or filters.k_core <= 1:
            core_items = losses.get("k_core_items")
            losses = self._sift(filters)
            if core_items is not None:
                losses["k_core_items"] = core_items
            if "short_items" in losses:
                losses["short_items"] = present - int((self.counts > 0).sum())
        return losses

    def _sift(self, filters: Filters) -> dict[str, int]:
        """Count once; -> losses, summed over shards."""
        losses, counts = dict[str, int](), np.zeros(len(self.ids), np.int64)
        self.users = self.late = 0
        for found in self._run(log_tasks.sift, "filtering", filters):
            counts += found.counts
            self.users, self.late = self.users + found.users, self.late + found.late
            for name, count in found.dropped.items():
                losses[name] = losses.get(name, 0) + count
        self.counts = counts
        return losses

    def write(self, filters: Filters, folder: Path) -> list[log_tasks.Written]:
        """Write all shards."""
        return self._run(log_tasks.write, "writing histories", filters, folder)

    def _run(self, function: Callable[..., Any], words: str, *further: Any) -> list[Any]:
        """Call a function for all shards, with the items as they are known now."""
        self._written += 1
        place = self.log.room.stage / f"items-{self._written}.parquet"
        pl.DataFrame({"id": self.ids, "n": self.counts, "gone": self.gone}).write_parquet(place)
        calls = ((self.log, shard, place, *further) for shard in range(self.shards))
        done = told(self.progress, words, self.shards)
        return list(self.cluster.run(function, calls, done))


def _facts(events: Events) -> dict[str, Any]:
    """What workers are told of a log."""
    own = {field.name: getattr(events, field.name) for field in fields(Events)}
    del own["engine"], own["n_events"]
    return own | {"bad_rows": (), "notes": ()}


def _bounds(engine: Engine, events: Events, shards: int, known: Path | None = None) -> list[Any]:
    """Ids of users at which shards begin, but for the first one, by a sample of events.

    known : Parquet file with the `id` of users that are in other shards.
    """
    every = max(1, events.n_events // SAMPLE)
    query = f"SELECT user FROM events WHERE hash(row) % {every} = 0"
    if known is not None:
        query += f" AND user NOT IN (SELECT id FROM {in_parquet([known])})"
    users = engine.frame(f"{query} ORDER BY 1")["user"]
    places = [len(users) * n // shards for n in range(1, shards)]
    bounds = dict.fromkeys(users[place] for place in places if place < len(users))
    return [user for user in bounds if user != users[0]]


def _shard_of(user: str, bounds: Sequence[Any], kind: str, first: int = 0) -> str:
    """How many bounds a user is not before, in SQL, by halving."""
    if not bounds:
        return str(first)
    middle = len(bounds) // 2
    value = bounds[middle]
    if not isinstance(value, int | str):
        value = str(value)
    low = _shard_of(user, bounds[:middle], kind, first)
    high = _shard_of(user, bounds[middle + 1 :], kind, first + middle + 1)
    return f"CASE WHEN {user} < {literal(value)}::{kind} THEN {low} ELSE {high} END"


def _labels(
    engine: Engine, events: Events, splits: Sequence[Path], known: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Words of text columns, those that are known first, then others in order."""
    found = {}
    for i, name in enumerate(events.columns):
        if events.types[name] == "VARCHAR":
            files = in_parquet(split / f"words-{i}.parquet" for split in splits)
            words = engine.frame(f"SELECT DISTINCT id FROM {files} ORDER BY 1")["id"]
            old = pl.Series("id", known.get(name, []), dtype=pl.String)
            found[name] = known_first(old, words.cast(pl.String)).to_list()
    return found
