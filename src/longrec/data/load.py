"""Parts of a log to one table in the engine: the wanted columns, every row, in the log's order.

The table `raw` has `part`, and each wanted column as r0, r1, …; `rowid` rises in the log's order.
Text is as it stands, without spaces around it; an empty field is NULL. Rows that are none (too many
fields, a quote mark that nothing closes, no JSON) are in `bad` with their line and cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import polars as pl

from longrec.core.errors import LongrecError
from longrec.data.bad_rows import LONGEST, NO_JSON, BadRow, refusal, rejected
from longrec.data.engine import Engine, Progress, engine_errors, literal, path_literal, unreadable
from longrec.data.files import File
from longrec.data.log_frames import FRAME_ERRORS
from longrec.data.sources import HINTS, TEXT, Part
from longrec.data.text_files import (
    as_plain_text,
    check_whole,
    encoding_of,
    rows_as_csv_has_them,
)
from longrec.data.times import typed_ticks

BATCH = 100_000
QUOTE_RULES = ('"', "", None)
"""How quote marks are read: as CSV has them, as plain characters, as Python's csv module does."""
EXACT = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}
"""Beyond that a float stands for more than one integer."""
GIVEN = r"trim(c0, E' \t\r') <> ''"
"""Whether a line holds something, in SQL."""
Wanted = Mapping[str, tuple[str, str]]
"""What is loaded, by role or name: the column that it stands in, and its type in the table."""


class Loader:
    """Loads parts, one after the other.

    Parameters
    ----------
    engine : Engine
    wanted : columns and their types in the table.
    encoding : of text files; None: UTF-8, or what their first bytes say.
    keep_bad : whether bad rows are kept in the table `bad`; else the first one is an error.
    hex : columns of bytes that are no text, which are spelt in hexadecimal digits.

    Attributes
    ----------
    files : by a part's number, a text file as it was read: itself, or a plain copy.
    goes_on : whether a row of it may go on over the end of its line.
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
        self.files: dict[int, File] = {}
        self.goes_on: dict[int, bool] = {}
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
        """By the first rule for quote marks under which every row is whole, else by the one under
        which most are."""
        results = []
        for rule in QUOTE_RULES:
            loaded, bad = self._by_rule(rule, number, part, progress)
            if not bad:
                return loaded
            results.append((loaded, -len(bad), bad))
            self.engine.run("DELETE FROM raw WHERE part = ?", [number])
        best = max(range(len(QUOTE_RULES)), key=lambda place: results[place][:2])
        if not self.keep_bad:
            raise refusal(part, results[best][2])
        loaded, bad = self._by_rule(QUOTE_RULES[best], number, part, progress)
        self._keep(number, bad)
        return loaded

    def _by_rule(
        self, rule: str | None, number: int, part: Part, progress: Progress | None
    ) -> tuple[int, list[BadRow]]:
        """Load a text file; -> rows that were loaded, and the others."""
        if rule is None:
            loaded, bad = self._load_leniently(number, part)
        else:
            loaded, bad = self._by_engine(
                number, part, lambda file: self._csv(file, part, rule), progress
            )
        self.goes_on[number] = rule == '"'
        return loaded, bad

    def _by_engine(
        self, number: int, part: Part, query: Callable[[File], str], progress: Progress | None
    ) -> tuple[int, list[BadRow]]:
        """The same by the engine, which refuses files in which lines end in more than one way."""
        try:
            file = self._file(number, part)
            loaded = self._insert(number, part, query(file), progress)
        except engine_errors() as error:
            if "reached an invalid state" not in str(error):
                raise
            rejected(self.engine, part, file)
            file = self._file(number, part, even=True)
            loaded = self._insert(number, part, query(file), progress)
        return loaded, rejected(self.engine, part, file)

    def _load_json(self, number: int, part: Part, progress: Progress | None) -> int:
        asked = [name for name in self.names if name not in part.partition]
        given = f"coalesce(len(list_filter({_extracted(asked)}, lambda x: x IS NOT NULL)), 0)"
        loaded, bad = self._by_engine(number, part, lambda file: self._json(file, part), progress)
        file = self._file(number, part)
        wanted = enumerate(self.wanted.values())
        empty = " AND ".join(f"r{i} IS NULL" for i, (name, _) in wanted if name in asked)
        nothing = f"SELECT count(*) AS n FROM raw WHERE part = {number} AND {empty}"
        if self.engine.row(nothing)["n"]:
            words = literal(f"has nothing of {', '.join(asked)}")
            found = self.engine.run(
                f"SELECT line, CASE WHEN json_valid(c0) THEN {words} ELSE {literal(NO_JSON)} END, "
                f"c0 FROM (SELECT row_number() OVER () AS line, c0 FROM {self._lines(file)}) "
                f"WHERE {GIVEN} AND {given} = 0"
            )
            without = sorted(row.line for row in rejected(self.engine, part, file))
            for line, cause, text in found:
                for left_out in without:
                    line += left_out <= line
                bad.append(BadRow(part.name, line, cause, text))
            if self.keep_bad:
                self.engine.run("DELETE FROM raw WHERE part = ?", [number])
                query = self._json(file, part, f"{given} > 0")
                loaded = self._insert(number, part, query, progress)
                rejected(self.engine, part, file)
        if bad and not self.keep_bad:
            raise refusal(part, bad)
        self._keep(number, bad)
        return loaded

    def _keep(self, number: int, bad: Sequence[BadRow]) -> None:
        """Put bad rows into their table."""
        rows = [(number, row.line, row.cause, row.text) for row in bad]
        frame = pl.DataFrame(rows, schema=["part", "line", "cause", "text"], orient="row")
        self._append("bad", frame, "SELECT *")

    def _csv(self, file: File, part: Part, quote: str) -> str:
        assert part.dialect is not None
        columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(part.dialect.header)))
        options = {
            "delim": literal(part.dialect.separator),
            "quote": literal(quote),
            "escape": literal(quote),
            "skip": str(part.dialect.skip),
            "columns": f"{{{columns}}}",
        }
        return f"SELECT {self._texts(part)} FROM {_read_csv(file, options)}"

    def _lines(self, file: File) -> str:
        """Lines of a file as they are, in the column c0."""
        # A mark that no JSON has divides nothing.
        options = {"delim": "chr(1)", "quote": "''", "escape": "''", "skip": "0"}
        return _read_csv(file, options | {"columns": "{'c0': 'VARCHAR'}"})

    def _json(self, file: File, part: Part, only: str = "true") -> str:
        inside = [name for name in self.names if name not in part.partition]
        ids = [self.wanted[role][0] for role in ("user", "item")]

        def place(name: str) -> str:
            value = f"v[{inside.index(name) + 1}]"
            if name not in ids:
                return value
            kind = f"json_type(c0, {_path_of(name)})"
            nested = f"{value}[1] IN ('{{', '[') AND {kind} IN ('OBJECT', 'ARRAY')"
            return f"CASE WHEN {nested} THEN NULL ELSE {value} END"

        return (
            f"SELECT {self._texts(part, place)} FROM (SELECT {_extracted(inside)} AS v, c0 "
            f"FROM {self._lines(file)} WHERE {GIVEN} AND {only})"
        )

    def _file(self, number: int, part: Part, even: bool = False) -> File:
        """A text file as the engine reads it: it or a copy; `even`: one whose lines end alike."""
        assert part.file is not None
        if number not in self.files or even:
            encoding = (self.encoding or encoding_of(part.file)).lower().replace("_", "-")
            known = encoding in ("utf-8", "utf8", "utf-8-sig")
            if known and not even and part.file.packing in ("", "gzip", "zstd"):
                if part.file.packing == "gzip":
                    check_whole(part.file)
                self.files[number] = part.file
            else:
                place = self.engine.work.path / f"text-{number}"
                as_plain_text(part.file, "utf-8" if known else encoding, place, even)
                self.files[number] = replace(part.file, path=place, packing="")
        return self.files[number]

    def _load_leniently(self, number: int, part: Part) -> tuple[int, list[BadRow]]:
        """A text file as Python's csv module divides it, line by line."""
        assert part.dialect is not None
        bad, rows, loaded = list[BadRow](), list[list[str]](), 0
        width = len(part.dialect.header)

        def flush() -> None:
            nonlocal loaded
            columns = {f"c{i}": [row[i] for row in rows] for i in range(width)}
            frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
            loaded += self._append("raw", frame, f"SELECT {number}, {self._texts(part)}")
            rows.clear()

        for line, fields, wrong in rows_as_csv_has_them(self._file(number, part), part.dialect):
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


def _extracted(names: Sequence[str]) -> str:
    """The values of some keys of a line of JSON, a list in SQL; NULL where it is none."""
    return f"TRY(json_extract_string(c0, [{', '.join(map(_path_of, names))}]))"


def _path_of(name: str) -> str:
    """A key of JSON in SQL."""
    return literal('$."' + name.replace("\\", "\\\\").replace('"', '\\"') + '"')


def _read_csv(file: File, options: Mapping[str, str]) -> str:
    always = {
        "header": "false",
        "auto_detect": "false",
        "store_rejects": "true",
        "strict_mode": "true",
        "allow_quoted_nulls": "false",
        "max_line_size": str(LONGEST),
        "compression": literal(file.packing or "none"),
    }
    words = ", ".join(f"{key} = {value}" for key, value in (always | dict(options)).items())
    return f"read_csv({path_literal(file.path)}, {words})"


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
            whole += f" AND isfinite({value}::DOUBLE) AND abs({value}) <= {EXACT[found]}"
        return f"CASE WHEN {whole} THEN TRY_CAST({value} AS BIGINT) END"
    if found == "BLOB":
        return f"TRY(decode({value}))"
    if wanted == TEXT and (found in ("FLOAT", "DOUBLE") or found.startswith("DECIMAL")):
        text = f"coalesce({as_type(value, found, 'BIGINT')}::VARCHAR, {value}::VARCHAR)"
        return f"CASE WHEN isfinite({value}::DOUBLE) THEN {text} END"
    return f"TRY_CAST({value} AS {wanted})"
