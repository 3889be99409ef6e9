"""Every row of a loaded log looked at: what columns hold, and which rows cannot be used.

It makes the view `events` of the table `raw`: ids and times as they will be kept, and `row`, which
rises in the log's order.
"""

from __future__ import annotations

from dataclasses import dataclass

from longrec.core.errors import DataError, our_fault
from longrec.data.bad_rows import BadRow
from longrec.data.bad_values import Check, refusal, refused
from longrec.data.columns import ROLES
from longrec.data.engine import Engine, literal, quoted
from longrec.data.event_columns import TYPE
from longrec.data.load import Loader
from longrec.data.log_times import LogTimes
from longrec.data.sources import TEXT
from longrec.data.times import all_in_1970, implausible, too_far
from longrec.data.types import (
    MISSING_WORDS,
    before_point,
    ends_in_zeros,
    is_decimal,
    is_integer,
    is_untyped,
    is_whole,
)

UNSEEN = r"[\s\p{Z}\p{Cf}]"
"""Spaces, and signs without a picture, in the engine's regular expressions."""


@dataclass(frozen=True)
class Survey:
    """What was found; see `Events`."""

    n_events: int
    types: dict[str, str]
    time_unit: str | None
    per_second: int
    first_time: float | None
    last_time: float | None
    notes: tuple[str, ...]
    bad_rows: tuple[BadRow, ...]


def survey(loader: Loader, time_unit: str | None, time_format: str | None) -> Survey:
    """Look at all rows.

    Raises
    ------
    DataError
        For the first row that cannot be used, unless the loader keeps such rows apart.
    """
    engine, raw, wanted = loader.engine, loader.raw, loader.wanted
    values, checks, notes = dict[str, str](), list[Check](), list[str]()
    # Before anything is concluded from what stands in the columns.
    take_headers_out(loader)
    for key, (name, kind) in wanted.items():
        untyped = any(is_untyped(part, name) for part in loader.parts)
        if key in ("user", "item"):
            empty = f"{raw[key]} IS NULL" + (f" OR {raw[key]} = ''" if kind == TEXT else "")
            checks.append(Check(key, empty))
            values[key] = _ids(loader, key, untyped, notes)
        elif key in ("time", "order"):
            checks.append(Check(key, f"{raw[key]} IS NULL OR {raw[key]}::VARCHAR = ''"))
        else:
            values[key] = _further(loader, key) if kind == TEXT and untyped else raw[key]
    times = None
    for key in ("time", "order"):
        if key in wanted:
            found = LogTimes(loader, key, time_unit, time_format)
            values[key] = found.ticks
            unread = f"{raw[key]} IS NOT NULL AND ({found.ticks}) IS NULL"
            says = f"is not readable as time (the column holds {found.kinds})"
            checks.append(Check(key, unread, says))
            times = found if key == "time" else times
            if key == "time" and time_unit is None:
                bad = implausible(found.ticks, found.per_second, known=found.unit == "datetime")
                checks.append(Check(key, bad, "is no plausible time", found))
            elif key == "time":
                bad = too_far(found.ticks, found.per_second)
                checks.append(Check(key, bad, "is further from 1970 than can be kept"))
    bad_rows = _apart(loader, checks)
    good = ""
    if bad_rows:
        good = f" WHERE NOT coalesce({' OR '.join(f'({check.bad})' for check in checks)}, true)"
    # Names of further columns would clash: the engine takes "Weight" and "weight" for one.
    further = [key for key in wanted if key not in ROLES]
    names = {key: f"x{further.index(key)}" if key in further else quoted(key) for key in wanted}
    selected = ", ".join(f"{values[key]} AS {names[key]}" for key in wanted)
    engine.run(f"CREATE VIEW events AS SELECT rowid AS row, {selected} FROM raw{good}")
    span = ", min(time) AS first, max(time) AS last" if times else ", NULL AS first, NULL AS last"
    kept = engine.row(f"SELECT count(*) AS n{span} FROM events")
    total = engine.row("SELECT count(*) AS n FROM raw")["n"]
    if kept["n"] + len(bad_rows) != total:
        raise our_fault(
            f"{loader.parts[0].name}: of {total:,} rows {kept['n']:,} came through and "
            f"{len(bad_rows):,} were left out"
        )
    per_second = times.per_second if times else 1
    first, last = (None if at is None else at / per_second for at in (kept["first"], kept["last"]))
    if time_unit is None and times and last is not None:
        notes += all_in_1970(times.unit, last)
    described = engine.run("DESCRIBE events")
    rejected = engine.run("SELECT part, line, cause, text FROM bad ORDER BY part, line")
    return Survey(
        n_events=kept["n"],
        types={key: row[1] for key, row in zip(wanted, described[1:], strict=True)},
        time_unit=times.unit if times else None,
        per_second=per_second,
        first_time=first,
        last_time=last,
        notes=tuple(notes),
        bad_rows=(
            *(BadRow(loader.parts[n].name, *row) for n, *row in rejected),
            *(*loader.again, *bad_rows),
        ),
    )


def take_headers_out(loader: Loader) -> None:
    """Take out of a loaded log, or some of it, rows that are the names of the columns again."""
    headers = _headers(loader)
    again = _apart(loader, headers) if headers else []
    if again:
        loader.engine.run(f"DELETE FROM raw WHERE {headers[0].bad}")
    loader.again += again


def _headers(loader: Loader) -> list[Check]:
    """The check for the names of the columns again, as in files that were put together."""
    texts = [str(n) for n, part in enumerate(loader.parts) if part.kind == "text"]
    ids = [(loader.raw[role], loader.wanted[role]) for role in ("user", "item")]
    if not texts or any(kind != TEXT for _, (_, kind) in ids):
        return []
    same = " AND ".join(f"{value} = {literal(name)}" for value, (name, _) in ids)
    return [Check("user", f"part IN ({', '.join(texts)}) AND {same}", "is a column's name again")]


def _apart(loader: Loader, checks: list[Check]) -> list[BadRow]:
    """The rows that checks refuse; the first one is an error unless the loader keeps them apart."""
    counts = [f"count(*) FILTER ({check.bad}) AS n{i}" for i, check in enumerate(checks)]
    found = loader.engine.row(f"SELECT {', '.join(counts)} FROM raw")
    bad_rows = []
    for i, check in enumerate(checks):
        if count := found[f"n{i}"]:
            if not loader.keep_bad:
                raise refusal(loader, check, count)
            bad_rows += refused(loader, check, checks[:i])
    return bad_rows


def _ids(loader: Loader, role: str, untyped: bool, notes: list[str]) -> str:
    """Ids as they will be kept, in SQL."""
    engine, value, (name, kind) = loader.engine, loader.raw[role], loader.wanted[role]
    if kind != TEXT:
        return value
    if untyped:
        whole = is_whole(value)
        found = engine.row(
            f"SELECT count(*) FILTER ({value} <> '') AS n, count(*) FILTER ({whole}) AS whole, "
            f"count(*) FILTER ({ends_in_zeros(value)}) AS zeros FROM raw"
        )
        if found["n"] and found["n"] == found["whole"]:
            return f"TRY_CAST({before_point(value)} AS BIGINT)"
        odd = found["n"] - found["whole"]
        if found["zeros"]:
            same = f"{ends_in_zeros(value)} AND {before_point(value)} IN (SELECT {value} FROM raw)"
            twice = engine.row(f"SELECT min({value}) AS n FROM raw WHERE {same}")["n"]
            if twice is not None:
                raise DataError(
                    f"column {name!r}: the {role} {twice!r} also occurs as "
                    f"{twice.split('.')[0]!r}, and {odd:,} of {found['n']:,} values are no "
                    "integers, so that all are text and these would be two. Write it in one way."
                )
        if found["whole"]:
            notes.append(
                f"{odd:,} of {found['n']:,} values of {name} are not integers: all are kept as text"
            )
    notes += _nearly_same(engine, role, value)
    words = ", ".join(map(literal, MISSING_WORDS))
    missing = engine.run(
        f"SELECT {value}, count(*) FROM raw WHERE {value} IN ({words}) GROUP BY 1 ORDER BY 1"
    )
    if missing:
        spelt = ", ".join(f"{word!r} {count:,} times" for word, count in missing)
        rows = sum(count for _, count in missing)
        notes.append(
            f"{rows:,} rows have {'an' if role == 'item' else 'a'} {role} that spells a missing "
            f"value ({spelt}): each such word is taken for one {role}. Leave "
            "these rows out of the log if that is wrong."
        )
    return value


def _nearly_same(engine: Engine, role: str, value: str) -> list[str]:
    """A remark on ids that differ from others by what nobody sees; or none."""
    plain = f"nfc_normalize(regexp_replace(id, '^{UNSEEN}+|{UNSEEN}+$', '', 'g'))"
    # Most ids are ASCII without spaces at their ends, which is found out soon. In one query the
    # engine would look at every row of the others rather than at every id.
    some = f"strlen({value}) > length({value}) OR prefix({value}, ' ') OR suffix({value}, ' ')"
    engine.run(
        f"CREATE OR REPLACE TABLE ids AS SELECT DISTINCT {value} AS id FROM raw WHERE {some}"
    )
    odd = f"SELECT count(*) AS n, min(id) AS first FROM ids WHERE id <> {plain}"
    found = engine.row(odd)
    if found["n"]:
        found = engine.row(f"{odd} AND {plain} IN (SELECT {value} FROM raw)")
    engine.run("DROP TABLE ids")
    if not found["n"]:
        return []
    return [
        f"{found['n']:,} ids of {role}s differ from another one by spaces at the ends, signs that "
        f"nobody sees or the coding of accents, such as {found['first']!a}: they are taken for "
        "others. Write each in one way if that is wrong."
    ]


def _further(loader: Loader, key: str) -> str:
    """A further column of text as numbers, if every value spells one, or as words; in SQL."""
    value = loader.raw[key]
    if key == TYPE:  # 3 and 3.0 are one type
        word = f"CASE WHEN {ends_in_zeros(value)} THEN {before_point(value)} ELSE {value} END"
        return f"nullif({word}, '')"
    given = f"nullif({value}, '')"
    found = loader.engine.row(
        f"SELECT count({given}) AS n, count(*) FILTER ({is_integer(value)}) AS whole, "
        f"count(*) FILTER ({is_decimal(value)}) AS decimal, count(*) AS rows FROM raw"
    )
    if found["n"] and found["whole"] == found["rows"]:
        return f"TRY_CAST({value} AS BIGINT)"
    if found["n"] and found["decimal"] == found["n"]:
        return f"TRY_CAST({given} AS DOUBLE)"
    return given
