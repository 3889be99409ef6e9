"""A store's backup: a folder that is whole or not there, the same for every kind of store.

FOLDER/
  meta.json         format, counts, the store's meta, digests of the next two files and its own
  log.parquet       user, number, time, event_id, item: users in byte order, events in log order
  records.parquet   user, digest, record, seen: of the model that the store serves

Each user stands in it as at one moment, and users one after the other: events that arrive during
the backup are in it or not. Memory needed is that of the longest log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from longrec.core.errors import DataError, UsageError
from longrec.core.files import digest_of_config, digest_of_file
from longrec.data.folders import writing_folder
from longrec.serving.stores.log_reader import NO_MODEL, LogChanged, log, pages
from longrec.serving.stores.protocol import (
    Kept,
    Store,
    check_whole,
    read_header,
)

FORMAT = 1
LOG, RECORDS = "log.parquet", "records.parquet"
LOG_SCHEMA = pa.schema(
    [
        ("user", pa.binary()),
        ("number", pa.int64()),
        ("time", pa.int64()),
        ("event_id", pa.binary()),
        ("item", pa.binary()),
    ]
)
RECORDS_SCHEMA = pa.schema(
    [
        ("user", pa.binary()),
        ("digest", pa.string()),
        ("record", pa.binary()),
        ("seen", pa.binary()),
    ]
)
GROUP_ROWS, GROUP_BYTES = 1 << 17, 1 << 25
"""A row group is written when it has so many."""

Progress = Callable[[int, int], None]


class Copied(NamedTuple):
    """What a backup holds, or a restore brought back.

    left_out : records that were unreadable or ahead of their log, and so no cache of it.
    """

    users: int
    events: int
    records: int
    left_out: int


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
        When it cannot be written, or the store is half restored or lacks events.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} exists; a backup is written into a new folder")
    meta = store.meta()
    check_whole(meta, store.url)
    current = meta.get("current")
    total = store.totals().events if progress else 0
    users = events = records = left_out = 0
    with writing_folder(folder) as work:
        work.chmod(0o700)  # as for a store's own file
        with _Rows(work / LOG, LOG_SCHEMA) as logs, _Rows(work / RECORDS, RECORDS_SCHEMA) as kept:
            for user, whole, found in _users(store, current or NO_MODEL):
                users, events = users + 1, events + found.last
                for batch in whole:
                    logs.add(batch)
                if _is_of(found):
                    records += 1
                    row = {"user": user, "digest": current, **found._asdict()}
                    kept.add(pa.RecordBatch.from_pylist([row], RECORDS_SCHEMA))
                elif found.record is not None:
                    left_out += 1
                if progress:
                    progress(events, max(events, total))
        told = {
            "format": FORMAT,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "users": users,
            "events": events,
            "records": records,
            "store": _kept_of(meta),
            "digests": {name: digest_of_file(work / name) for name in (LOG, RECORDS)},
        }
        told["digest"] = digest_of_config(told)
        (work / "meta.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return Copied(users, events, records, left_out)


def read_backup(folder: Path) -> dict[str, Any]:
    """What a backup's meta.json says, its files held against their digests.

    Raises
    ------
    DataError
        When it is missing, truncated, edited, or of a newer format.
    """
    path = folder / "meta.json"
    if not path.is_file():
        raise DataError(f"{folder} is no backup of a store: it has no meta.json")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        digest, version = told.pop("digest"), told["format"]
        if version == FORMAT and digest == digest_of_config(told):
            damaged = [name for name in (LOG, RECORDS) if not _same(folder, name, told)]
        else:
            damaged = ["meta.json"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): use another copy of the backup.") from error
    if isinstance(version, int) and version > FORMAT:
        raise DataError(
            f"{path} has format {version}, this longrec reads {FORMAT}: upgrade longrec."
        )
    if damaged:
        raise DataError(
            f"{folder / damaged[0]} is not what was written (its digest differs): it was truncated "
            "or edited. Use another copy of the backup; the store was left alone."
        )
    return dict(told) | {"digest": digest}


class _Rows:
    """Rows on their way into a Parquet file, a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema, self._batches = schema, list[pa.RecordBatch]()
        self._rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows, self._bytes = self._rows + len(batch), self._bytes + batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        self._file.write_table(table, row_group_size=max(1, len(table)))
        self._batches, self._rows, self._bytes = [], 0, 0

    def __enter__(self) -> _Rows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()


def _users(store: Store, digest: str) -> Iterator[tuple[bytes, list[pa.RecordBatch], Kept]]:
    """Every user with a whole log, and what was kept at the moment when it ended so."""
    for page in pages(store):
        asked = [(user, ()) for user in page]
        for user, kept in zip(page, store.read(digest, asked, seen=True), strict=True):
            while kept.last:  # else forgotten meanwhile
                try:
                    whole = list(_rows(store, user, kept))
                except LogChanged:
                    kept = store.read(digest, [(user, ())], seen=True)[0]
                else:
                    yield user, whole, kept
                    break


def _rows(store: Store, user: bytes, kept: Kept) -> Iterator[pa.RecordBatch]:
    number = 0
    for events in log(store, user, kept.born, kept.last):
        times, items, ids = zip(*events, strict=True)
        numbers = range(number + 1, number + len(events) + 1)
        columns = [user] * len(events), numbers, times, ids, items
        yield pa.record_batch(
            [pa.array(c, f.type) for c, f in zip(columns, LOG_SCHEMA, strict=True)],
            schema=LOG_SCHEMA,
        )
        number += len(events)


def _is_of(kept: Kept) -> bool:
    """Whether there is a record, and of this log."""
    if kept.record is None:
        return False
    try:
        return read_header(kept.record).sequence <= kept.last
    except DataError:
        return False


def _kept_of(meta: dict[str, Any]) -> dict[str, Any]:
    """A store's meta without the models whose records are not here, nor what a rebuild noted."""
    kept = {key: value for key, value in meta.items() if key != "rebuild"}
    if "models" in meta:
        of = meta["models"]
        kept["models"] = {digest: of[digest] for digest in of if digest == meta.get("current")}
    return kept


def _same(folder: Path, name: str, told: dict[str, Any]) -> bool:
    return (folder / name).is_file() and digest_of_file(folder / name) == told["digests"][name]
