"""Every row of a loaded log looked at: what columns hold, and the first that cannot be used.

It makes the view `events` of the table `raw`: ids and times as they will be kept, and `row`, which
rises in the log's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from longrec.core.errors import DataError, our_fault
from longrec.data.bad_rows import BadRow
from longrec.data.columns import ROLES
from longrec.data.engine import Engine, literal, quoted
from longrec.data.event_columns import TYPE
from longrec.data.load import Loader
from longrec.data.sources import TEXT, Part
from longrec.data.text_files import lines_of_rows
from longrec.data.times import (
    PER_SECOND,
    SAMPLE,
    WORDS,
    TimePlan,
    band_counts,
    check_unit,
    detect_unit,
    implausible,
    plan_of_type,
    plan_of_values,
)
from longrec.data.types import (
    MISSING_WORDS,
    before_point,
    ends_in_zeros,
    is_decimal,
    is_integer,
    is_untyped,
    is_whole,
)


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


@dataclass(frozen=True)
class Check:
    """Rows that may not be: a condition in SQL, the column that it is about, and what to say."""

    key: str
    bad: str
    says: str


@dataclass
class _Found:
    """What is gathered on the way: values in SQL by role or name, checks, notes."""

    values: dict[str, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(
    loader: Loader, parts: Sequence[Part], time_unit: str | None, time_format: str | None
) -> Survey:
    """Look at all rows.

    Raises
    ------
    DataError
        For the first row that cannot be used, unless the loader keeps such rows apart.
    """
    engine, wanted = loader.engine, loader.wanted
    raw = {key: f"r{i}" for i, key in enumerate(wanted)}
    found, total = _Found(), int(engine.row("SELECT count(*) AS n FROM raw")["n"])
    for key, (name, kind) in wanted.items():
        value, untyped = raw[key], any(is_untyped(part, name) for part in parts)
        if key in ("user", "item"):
            empty = f"{value} IS NULL" + (f" OR {value} = ''" if kind == TEXT else "")
            found.checks.append(Check(key, empty, ""))
            found.values[key] = _ids(engine, key, name, value, kind, untyped, found.notes)
        elif key in ("time", "order"):
            found.checks.append(Check(key, f"{value} IS NULL OR {value}::VARCHAR = ''", ""))
        elif kind == TEXT and untyped and key != TYPE:
            found.values[key] = _numbers(engine, value)
        elif kind == TEXT and untyped:
            word = f"CASE WHEN {ends_in_zeros(value)} THEN {before_point(value)} ELSE {value} END"
            found.values[key] = f"nullif({word}, '')"  # 3 and 3.0 are one type
        else:
            found.values[key] = value
    unit, per_second = None, 1
    for key in ("time", "order"):
        if key in wanted:
            reading = _Times(loader, parts, key, raw[key], time_unit, time_format)
            found.values[key] = reading.ticks
            unread = f"{raw[key]} IS NOT NULL AND ({reading.ticks}) IS NULL"
            kinds = " or ".join(dict.fromkeys(plan.kind for plan in reading.plans))
            says = f"is not readable as time (the column holds {kinds})"
            found.checks.append(Check(key, unread, says))
            if key == "time":
                unit, per_second = reading.unit, reading.per_second
                if time_unit is None:
                    bad = implausible(reading.ticks, per_second, known=unit == "datetime")
                    found.checks.append(Check(key, bad, "is no plausible time"))
    counts = [f"count(*) FILTER ({check.bad}) AS n{i}" for i, check in enumerate(found.checks)]
    bad_counts = engine.row(f"SELECT {', '.join(counts)} FROM raw")
    bad_rows = _rejected(engine, parts)
    rejected = len(bad_rows)
    where = ""
    for i, check in enumerate(found.checks):
        if bad_counts[f"n{i}"]:
            look = _Look(
                loader, parts, raw, found.values, check, found.checks[:i], unit, per_second
            )
            if not loader.keep_bad:
                raise look.first(bad_counts[f"n{i}"])
            bad_rows += look.all()
    if any(bad_counts.values()):
        where = f" WHERE NOT coalesce({' OR '.join(f'({c.bad})' for c in found.checks)}, true)"
    # Names of further columns would clash: the engine takes "Weight" and "weight" for one.
    further = [key for key in wanted if key not in ROLES]
    names = {key: f"x{further.index(key)}" if key in further else quoted(key) for key in wanted}
    selected = ", ".join(f"{found.values[key]} AS {names[key]}" for key in wanted)
    engine.run(f"CREATE VIEW events AS SELECT rowid AS row, {selected} FROM raw{where}")
    spans = ", min(time) AS first, max(time) AS last" if "time" in wanted else ""
    span = engine.row(f"SELECT count(*) AS n{spans} FROM events")
    left_out = len(bad_rows) - rejected
    if span["n"] + left_out != total:
        raise our_fault(
            f"{parts[0].name}: of {total:,} rows {span['n']:,} came through and {left_out:,} "
            "were left out"
        )
    described = engine.run("DESCRIBE events")
    untimed = span.get("first") is None
    return Survey(
        n_events=span["n"],
        types={key: row[1] for key, row in zip(wanted, described[1:], strict=True)},
        time_unit=unit,
        per_second=per_second,
        first_time=None if untimed else span["first"] / per_second,
        last_time=None if untimed else span["last"] / per_second,
        notes=tuple(found.notes),
        bad_rows=tuple(bad_rows),
    )


def _ids(
    engine: Engine, role: str, name: str, value: str, kind: str, untyped: bool, notes: list[str]
) -> str:
    """Ids as they will be kept, in SQL."""
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
    words = ", ".join(map(literal, MISSING_WORDS))
    missing = engine.run(
        f"SELECT {value}, count(*) FROM raw WHERE {value} IN ({words}) GROUP BY 1 ORDER BY 1"
    )
    if missing:
        spelt = ", ".join(f"{word!r} {count:,} times" for word, count in missing)
        rows = sum(count for _, count in missing)
        notes.append(
            f"{rows:,} rows have a {role} that spells a missing value ({spelt}): each such word is "
            f"taken for one {role}. Leave these rows out of the log if that is wrong."
        )
    return value


def _numbers(engine: Engine, value: str) -> str:
    """A further column of text as numbers, if every value spells one; in SQL."""
    given = f"nullif({value}, '')"
    found = engine.row(
        f"SELECT count({given}) AS n, count(*) FILTER ({is_integer(value)}) AS whole, "
        f"count(*) FILTER ({is_decimal(value)}) AS decimal, count(*) AS rows FROM raw"
    )
    if found["n"] and found["whole"] == found["rows"]:
        return f"TRY_CAST({value} AS BIGINT)"
    if found["n"] and found["decimal"] == found["n"]:
        return f"TRY_CAST({given} AS DOUBLE)"
    return given


class _Times:
    """How the times of all parts are read, and in which unit they come out."""

    def __init__(
        self,
        loader: Loader,
        parts: Sequence[Part],
        key: str,
        value: str,
        time_unit: str | None,
        time_format: str | None,
    ) -> None:
        engine, (name, kind) = loader.engine, loader.wanted[key]
        stated = time_unit is not None or key == "order"
        grouped: dict[TimePlan, list[int]] = {}
        for number, part in enumerate(parts):
            typed = None if is_untyped(part, name) else plan_of_type(part.types[name])
            plan = typed or plan_of_values(
                engine,
                _sample(engine, value, number),
                f"{part.name}, column {name!r}",
                time_format if key == "time" else None,
                stated,
            )
            grouped.setdefault(plan, []).append(number)
        self.plans = list(grouped)
        if key == "time":
            check_unit(time_unit, self.plans, f"{parts[0].name}, column {name!r}")
        numbers = [n for plan, own in grouped.items() if plan.fixed is None for n in own]
        whole = kind == "BIGINT" or (kind == TEXT and _all_whole(engine, value, numbers))
        units = _units(engine, value, numbers, time_unit) if key == "time" else {}
        scaled: dict[tuple[TimePlan, int], list[int]] = {}
        for plan, own in grouped.items():
            for number in own:
                fixed = (
                    plan.per_second if plan.fixed or key == "order" else PER_SECOND[units[number]]
                )
                scaled.setdefault((plan, fixed), []).append(number)
        self.per_second = max(per for _, per in scaled)
        cases = {}
        for (plan, per), own in scaled.items():
            factor = self.per_second // per
            ticks = plan.ticks(value, whole)
            cases[f"({ticks}) * {factor}" if factor > 1 else ticks] = own
        self.ticks = _by_part(cases)
        names = {plan.fixed or units.get(own[0], "s") for (plan, _), own in scaled.items()}
        finest = max(names - {"datetime"}, key=lambda u: PER_SECOND[u], default="datetime")
        self.unit = "datetime" if "datetime" in names else finest


def _sample(engine: Engine, value: str, part: int) -> list[Any]:
    rows = engine.run(
        f"SELECT {value} FROM raw WHERE part = ? AND nullif({value}::VARCHAR, '') IS NOT NULL "
        f"LIMIT {SAMPLE}",
        [part],
    )
    return [row[0] for row in rows]


def _all_whole(engine: Engine, value: str, parts: Sequence[int]) -> bool:
    if not parts:
        return True
    odd = f"NOT regexp_full_match({value}, '[+-]?[0-9]+') AND {value} <> ''"
    return not engine.row(f"SELECT count(*) FILTER ({odd}) AS n FROM raw WHERE {_among(parts)}")[
        "n"
    ]


def _units(
    engine: Engine, value: str, parts: Sequence[int], time_unit: str | None
) -> dict[int, str]:
    """The unit of each part whose times are numbers."""
    if not parts or time_unit is not None:
        return dict.fromkeys(parts, time_unit or "s")
    bands = band_counts(f"TRY_CAST({value} AS DOUBLE)")
    counts = ", ".join(f"{count} AS {unit}" for unit, count in bands.items())
    rows = engine.run(f"SELECT part, {counts} FROM raw WHERE {_among(parts)} GROUP BY part")
    units = {row[0]: detect_unit(dict(zip(bands, row[1:], strict=True))) for row in rows}
    return {part: units.get(part, "s") for part in parts}


def _among(parts: Sequence[int]) -> str:
    return f"part IN ({', '.join(map(str, parts))})"


def _by_part(cases: Mapping[str, Sequence[int]]) -> str:
    """A value in SQL that is another one in other parts."""
    if len(cases) == 1:
        return next(iter(cases))
    whens = " ".join(f"WHEN {_among(own)} THEN {value}" for value, own in cases.items())
    return f"CASE {whens} END"


def _rejected(engine: Engine, parts: Sequence[Part]) -> list[BadRow]:
    rows = engine.run("SELECT part, line, cause, text FROM bad ORDER BY part, line")
    return [BadRow(parts[number].name, *rest) for number, *rest in rows]


@dataclass(frozen=True)
class _Look:
    """A look at the rows that a check refuses."""

    loader: Loader
    parts: Sequence[Part]
    raw: Mapping[str, str]
    values: Mapping[str, str]
    check: Check
    before: Sequence[Check]
    unit: str | None
    per_second: int

    @property
    def only(self) -> str:
        """The condition in SQL, of rows that no earlier check refuses."""
        earlier = [f"({check.bad})" for check in self.before]
        return " AND ".join(
            [f"({self.check.bad})", *(f"NOT coalesce({one}, false)" for one in earlier)]
        )

    def rows(self, most: int | None) -> list[tuple[int, int, Any, str]]:
        """Part, row in its part (from 1), ticks and text of such rows, in order."""
        ticks = self.values["time"] if self.check.says == "is no plausible time" else "NULL"
        values = (f"coalesce({one}::VARCHAR, '')" for one in self.raw.values())
        text = f"concat_ws(',', {', '.join(values)})"
        limit = "" if most is None else f" LIMIT {most}"
        found = self.loader.engine.run(
            f"SELECT part, rowid, {ticks}, {text} FROM raw WHERE {self.only} ORDER BY rowid{limit}"
        )
        starts = dict(self.loader.engine.run("SELECT part, min(rowid) FROM raw GROUP BY part"))
        return [(part, row - starts[part] + 1, tick, text) for part, row, tick, text in found]

    def first(self, count: int) -> DataError:
        """The error for the first such row."""
        [(number, row, tick, _)] = self.rows(1)
        part, (name, _) = self.parts[number], self.loader.wanted[self.check.key]
        line = next(islice(self.lines(number), row - 1, None), None)
        place = f"row {row}"
        value = self.original(part, name, row)
        shown = "" if value is None or value == "" else f" {value!r}"
        more = f" (line {line})" if line else ""
        more += f" ({count:,} rows are like this)" if count > 1 else ""
        says = self.says(value)
        if self.check.says == "is no plausible time":
            words = WORDS.get(self.unit or "", "datetimes")
            return DataError(
                f"{part.name}, column {name!r}, {place}: {value!r} is no plausible time: most "
                f"values are {words}, and as such it is {day(tick / self.per_second)}{more}. Mend "
                f"the row, or state the unit with time_unit= (--time-unit), as {self.unit!r}, to "
                "accept it."
            )
        return DataError(
            f"{part.name}, column {name!r}, {place}:{shown} {says}{more}. Mend such rows, or leave "
            "them out with skip_bad_rows=True (--skip-bad-rows); rows are counted from 1 after the "
            "header."
        )

    def all(self) -> list[BadRow]:
        """All such rows."""
        name, _ = self.loader.wanted[self.check.key]
        says = f"{name} {self.check.says or 'is null or empty'}"
        rows = self.rows(None)
        lines: dict[tuple[int, int], int] = {}
        for number in {number for number, *_ in rows}:
            own = {row for part, row, *_ in rows if part == number}
            for row, line in enumerate(self.lines(number), 1):
                if row in own:
                    lines[number, row] = line
        return [
            BadRow(self.parts[part].name, lines.get((part, row), row), says, text)
            for part, row, _, text in rows
        ]

    def says(self, value: Any) -> str:
        """What is wrong with a value."""
        if self.check.says and value is not None and value != "":
            return self.check.says
        if value is None:
            return "is null (empty)"
        if isinstance(value, str) and not value.strip():
            return "is an empty id" if self.check.key in ("user", "item") else "is null (empty)"
        if self.check.key in ("user", "item"):
            return "is a float that is no whole number, so no id"
        return "is not readable as time"

    def original(self, part: Part, name: str, row: int) -> Any:
        """A value as the log has it."""
        engine = self.loader.engine
        if is_untyped(part, name):
            key = self.raw[self.check.key]
            [(value,)] = engine.run(
                f"SELECT {key} FROM raw WHERE {self.check.bad} ORDER BY rowid LIMIT 1"
            )
            return value
        names = self.loader.names
        column, scan = part.column(name, names), part.scan(engine, names)
        [(value,)] = engine.run(f"SELECT {column} FROM {scan} LIMIT 1 OFFSET {row - 1}")
        return value

    def lines(self, number: int) -> Iterable[int]:
        """The line of each row of a text file; nothing where lines do not count."""
        part = self.parts[number]
        if not part.untyped:
            return ()
        left_out = self.loader.engine.run("SELECT line FROM bad WHERE part = ?", [number])
        goes_on = self.loader.goes_on.get(number, False)
        without = {line for (line,) in left_out}
        return lines_of_rows(self.loader.files[number], part.dialect, goes_on, without)


def day(seconds: float) -> str:
    """A moment (seconds since 1970) as a date."""
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{seconds:.3g} s"
