"""Item vectors in a table of Postgres, by the extension pgvector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from longrec.core.arguments import is_utf8
from longrec.core.errors import UsageError, first_line
from longrec.export.vector_store import LOOKED_AT, NOTHING, Items, VectorStoreError
from longrec.export.vector_url import EXAMPLES, taken_apart, unreadable

SECONDS = 10
"""How long a connection may take to come about."""
MOST = 2000
"""Numbers of a vector that pgvector's index takes."""
MADE_BY = "longrec push"
NEW = "__new"
"""Behind the name of a table that is not whole yet."""
LONGEST = 63 - len(NEW)
"""Bytes of a table's name: of more Postgres cuts off the end without a word."""
TABLE = (
    "CREATE TABLE {} (index bigint PRIMARY KEY, item {} UNIQUE, count bigint, vector vector({}))"
)


class Postgres:
    """See `VectorStore`: a table of index, item, count and vector, with an HNSW index."""

    def __init__(self, connection: psycopg.Connection[Any], table: str, name: str) -> None:
        self.connection, self.name = connection, name
        self.table, self._asked, self._looked_at = sql.Identifier(table), table, 0

    def replace(self, items: Items, sent: Callable[[int], None]) -> None:
        size = items.vectors.shape[1]
        if size > MOST:
            raise UsageError(
                f"the vectors have {size:,} numbers, and an index of pgvector takes {MOST:,}: "
                "train a smaller dim"
            )
        kind = sql.SQL("bigint" if items.ids.dtype.is_integer() else "text")
        new = sql.Identifier(self._asked + NEW)
        with told(self.name), self.connection.transaction():
            self._check_ours()
            self._run(TABLE, new, kind, sql.Literal(size))
            columns = sql.SQL("COPY {} FROM STDIN WITH (FORMAT BINARY)").format(new)
            with self.connection.cursor() as cursor, cursor.copy(columns) as copy:
                item = "int8" if items.ids.dtype.is_integer() else "text"
                copy.set_types(["int8", item, "int8", "vector"])
                for part in items.parts():
                    rows = range(len(items.ids))[part]
                    ids, counts = items.ids[part].to_list(), items.counts[part].tolist()
                    for row, one, count in zip(rows, ids, counts, strict=True):
                        copy.write_row((row + 1, one, count, items.vectors[row]))
                    sent(rows[-1] + 1)
            self._run("CREATE INDEX ON {} USING hnsw (vector vector_ip_ops)", new)
            about = json.dumps({"made by": MADE_BY, "model": items.model})
            self._run("COMMENT ON TABLE {} IS {}", new, sql.Literal(about))
            self._run("DROP TABLE IF EXISTS {}", self.table)
            self._run("ALTER TABLE {} RENAME TO {}", new, self.table)

    def _check_ours(self) -> None:
        """Raise UsageError where a table of that name is not a push's; it is never dropped."""
        asked = "SELECT obj_description(to_regclass(%s)), to_regclass(%s) IS NOT NULL"
        named = sql.Identifier(self._asked).as_string(self.connection)
        found = self.connection.execute(asked, (named, named)).fetchone()
        if found is not None and found[1] and not _made_by_push(found[0]):
            raise UsageError(
                f"{self._asked!r} is a table that no push made: choose another name, or drop it "
                "first"
            )

    def search(self, vector: np.ndarray, k: int) -> Sequence[tuple[Any, float]]:
        asked = "SELECT item, -(vector <#> %s) FROM {} ORDER BY vector <#> %s LIMIT %s"
        statement = sql.SQL(asked).format(self.table)
        with told(self.name):
            if self._looked_at < (wanted := min(1000, max(LOOKED_AT, k))):
                # The index cannot find more than it looks at; the connection remembers it.
                self._run("SET hnsw.ef_search = {}", sql.Literal(wanted))
                self._looked_at = wanted
            return self.connection.execute(statement, (vector, vector, k)).fetchall()

    def close(self) -> None:
        self.connection.close()

    def _run(self, text: str, *parts: sql.Composable) -> None:
        self.connection.execute(sql.SQL(text).format(*parts))


def _made_by_push(comment: str | None) -> bool:
    """Whether a table's comment is what `replace` writes."""
    try:
        about = json.loads(comment or "")
    except ValueError:
        return False
    return isinstance(about, dict) and about.get("made by") == MADE_BY


@contextmanager
def told(name: str) -> Iterator[None]:
    """Says in one line what the database refuses."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise VectorStoreError(f"{name}: {NOTHING}") from error
    except psycopg.Error as error:
        away = isinstance(error, psycopg.OperationalError)
        mend = "; see that Postgres runs there, and lets this user in" if away else ""
        raise VectorStoreError(f"{name}: {first_line(error)}{mend}") from error


def open_postgres(url: str) -> Postgres:
    """`postgresql://user@host/database?table=NAME`; a password from PGPASSWORD or ~/.pgpass."""
    parts = taken_apart(url)
    user, _, host = parts.netloc.rpartition("@")
    if (
        parts.fragment
        or "@" in user + parts.path + parts.query
        or re.search("%(?![0-9a-fA-F]{2})", user)
    ):
        raise unreadable(url)  # parts of a password, which would be shown as those of an address
    pairs = parse_qsl(parts.query)
    given = dict(pairs)
    table = given.pop("table", "")
    name = f"{parts.scheme}://{host}{parts.path}"
    if not table:
        raise UsageError(f"{name} names no table: give {EXAMPLES}")
    if len(pairs) > len({key for key, _ in pairs}):
        raise UsageError(f"{name} has an option twice: give each once")
    if not table.isprintable() or not is_utf8(table) or len(table.encode()) > LONGEST:
        raise UsageError(
            f"{table[:LONGEST]!a} is no name for a table: up to {LONGEST} bytes "
            "of what can be printed"
        )
    address = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(given)}"
    with told(name):
        connection = psycopg.connect(address, autocommit=True, connect_timeout=SECONDS)
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
        except psycopg.Error:
            connection.close()
            raise
    return Postgres(connection, table, f"{name} ({table})")
