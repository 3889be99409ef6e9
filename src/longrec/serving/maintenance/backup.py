"""A store's backup: a folder that is whole or not there, the same for every kind of store.

FOLDER/
  meta.json         format, counts, the store's meta, digests of the next file and its own
  log.parquet       user, number, time, event_id, item, columns (as JSON, or null): users in
                    byte order, events in log order

Each user stands in it as at one moment, and users one after the other: events that arrive during
the backup are in it or not. Memory needed is that of the longest log. Records are caches of the
log and are not in it (backups of format 1 hold them; they are not read).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from longrec.core.errors import UsageError
from longrec.core.files import is_free, writing_folder
from longrec.core.sealed import SealedKind
from longrec.serving.stores.log_reader import NO_MODEL, read_log, retry_if_replaced, user_pages
from longrec.serving.stores.protocol import DAMAGED, Store, UserDamaged, check_whole
from longrec.serving.stream.counts_snapshot import TOKENS

LOG = "log.parquet"
BACKUP = SealedKind(
    "a backup of a store",
    "meta.json",
    version=2,
    mend="use another copy of the backup; the store was left alone",
    made_by="longrec store backup URL FOLDER",
    files=(LOG,),
    also_reads=(1,),
)
SCHEMA = pa.schema(
    [
        ("user", pa.binary()),
        ("number", pa.int64()),
        ("time", pa.int64()),
        ("event_id", pa.binary()),
        ("item", pa.binary()),
        ("columns", pa.binary()),
    ]
)
OWN = ("schema", "id")
"""What a store's meta has of the store itself, whatever is restored into it."""
GROUP_ROWS, GROUP_BYTES = 1 << 17, 1 << 25
"""A row group is written when it has so many."""

Progress = Callable[[int, int], None]


class Missing(NamedTuple):
    """What a backup lacks since it is damaged: an event of a user, or all of one (None)."""

    user: bytes
    event: int | None


class Copied(NamedTuple):
    """What a backup holds, or a restore brought back.

    missing : what is damaged in the store, and not in the backup.
    problems : what is wrong with the store beneath all users.
    unnamed : users of whom not even the id is left, by what the store counts.
    """

    users: int
    events: int
    missing: tuple[Missing, ...] = ()
    problems: tuple[str, ...] = ()
    unnamed: int = 0

    def __str__(self) -> str:
        return f"{self.users:,} users and {self.events:,} events"


def backup(store: Store, folder: str | Path, progress: Progress | None = None) -> Copied:
    """Write a backup of a store, beside whoever writes to the store.

    Parameters
    ----------
    store : Store
    folder : path
        A new folder, or an empty one.
    progress : callable or None
        Called with (events written, events in all).

    Raises
    ------
    UsageError
        When the folder exists.
    DataError
        When it cannot be written, or the store is half restored.
    """
    folder = Path(folder)
    if not is_free(folder):
        raise UsageError(f"{folder} exists; a backup is written into a new folder")
    meta = store.meta()
    check_whole(meta, store.url)
    problems = tuple(store.inspect())
    total = store.totals().events if progress else 0
    users = events = 0
    missing: list[Missing] = []

    def read() -> Iterator[pa.RecordBatch]:
        nonlocal users, events
        for user in chain.from_iterable(user_pages(store)):
            try:
                batches, lost = retry_if_replaced(store, partial(_log_of, store, user))
            except UserDamaged:
                missing.append(Missing(user, None))
                continue
            yield from batches
            missing.extend(Missing(user, number) for number in lost)
            users += bool(batches)  # else forgotten meanwhile
            events += sum(map(len, batches))
            if progress:
                progress(events, max(events, total))

    with writing_folder(folder) as work:
        work.chmod(0o700)  # as for a store's own file
        _write_log(work / LOG, read())
        about = {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "users": users,
            "events": events,
            "store": restored_meta(meta),
        }
        BACKUP.write(work, BACKUP.describe(about, [work / LOG]))
    unnamed = 0
    if problems:
        found = users + sum(one.event is None for one in missing)
        unnamed = max(0, store.totals().users - found)
    return Copied(users, events, tuple(missing), problems, unnamed)


def _write_log(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write events into a Parquet file, a row group at a time."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        for group in _groups(batches):
            table = pa.Table.from_batches(group, SCHEMA).combine_chunks()
            file.write_table(table, row_group_size=max(1, len(table)))


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches put together as row groups; the last one may be empty."""
    group, rows, size = list[pa.RecordBatch](), 0, 0
    for batch in batches:
        group.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    yield group


def _log_of(store: Store, user: bytes) -> tuple[list[pa.RecordBatch], list[int]]:
    """A user's whole log, empty where there is no such user; and the events that are damaged.

    These have no row; the others are numbered one after the other.
    """
    [stored] = store.read(NO_MODEL, [(user, ())])
    batches, lost, number, copied = list[pa.RecordBatch](), list[int](), 0, 0
    for events in read_log(store, user, stored):
        lost += [n for n, event in enumerate(events, number + 1) if event is DAMAGED]
        number += len(events)
        events = [event for event in events if event is not DAMAGED]
        if not events:
            continue
        times, items, ids, further = zip(*events, strict=True)
        numbers = range(copied + 1, copied + len(events) + 1)
        json = [columns or None for columns in further]
        columns = [user] * len(events), numbers, times, ids, items, json
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
        copied += len(events)
    return batches, lost


def restored_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """A store's meta without the models that it does not serve, nor what is of this store alone:
    how far a rebuild came, what it lost, and which snapshots of counts are of its log."""
    here = ("rebuild", "losses", "id", TOKENS)
    stored = {key: value for key, value in meta.items() if key not in here}
    if "models" in meta:
        current = meta.get("current")
        stored["models"] = {key: value for key, value in meta["models"].items() if key == current}
    return stored
