"""Events that stay, as numbers and in order: what filters or earlier histories leave of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from longrec.core.errors import DataError, our_fault
from longrec.data.coding import Coded, code_events
from longrec.data.engine import Engine, StageProgress
from longrec.data.events import Events
from longrec.data.extend import fit_events, merge
from longrec.data.filters import Filters
from longrec.data.histories import Histories
from longrec.data.outliers import Repeats
from longrec.data.write import Chunk


@dataclass(frozen=True)
class KeptEvents:
    """Events that stay, in a table of the engine.

    Attributes
    ----------
    engine : that has it.
    coded : what their numbers stand for, before rows without events are left out.
    table : of the engine, with the columns of the view `coded`.
    lengths, counts : events of each user and item, (n,) each; 0 for those that were left out.
    dropped : what was left out, by reason.
    keep_all : whether ids stay that have no events, as old ones do.
    late : new events that are older than their user's last one in histories that are extended.
    """

    engine: Engine
    coded: Coded
    table: str
    lengths: np.ndarray
    counts: np.ndarray
    dropped: dict[str, int]
    keep_all: bool
    late: int = 0


def keep_events(
    events: Events, old: Histories | None, filters: Filters, say: Callable[[str], None]
) -> KeptEvents:
    """Code the events, then merge them with the old ones or filter them; `say` is told of it."""
    dropped = {"bad_rows": len(events.bad_rows)} if events.bad_rows else {}
    if events.bad_rows:
        say(f"  left out {len(events.bad_rows):,} rows that cannot be used")
    if old is not None:
        events = fit_events(events, old)
        coded = code_events(events, old.user_ids, old.catalog.ids, old.meta.labels)
        kept = extended(events, old, coded)
        sizes = len(coded.user_ids), len(coded.item_ids), int(kept.lengths.sum())
        tell_extended(old, *sizes, kept.dropped["duplicate_events"], kept.late, say)
        return replace(kept, dropped=with_earlier(dropped | kept.dropped, old))
    kept = filtered(events, code_events(events), filters)
    if not kept.lengths.sum():
        raise nothing_left(events, kept.dropped)
    for name, count in kept.dropped.items():
        say(f"  dropped {count:,} {name.replace('_', ' ')}")
    return replace(kept, dropped=dropped | kept.dropped)


def extended(events: Events, old: Histories, coded: Coded) -> KeptEvents:
    """Old histories and coded events, whose ids begin with the old ones, merged."""
    engine = events.engine
    duplicates, late = merge(engine, old, coded)
    lengths, counts = _counts(engine, coded)
    _balance(events, int(lengths.sum()) + duplicates, events.n_events + old.n_events)
    dropped = {"duplicate_events": duplicates}
    return KeptEvents(engine, coded, "kept", lengths, counts, dropped, True, late)


def tell_extended(
    old: Histories,
    users: int,
    items: int,
    events: int,
    duplicates: int,
    late: int,
    say: Callable[[str], None],
) -> None:
    """Say what came to old histories, by what there is now."""
    if old.times is not None:
        say(f"  skipped {duplicates:,} events that {old.path} holds already")
    if late:
        say(
            f"  {late:,} events are older than their user's last event in {old.path}: they take "
            "their place in time"
        )
    say(
        f"  beside {old.path}: {users - old.n_users:,} new users, {items - old.n_items:,} new "
        f"items, {events - old.n_events:,} new events"
    )


def with_earlier(dropped: Mapping[str, int], old: Histories) -> dict[str, int]:
    """What was left out of a log and of the one before it, by reason."""
    both = dict(dropped)
    for name, count in old.meta.dropped.items():
        both[name] = both.get(name, 0) + count
    return both


def filtered(
    events: Events, coded: Coded, filters: Filters, gone: np.ndarray | None = None
) -> KeptEvents:
    """What filters leave of coded events; `gone` as of `Filters.apply`."""
    engine = events.engine
    _balance(events, int(coded.user_counts.sum()), events.n_events)
    if not filters.any:
        return KeptEvents(engine, coded, "coded", coded.user_counts, coded.item_counts, {}, True)
    losses = filters.apply(engine, coded.has_time, gone)
    lengths, counts = _counts(engine, coded)
    lost = sum(count for name, count in losses.items() if name.endswith("_events"))
    _balance(events, int(lengths.sum()) + lost, events.n_events)
    return KeptEvents(engine, coded, "kept", lengths, counts, losses, False)


def nothing_left(events: Events, losses: Mapping[str, int]) -> DataError:
    """The error for filters that leave no event."""
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in losses.items())
    return DataError(
        f"{events.source}: the filters leave no event (dropped: {told}). Lower k_core or "
        "min_length."
    )


def _counts(engine: Engine, coded: Coded) -> tuple[np.ndarray, np.ndarray]:
    """Events of each user and item in the table `kept`."""
    found = []
    for role, ids in (("user", coded.user_ids), ("item", coded.item_ids)):
        rows = engine.frame(f"SELECT {role} AS code, count(*) AS n FROM kept GROUP BY 1")
        counts = np.zeros(len(ids), np.int64)
        counts[rows["code"].to_numpy()] = rows["n"].to_numpy()
        found.append(counts)
    return found[0], found[1]


def _balance(events: Events, found: int, expected: int) -> None:
    if found != expected:
        raise our_fault(f"{events.source}: of {expected:,} events {found:,} are accounted for")


def in_order(
    kept: KeptEvents, items: np.ndarray, repeats: Repeats, progress: StageProgress | None
) -> Iterator[Chunk]:
    """Events as histories keep them, some at a time; their order is checked, not believed.

    items : the new row of each item. repeats : counts them.
    """
    engine, coded, total = kept.engine, kept.coded, int(kept.lengths.sum())
    users = np.flatnonzero(kept.lengths)
    ends = kept.lengths[users].cumsum()
    key = "time" if coded.has_time else "key"
    values = ", ".join(dict.fromkeys(["user", key, *coded.values]))
    done = 0
    if progress is not None:
        progress("ordering events", 0.0)
    engine.make_room()
    query = f"SELECT {values} FROM {kept.table} ORDER BY user, key, row"
    for frame in engine.batches(query):
        place = np.arange(done, done + len(frame))
        expected = users[np.searchsorted(ends, place, side="right")]
        if not np.array_equal(frame["user"].to_numpy(), expected):
            raise our_fault("The engine gave events in a wrong order")
        done += len(frame)
        found = frame["item"].to_numpy()
        repeats.add(expected, frame[key].to_numpy(), found)
        chunk = {"item": items[found] + np.int32(1)}  # 0 is padding
        if coded.has_time:
            chunk["time"] = frame["time"].to_numpy()
        for i, name in enumerate(coded.columns):
            chunk[name] = frame[f"x{i}"].to_numpy()
        if progress is not None:
            progress("writing events", done / total)
        yield chunk
