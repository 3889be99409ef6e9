"""Times of any kind to seconds: which unit a part's times are in, and what is no time.

A numeric column's unit is the one in which most of its values lie between 1970 and 2100; the four
ranges do not overlap except in the first weeks of 1970. Numbers most of which are dates
as 20240130 or 202401 are dates; where others all lie in 1970, a note asks whether they are, too.
Text is numbers or one of the formats below, whichever reads most of it. Everything stays in its own
precision until events are sorted: truncating first would tie events that are not tied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from longrec.core.errors import DataError, UsageError, first_line
from longrec.data.engine import Engine, engine_errors, literal
from longrec.data.types import FLOATS, MOMENTS, NANOSECONDS, is_decimal

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNITS = (*PER_SECOND, "datetime")
YEAR_1971, YEAR_2100 = 31_536_000, 4_102_444_800  # seconds
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
COMPACT = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Dates as whole numbers, by their digits."""
ISO = "ISO"
FORMATS = (
    *("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S or %d.%m.%Y %H:%M:%S.%f"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y %H:%M:%S", "%d-%b-%Y %H:%M:%S"),
    *("%b %d, %Y %H:%M:%S", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S %Z"),
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%d/%b/%Y:%H:%M:%S %z"),
    *("%Y%m%dT%H%M%S or %Y%m%dT%H%M%S.%f", "%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S%z"),
)
"""Beside ISO 8601: those that can be read in one way alone; " or " stands between forms of one."""
SAMPLE = 1000
_ISO_START = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}.*"
_FINE = re.compile(r"\.\d{7}")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
ZEROS = r"\.0+$"
"""What stands behind a whole number that was written as a float."""


@dataclass(frozen=True)
class TimePlan:
    """How a raw column of a part becomes numbers.

    Attributes
    ----------
    kind : what the column holds, for errors and `Events.describe`.
    form : how text, or digits, are read: `ISO` or a format; None: as numbers.
    fixed : the unit when the kind says it ("datetime"), None when values are to say it.
    per_second : ticks in a second, when `fixed`.
    """

    kind: str
    form: str | None = None
    fixed: str | None = None
    per_second: int = 1

    def ticks(self, value: str, whole: bool) -> str:
        """The ticks of a value in SQL; NULL where it cannot be read.

        whole : of numbers, whether all of them are integers.
        """
        if self.form is None:
            return f"TRY_CAST({value} AS BIGINT)" if whole else as_double(value)
        text = f"trim({value}::VARCHAR)"
        if self.form == ISO:
            begins = f"regexp_full_match({text}, {literal(_ISO_START)})"
            ticks = f"epoch_us(CASE WHEN {begins} THEN TRY_CAST({text} AS TIMESTAMPTZ) END)"
            if self.per_second == PER_SECOND["ns"]:  # the cast drops what is behind microseconds
                rest = rf"rpad(regexp_extract({text}, '\.\d{{6}}(\d{{1,3}})', 1), 3, '0')"
                ticks = f"TRY({ticks} * 1000 + {rest}::BIGINT)"
            return ticks
        if self.form in COMPACT.values():
            text = f"regexp_replace({text}, {literal(ZEROS)}, '')"
        forms = ", ".join(map(literal, self.form.split(" or ")))
        return f"epoch_us(try_strptime({text}, [{forms}]))"


def as_double(value: str) -> str:
    """A finite number in SQL, NULL where there is none."""
    number = f"CASE WHEN {is_decimal(f'{value}::VARCHAR')} THEN TRY_CAST({value} AS DOUBLE) END"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def typed_ticks(value: str, kind: str, wanted: str) -> str:
    """A column of times that has a type as it is loaded, in ticks of `plan_of_type`."""
    if kind in NANOSECONDS:
        ticks = f"epoch_ns({value})"
    elif kind in MOMENTS:
        ticks = f"epoch_us({value})"
    elif wanted == "BIGINT":
        ticks = f"TRY_CAST({value} AS BIGINT)"
    elif kind in FLOATS or kind.startswith("DECIMAL"):
        ticks = f"CASE WHEN isfinite({value}::DOUBLE) THEN {value}::DOUBLE END"
    else:
        ticks = value
    return f"({ticks})::{wanted}"


def plan_of_type(kind: str) -> TimePlan | None:
    """The plan for a type that says what it holds; None for numbers and text."""
    if kind in MOMENTS:
        words = "dates" if kind == "DATE" else "datetimes"
        return TimePlan(words, None, "datetime", 10**9 if kind in NANOSECONDS else 10**6)
    return None


def plan_of_values(
    engine: Engine, sample: Sequence[Any], where: str, time_format: str | None, stated: bool
) -> TimePlan:
    """The plan for numbers or text, by some values of a part.

    Parameters
    ----------
    engine : reads formats.
    sample : values that are not null.
    where : file and column, for the error.
    time_format : that the user states, or None.
    stated : whether the user states a unit, so that digits are no dates.

    Raises
    ------
    DataError
        For a text that is no time.
    """
    if not sample:
        return TimePlan("nothing")
    if time_format is not None:
        plan = TimePlan(f"text as {time_format}", time_format, "datetime", 10**6)
        try:
            engine.row(f"SELECT {plan.ticks('$1', False)} AS n", [""])
        except engine_errors() as error:
            raise UsageError(
                f"time_format {time_format!r} cannot be used: {first_line(error)}. Write it as "
                "strptime has it, for example %d/%m/%Y %H:%M."
            ) from error
        return plan
    texts = [re.sub(ZEROS, "", str(value).strip()) for value in sample]
    for form in () if stated else COMPACT.values():
        dates = [text for text in texts if _is_date(text, form)]
        if 2 * len(dates) > len(texts):
            return TimePlan(f"dates as {dates[0]}", form, "datetime", 10**6)
    if not isinstance(sample[0], str):
        return TimePlan("integers" if isinstance(sample[0], int) else "decimals")
    plans = [TimePlan("numbers as text")]
    if all(map(_NUMBER.fullmatch, texts)):
        return plans[0]
    plans += [TimePlan(f"text as {form}", form, "datetime", 10**6) for form in (ISO, *FORMATS)]
    counts = [f"count({plan.ticks('v', False)}) AS n{i}" for i, plan in enumerate(plans)]
    read = engine.row(f"SELECT {', '.join(counts)} FROM unnest($1) AS t(v)", [list(sample)])
    best = max(range(len(plans)), key=lambda i: read[f"n{i}"])
    if read[f"n{best}"]:
        fine = plans[best].form == ISO and any(map(_FINE.search, texts))
        return replace(plans[best], per_second=PER_SECOND["ns"]) if fine else plans[best]
    raise DataError(
        f"{where}: {sample[0]!r} is not a time that can be read. Write times as numbers since 1970 "
        "(s, ms, us or ns) or as ISO text such as 2024-05-01 10:30:00, or say how they are written "
        "with time_format= (--time-format), for example %d/%m/%Y %H:%M."
    )


def _is_date(text: str, form: str) -> bool:
    if not (text.isdecimal() and COMPACT.get(len(text)) == form):
        return False
    try:
        return 1970 <= datetime.strptime(text, form).year < 2100
    except ValueError:
        return False


def band_counts(value: str) -> dict[str, str]:
    """Aggregates that tell the unit: how many values lie in each unit's own range."""
    size = f"abs({value}::DOUBLE)"
    edges = [-1.0, *(YEAR_2100 * float(per) for per in PER_SECOND.values())]
    return {
        unit: f"count(*) FILTER ({size} > {low!r} AND {size} <= {high!r})"
        for unit, low, high in zip(PER_SECOND, edges[:-1], edges[1:], strict=True)
    }


def detect_unit(counts: Mapping[str, int]) -> str:
    """The unit whose range holds most values."""
    return max(counts, key=lambda unit: counts[unit])


def implausible(value: str, per_second: int, *, known: bool) -> str:
    """Whether a time lies before 1970 or after 2100, or, unless the unit is `known` from the
    column's type, so soon after 1970 that it is rather a value in a coarser unit; in SQL."""
    number = f"({value})::DOUBLE"
    bad = f"{number} < 0 OR {number} > {YEAR_2100 * float(per_second)!r}"
    if not known and per_second > 1:
        bad += f" OR {number} <= {YEAR_2100 * per_second / 1000.0!r}"
    return f"({bad})"


def all_in_1970(unit: str, last: float) -> list[str]:
    """A note where numbers end so soon, at `last` seconds, that they may be dates of an unknown
    form, such as 30012024: the digits of a day, a month and a year are all below that; or none."""
    if unit == "datetime" or last >= YEAR_1971:
        return []
    return [
        "all times lie in 1970, taken for seconds since then. That is right for times that count "
        "from 0; for dates say how they are written with time_format= (--time-format), for "
        "example %d%m%Y"
    ]


def too_far(value: str, per_second: int) -> str:
    """Whether a time is so far from 1970 that no frame could have it, in milliseconds; in SQL."""
    return f"(abs(({value})::DOUBLE) > {9.2e15 * min(per_second, 1000)!r})"


def to_seconds(ticks: np.ndarray, per_second: int) -> np.ndarray:
    """Whole seconds, (n,) int64, rounded down, also before 1970."""
    if ticks.dtype.kind == "f":
        return np.floor(ticks / per_second).astype(np.int64)
    return ticks if per_second == 1 else np.floor_divide(ticks, per_second)


def day(seconds: float) -> str:
    """A moment (seconds since 1970) as a date."""
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{seconds:,.0f} s"
