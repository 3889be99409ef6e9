"""Where events come from: text, JSON lines, Parquet, frames and Arrow streams, as parts of a log.

A part knows its columns and how the engine reads them. Text files and JSON lines have no types:
which of their columns are numbers is decided later over the whole log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from polars import selectors

from longrec.core.errors import DataError, UsageError, first_line
from longrec.data.engine import Engine, engine_errors, literal, path_literal, unreadable
from longrec.data.files import File, find_files, find_objects, in_order
from longrec.data.frames import FRAME_ERRORS, arrow_of, open_frame, refuse_twins
from longrec.data.object_store import address_of
from longrec.data.text_files import Dialect, EmptyFile, find_dialect, open_text

TEXT = "VARCHAR"
FOREIGN = "Object"
"""The type of what Arrow has no type for."""
HINTS = {
    "text": "mend the file or export it again",
    "jsonl": "mend the file or export it again",
    "parquet": "it is truncated, damaged or not Parquet. Copy or export it again",
    "frame": "convert it to a Polars frame",
}
LOOK = 10_000
"""First lines of a file of JSON lines whose keys are its columns."""


@dataclass(eq=False)
class Part:
    """One file or frame of a log.

    Attributes
    ----------
    name : what errors call it.
    kind : "text", "jsonl", "parquet" or "frame".
    types : its columns in order, and the engine's type of each.
    file, dialect : of what is a file, and of a text file.
    frame : of what is none.
    span : where it begins and ends, of a piece of a file: rows of Parquet, bytes of text.
    """

    name: str
    kind: str
    types: dict[str, str]
    file: File | None = None
    dialect: Dialect | None = None
    frame: pl.DataFrame | pl.LazyFrame | None = None
    span: tuple[int, int] | None = None
    _views: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @property
    def untyped(self) -> bool:
        """Whether every column is text because the format has no types."""
        return self.kind in ("text", "jsonl")

    @property
    def partition(self) -> Mapping[str, str | None]:
        """Columns that folders name."""
        return {} if self.file is None else self.file.partition

    def scan(self, engine: Engine, names: Sequence[str]) -> str:
        """What stands behind FROM: the rows of a typed part, its columns called c0, c1, …"""
        if self.frame is None:
            assert self.file is not None
            inside = [name for name in self.types if name not in self.partition]
            columns, options = _numbered(inside), "hive_partitioning = false"
            if self.span is None:
                return f"read_parquet({path_literal(self.file.path)}, {options}) AS t({columns})"
            options += ", file_row_number = true"
            rows = f"read_parquet({path_literal(self.file.path)}, {options}) AS t({columns}, n)"
            begin, end = self.span
            return f"(SELECT {columns} FROM {rows} WHERE n >= {begin} AND n < {end}) AS t"
        key = tuple(names)
        if key not in self._views:
            table = arrow_of(
                self.frame.lazy().select(selectors.by_name(names)).collect(engine="streaming")
            )
            self._views[key] = engine.register(table)
        return f"{self._views[key]} AS t({_numbered(names)})"

    def column(self, name: str, names: Sequence[str]) -> str:
        """A column of `scan` in SQL."""
        if name in self.partition and self.partition[name] is None:
            return "NULL"
        if name in self.partition:
            return literal(str(self.partition[name]))
        inside = [own for own in self.types if own not in self.partition]
        return f"c{(inside if self.frame is None else list(names)).index(name)}"


def _numbered(names: Sequence[str]) -> str:
    # Their own names would clash: the engine takes "User" and "user" for one.
    return ", ".join(f"c{number}" for number in range(len(names)))


def open_source(
    source: Any,
    engine: Engine,
    note: Callable[[str], None],
    encoding: str | None = None,
    header: Sequence[str] = (),
) -> list[Part]:
    """Parts of a path, list of paths, glob, folder, frame or Arrow stream, in a fixed order.

    Parameters
    ----------
    source : see `longrec.read_events`.
    engine : reads types.
    note : told what is left out.
    encoding, header : of text files; see `longrec.read_events`.

    Raises
    ------
    DataError
        when there is no such file, or it is empty, damaged or has two columns of one name.
    UsageError
        when this is no kind of source that can be read.
    """
    if isinstance(source, str | Path):
        source = [source]
    if isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        if not source:
            raise UsageError("An empty list of files was given. Name at least one.")
        place = engine.work.path
        found = []
        for one in source:
            address = address_of(one)
            found += (
                find_files(str(one), note)
                if address is None
                else find_objects(address, place, note)
            )
        files = in_order(found, note)
        parts = []
        for file in files:
            try:
                parts.append(_open_file(file, engine, encoding, header))
            except EmptyFile:
                if file is files[-1] and not parts:
                    raise
                note(f"{file.name} is empty and left out")
        return parts
    opened = open_frame(source)
    if opened is None:
        raise UsageError(
            f"Events cannot be read from {type(source).__name__}. Give a file, a list of files, a "
            "glob, a folder, a Polars or pandas frame, or an Arrow table or stream."
        )
    frame, name = opened
    try:
        return [Part(name, "frame", _types_of(frame, engine), frame=frame)]
    except pl.exceptions.PolarsError as error:  # of a lazy frame's own
        raise unreadable(name, error, HINTS["frame"]) from error


def _open_file(file: File, engine: Engine, encoding: str | None, header: Sequence[str]) -> Part:
    if file.kind == "text":
        dialect = find_dialect(file, encoding, header)
        refuse_twins(file.name, dialect.header)
        return _part(file, "text", dict.fromkeys(dialect.header, TEXT), dialect)
    if header:
        raise UsageError(
            f"{file.name} names its columns itself: header= (--columns) is for text files without "
            "a header line."
        )
    if file.kind == "jsonl":
        return _part(file, "jsonl", dict.fromkeys(_keys(file, encoding), TEXT))
    if not file.path.stat().st_size:
        raise EmptyFile(file)
    try:
        with pq.ParquetFile(str(file.path)) as opened:
            names = opened.schema_arrow.names
        place = path_literal(file.path)
        described = engine.run(
            f"DESCRIBE SELECT * FROM read_parquet({place}, hive_partitioning = false)"
        )
    except Exception as error:  # arrow and the engine raise many kinds for damaged files
        raise unreadable(file.name, error, HINTS["parquet"]) from error
    refuse_twins(file.name, names)
    types = {name: row[1] for name, row in zip(names, described, strict=True)}
    return _part(file, "parquet", types)


def _part(file: File, kind: str, types: dict[str, str], dialect: Dialect | None = None) -> Part:
    """A file, with the columns that its folders name; what stands in it goes first."""
    partition = {name: value for name, value in file.partition.items() if name not in types}
    types = types | dict.fromkeys(partition, TEXT)
    return Part(file.name, kind, types, replace(file, partition=partition), dialect)


def _keys(file: File, encoding: str | None) -> list[str]:
    """Keys of the first lines, in the order in which they are found.

    A line that is no object is told with all others, when the file is read.
    """
    keys: dict[str, None] = {}
    problem = ""
    with open_text(file, encoding) as text:
        for number, line in zip(range(1, LOOK), text, strict=False):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                problem = problem or f"line {number} is no JSON ({first_line(error)})"
                continue
            if isinstance(found, dict):
                keys |= dict.fromkeys(found)
            else:
                problem = problem or f"line {number} holds no JSON object"
    keys.pop("", None)
    if keys:
        return list(keys)
    if not problem:
        raise EmptyFile(file)
    raise DataError(f"{file.name}, {problem}: a file of JSON lines has one object on each line.")


def _types_of(frame: pl.DataFrame | pl.LazyFrame, engine: Engine) -> dict[str, str]:
    """The engine's type of each column; FOREIGN for what it, or Arrow, does not know."""
    types = {}
    for name, dtype in frame.collect_schema().items():
        types[name] = FOREIGN
        with suppress(*engine_errors(), *FRAME_ERRORS):
            if dtype != pl.Object:
                table = arrow_of(pl.DataFrame(schema={name: dtype}))
                types[name] = engine.run(f"DESCRIBE SELECT * FROM {engine.register(table)}")[0][1]
    return types


def refuse_mixed(part: Part, name: str) -> None:
    """Raise DataError when a column of a frame holds values of more than one type."""
    if part.frame is None or part.types[name] != FOREIGN:
        return
    values = part.frame.lazy().select(selectors.by_name(name)).collect()[name].to_list()
    there = [(row, value) for row, value in enumerate(values, 1) if not _is_missing(value)]
    for row, value in there:
        if type(value) is not (first := type(there[0][1])):
            raise DataError(
                f"{part.name}, column {name!r}, row {row}: {value!r} is of type "
                f"{type(value).__name__}, the rows before are {first.__name__}: mixed types. "
                f"Convert the column, for example frame[{name!r}] = frame[{name!r}].astype(str)."
            )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
