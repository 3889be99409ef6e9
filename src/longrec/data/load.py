"""Parts of a log to one table in the engine: the wanted columns, every row, in the log's order.

The table `raw` has `part`, and each wanted column as r0, r1, …; `rowid` rises in the log's order.
Text is as it stands, without spaces around it; an empty field is NULL. Rows that are none (too many
fields, a quote mark that nothing closes, no JSON) are in `bad` with their line and cause.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from longrec.core.errors import DataError, LongrecError
from longrec.data.engine import Engine, Progress, engine_errors, literal, unreadable
from longrec.data.sources import FRAME_ERRORS, HINTS, TEXT, Part
from longrec.data.text_files import (
    NOT_UTF8,
    as_plain_text,
    encoding_of,
    rows_as_csv_has_them,
)
from longrec.data.times import typed_ticks

LONGEST = 1 << 25
"""Bytes of the longest line."""
CAUSES = {
    "UNQUOTED VALUE": "has a quote mark inside of a field, or one that nothing closes",
    "INVALID ENCODING": NOT_UTF8,
    "LINE SIZE OVER MAXIMUM": (
        f"is longer than {LONGEST:,} bytes: perhaps nothing closes a quote mark"
    ),
}
BATCH = 100_000
NO_JSON = "is no JSON"
NOTHING_OF = "has nothing of "
Wanted = Mapping[str, tuple[str, str]]
"""What is loaded, by role or name: the column that it stands in, and its type in the table."""


@dataclass(frozen=True)
class BadRow:
    """A row that is none: where it stands, why, and its text."""

    file: str
    line: int
    cause: str
    text: str


class Loader:
    """Loads parts, one after the other.

    Parameters
    ----------
    engine : Engine
    wanted : columns and their types in the table.
    encoding : of text files; None: UTF-8, or what their first bytes say.
    keep_bad : whether bad rows are kept in the table `bad`; else the first one is an error.
    hex : columns of bytes that are no text, which are spelt in hexadecimal digits.
    """

    def __init__(
        self,
        engine: Engine,
        wanted: Wanted,
        encoding: str | None,
        keep_bad: bool,
        hex: frozenset[str],
    ) -> None:
        self.hex = hex
        self.names = list(dict.fromkeys(column for column, _ in wanted.values()))
        self.engine, self.wanted = engine, wanted
        self.encoding, self.keep_bad = encoding, keep_bad
        self.plain: dict[int, tuple[Path, str]] = {}
        columns = [f"r{i} {kind}" for i, (_, kind) in enumerate(wanted.values())]
        engine.run(f"CREATE TABLE raw ({', '.join(['part INTEGER', *columns])})")
        engine.run("CREATE TABLE bad (part INTEGER, line BIGINT, cause VARCHAR, text VARCHAR)")

    def load(self, number: int, part: Part, progress: Progress | None) -> int:
        """Load a part; the number of its rows in the table.

        Raises
        ------
        DataError
            When it cannot be read, or has a bad row that is not to be kept.
        """
        try:
            if part.kind == "text":
                return self._load_text(number, part, progress)
            if part.kind == "jsonl":
                return self._load_json(number, part, progress)
            values = [self._typed(part, key) for key in self.wanted]
            query = f"SELECT {', '.join(values)} FROM {part.scan(self.engine, self.names)}"
            return self._insert(number, part, query, progress)
        except LongrecError:
            raise
        except engine_errors() + FRAME_ERRORS as error:
            raise unreadable(part.name, error, HINTS[part.kind]) from error

    def _insert(self, number: int, part: Part, query: str, progress: Progress | None) -> int:
        columns = ", ".join(f"r{i}" for i in range(len(self.wanted)))
        sql = f"INSERT INTO raw SELECT {number}, * FROM ({query}) AS t({columns})"
        [(count,)] = self.engine.run(sql, progress=progress)
        return int(count)

    def _typed(self, part: Part, key: str) -> str:
        """A column of a part that has types, as the table takes it."""
        name, wanted = self.wanted[key]
        found = part.column(name, self.names)
        if name in part.partition:
            return _clean(found)
        if name in self.hex:
            return f"lower(hex({found}))"
        if key in ("time", "order"):
            return typed_ticks(found, part.types[name], wanted)
        return as_type(found, part.types[name], wanted)

    def _texts(self, part: Part, place: Callable[[str], str] | None = None) -> str:
        """The columns of a part of text as the table takes them; `place` tells where one is."""
        texts = []
        for name, _ in self.wanted.values():
            if place is None or name in part.partition:
                texts.append(_clean(part.column(name, self.names)))
            else:
                texts.append(_clean(place(name)))
        return ", ".join(texts)

    def _load_text(self, number: int, part: Part, progress: Progress | None) -> int:
        """By the first rule for quote marks under which every row is whole, else by the best."""

        def by_engine(quote: str) -> tuple[int, list[BadRow]]:
            loaded = self._insert(number, part, self._csv(number, part, quote), progress)
            return loaded, self._rejected()

        rules: list[Callable[[], tuple[int, list[BadRow]]]] = [
            lambda: by_engine('"'),
            lambda: by_engine(""),
            lambda: self._load_leniently(number, part),
        ]
        results = []
        for rule in rules:
            loaded, bad = rule()
            if not bad:
                return loaded
            results.append(bad)
            self.engine.run("DELETE FROM raw WHERE part = ?", [number])
        best = min(range(len(rules)), key=lambda place: len(results[place]))
        if not self.keep_bad:
            raise self._refusal(part, results[best])
        loaded, bad = rules[best]()
        self._keep(number, bad)
        return loaded

    def _load_json(self, number: int, part: Part, progress: Progress | None) -> int:
        lines = self._lines(number, part)
        loaded = self._insert(number, part, self._json(part, lines), progress)
        asked = [name for name in self.names if name not in part.partition]
        wanted = enumerate(self.wanted.values())
        empty = [f"r{i} IS NULL" for i, (name, _) in wanted if name in asked]
        nothing = f"part = {number} AND {' AND '.join(empty)}"
        if not self.engine.row(f"SELECT count(*) AS n FROM raw WHERE {nothing}")["n"]:
            return loaded
        words = literal(f"has nothing of {', '.join(asked)}")
        given = f"len(list_filter({_extracted(asked)}, lambda x: x IS NOT NULL))"
        found = self.engine.run(
            f"SELECT line, CASE WHEN json_valid(c0) THEN {words} ELSE 'is no JSON' END, c0 "
            f"FROM (SELECT row_number() OVER () AS line, c0 FROM {lines}) "
            f"WHERE trim(c0) <> '' AND coalesce({given}, 0) = 0"
        )
        bad = [BadRow(part.name, *row) for row in found]
        if not self.keep_bad:
            raise self._refusal(part, bad)
        self.engine.run(f"DELETE FROM raw WHERE {nothing}")
        self._keep(number, bad)
        return loaded - len(bad)

    def _keep(self, number: int, bad: Sequence[BadRow]) -> None:
        """Put bad rows into their table."""
        rows = [(number, row.line, row.cause, row.text) for row in bad]
        frame = pl.DataFrame(rows, schema=["part", "line", "cause", "text"], orient="row")
        self._append("bad", frame, "SELECT *")

    def _refusal(self, part: Part, bad: Sequence[BadRow]) -> DataError:
        row = min(bad, key=lambda one: one.line)
        more = f" ({len(bad):,} rows are like this)" if len(bad) > 1 else ""
        mend = "Mend the line"
        if part.kind == "text" and row.cause != NOT_UTF8:
            mend += ", put fields that hold a separator or a quote mark in quote marks"
        return DataError(
            f"{part.name}: line {row.line} {row.cause}{more}. {mend}, or leave such rows out with "
            "skip_bad_rows=True (--skip-bad-rows)."
        )

    def _csv(self, number: int, part: Part, quote: str) -> str:
        assert part.file is not None
        assert part.dialect is not None
        path, packing = self._path(number, part)
        columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(part.dialect.header)))
        options = {
            "delim": literal(part.dialect.separator),
            "quote": literal(quote),
            "escape": literal(quote),
            "skip": str(part.dialect.skip),
            "columns": f"{{{columns}}}",
            "compression": literal(packing),
        }
        scan = _read_csv(path, options)
        return f"SELECT {self._texts(part)} FROM {scan}"

    def _lines(self, number: int, part: Part) -> str:
        """Lines of a file as they are, in the column c0."""
        path, packing = self._path(number, part)
        # A mark that no text has divides nothing.
        options = {"delim": "chr(1)", "quote": "''", "escape": "''", "skip": "0"}
        options |= {"columns": "{'c0': 'VARCHAR'}", "compression": literal(packing)}
        return _read_csv(path, options)

    def _json(self, part: Part, lines: str) -> str:
        inside = [name for name in self.names if name not in part.partition]
        texts = self._texts(part, lambda name: f"v[{inside.index(name) + 1}]")
        return (
            f"SELECT {texts} FROM (SELECT {_extracted(inside)} AS v FROM {lines} "
            "WHERE trim(c0) <> '')"
        )

    def _path(self, number: int, part: Part) -> tuple[Path, str]:
        """Where the engine reads a text file, and how that is packed."""
        assert part.file is not None
        if number not in self.plain:
            encoding = (self.encoding or encoding_of(part.file)).lower().replace("_", "-")
            known = encoding in ("utf-8", "utf8", "utf-8-sig")
            if known and part.file.packing in ("", "gzip", "zstd"):
                self.plain[number] = part.file.path, part.file.packing or "none"
            else:
                folder = self.engine.work.path
                self.plain[number] = as_plain_text(part.file, encoding, folder, number), "none"
        return self.plain[number]

    def _rejected(self) -> list[BadRow]:
        """What the engine left out of the file that it read last."""
        try:
            rows = self.engine.run(
                "SELECT line, error_type, error_message, csv_line FROM reject_errors ORDER BY line"
            )
        except engine_errors():  # no table: nothing was left out
            return []
        self.engine.run("DROP TABLE IF EXISTS reject_errors")
        self.engine.run("DROP TABLE IF EXISTS reject_scans")
        found: dict[int, BadRow] = {}
        for line, kind, message, text in rows:
            cause = CAUSES.get(kind)
            if cause is None:
                wanted, fields = (word.split()[0] for word in message.split(": ")[1:3])
                cause = f"has {fields} fields, the header names {wanted}"
            if line not in found or kind == "TOO MANY COLUMNS":
                found[line] = BadRow("", line, cause, text or "")
        return list(found.values())

    def _load_leniently(self, number: int, part: Part) -> tuple[int, list[BadRow]]:
        """A text file as Python's csv module divides it, line by line."""
        assert part.dialect is not None
        assert part.file is not None
        path, _ = self._path(number, part)
        if part.file.packing and path == part.file.path:
            path = as_plain_text(part.file, "utf-8", self.engine.work.path, number)
            self.plain[number] = path, "none"
        bad, rows, loaded = list[BadRow](), list[list[str]](), 0
        width = len(part.dialect.header)

        def flush() -> None:
            nonlocal loaded
            columns = {f"c{i}": [row[i] for row in rows] for i in range(width)}
            frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
            loaded += self._append("raw", frame, f"SELECT {number}, {self._texts(part)}")
            rows.clear()

        for line, fields, wrong in rows_as_csv_has_them(path, part.dialect):
            if wrong:
                bad.append(BadRow(part.name, line, wrong, fields[0]))
                continue
            rows.append(fields)
            if len(rows) == BATCH:
                flush()
        flush()
        return loaded, bad

    def _append(self, table: str, frame: pl.DataFrame, select: str) -> int:
        view = self.engine.register(frame.to_arrow())
        self.engine.run(f"INSERT INTO {table} {select} FROM {view}")
        self.engine.forget(view)
        return len(frame)


def _extracted(names: Sequence[str]) -> str:
    """The values of some keys of a line of JSON, a list in SQL; NULL where it is none."""
    paths = ", ".join(literal("$." + json.dumps(name, ensure_ascii=False)) for name in names)
    return f"TRY(json_extract_string(c0, [{paths}]))"


def _read_csv(path: Path, options: Mapping[str, str]) -> str:
    always = {
        "header": "false",
        "auto_detect": "false",
        "store_rejects": "true",
        "strict_mode": "true",
        "allow_quoted_nulls": "false",
        "max_line_size": str(LONGEST),
    }
    words = ", ".join(f"{key} = {value}" for key, value in (always | dict(options)).items())
    return f"read_csv({literal(str(path))}, {words})"


def _clean(value: str) -> str:
    """Text without spaces around it; also where a quote mark stands behind a space."""
    bare = f"trim({value}, E' \\t\\r')"
    inside = f"replace({bare}[2:-2], '\"\"', '\"')"
    quoted = f"starts_with({value}, ' ') AND length({bare}) > 1 AND {bare} LIKE '\"%\"'"
    return f"CASE WHEN {quoted} THEN {inside} ELSE {bare} END"


def as_type(value: str, found: str, wanted: str) -> str:
    """A value of a type that was found as the table takes it; NULL where that cannot be."""
    if found == wanted:
        return value
    if wanted == "BIGINT" and (found in ("FLOAT", "DOUBLE") or found.startswith("DECIMAL")):
        # pandas turns integers into floats where one is missing; they come out as integers.
        whole = f"{value} = round({value})"
        if not found.startswith("DECIMAL"):
            whole += f" AND isfinite({value}::DOUBLE) AND abs({value}) <= 2::DOUBLE ** 53"
        return f"CASE WHEN {whole} THEN TRY_CAST({value} AS BIGINT) END"
    if found == "BLOB":
        return f"TRY(decode({value}))"
    if wanted == TEXT and found in ("FLOAT", "DOUBLE"):
        return f"coalesce({as_type(value, found, 'BIGINT')}::VARCHAR, {value}::VARCHAR)"
    return f"TRY_CAST({value} AS {wanted})"
