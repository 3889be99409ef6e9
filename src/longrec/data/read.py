"""Logs to events: which column is what, of which type, and whether every row can be used.

`read_events` loads the wanted columns into an engine of its own, which spills to disk, and looks at
every row before anything is built from it: the first row that cannot be used is named with its
file, column and value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longrec.core.arguments import check_flag, check_names, check_text
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.data.columns import ROLES, Roles, find_roles, likely_type, refusal
from longrec.data.engine import Engine, Progress, StageProgress
from longrec.data.event_columns import TYPE
from longrec.data.events import Events
from longrec.data.load import Loader
from longrec.data.sources import Part, open_source, refuse_mixed
from longrec.data.survey import survey
from longrec.data.times import UNITS
from longrec.data.types import (
    bytes_without_text,
    join_ids,
    join_times,
    join_types,
    join_values,
)

IDS = ("user", "item")


def load_here(loader: Loader, progress: StageProgress | None) -> None:
    """Load all parts of a log, one after the other."""
    for number, part in enumerate(loader.parts):
        say = _watch(progress, f"reading {Path(part.name).name}", number, len(loader.parts))
        loader.load(number, say)


def read_events(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    order: str | None = None,
    row_order: bool = False,
    time_unit: str | None = None,
    time_format: str | None = None,
    type: str | None = None,
    columns: Sequence[str] = (),
    header: Sequence[str] = (),
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    memory: int | None = None,
    place: Path | None = None,
    progress: StageProgress | None = None,
    load: Callable[[Loader, StageProgress | None], None] = load_here,
) -> Events:
    """Find a log's columns, check every row, and return its events.

    Parameters
    ----------
    source
        a text file (CSV, TSV, RecBole's `.inter`, …), JSON lines or Parquet, packed or not, a list
        of them, a glob, a folder, a Polars or pandas frame, or any Arrow table or stream; an
        `Events` is returned as it is.
    user, item, time
        names of the columns; without them, names such as userId, product_id or ts are recognised.
    order
        a column that orders each user's events; `time` then only gives their times.
    row_order
        the rows of the log are in the order of events.
    time_unit
        "s", "ms", "us" or "ns" instead of detecting it, and "datetime" for datetime columns;
        stating it also allows times before 1970 or after 2100.
    time_format
        how times are written, as strptime has it: "%d/%m/%Y %H:%M".
    type
        column of the events' types, such as "view" and "buy": kept as the column "type", as text.
    columns
        further columns to keep for each event, such as a weight: numbers, booleans or text.
    header
        names of all columns, in order, of text files without a header line.
    encoding
        of text files, such as "latin-1"; UTF-8 (or UTF-16 with its mark) if it is not stated.
    skip_bad_rows
        leave rows out that cannot be used, and count them, instead of refusing the log.
    memory
        bytes that this process may hold; None: half of what is free.
    place
        path beside which a hidden folder holds what does not fit; None: the system's temporary one.
    progress
        called now and then.
    load
        loads all parts, where that is not done by this process alone (`longrec.cluster`).

    Raises
    ------
    UsageError
        for columns that are not there (all are told at once), or options that contradict each
        other.
    DataError
        for a file or row that cannot be used.
    """
    stated = {"user": user, "item": item, "time": time, "order": order}
    texts = {"time_unit": time_unit, "time_format": time_format, "type": type, "encoding": encoding}
    for name, value in (stated | texts).items():
        check_text(name, value)
    columns, header = check_names("columns", columns), check_names("header", header)
    options = stated | texts | {"row_order": row_order, "columns": columns, "header": header}
    options |= {"skip_bad_rows": skip_bad_rows}
    if isinstance(source, Events):
        if any(options.values()):
            raise UsageError("These events are read already: give column options to read_events.")
        return source
    check_flag("skip_bad_rows", skip_bad_rows)
    check_flag("row_order", row_order)
    if row_order and order is not None:
        raise UsageError(
            "Either order= names a column or row_order=True says rows count, not both."
        )
    if time_unit is not None and time_unit not in UNITS:
        raise UsageError(f"time_unit {time_unit!r} is not known. Use one of {', '.join(UNITS)}.")
    if encoding is not None:
        try:
            "".encode(encoding)
        except LookupError:
            raise UsageError(
                f"encoding {encoding!r} is not known. Use one such as utf-8, utf-16, latin-1, "
                "cp1252 or shift_jis."
            ) from None
    _check_further(columns, type)
    engine = Engine(memory, place)
    try:
        return _read(source, engine, stated, options, progress, load)
    except BaseException:
        engine.close()
        raise


def _read(
    source: Any,
    engine: Engine,
    stated: Mapping[str, str | None],
    options: Mapping[str, Any],
    progress: StageProgress | None,
    load: Callable[[Loader, StageProgress | None], None],
) -> Events:
    notes: list[str] = []
    type, columns, time_unit = options["type"], options["columns"], options["time_unit"]
    encoding, header, row_order = options["encoding"], options["header"], options["row_order"]
    parts = open_source(source, engine, notes.append, encoding, header)
    further = dict.fromkeys(columns, "columns") | ({} if type is None else {type: "type"})
    parts, roles = _one_log(parts, stated, further, row_order, notes.append)
    names = dict(roles.names)
    if time_unit is not None and "time" not in names:
        raise UsageError(
            f"time_unit={time_unit!r} was given, but {parts[0].name} has no time column."
        )
    if type is not None or TYPE in columns:
        names[TYPE] = type or TYPE
        columns = columns if TYPE in columns else (TYPE, *columns)
    likely = None if TYPE in names else likely_type(parts[0], [*names.values(), *columns])
    if likely is not None:
        notes.append(
            f"{likely} looks like the types of events: type={likely!r} (--type {likely}) keeps them"
        )
    wanted = _wanted(parts, names, columns, engine)
    binary = bytes_without_text([column for column, kind in wanted.values()], parts, engine)
    loader = Loader(engine, parts, wanted, encoding, options["skip_bad_rows"], binary)
    load(loader, progress)
    found = survey(loader, time_unit, options["time_format"])
    source = parts[0].name if len(parts) == 1 else f"{parts[0].name} … {parts[-1].name}"
    if not found.n_events:
        dropped = f" ({len(found.bad_rows):,} rows cannot be used)" if found.bad_rows else ""
        raise DataError(f"{source} is empty: it has columns but no events{dropped}.")
    return Events(
        **vars(found) | {"notes": (*notes, *found.notes)},
        engine=engine,
        names=names,
        recognised=roles.recognised,
        row_order=row_order,
        columns=columns,
        source=source,
        options=options,
    )


def _check_further(columns: Sequence[str], type: str | None) -> None:
    for name in columns:
        if name in ROLES or name == "row":
            raise UsageError(f"columns may not hold {name!r}: rename it, the name is in use.")
    if type not in (None, TYPE) and TYPE in columns:
        raise UsageError(
            f"type={type!r} would be kept as the column {TYPE!r}, which columns= names, too: leave "
            "one out."
        )


def _one_log(
    parts: Sequence[Part],
    stated: Mapping[str, str | None],
    further: Mapping[str, str],
    row_order: bool,
    note: Callable[[str], None],
) -> tuple[list[Part], Roles]:
    """The parts that are one log, and what its columns are."""
    found = [find_roles(part, stated, further, row_order) for part in parts]
    whole = [{"user", "item"} <= roles.names.keys() for roles in found]
    kept = []
    for part, roles, is_log in zip(parts, found, whole, strict=True):
        if not is_log and any(whole) and part.file is not None and part.file.searched:
            lacking = " and ".join(r for r in ("user", "item") if r not in roles.names)
            note(f"{part.name} is another table (it has no column of {lacking} ids) and left out")
        else:
            kept.append((part, roles))
    first, roles = kept[0]
    if roles.problems:
        raise refusal(first, roles.problems)
    needed = [*roles.names.values(), *further]
    for part, _ in kept[1:]:
        for name in needed:
            if name not in part.types:
                raise DataError(
                    f"{part.name} has no column {name!r}, {first.name} has: the files are not one "
                    f"log. Its columns are {listed(part.types)}."
                )
    return [part for part, _ in kept], roles


def _wanted(
    parts: Sequence[Part], names: Mapping[str, str], columns: Sequence[str], engine: Engine
) -> dict[str, tuple[str, str]]:
    """What to load: by role or name, the column and its type."""
    for part in parts:
        for name in (*names.values(), *(name for name in columns if name != TYPE)):
            refuse_mixed(part, name)
    wanted = {role: (names[role], join_ids(role, names[role], parts, engine)) for role in IDS}
    for role in ("time", "order"):
        if role in names:
            wanted[role] = names[role], join_times(names[role], parts)
    for name in columns:
        if name == TYPE:
            wanted[name] = names[TYPE], join_types(names[TYPE], parts, engine)
        else:
            wanted[name] = name, join_values(name, parts)
    return wanted


def _watch(progress: StageProgress | None, words: str, done: int, parts: int) -> Progress | None:
    if progress is None:
        return None
    return lambda share: progress(words, (done + share) / parts)
