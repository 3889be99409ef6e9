"""The store of one process in a file of SQLite's, where one transaction holds events and records.

A commit is appended to a log beside the file, so a process that dies at any moment leaves a whole
store, with all that was acknowledged.

power : a commit waits for the disk once. All appends of one call are one commit.
process : commits wait for nothing; the disk has them when the log is brought into the file, every
    few hundred events, or when the system writes them. A power cut may lose those that it had not,
    in whole commits from the end: the store stays whole.

One process writes; others may open it readonly beside it. Threads may share a store, or open it
each on their own. A process that was forked opens its own. Python itself brings all it needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from longrec.serving.stores.bitmap import join, pages_of, split, with_bits
from longrec.serving.stores.embedded import OpenedStore, share
from longrec.serving.stores.protocol import (
    HEADER,
    Append,
    Appended,
    Durability,
    Event,
    Kept,
    Put,
    Rewrite,
    Totals,
    version_of,
)
from longrec.serving.stores.sqlite_file import SqliteFile
from longrec.serving.stores.sqlite_layout import load_meta, save_meta

T = TypeVar("T")
DROPPED = 512
"""Records looked at in one transaction when all of a model go."""

LAST = 2**63 - 1

KEPT = """
select users.born, (select max(number) from log where log.born = users.born), {record}
from users left join records on records.born = users.born and records.model = ?
where user = ?
"""
WHOLE = KEPT.format(record="record")
HEAD = KEPT.format(record=f"substr(record, 1, {HEADER.size})")


class SqliteStore(OpenedStore[SqliteFile]):
    """A `Store` in a file."""

    @classmethod
    def open(
        cls, path: str, durability: Durability = "power", readonly: bool = False
    ) -> SqliteStore:
        """Open the store in a file, made if need be; its errors are those of `open_store`."""
        if path.startswith("//"):  # as many write a path from the root: sqlite:////var/…
            path = f"/{path.lstrip('/')}"
        return cls(share(SqliteFile, path, durability, readonly), durability, readonly)

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[Kept]:
        model = bytes.fromhex(digest)

        def kept(connection: sqlite3.Connection, user: bytes, names: Sequence[bytes]) -> Kept:
            found = connection.execute(WHOLE, (model, user)).fetchone()
            if found is None:
                return Kept(0, 0, None, b"", (False,) * len(names))
            born, last, record = found
            bitmap = b""
            if seen:
                pages = "select page, bits from seen where born = ? and model = ? order by page"
                bitmap = join(connection.execute(pages, (born, model)))
            known = "select exists(select 1 from log where born = ? and event_id = ?)"
            return Kept(
                born,
                last or 0,
                record,
                bitmap,
                tuple([bool(_one(connection, known, born, name)) for name in names]),
            )

        return self._read(
            lambda connection: [kept(connection, user, names) for user, names in asked]
        )

    def events(self, user: bytes, born: int, after: int, limit: int) -> list[Event]:
        found = self._read(
            lambda connection: connection.execute(
                "select number, time, item, event_id from users join log using (born) "
                "where user = ? and born = ? and number > ? order by number limit ?",
                (user, born, after, limit),
            ).fetchall()
        )
        if found and found[-1][0] != after + len(found):  # damaged: only up to the hole
            found = [row for place, row in enumerate(found) if row[0] == after + place + 1]
        return [Event(*row[1:]) for row in found]

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        model = bytes.fromhex(digest)
        return self._write(
            lambda connection: [_append(connection, model, append) for append in appends]
        )

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        model = bytes.fromhex(digest)

        def work(connection: sqlite3.Connection) -> int:
            written = 0
            for put in puts:
                born, _, head = _stored(connection, model, put.user)
                if born and (born, version_of(head)) == (put.born, put.version):
                    written += 1
                    _save_record(connection, born, model, put.record)
                    connection.execute(
                        "delete from seen where born = ? and model = ?", (born, model)
                    )
                    _save_pages(connection, born, model, split(put.seen))
            return written

        return self._write(work)

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        def work(connection: sqlite3.Connection) -> list[bool]:
            done = []
            for rewrite in rewrites:
                born, last, _ = _stored(connection, b"", rewrite.user)
                done.append((born, last) == (rewrite.born, rewrite.last))
                if done[-1]:
                    _delete(connection, born)
                    _log(connection, _be_born(connection, rewrite.user), 0, rewrite.events)
            return done

        return self._write(work)

    def forget(self, user: bytes) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            born, _, _ = _stored(connection, b"", user)
            _delete(connection, born)
            return born > 0

        return self._write(work)

    def users(self, after: bytes, limit: int) -> list[bytes]:
        page = "select user from users where user > ? order by user limit ?"
        rows = self._read(lambda connection: connection.execute(page, (after, limit)).fetchall())
        return [user for (user,) in rows]

    def meta(self) -> dict[str, Any]:
        return self._read(load_meta)

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        def work(connection: sqlite3.Connection) -> T:
            meta = load_meta(connection)
            done = change(meta)
            save_meta(connection, meta)
            return done

        return self._write(work)

    def drop(self, digest: str) -> int:
        model, after, dropped = bytes.fromhex(digest), 0, 0

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            some = "select born from records where born > ? order by born limit ?"
            end = _one(connection, f"select max(born) from ({some})", after, DROPPED) or LAST
            records, _ = [
                connection.execute(
                    f"delete from {table} where born > ? and born <= ? and model = ?",
                    (after, end, model),
                ).rowcount
                for table in ("records", "seen")
            ]
            return end, records

        while after < LAST:  # some at a time: others write meanwhile
            after, records = self._write(work)
            dropped += records
        return dropped

    def totals(self) -> Totals:
        def work(connection: sqlite3.Connection) -> Totals:
            users, events = (
                _one(connection, f"select count(*) from {t}") for t in ("users", "log")
            )
            records = "select lower(hex(model)), count(*) from records group by model"
            return Totals(users, events, dict(connection.execute(records).fetchall()), 0)

        return self._read(work)._replace(bytes=self._opened.size())

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._may_read()
        return self._opened.read(work)

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._may_write()
        return self._opened.write(work)


def _append(connection: sqlite3.Connection, model: bytes, append: Append) -> Appended:
    """Log events, and write record and bitmap if these are made from what is stored."""
    born, last, head = _stored(connection, model, append.user)
    current = (append.born, append.last, append.version) == (born, last, version_of(head))
    if not born:  # new, or forgotten since it was read
        born = _be_born(connection, append.user)
    new, last = _log(connection, born, last, append.events)
    if not current or append.record is None or not all(new):
        return Appended(new, last, False)
    _save_record(connection, born, model, append.record)
    pages = []
    for page, places in pages_of(append.seen).items():
        bits = "select bits from seen where born = ? and model = ? and page = ?"
        before = _one(connection, bits, born, model, page) or b""
        after = with_bits(before, places)
        if after != before:
            pages.append((page, after))
    _save_pages(connection, born, model, pages)
    return Appended(new, last, True)


def _stored(
    connection: sqlite3.Connection, model: bytes, user: bytes
) -> tuple[int, int, bytes | None]:
    """Number of a user's log (0: no such user), that of its last event, and the record's header."""
    born, last, head = connection.execute(HEAD, (model, user)).fetchone() or (0, 0, None)
    return born, last or 0, head


def _be_born(connection: sqlite3.Connection, user: bytes) -> int:
    """Give a user a log, with a number that no log had before."""
    born = connection.execute("insert into users (user) values (?)", (user,)).lastrowid
    assert born is not None
    return born


def _log(
    connection: sqlite3.Connection, born: int, last: int, events: Sequence[Event]
) -> tuple[tuple[bool, ...], int]:
    """Log those of the events that are new; -> which they are, and the log's last number now."""
    new = []
    for event in events:
        done = connection.execute(
            "insert into log (born, number, time, item, event_id) values (?, ?, ?, ?, ?) "
            "on conflict (born, event_id) where event_id is not null do nothing",
            (born, last + 1, *event),
        )
        new.append(done.rowcount == 1)
        last += new[-1]
    return tuple(new), last


def _save_record(connection: sqlite3.Connection, born: int, model: bytes, record: bytes) -> None:
    connection.execute(
        "insert into records (born, model, record) values (?, ?, ?) "
        "on conflict (born, model) do update set record = excluded.record",
        (born, model, record),
    )


def _save_pages(
    connection: sqlite3.Connection, born: int, model: bytes, pages: Iterable[tuple[int, bytes]]
) -> None:
    connection.executemany(
        "insert into seen (born, model, page, bits) values (?, ?, ?, ?) "
        "on conflict (born, model, page) do update set bits = excluded.bits",
        [(born, model, page, bits) for page, bits in pages],
    )


def _delete(connection: sqlite3.Connection, born: int) -> None:
    """Delete a log and its user, and all models' records and bitmaps of it."""
    for table in ("users", "log", "records", "seen"):
        connection.execute(f"delete from {table} where born = ?", (born,))


def _one(connection: sqlite3.Connection, query: str, *arguments: Any) -> Any:
    """The value that a query finds, or None."""
    row = connection.execute(query, arguments).fetchone()
    return None if row is None else row[0]
