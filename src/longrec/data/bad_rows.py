"""Rows that cannot be used: what the engine left out of a file, on which line, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from longrec.core.errors import DataError
from longrec.core.serialise import without_formulas
from longrec.data.engine import Engine, engine_errors
from longrec.data.files import File, open_bytes
from longrec.data.sources import Part
from longrec.data.text_files import BLOCK, NOT_UTF8

LONGEST = 1 << 25
"""Bytes of the longest line."""
NO_JSON = "is no JSON"
CAUSES = {
    "UNQUOTED VALUE": "has a quote mark inside of a field, or one that nothing closes",
    "INVALID ENCODING": NOT_UTF8,
    "LINE SIZE OVER MAXIMUM": (
        f"is longer than {LONGEST:,} bytes: perhaps nothing closes a quote mark"
    ),
}


@dataclass(frozen=True)
class BadRow:
    """A row that is none: where it stands, why, and its text."""

    file: str
    line: int
    cause: str
    text: str


def rejected(engine: Engine, part: Part, file: File) -> list[BadRow]:
    """What the engine left out of a file that it read last, one for each line.

    Parameters
    ----------
    engine : Engine
    part : what was read.
    file : as the engine read it.
    """
    try:
        rows = engine.run(
            "SELECT line_byte_position, error_type, error_message, csv_line FROM reject_errors "
            "ORDER BY line_byte_position"
        )
    except engine_errors():  # no table: nothing was left out
        return []
    engine.run("DROP TABLE IF EXISTS reject_errors")
    engine.run("DROP TABLE IF EXISTS reject_scans")
    found: dict[int, tuple[str, str]] = {}
    for position, kind, message, text in rows:
        if position not in found or kind == "TOO MANY COLUMNS":
            found[position] = _cause(part, kind, message), text or ""
    bad = []
    # The engine counts rows, of which one with a line end inside of quote marks has two lines.
    for line, (cause, text) in zip(_lines_at(file, list(found)), found.values(), strict=True):
        for number, own in enumerate(text.replace("\r\n", "\n").split("\n"), line):
            if own.strip() or not text.strip():
                bad.append(BadRow(part.name, number, cause, own))
    return bad


def _cause(part: Part, kind: str, message: str) -> str:
    if kind in CAUSES:
        return CAUSES[kind]
    if part.kind == "jsonl":
        return NO_JSON
    wanted, fields = (word.split()[0] for word in message.split(": ")[1:3])
    return f"has {fields} fields, the header names {wanted}"


def _lines_at(file: File, positions: Sequence[int]) -> Iterator[int]:
    """The line of each place in a file, of places (bytes, from 1) that rise."""
    with open_bytes(file) as raw:
        block, begins = raw.read(BLOCK), 0
        end = b"\n" if b"\n" in block else b"\r"
        line = 1
        for position in positions:
            while begins + len(block) < position - 1:
                line += block.count(end)
                begins += len(block)
                block = raw.read(BLOCK)
            yield line + block[: max(position - 1 - begins, 0)].count(end)


def refusal(part: Part, bad: Sequence[BadRow]) -> DataError:
    """The error for rows that are none."""
    row = min(bad, key=lambda one: one.line)
    more = f" ({len(bad):,} rows are like this)" if len(bad) > 1 else ""
    mend = "Mend the line"
    if part.kind == "text" and row.cause != NOT_UTF8:
        mend += ", put fields that hold a separator or a quote mark in quote marks"
    return DataError(
        f"{part.name}: line {row.line} {row.cause}{more}. {mend}, or leave such rows out with "
        "skip_bad_rows=True (--skip-bad-rows)."
    )


def write_bad_rows(
    path: Path, rows: Sequence[BadRow], earlier: Path | None, escape_formulas: bool
) -> None:
    """Write which rows were left out, and why, behind those of an earlier log's file, if any."""
    kinds = {"file": pl.String, "line": pl.Int64, "cause": pl.String, "text": pl.String}
    told = pl.DataFrame([asdict(row) for row in rows], schema=kinds)
    if earlier is not None and earlier.is_file():
        told = pl.concat([pl.read_csv(earlier, schema=kinds), told])
    if len(told):
        (without_formulas(told) if escape_formulas else told).write_csv(path)
