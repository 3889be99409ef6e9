"""Events to histories: ids to indices, events to order, and what is left out to counts.

All of it happens in the engine that holds the events, within its memory limit: distinct ids, the
filters, the order of events. They come out in order, some at a time, and are counted on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from longrec.core.arguments import check_called, check_count, check_path, check_progress
from longrec.core.errors import UsageError
from longrec.data.bad_rows import write_bad_rows
from longrec.data.catalog import Catalog
from longrec.data.coding import Coded
from longrec.data.engine import StageProgress, engine_errors, unreadable
from longrec.data.events import Events
from longrec.data.filters import Filters
from longrec.data.histories import ITEM_TABLE, Histories, as_histories, kind_at
from longrec.data.item_table import as_item_table
from longrec.data.kept_events import KeptEvents, in_order, keep_events
from longrec.data.kept_items import items_to_keep
from longrec.data.load import Loader
from longrec.data.object_store import address_of
from longrec.data.outliers import Repeats, one_far_above
from longrec.data.read import read_events
from longrec.data.write import write_chunks

DEDUPS = (False, True, "same-time")
BAD_ROWS = "bad_rows.csv"
"""The file of the folder that tells which rows were left out."""


def prepare(
    source: Any,
    out: Path | str,
    *,
    k_core: int = 0,
    dedup: bool | str = False,
    min_length: int = 1,
    extend: Histories | Path | str | None = None,
    items: Any = None,
    overwrite: bool = False,
    memory: int | None = None,
    escape_formulas: bool = False,
    report: Callable[[str], None] | None = None,
    progress: StageProgress | None = None,
    workers: Workers | None = None,
    **read_options: Any,
) -> Histories:
    """Read a log, order it into histories, and write them to a folder.

    Parameters
    ----------
    source
        `Events`, or whatever `read_events` takes; `read_options` go there.
    out
        the folder to write; it may not exist unless `overwrite` and it holds histories.
    dedup
        True keeps only the first event of each user with each item, "same-time" the first of those
        that also have one time; repeats are kept by default.
    k_core
        drop users and items with fewer events than this, again and again until none is left; 0
        keeps all. Events are counted, so repeats count.
    min_length
        drop histories with fewer events, after the others.
    extend
        histories (or their folder) that the log continues: the result holds both. Old users and
        items keep their index; events that the histories hold already are skipped and counted.
        The log is read as the old one was (`read_options`), where nothing else is said. The
        filters do not combine with it.
    items
        a table of the items, a file or frame: their ids in a column of the name that the log's
        items have, or one that is recognised, and what else is known of them, such as a title. It
        is kept with the histories (`Histories.item_table`).
    memory
        bytes that this process may hold; None: half of what is free.
    escape_formulas
        puts ' before texts in bad_rows.csv that a spreadsheet would take for formulas.
    report
        is called with each line that tells what was read and what was dropped.
    progress
        is called with what is being done and the share of it that is.
    workers
        processes, perhaps of several machines, that do it (`longrec.cluster.prepare`): the
        histories are those that this process would make, in shards.

    Returns
    -------
    Histories
        opened; `meta.dropped` counts what each filter left out.
    """
    k_core = check_count("k_core", k_core, 0)
    min_length = check_count("min_length", min_length, 0)
    if dedup not in DEDUPS:
        raise UsageError(f"dedup is {dedup!r}; give True, False or 'same-time'.")
    out = check_path("out", out)
    if address_of(out) is not None:
        raise UsageError(
            f"out is {str(out)!r}: histories are written to a disk; copy the folder to the store "
            "afterwards (aws s3 cp --recursive, gcloud storage cp -r)"
        )
    check_called("report", report, "there is something to tell")
    check_progress(progress)
    kind_at(out).check_replaceable(out, overwrite=overwrite)
    old = None if extend is None else as_histories("extend", extend)
    if old is not None:
        if k_core > 1 or dedup or min_length > 1:
            raise UsageError(
                "k_core, dedup and min_length do not combine with extend, since an old user or "
                "item could lose its index: leave them out, or prepare both logs together."
            )
        old.verify()  # a damaged byte would get a fresh fingerprint
        if not isinstance(source, Events):
            read_options = old.meta.options | {k: v for k, v in read_options.items() if v}
    item = source.names["item"] if isinstance(source, Events) else read_options.get("item")
    given = items  # read before a long log is
    if items is not None:
        given = as_item_table(items, item, read_options.get("encoding"))
    say = report or (lambda line: None)
    mine = not isinstance(source, Events)
    if mine:
        read_options = {**read_options, "memory": memory, "place": out, "progress": progress}
        if workers is not None:
            read_options["load"] = workers.load
    elif workers is not None:
        raise UsageError("events that are read already lie in this process: give the log itself")
    events = read_events(source, **read_options)
    try:
        say(events.describe())
        table = None if given is None else items_to_keep(given, events, say)
        if table is None and old is not None:
            table = old.item_table

        def beside(folder: Path) -> None:
            if table is not None:
                table.write_parquet(folder / ITEM_TABLE)
            earlier = None if old is None else old.path / BAD_ROWS
            write_bad_rows(folder / BAD_ROWS, events.bad_rows, earlier, escape_formulas)

        filters, repeats = Filters(k_core, dedup, min_length), Repeats()
        if workers is None:
            kept = keep_events(events, old, filters, say)
            source = events.source if old is None else f"{old.meta.source} + {events.source}"
            catalog, items = items_left(kept.coded, kept.counts, kept.keep_all)
            done = write_kept(
                *(out, kept, catalog, items, repeats, events, source, beside, overwrite, progress)
            )
        else:
            done = workers.write(
                *(events, old, filters, out, repeats, beside, overwrite, say, progress)
            )
        _tell(done, repeats, events, say)
        return done
    except engine_errors() as error:
        raise unreadable(events.source, error, "prepare it with more memory") from error
    finally:
        if mine:
            events.engine.close()


class Workers(Protocol):
    """Processes that prepare a log between them; see `longrec.cluster.prepare`."""

    def load(self, loader: Loader, progress: StageProgress | None) -> None:
        """Load all parts of a log, so that the engine's `raw` and `bad` are as of `load_here`."""

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
        """Order the events into histories in shards, behind old ones if any; counts repeats."""


def write_kept(
    out: Path,
    kept: KeptEvents,
    catalog: Catalog,
    items: np.ndarray,
    repeats: Repeats,
    events: Events,
    source: str,
    beside: Callable[[Path], None] | None,
    overwrite: bool,
    progress: StageProgress | None,
) -> Histories:
    """Write the histories of events that stay.

    Parameters
    ----------
    catalog, items : what items they are of, and the row there of each one before filters.
    repeats : counts them.
    beside : writes further files into the folder.
    """
    coded = kept.coded
    user_ids, lengths, _ = _present(coded.user_ids, kept.lengths, kept.keep_all)
    selected = ", ".join(coded.values)
    empty = events.engine.frame(f"SELECT {selected} FROM {kept.table} LIMIT 0")
    return write_chunks(
        out,
        user_ids=user_ids,
        offsets=np.concatenate([[0], lengths.cumsum()]),
        catalog=catalog,
        chunks=in_order(kept, items, repeats, progress),
        has_time=coded.has_time,
        extra={name: empty[f"x{i}"].to_numpy().dtype for i, name in enumerate(coded.columns)},
        labels=coded.labels,
        source=source,
        time_unit=events.time_unit,
        dropped=kept.dropped,
        options=events.options,
        beside=beside,
        overwrite=overwrite,
    )


def items_left(coded: Coded, counts: np.ndarray, keep_all: bool) -> tuple[Catalog, np.ndarray]:
    """The catalog of items that have events, and the new row of each old one."""
    ids, counts, rows = _present(coded.item_ids, counts, keep_all)
    return Catalog(ids, counts), rows


def _tell(done: Histories, repeats: Repeats, events: Events, say: Callable[[str], None]) -> None:
    """What a person should see of what was written."""
    if repeats.count:
        say(
            f"  note  {repeats.count:,} events repeat another one of the same user, item and time: "
            'they are kept; dedup="same-time" (--dedup same-time) leaves them out'
        )
    far = one_far_above(done.user_ids, done.lengths)
    if far is not None:
        say(f"  note  {far}")
    if events.bad_rows:
        say(f"  note  what was left out, and why: {done.path / BAD_ROWS}")


def _present(
    ids: pl.Series, counts: np.ndarray, keep_all: bool
) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """Ids that stay, their counts, and the new row of each old one."""
    stays = np.ones(len(ids), bool) if keep_all else counts > 0
    rows = np.cumsum(stays, dtype=np.int32) - np.int32(1)
    return ids.filter(pl.Series(stays)), counts[stays], rows
