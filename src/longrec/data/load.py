"""Parts of a log to one table in the engine: the wanted columns, every row, in the log's order.

The table `raw` has `part`, and each wanted column as r0, r1, …; `rowid` rises in the log's order.
Rows that are none (too many fields, a quote mark that nothing closes, no JSON) are in `bad` with
their line and cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import polars as pl

from longrec.core.errors import LongrecError
from longrec.core.format import listed
from longrec.data.bad_rows import NO_JSON, BadRow, refusal, rejected
from longrec.data.engine import Engine, Progress, engine_errors, literal, unreadable
from longrec.data.files import File
from longrec.data.frames import FRAME_ERRORS
from longrec.data.queries import GIVEN, Queries, lines
from longrec.data.sources import HINTS, Part
from longrec.data.text_files import (
    as_plain_text,
    check_whole,
    copy_piece,
    encoding_to_read,
    rows_as_csv_has_them,
)

BATCH = 100_000
QUOTE_RULES = ('"', "", None)
"""How quote marks are read: as CSV has them, as plain characters, as Python's csv module does."""


class Loader:
    """Loads parts, one after the other.

    Parameters
    ----------
    engine : Engine
    parts : of the log, in order.
    wanted, hex : what to load; see `Queries`.
    encoding : of text files; None: UTF-8, or what their first bytes say.
    keep_bad : whether bad rows are kept in the table `bad`; else the first one is an error.

    Attributes
    ----------
    raw : the column of the table for each role or name that is wanted.
    names : the columns of the log that are wanted.
    goes_on : whether a row of it may go on over the end of its line.
    again : rows of the table that were the names of the columns again, and were taken out of it.
    """

    def __init__(
        self,
        engine: Engine,
        parts: Sequence[Part],
        wanted: Mapping[str, tuple[str, str]],
        encoding: str | None,
        keep_bad: bool,
        hex: frozenset[str],
    ) -> None:
        self.engine, self.parts, self.wanted = engine, parts, wanted
        self.encoding, self.keep_bad = encoding, keep_bad
        self.queries = Queries(wanted, hex)
        self.names = self.queries.names
        self.raw = {key: f"r{i}" for i, key in enumerate(wanted)}
        self._files: dict[int, File] = {}
        self.goes_on: dict[int, bool] = {}
        self.again: list[BadRow] = []
        columns = ", ".join(f"{self.raw[key]} {kind}" for key, (_, kind) in wanted.items())
        engine.run(f"CREATE TABLE raw (part INTEGER, {columns})")
        engine.run("CREATE TABLE bad (part INTEGER, line BIGINT, cause VARCHAR, text VARCHAR)")

    @cached_property
    def starts(self) -> dict[int, int]:
        """The `rowid` of the first row of each part, or piece of one, in order, and how many rows
        that part has before it."""
        firsts = self.engine.run("SELECT min(rowid) AS n FROM raw GROUP BY part ORDER BY n")
        return {first: 0 for (first,) in firsts}

    def load(self, number: int, progress: Progress | None) -> None:
        """Load a part by its number.

        Raises
        ------
        DataError
            When it cannot be read, or has a bad row that is not to be kept.
        """
        part = self.parts[number]
        try:
            if part.kind == "text":
                self._load_text(number, progress)
            elif part.kind == "jsonl":
                self._load_json(number, progress)
            else:
                self._insert(number, self.queries.typed(part, self.engine), progress)
        except LongrecError:
            raise
        except engine_errors() + FRAME_ERRORS as error:
            raise unreadable(part.name, error, HINTS[part.kind]) from error

    def _insert(self, number: int, query: str, progress: Progress | None) -> int:
        columns = ", ".join(self.raw.values())
        sql = f"INSERT INTO raw SELECT {number}, * FROM ({query}) AS t({columns})"
        [(count,)] = self.engine.run(sql, progress=progress)
        return int(count)

    def _load_text(self, number: int, progress: Progress | None) -> None:
        """By the first rule for quote marks under which every row is whole, else by the one under
        which most are."""
        results = []
        for rule in QUOTE_RULES:
            loaded, bad = self._by_rule(rule, number, progress)
            if not bad:
                return
            results.append((loaded, -len(bad), bad))
            self.engine.run("DELETE FROM raw WHERE part = ?", [number])
        best = max(range(len(QUOTE_RULES)), key=lambda place: results[place][:2])
        if not self.keep_bad:
            raise refusal(self.parts[number], results[best][2])
        self._keep(number, self._by_rule(QUOTE_RULES[best], number, progress)[1])

    def _by_rule(
        self, rule: str | None, number: int, progress: Progress | None
    ) -> tuple[int, list[BadRow]]:
        """Load a text file; -> rows that were loaded, and the others."""
        self.goes_on[number] = rule == '"'
        if rule is None:
            return self._load_leniently(number)
        part = self.parts[number]
        return self._by_engine(number, lambda file: self.queries.csv(file, part, rule), progress)

    def _by_engine(
        self, number: int, query: Callable[[File], str], progress: Progress | None
    ) -> tuple[int, list[BadRow]]:
        """The same by the engine, which refuses files in which lines end in more than one way."""
        part = self.parts[number]
        try:
            file = self.file(number)
            loaded = self._insert(number, query(file), progress)
        except engine_errors() as error:
            if "reached an invalid state" not in str(error):
                raise
            rejected(self.engine, part, file)
            file = self.file(number, even=True)
            loaded = self._insert(number, query(file), progress)
        return loaded, rejected(self.engine, part, file)

    def _load_json(self, number: int, progress: Progress | None) -> None:
        part, queries = self.parts[number], self.queries
        _, bad = self._by_engine(number, lambda file: queries.json(file, part), progress)
        asked, given, file = queries.inside(part), queries.has_any(part), self.file(number)
        empty = " AND ".join(
            f"{self.raw[key]} IS NULL" for key, (name, _) in self.wanted.items() if name in asked
        )
        nothing = f"SELECT count(*) AS n FROM raw WHERE part = {number} AND {empty}"
        if self.engine.row(nothing)["n"]:
            words = literal(f"has nothing of {listed(asked)}")
            found = self.engine.run(
                f"SELECT line, CASE WHEN json_valid(c0) THEN {words} ELSE {literal(NO_JSON)} END, "
                f"c0 FROM (SELECT row_number() OVER () AS line, c0 FROM {lines(file)}) "
                f"WHERE {GIVEN} AND NOT {given}"
            )
            without = sorted(row.line for row in rejected(self.engine, part, file))
            for line, cause, text in found:
                for left_out in without:
                    line += left_out <= line
                bad.append(BadRow(part.name, line, cause, text))
            if self.keep_bad:
                self.engine.run("DELETE FROM raw WHERE part = ?", [number])
                self._insert(number, queries.json(file, part, given), progress)
                rejected(self.engine, part, file)
        if bad and not self.keep_bad:
            raise refusal(part, bad)
        self._keep(number, bad)

    def _keep(self, number: int, bad: Sequence[BadRow]) -> None:
        """Put bad rows into their table."""
        self.add_bad([(number, row.line, row.cause, row.text) for row in bad])

    def add_bad(self, rows: Sequence[tuple[int, int, str, str]]) -> None:
        """Put bad rows into their table: part, line, cause, text."""
        frame = pl.DataFrame(rows, schema=["part", "line", "cause", "text"], orient="row")
        self._append("bad", frame, "SELECT *")

    def file(self, number: int, even: bool = False) -> File:
        """A text file as the engine reads it: it or a copy; `even`: one whose lines end alike."""
        part = self.parts[number]
        file = part.file
        assert file is not None
        if number not in self._files or even:
            if part.span is not None:
                place = self.engine.work.path / f"piece-{number}"
                copy_piece(file, part.span, place)
                file = replace(file, path=place, origin=file.name)
            encoding = encoding_to_read(file, self.encoding)
            if encoding == "utf-8" and not even and file.packing in ("", "gzip", "zstd"):
                if file.packing == "gzip":
                    check_whole(file)
                self._files[number] = file
            else:
                place = self.engine.work.path / f"text-{number}"
                as_plain_text(file, encoding, place, even)
                self._files[number] = replace(file, path=place, packing="")
        return self._files[number]

    def _load_leniently(self, number: int) -> tuple[int, list[BadRow]]:
        """A text file as Python's csv module divides it, line by line."""
        part = self.parts[number]
        assert part.dialect is not None
        bad, rows, loaded = list[BadRow](), list[list[str]](), 0
        width = len(part.dialect.header)

        def flush() -> None:
            nonlocal loaded
            columns = {f"c{i}": [row[i] for row in rows] for i in range(width)}
            frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
            loaded += self._append("raw", frame, f"SELECT {number}, {self.queries.texts(part)}")
            rows.clear()

        for line, fields, wrong in rows_as_csv_has_them(self.file(number), part.dialect):
            if wrong:
                bad.append(BadRow(part.name, line, wrong, fields[0]))
                continue
            rows.append(fields)
            if len(rows) == BATCH:
                flush()
        flush()
        return loaded, bad

    def _append(self, table: str, frame: pl.DataFrame, select: str) -> int:
        with self.engine.seen(frame.to_arrow()) as view:
            self.engine.run(f"INSERT INTO {table} {select} FROM {view}")
        return len(frame)
