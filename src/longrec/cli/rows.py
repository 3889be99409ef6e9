"""Rows as a command gives them: a table for the screen, or CSV, Parquet and JSON for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from typer import Option

from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.files import write_file

if TYPE_CHECKING:
    import polars as pl

Format = Literal["table", "csv", "parquet", "json"]
Form = Annotated[
    Format | None,
    Option("--format", help="How to write them: by --out's ending, else as a table."),
]
OutFile = Annotated[
    Path | None,
    Option("--out", help="A .csv, .parquet or .json file instead of standard output."),
]

EscapeFormulas = Annotated[
    bool,
    Option(
        "--escape-formulas",
        help="In CSV, put ' before texts that a spreadsheet would take for formulas.",
    ),
]


def chosen_format(
    form: Format | None, out: Path | None, json: bool, escape_formulas: bool = False
) -> str:
    """What to write, known before any work is done."""
    chosen = _chosen(form, out, json)
    if escape_formulas and chosen != "csv":
        raise UsageError(f"--escape-formulas is for CSV, and this is written as {chosen}")
    return chosen


def _chosen(form: Format | None, out: Path | None, json: bool) -> str:
    if json:
        if form not in (None, "json"):
            raise UsageError(f"--json and --format {form} are two formats: give one")
        form = "json"
    if out is None:
        if form == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal: pass --out FILE")
        return form or "table"
    ending = out.suffix.removeprefix(".").lower()
    chosen = form or (ending if ending in get_args(Format) else "table")
    if chosen == "table":
        raise UsageError(
            f"{out}: a table is for the screen; pass --format csv, parquet or json, or name the "
            "file so"
        )
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    return chosen


def write_rows(
    found: pl.DataFrame, chosen: str, out: Path | None, title: str, escape_formulas: bool = False
) -> None:
    """Write rows to standard output, or to a file, which appears whole or not at all."""
    from longrec.core.serialise import serialise

    if chosen == "table":
        console.table(title, found.columns, found.rows())
        return
    written = serialise(found, chosen, escape_formulas)
    if out is None:
        sys.stdout.buffer.write(written)
        sys.stdout.flush()  # here, where a reader that has stopped is no traceback
    else:
        write_file(out, written)
        console.say(f"{len(found):,} rows in {out}")
